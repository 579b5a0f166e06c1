"""From a layer's output to one feature vector per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.core.calls import first_tensor
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import resolve_function

Reduction = Callable[[Tensor], Tensor]


def _mean(x: Tensor) -> Tensor:
    return x.mean(1) if x.ndim == 3 else x.flatten(2).mean(2) if x.ndim > 3 else x


REDUCTIONS: dict[str, Reduction] = {
    "flatten": lambda x: x,
    "mean": _mean,
    "cls": lambda x: x[:, 0] if x.ndim == 3 else x,
    "last": lambda x: x[:, -1] if x.ndim == 3 else x,
}
"""Named reductions. Three axes are read as (examples, tokens, features), more as (examples, channels, space)."""


def reduction_named(reduction: str | Reduction) -> Reduction:
    """A reduction by name, as a function, or as ``"package.module.function"``.

    Raises:
        ConfigurationError: no such reduction.
    """
    if isinstance(reduction, str) and reduction in REDUCTIONS:
        return REDUCTIONS[reduction]
    if isinstance(reduction, str) and "." not in reduction:
        known = ", ".join(map(repr, REDUCTIONS))
        raise ConfigurationError(f"`reduction={reduction!r}` must be {known}, 'package.module.function' or a function")
    function = resolve_function(reduction, "reduction")
    assert function is not None
    return function


def features(output: Any, axis: int | None) -> Tensor | None:
    """The tensor that a layer put out, one row per example, or None if it has no such tensor.

    Args:
        output: of the layer.
        axis: along which the examples lie; None if along none.
    """
    tensor = first_tensor(output)
    if tensor is None or axis is None or tensor.ndim <= axis:
        return None
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.layout is not torch.strided:
        return None
    return tensor.movedim(axis, 0)
