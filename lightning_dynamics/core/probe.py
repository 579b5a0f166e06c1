"""On what: a fixed, indexed set of examples, the same at every event and whatever the number of processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from lightning_dynamics.core.collating import Collate, keeps_order, row_order
from lightning_dynamics.core.copies import Kept
from lightning_dynamics.core.lightning import ConfigurationError, to_device
from lightning_dynamics.core.precision import default_dtype
from lightning_dynamics.core.probe_sources import resolve
from lightning_dynamics.core.random_state import preserved_random_state, seed_all
from lightning_dynamics.core.recording import stacks

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_CACHE_LIMIT = 2**30  # bytes of one probe that may stay on an accelerator


@dataclass(frozen=True)
class Batch:
    """A fixed minibatch of the probe.

    Args:
        number: its place among the batches of all processes.
        indices: the data set's own index of each row.
        data: collated, as ``training_step`` would get it, on the module's device.
        order: for each row, its place in ``probe.batches[number]``; None where a row is not one of these examples (the
            collate function merges some), or nobody can tell which.
    """

    number: int
    indices: tuple[int, ...]
    data: Any
    order: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """How many examples."""
        return len(self.indices)


@dataclass(eq=False)
class Probe:
    """A fixed choice of examples in fixed minibatches.

    Which examples, in which minibatches, depends on the data set, ``num_examples``, ``batch_size`` and ``seed``
    alone; each process reads and keeps only the minibatches that are its own. Random augmentation is frozen:
    every minibatch is drawn once, from its own seed, which the global random streams and the generators that the
    data set and the collate function hold get for that time. Reading never goes through the Trainer's loaders.

    Where the data have no index (streams), the minibatches are those that training itself received first.

    Args:
        dataset: a map-style data set; of recorded minibatches, a list of them.
        name: what the panels call it, e.g. ``"train"``.
        batches: data set indices of every minibatch, over all processes.
        collate: list of examples -> batch.
        place: batch -> batch on the module's device.
        seed: of frozen augmentation.
        default_dtype: while examples are read: an analysis in float64 would draw other augmentations.
        recorded: the minibatches, where they were recorded.
        stacked: of recorded minibatches, every tensor is known to have one row per example along its first axis.
        bucketed: only examples of one minibatch go together, as the user's batch sampler says.
        terms: of the loss, per task and minibatch, as far as they have been counted.
    """

    dataset: Dataset[Any]
    name: str
    batches: tuple[tuple[int, ...], ...]
    collate: Collate
    place: Callable[[Any], Any]
    seed: int
    default_dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    recorded: Sequence[Any] | None = None
    stacked: bool = False
    bucketed: bool = False
    terms: dict[Any, float] = field(default_factory=dict, repr=False)
    _kept: dict[int, _Read] = field(default_factory=dict, repr=False)
    _views: dict[Any, Probe] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """How many examples, over all processes."""
        return sum(map(len, self.batches))

    def batch(self, number: int) -> Batch:
        """One minibatch, by its place among all of them; the caller may change it as it likes."""
        if number not in self._kept:
            self._read(number)
        elif self._kept[number].kept.is_spoilt():
            self._read(number).kept.trusted = False
        read = self._kept[number]
        data = read.kept.copy_out() if read.is_placed else self._placed(number, read.kept.data)
        return Batch(number, read.indices, data, read.order)

    def few(self, count: int) -> tuple[Callable[[Sequence[int]], Any] | None, int]:
        """For experiments: a few examples that go into one minibatch, and a way to collate some of them.

        Returns:
            ``collated(places)`` on the module's device, for places below the number, or None if the minibatches were
            recorded; and the number, at most ``count``.
        """
        if self.recorded is not None:
            return None, len(self.batches[0])
        together = self.batches[:1] if self.bucketed else self.batches[:count]
        indices = [index for batch in together for index in batch][:count]
        with self._frozen(0):
            items = [self.dataset[index] for index in indices]
            if not keeps_order(self.collate):
                order = row_order(self.collate, items, self.collate([copy.deepcopy(item) for item in items]))
                items = items if order is None else [items[place] for place in sorted(order)]  # some may be dropped

        def collated(places: Sequence[int]) -> Any:
            with self._frozen(0):
                return self._placed(0, self.collate([copy.deepcopy(items[place]) for place in places]))

        return collated, len(items)

    def cut(self, size: int) -> Probe:
        """The same examples in minibatches of at most ``size``, collated anew; recorded ones stay as they are."""
        if self.recorded is not None or size >= max(map(len, self.batches)):
            return self
        if size not in self._views:
            smaller = tuple(
                tuple(part.tolist())
                for batch in self.batches
                for part in torch.tensor(batch).tensor_split(-(-len(batch) // size))
            )
            self._views[size] = replace(self, batches=smaller, terms={}, _kept={}, _views={})
        return self._views[size]

    def laid_out(self, layout: Callable[[Any], Any]) -> Probe:
        """The same minibatches with their tensors laid out in another way in memory."""
        if layout not in self._views:
            place = self.place
            self._views[layout] = replace(self, place=lambda batch: layout(place(batch)), terms={}, _kept={}, _views={})
        return self._views[layout]

    def release(self) -> None:
        """Free the examples read so far; they are read anew, the same, when they are asked for."""
        self._kept.clear()
        self._views.clear()

    def _frozen(self, number: int) -> Any:
        return _frozen_streams(self.default_dtype, self.seed + number, self.dataset, self.collate)

    def _read(self, number: int) -> _Read:
        order: tuple[int, ...] | None = tuple(range(len(self.batches[number])))
        if self.recorded is not None:
            placed = read = copy.deepcopy(self.recorded[number])  # the recorded one itself is never handed out
        else:
            with self._frozen(number):
                items = [self.dataset[index] for index in self.batches[number]]
                changes = not keeps_order(self.collate)
                read = self.collate([copy.deepcopy(item) for item in items] if changes else items)
                if changes:
                    with preserved_random_state(self.dataset, self.collate):
                        order = row_order(self.collate, items, read)
            placed = self._placed(number, read)
        # What does not fit is kept where it was read, and placed anew, from the same seed, each time.
        fits = _bytes(placed) * len(self.batches) <= _CACHE_LIMIT
        requested = self.batches[number]
        indices = requested if order is None else tuple(requested[place] for place in order)
        self._kept[number] = _Read(Kept(placed if fits else read), fits, indices, order)
        return self._kept[number]

    def _placed(self, number: int, read: Any) -> Any:
        with default_dtype(self.default_dtype), preserved_random_state():
            seed_all(self.seed + number)
            return self.place(copy.deepcopy(read))


@dataclass(eq=False)
class _Read:
    """A minibatch as it was read."""

    kept: Kept
    is_placed: bool
    indices: tuple[int, ...]
    order: tuple[int, ...] | None


@contextmanager
def _frozen_streams(dtype: torch.dtype, seed: int, *owners: Any) -> Iterator[None]:
    with default_dtype(dtype), preserved_random_state(*owners):
        seed_all(seed, *owners)
        yield


_probes: WeakKeyDictionary[Any, dict[Any, Probe]] = WeakKeyDictionary()


def probe_for(
    trainer: Trainer,
    module: LightningModule,
    data: str | Dataset[Any] | DataLoader[Any],
    *,
    num_examples: int,
    batch_size: int,
    seed: int,
    smallest_batch: int = 1,
    argument: str = "data",
) -> Probe:
    """The probe that these words mean; callbacks of one Trainer that say the same share it.

    Args:
        trainer: in its fit loop, data set up.
        module: the bare module.
        data: ``"train"``, ``"val"``, a map-style Dataset, or a DataLoader (its data set and collate function).
        num_examples: at most this many, chosen by ``seed``.
        batch_size: examples per minibatch.
        seed: of the choice and of frozen augmentation.
        argument: what the user calls ``data``, for complaints.
        smallest_batch: if there are fewer than ``num_examples``, and the last minibatch would be smaller than this,
            it is left out.

    Raises:
        NoIndex: training data whose examples have no index: a stream, several loaders, whole batches.
        ConfigurationError: no such data, or an empty data set; other data without an index.
    """
    source = resolve(trainer, data, argument)
    shared = _probes.setdefault(trainer, {})
    words = (num_examples, batch_size, seed, smallest_batch)
    key = (id(module), id(source.dataset), id(source.collate), source.population, source.name, *words)
    if key not in shared:
        shared[key] = Probe(
            source.dataset,
            source.name,
            source.minibatches(num_examples, batch_size, seed, smallest_batch),
            source.collate,
            lambda batch: to_device(trainer, module, batch),
            seed=seed,
            bucketed=source.buckets is not None,
        )
    return shared[key]


def recorded_probe(
    trainer: Trainer, batches: Sequence[tuple[Any, int]], *, seed: int, num_examples: int, batch_size: int
) -> Probe:
    """The probe of minibatches that training received, with the number of examples in each; callbacks share it."""
    key = ("recorded", tuple(id(batch) for batch, _ in batches), seed, num_examples, batch_size)
    shared = _probes.setdefault(trainer, {})
    if key not in shared:
        shared[key] = replace(probe_of(batches, seed), stacked=stacks(trainer.train_dataloader))
    return shared[key]


def probe_of(batches: Sequence[tuple[Any, int]], seed: int, name: str = "train") -> Probe:
    """The probe of minibatches that are there already, with the number of examples in each, numbered in order."""
    numbers, first = [], 0
    for _, size in batches:
        numbers.append(tuple(range(first, first + size)))
        first += size
    data: Any = [batch for batch, _ in batches]
    return Probe(data, name, tuple(numbers), _itself, _itself, seed, recorded=data)


def _itself(value: Any) -> Any:
    return value


def probe_without_trainer(
    module: nn.Module,
    data: Dataset[Any] | DataLoader[Any],
    *,
    num_examples: int,
    batch_size: int,
    seed: int,
    argument: str = "data",
) -> Probe:
    """The probe that :func:`probe_for` would choose from this Dataset or DataLoader, on the module's device.

    Floating point tensors come in the dtype of the module's first parameter, as a Trainer would hand them to it.

    Raises:
        ConfigurationError: as :func:`probe_for`; ``data`` is a word.
    """
    if isinstance(data, str):
        raise ConfigurationError(f"`{argument}={data!r}`: there is no Trainer here; give a Dataset or a DataLoader")
    source = resolve(None, data, argument)
    parameter = next(module.parameters(), torch.empty(0))

    def place(batch: Any) -> Any:
        def moved(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return leaf.to(parameter.device, parameter.dtype if leaf.is_floating_point() else leaf.dtype)

        return tree_map(moved, batch)

    batches = source.minibatches(num_examples, batch_size, seed, 1)
    return Probe(
        source.dataset, source.name, batches, source.collate, place, seed=seed, bucketed=source.buckets is not None
    )


def release_probes(trainer: Trainer) -> None:
    """Free the examples that this Trainer's callbacks shared."""
    _probes.pop(trainer, None)


def _bytes(batch: Any) -> int:
    if isinstance(batch, torch.Tensor):
        return batch.numel() * batch.element_size() if batch.device.type != "cpu" else 0
    if isinstance(batch, Mapping):
        return sum(map(_bytes, batch.values()))
    return sum(map(_bytes, batch)) if isinstance(batch, Sequence) and not isinstance(batch, str) else 0
