"""The first minibatches that training receives, where the data have no index to choose examples by."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_dynamics.core.batch_tree import Path, tensors, walk
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
        stacks: the loaders are known to put one row per example along the first axis of every tensor.
        is_whole: there is one process, and so nobody else records a part.
        batches: so far, this process's.
        last: epoch and number of the latest.
    """

    loader_sizes: frozenset[int]
    stacks: bool = False
    is_whole: bool = True
    batches: list[Recorded] = field(default_factory=list)
    last: tuple[int, int] | None = None
    _axes: dict[Path, list[int]] = field(default_factory=dict)
    """Where the number of examples was found in the first minibatch."""

    @classmethod
    def of(cls, trainer: Trainer) -> Recording:
        """The one that this Trainer's callbacks share."""
        if trainer not in _recordings:
            loaders = trainer.train_dataloader
            _recordings[trainer] = cls(
                frozenset(batch_sizes(loaders)), stacks(loaders), is_whole=trainer.world_size == 1
            )
        return _recordings[trainer]

    def see(self, batch: Any, epoch: int, batch_idx: int) -> None:
        """Copy a minibatch, once.

        Raises:
            ConfigurationError: nobody can tell how many examples are in it, or it cannot be copied.
        """
        if self.last == (epoch, batch_idx):
            return
        size = self._examples_in(batch)
        try:
            copied = copy.deepcopy(batch)
        except Exception as error:
            raise ConfigurationError(
                f"the minibatches of this training are {type(batch).__name__}s that cannot be copied "
                f"({type(error).__name__}: {error}): pass a map-style Dataset of a few hundred examples "
                "(`data=Dataset`)"
            ) from error
        self.last = (epoch, batch_idx)
        self.batches.append((copied, size))

    def go_on(self, batches: list[Recorded]) -> None:
        """Begin with what was recorded before training was interrupted."""
        if not self.batches:
            self.batches.extend(batches)

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
        shapes = {path: tuple(tensor.shape) for path, tensor in tensors(batch).items() if tensor.ndim}
        if not shapes:
            raise ConfigurationError(
                f"the minibatches of this training are {type(batch).__name__}s without tensors, whose examples cannot "
                "be counted: pass a map-style Dataset of a few hundred examples (`data=Dataset`)"
            )
        if self.stacks:  # with several loaders, of the one whose minibatches are largest
            return max(shape[0] for shape in shapes.values())
        # A length that all tensors have; later ones are looked at where the first had it.
        known = {path: shape for path, shape in shapes.items() if path in self._axes}
        lengths = [{shape[axis] for axis in self._axes[path] if axis < len(shape)} for path, shape in known.items()]
        lengths = lengths or [set(shape) for shape in shapes.values()]
        common, anywhere = set.intersection(*lengths), set.union(*lengths)
        size = self._likely(common or anywhere, is_sure=len(common) == 1, shapes=list((known or shapes).values()))
        if not self._axes:
            fitting = {path: [i for i, length in enumerate(shape) if length == size] for path, shape in shapes.items()}
            self._axes = {path: axes for path, axes in fitting.items() if axes}
        return size

    def _likely(self, lengths: set[int], *, is_sure: bool, shapes: list[tuple[int, ...]]) -> int:
        """Of several lengths that of a full minibatch, else the commonest among the first axes, else the largest."""
        if is_sure:
            return next(iter(lengths))
        full = [size for size in self.loader_sizes if size in lengths]
        leading = [length for length, _ in Counter(shape[0] for shape in shapes).most_common() if length in lengths]
        return max(full) if full else (leading or [max(lengths)])[0]


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


def stacks(loaders: Any) -> bool:
    """Whether all these loaders are known to put one row per example along the first axis of every tensor."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return bool(loaders) and all(map(stacks, loaders))
    batches = isinstance(loaders, DataLoader) and loaders.batch_sampler is not None
    return batches and loaders.collate_fn is default_collate


def shared(batches: list[Recorded], ranks: Ranks, module: LightningModule) -> list[Recorded]:
    """Everybody's minibatches, in every process: the i-th of rank r has the number i · size + r.

    Raises:
        CollectiveFailure: in every process: in one of them they cannot be sent to others.
    """
    if ranks.size == 1:
        return batches
    cpu = torch.device("cpu")
    own = ranks.run_checked(lambda: pickle.dumps([(move_to_device(batch, cpu), size) for batch, size in batches]))
    everybody = [pickle.loads(sent) for sent in ranks.all_gather_object(own)]
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
