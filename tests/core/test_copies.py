"""A minibatch that is handed out again and again is always as it was read, and is seldom copied."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.core.copies import Kept


def batch() -> dict[str, Any]:
    return {"x": torch.arange(6.0).reshape(3, 2), "more": [torch.arange(3), ("a", 1, None)]}


def pointers(data: Any) -> list[int]:
    return [data["x"].data_ptr(), data["more"][0].data_ptr()]


def test_who_leaves_the_first_copy_alone_gets_the_tensors_themselves() -> None:
    kept = Kept(batch())
    own = pointers(kept.data)
    assert pointers(kept.copy_out()) != own
    for _ in range(3):
        data = kept.copy_out()
        assert pointers(data) == own
        assert data is not kept.data and data["more"] is not kept.data["more"]
        data.pop("x")
        data["more"].clear()


CHANGES: dict[str, Any] = {
    "in place": lambda data: data["x"].add_(1),
    "by numpy": lambda data: data["x"].numpy().fill(7),
    "under the counter": lambda data: data["x"].data.zero_(),
    "asked for a gradient": lambda data: data["x"].requires_grad_(),
    "popped": lambda data: data.pop("more"),
    "put in": lambda data: data.update(extra=torch.zeros(1)),
    "another type": lambda data: data.update(x=data["x"].double()),
    "a plain value": lambda data: data["more"].__setitem__(1, ("a", 2, None)),
    "not a number": lambda data: data["x"].fill_(float("nan")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_who_changes_the_first_copy_gets_copies(change: str) -> None:
    kept = Kept(batch())
    for _ in range(3):
        data = kept.copy_out()
        assert torch.equal(data["x"], batch()["x"]) and not data["x"].requires_grad and len(data) == 2
        assert pointers(data) != pointers(kept.data)
        CHANGES[change](data)
    assert kept.trusted is False and not kept.is_spoilt()


@pytest.mark.parametrize("change", ["in place", "asked for a gradient"])
def test_a_later_change_of_the_tensors_themselves_is_seen(change: str) -> None:
    kept = Kept(batch())
    kept.copy_out()
    kept.copy_out()
    assert kept.trusted and not kept.is_spoilt()
    CHANGES[change](kept.copy_out())
    assert kept.is_spoilt()


@pytest.mark.parametrize("change", ["popped", "put in", "another type", "a plain value"])
def test_a_later_change_of_the_containers_is_the_callers_own(change: str) -> None:
    kept = Kept(batch())
    kept.copy_out()
    CHANGES[change](kept.copy_out())
    assert not kept.is_spoilt()
    data = kept.copy_out()
    assert data.keys() == batch().keys() and data["more"][1] == ("a", 1, None) and data["x"].dtype is torch.float32


@dataclass
class Pair:
    x: Tensor


@pytest.mark.parametrize(
    "data",
    [
        Pair(torch.zeros(2)),
        UserDict(x=torch.zeros(2)),
        [np.zeros(2)],
        [torch.zeros(2).to_sparse()],
        [torch.nn.Parameter(torch.zeros(2))],
    ],
    ids=["a dataclass", "a mapping of its own", "an array", "sparse", "a subclass"],
)
def test_what_could_change_unseen_is_copied_every_time(data: Any) -> None:
    kept = Kept(data)
    for _ in range(4):
        kept.copy_out()
    assert kept.trusted is False


def test_tensors_of_inference_mode_are_copied() -> None:
    """Their changes are not counted."""
    with torch.inference_mode():
        kept = Kept([torch.zeros(2)])
    for _ in range(3):
        with torch.inference_mode():
            data = kept.copy_out()
            assert data[0].tolist() == [0, 0]
            data[0].add_(1)
        assert not kept.is_spoilt()


def test_nan_is_like_nan() -> None:
    kept = Kept([torch.tensor([float("nan"), 1.0])])
    kept.copy_out()
    assert kept.copy_out()[0].data_ptr() == kept.data[0].data_ptr()
