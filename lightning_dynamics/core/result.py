"""What an analysis found: a frozen dataclass of tensors and plain values, saved as one ``.npz`` file."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Self = TypeVar("Self", bound="Result")


@dataclass(frozen=True, eq=False)
class Result:
    """Base of every result.

    Fields are tensors, plain values (str, int, float, bool, None), and lists or str-keyed dicts of those.
    Subclasses give each tensor's shape in their docstring.

    Args:
        epoch: the epoch it was measured in, from 0.
        step: the number of training batches that had stepped when it was measured: 0 is the untrained model.
        num_examples: how many examples of the probe it rests on, over all processes.
    """

    epoch: int
    step: int
    num_examples: int

    def condensed(self: Self) -> Self:
        """What is worth keeping when it is no longer the latest: by default all of it."""
        return self

    def to_state(self) -> dict[str, Any]:
        """Fields by name; loads with ``torch.load(weights_only=True)``, so it may go into a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls: type[Self], state: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_state`."""
        return cls(**state)

    def save(self, path: str | PathLike[str]) -> None:
        """Write an ``.npz`` file: one array per tensor, everything else as JSON under ``__plain__``.

        A tensor that is a field has the field's name, those inside a list or dict ``field.0``, ``field.1``, ….
        """
        arrays: dict[str, np.ndarray] = {}
        plain = {name: _split(value, name, arrays) for name, value in self.to_state().items()}
        arrays["__plain__"] = np.array(json.dumps(plain))
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls: type[Self], path: str | PathLike[str]) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls.from_state(_join(json.loads(str(arrays["__plain__"])), arrays))


_TENSOR = "__tensor__"
_NOT_IN_NUMPY = {torch.bfloat16: torch.int16}  # stored as the bits they are


def _split(value: Any, field: str, arrays: dict[str, np.ndarray], nested: bool = False) -> Any:
    """Move the tensors of a nested value into ``arrays``, leaving their names behind."""
    if isinstance(value, Tensor):
        # Keys may hold anything, so they do not become names.
        name = f"{field}.{len(arrays)}" if nested else field
        stored = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if stored.dtype in _NOT_IN_NUMPY:
            arrays[name] = stored.view(_NOT_IN_NUMPY[stored.dtype]).numpy()
            return {_TENSOR: name, "dtype": str(stored.dtype).removeprefix("torch.")}
        arrays[name] = stored.numpy()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if _TENSOR in value:
            raise ValueError(f"{field!r} has the key {_TENSOR!r}, which stands for a tensor in the file")
        return {key: _split(item, field, arrays, nested=True) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, field, arrays, nested=True) for item in value]
    return value


def _join(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            tensor = torch.from_numpy(arrays[value[_TENSOR]])
            return tensor.view(getattr(torch, value["dtype"])) if "dtype" in value else tensor
        return {key: _join(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, arrays) for item in value]
    return value
