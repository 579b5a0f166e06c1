"""Inputs and targets of one example, of every usual form."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import pytest
import torch

from lightning_dynamics.data.problems.examples import inputs_in, targets_in, with_inputs

X, Y, OTHER = torch.zeros(2), torch.ones(()), torch.full((3,), 5.0)
Pair = namedtuple("Pair", "image label")

LABELLED: dict[str, Any] = {
    "tuple": (X, Y),
    "list with more": [X, Y, "meta"],
    "named tuple": Pair(X, Y),
    "dict": {"image": X, "label": Y, "id": 3},
    "ordered dict": OrderedDict(input_ids=X, labels=Y),
    "mapping": UserDict(x=X, target=Y),
}


@pytest.mark.parametrize("example", LABELLED.values(), ids=list(LABELLED))
def test_both_are_found_and_inputs_exchanged(example: Any) -> None:
    assert inputs_in(example) is X and targets_in(example) is Y
    changed = with_inputs(example, OTHER)
    assert type(changed) is type(example) and len(changed) == len(example)
    assert inputs_in(changed) is OTHER and targets_in(changed) is Y
    assert inputs_in(example) is X, "the example itself is not changed"


@pytest.mark.parametrize("example", [X, (X,), [X], {"x": X}], ids=["tensor", "tuple", "list", "dict"])
def test_examples_without_targets(example: Any) -> None:
    assert inputs_in(example) is X and targets_in(example) is None
    assert inputs_in(with_inputs(example, OTHER)) is OTHER


@pytest.mark.parametrize("example", [{"audio": X}, {}, (), []])
def test_nothing_of_a_usual_name(example: Any) -> None:
    assert inputs_in(example) is None and targets_in(example) is None


def test_mappings_prefer_the_first_usual_key() -> None:
    example = {"features": OTHER, "y": OTHER, "inputs": X, "labels": Y}
    assert inputs_in(example) is X and targets_in(example) is Y
