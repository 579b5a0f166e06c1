"""Inputs and targets of one example, by its usual forms: ``(input, target, …)``, or a mapping with a usual key."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from lightning_dynamics.core.objective import INPUT_KEYS, TARGET_KEYS


def targets_in(example: Any) -> Any:
    """The targets of an ``(inputs, targets)`` example, or of a mapping with one of the usual keys; else None."""
    if isinstance(example, Mapping):
        return next((example[key] for key in TARGET_KEYS if key in example), None)
    return example[1] if isinstance(example, list | tuple) and len(example) >= 2 else None


def inputs_in(example: Any) -> Any:
    """The inputs of an ``(inputs, …)`` example, or of a mapping with a usual key; else the example itself."""
    if isinstance(example, Mapping):
        return next((example[key] for key in INPUT_KEYS if key in example), None)
    if isinstance(example, list | tuple):
        return example[0] if len(example) else None
    return example


def with_inputs(example: Any, inputs: Any) -> Any:
    """The example with other inputs where :func:`inputs_in` finds them; the example itself is not changed."""
    if isinstance(example, Mapping):
        key = next(key for key in INPUT_KEYS if key in example)
        changed = copy.copy(example)
        changed[key] = inputs  # type: ignore[index]
        return changed
    if isinstance(example, list | tuple):
        items = [inputs, *example[1:]]
        # A named tuple takes its items one by one.
        return type(example)(*items) if hasattr(example, "_fields") else type(example)(items)
    return inputs
