"""How ``forward`` is called on a batch where no loss shows it: by its signature."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynamics.core.forward_call import likely_templates

X = torch.arange(6.0).view(3, 2)
Y = torch.tensor([0, 1, 0])
Pair = namedtuple("Pair", "x y")


def module_with(forward: Callable[..., Any]) -> nn.Module:
    return type("Model", (nn.Module,), {"forward": forward})()


def first_that_runs(module: nn.Module, batch: Any) -> Any:
    for template in likely_templates(module, batch):
        try:
            return template(module, batch)
        except (TypeError, AttributeError):
            continue
    return None


@pytest.mark.parametrize(
    ("forward", "batch", "expected"),
    [
        (lambda self, x: x, X, X),
        (lambda self, x: x, (X, Y), X),
        (lambda self, x: x, [X, Y], X),
        (lambda self, x: x, [X], X),
        (lambda self, x: x, Pair(X, Y), X),
        (lambda self, x=None: x, (X, Y), X),
        (lambda self, *args: args[0], (X, Y), X),
        (lambda self, a, b: (a, b), (X, Y, X), (X, Y)),
        (lambda self, a, b, c=None: (a, b, c), (X, Y, X), (X, Y, None)),
        (lambda self, batch: batch, (X, Y), (X, Y)),
        (lambda self, x: x, {"x": X, "y": Y}, X),
        (lambda self, x: x, {"image": X, "label": Y}, X),
        (lambda self, x, label=None: (x, label), {"image": X, "label": Y}, (X, None)),
        (lambda self, x, mask=None: x, {"pixel_values": X, "mask": Y}, X),
        (lambda self, input_ids, labels=None: (input_ids, labels), {"input_ids": X, "labels": Y}, (X, Y)),
        (lambda self, **inputs: inputs, {"input_ids": X, "labels": Y}, {"input_ids": X, "labels": Y}),
        (lambda self, input_ids, **rest: (input_ids, rest), {"input_ids": X, "m": Y}, (X, {"m": Y})),
        (lambda self, input_ids: input_ids, UserDict(input_ids=X, labels=Y), X),
        (lambda self, batch: batch["image"], {"image": X}, X),
    ],
)
def test_the_likeliest_call_that_runs(forward: Callable[..., Any], batch: Any, expected: Any) -> None:
    assert repr(first_that_runs(module_with(forward), batch)) == repr(expected)


def test_inputs_that_cannot_be_told() -> None:
    """The batch itself is the last thing tried: what comes back is no tensor, and nobody takes it for outputs."""
    layer = nn.Linear(2, 1)
    assert first_that_runs(layer, {"foo": X, "bar": Y}) is None
    assert first_that_runs(module_with(lambda self, a, b: a), {"image": X, "b": Y}) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_and_scripted_modules_have_a_forward() -> None:
    for net in (torch.compile(nn.Linear(2, 1), backend="eager"), torch.jit.script(nn.Linear(2, 1))):
        output: Tensor = first_that_runs(net, (X, Y))
        assert output.shape == (3, 1)


def test_no_forward_at_all() -> None:
    assert list(likely_templates(nn.ModuleList(), X)) == []
