"""The first minibatches that training receives, where the data have no index to choose examples by."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_dynamics.core.batch_tree import tensors, walk
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.lightning import ConfigurationError, move_to_device

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

Recorded = tuple[Any, int]
"""A minibatch, and its number of examples."""

_recordings: WeakKeyDictionary[Any, Recording] = WeakKeyDictionary()


@dataclass(eq=False)
class Recording:
    """Copies of minibatches as they pass, shared by the callbacks of one Trainer.

    Args:
        loader_sizes: examples per minibatch, as the loaders say.
        batches: so far, this process's.
    """

    loader_sizes: frozenset[int]
    batches: list[Recorded] = field(default_factory=list)
    last: tuple[int, int] | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> Recording:
        """The one that this Trainer's callbacks share."""
        if trainer not in _recordings:
            _recordings[trainer] = cls(frozenset(batch_sizes(trainer.train_dataloader)))
        return _recordings[trainer]

    def see(self, batch: Any, epoch: int, batch_idx: int) -> None:
        """Copy a minibatch, once.

        Raises:
            ConfigurationError: nobody can tell how many examples are in it.
        """
        if self.last != (epoch, batch_idx):
            self.last = (epoch, batch_idx)
            self.batches.append((copy.deepcopy(batch), self._examples_in(batch)))

    def first(self, num_examples: int) -> list[Recorded]:
        """As many minibatches as it takes."""
        taken: list[Recorded] = []
        for batch, size in self.batches:
            if sum(size for _, size in taken) >= num_examples:
                break
            taken.append((batch, size))
        return taken

    def count(self) -> int:
        """Examples so far."""
        return sum(size for _, size in self.batches)

    def _examples_in(self, batch: Any) -> int:
        shapes = [tensor.shape for tensor in tensors(batch).values() if tensor.ndim]
        for size in sorted(self.loader_sizes, reverse=True):
            if any(size in shape for shape in shapes):
                return size
        if not shapes:
            raise ConfigurationError(
                f"the minibatches of this training are {type(batch).__name__}s without tensors, whose examples cannot "
                "be counted: pass a map-style Dataset of a few hundred examples (`data=Dataset`)"
            )
        return Counter(shape[0] for shape in shapes).most_common(1)[0][0]


def batch_sizes(loaders: Any) -> set[int]:
    """Examples per minibatch of one loader or several, as far as they say."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return set().union(*map(batch_sizes, loaders)) if loaders else set()
    size = getattr(loaders, "batch_size", None)
    if size is None and isinstance(loaders, DataLoader):
        size = getattr(loaders.batch_sampler, "batch_size", None)
    return {size} if isinstance(size, int) else set()


def shared(batches: list[Recorded], ranks: Ranks, module: LightningModule) -> list[Recorded]:
    """Everybody's minibatches, in every process: the i-th of rank r has the number i · size + r."""
    if ranks.size == 1:
        return batches
    everybody = ranks.all_gather_object([(move_to_device(batch, torch.device("cpu")), size) for batch, size in batches])
    interleaved = [own[place] for place in range(min(map(len, everybody))) for own in everybody]
    return [(move_to_device(batch, module.device), size) for batch, size in interleaved]


def as_state(batches: list[Recorded]) -> list[Recorded] | None:
    """For a checkpoint: tensors and plain values in plain containers, on the CPU; None if there is anything else."""
    for batch, _ in batches:
        for _, node in walk(batch):
            if type(node) not in _STORABLE:
                return None
    return [(move_to_device(batch, torch.device("cpu")), size) for batch, size in batches]


_STORABLE = (Tensor, dict, list, tuple, str, int, float, bool, type(None))


def release_recording(trainer: Trainer) -> None:
    """Free what this Trainer's callbacks shared."""
    _recordings.pop(trainer, None)
