"""Large tensors: in memory, or in files of the temporary folder that go when the tensors do."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True)
class Storage:
    """Where large tensors lie.

    Args:
        in_memory: bytes; a larger tensor is memory-mapped.
        folder: for the files, which have no name there; None for the system's temporary folder.
    """

    in_memory: int = 2**30
    folder: str | None = None

    def zeros(self, size: int, dtype: torch.dtype) -> Tensor:
        """A ``(size,)`` tensor of zeros."""
        if size * dtype.itemsize <= self.in_memory:
            return torch.zeros(size, dtype=dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and would be the process's end later
                os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
            else:
                file.truncate(size * dtype.itemsize)
            return torch.from_numpy(np.memmap(file, dtype=_NUMPY[dtype], mode="r+", shape=(size,)))

    def store(self, tensor: Tensor) -> Tensor:
        """The ``(size,)`` tensor itself, or a copy in a file if it is too large for memory."""
        if tensor.numel() * tensor.element_size() <= self.in_memory:
            return tensor
        return self.zeros(tensor.numel(), tensor.dtype).copy_(tensor)
