"""Room for one event's gradients of all examples."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_dynamics.core.storage import Storage


class Shelf:
    """Room for one event's values of so many examples, handed out minibatch by minibatch.

    Args:
        storage: where it lies.
        examples: how many there will be.
    """

    def __init__(self, storage: Storage, examples: int) -> None:
        """Nothing is taken before the first values come."""
        self._storage = storage
        self._expected = examples
        self._room = torch.empty(0)

    def put(self, values: Tensor) -> Tensor:
        """A copy ``(n, D)`` of the values, in float32 or float64 on the CPU."""
        dtype = values.dtype if values.dtype is torch.float64 else torch.float32
        if self._room.numel() < values.numel() or self._room.dtype != dtype:
            size = max(self._expected * values.shape[1], values.numel())
            self._room = self._storage.zeros(size, dtype)
        kept, self._room = self._room.split([values.numel(), self._room.numel() - values.numel()])
        self._expected -= len(values)
        return kept.view(values.shape).copy_(values)
