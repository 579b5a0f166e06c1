"""On what: a fixed, indexed set of examples, the same at every event and whatever the number of processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, default_collate

from lightning_dynamics.core.lightning import ConfigurationError, sampled_indices, to_device, validation_loaders
from lightning_dynamics.core.precision import default_dtype
from lightning_dynamics.core.random_state import preserved_random_state, seed_all

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_CACHE_LIMIT = 2**30  # bytes of one probe that may stay on an accelerator


@dataclass(frozen=True)
class Batch:
    """A fixed minibatch of the probe.

    Args:
        number: its place among the batches of all processes.
        indices: the data set's own index of each example.
        data: collated, as ``training_step`` would get it, on the module's device.
    """

    number: int
    indices: tuple[int, ...]
    data: Any

    def __len__(self) -> int:
        """How many examples."""
        return len(self.indices)


@dataclass(eq=False)
class _Kept:
    """A minibatch, handed out again and again to callers who may change it in place, or pop the labels.

    The first caller gets a copy. One that leaves its copy alone is trusted, as most are, and is handed the tensors
    themselves from then on: copies of them would cost small models a fifth of a forward and backward pass.
    """

    data: Any
    is_placed: bool
    trusted: bool | None = None
    """None before anybody has had it."""
    first: Any = None
    """The first caller's copy, until it is compared."""
    versions: list[tuple[int, bool]] = field(default_factory=list)
    """Torch counts the changes of a tensor in place."""

    def is_spoilt(self) -> bool:
        """Whether a trusted caller has changed it after all."""
        return bool(self.trusted) and self.versions != self._marks()

    def copy_out(self) -> Any:
        """A copy, or new containers around the same tensors."""
        if self.trusted is None and self.first is not None:
            copied, kept = tree_flatten(self.first), tree_flatten(self.data)
            alike = copied[1] == kept[1] and all(map(_same, copied[0], kept[0]))
            self.trusted, self.first = alike, None
            self.versions = self._marks() if alike else []
        if self.trusted:
            leaves, structure = tree_flatten(self.data)
            return tree_unflatten(leaves, structure)
        copied = copy.deepcopy(self.data)
        if self.trusted is None:
            self.first = copied
        return copied

    def _marks(self) -> list[tuple[int, bool]]:
        leaves = tree_flatten(self.data)[0]
        return [(leaf._version, leaf.requires_grad) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _same(a: Any, b: Any) -> bool:
    """Bit for bit, of what can be compared and cannot change behind our back."""
    if isinstance(a, torch.Tensor):
        kinds = [(type(x), x.layout, x.shape, x.dtype, x.requires_grad) for x in (a, b)]
        plain = kinds[0] == kinds[1] and kinds[0][:2] == (torch.Tensor, torch.strided)
        return plain and bool(((a == b) | ((a != a) & (b != b))).all())
    return type(a) in (str, int, float, bool, bytes, type(None)) and a == b


@dataclass(eq=False)
class Probe:
    """A fixed choice of examples in fixed minibatches.

    Which examples, in which minibatches, depends on the data set, ``num_examples``, ``batch_size`` and ``seed``
    alone; each process reads and keeps only the minibatches that are its own. Random augmentation is frozen:
    every minibatch is drawn once, from its own seed, which the global random streams and the generators that the
    data set and the collate function hold get for that time. Reading never goes through the Trainer's loaders.

    Args:
        dataset: a map-style data set.
        name: what the panels call it, e.g. ``"train"``.
        batches: data set indices of every minibatch, over all processes.
        collate: list of examples -> batch.
        place: batch -> batch on the module's device.
        seed: of frozen augmentation.
        default_dtype: while examples are read: an analysis in float64 would draw other augmentations.
    """

    dataset: Dataset[Any]
    name: str
    batches: tuple[tuple[int, ...], ...]
    collate: Callable[[list[Any]], Any]
    place: Callable[[Any], Any]
    seed: int
    default_dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    _kept: dict[int, _Kept] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """How many examples, over all processes."""
        return sum(map(len, self.batches))

    def batch(self, number: int) -> Batch:
        """One minibatch, by its place among all of them; the caller may change it as it likes."""
        if number not in self._kept:
            self._read(number)
        elif self._kept[number].is_spoilt():
            self._read(number).trusted = False
        kept = self._kept[number]
        data = kept.copy_out() if kept.is_placed else self._placed(number, kept.data)
        return Batch(number, self.batches[number], data)

    def release(self) -> None:
        """Free the examples read so far; they are read anew, the same, when they are asked for."""
        self._kept.clear()

    def _read(self, number: int) -> _Kept:
        with default_dtype(self.default_dtype), preserved_random_state(self.dataset, self.collate):
            seed_all(self.seed + number, self.dataset, self.collate)
            read = self.collate([self.dataset[index] for index in self.batches[number]])
        placed = self._placed(number, read)
        # What does not fit is kept where it was read, and placed anew, from the same seed, each time.
        fits = _bytes(placed) * len(self.batches) <= _CACHE_LIMIT
        self._kept[number] = _Kept(placed if fits else read, is_placed=fits)
        return self._kept[number]

    def _placed(self, number: int, read: Any) -> Any:
        with default_dtype(self.default_dtype), preserved_random_state():
            seed_all(self.seed + number)
            return self.place(copy.deepcopy(read))


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
        ConfigurationError: no such data, an iterable-style or empty data set, several loaders, a loader whose data
            set hands out whole batches.
    """
    name, dataset, collate, population = _resolve(trainer, data, argument)
    shared = _probes.setdefault(trainer, {})
    key = (id(module), id(dataset), id(collate), population, name, num_examples, batch_size, seed, smallest_batch)
    if key not in shared:
        batches = _minibatches(dataset, population, num_examples, batch_size, seed, smallest_batch)
        shared[key] = Probe(dataset, name, batches, collate, lambda batch: to_device(trainer, module, batch), seed=seed)
    return shared[key]


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
    name, dataset, collate, population = _resolve(None, data, argument)
    parameter = next(module.parameters(), torch.empty(0))

    def place(batch: Any) -> Any:
        def moved(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return leaf.to(parameter.device, parameter.dtype if leaf.is_floating_point() else leaf.dtype)

        return tree_map(moved, batch)

    batches = _minibatches(dataset, population, num_examples, batch_size, seed, 1)
    return Probe(dataset, name, batches, collate, place, seed=seed)


def _minibatches(
    dataset: Any, population: tuple[int, ...] | None, num_examples: int, batch_size: int, seed: int, smallest_batch: int
) -> tuple[tuple[int, ...], ...]:
    """Data set indices, chosen by the seed."""
    size = len(dataset) if population is None else len(population)
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:num_examples]
    if population is not None:
        chosen = torch.tensor(population)[chosen]
    batches = tuple(tuple(part.tolist()) for part in chosen.split(batch_size))
    if size < num_examples and len(batches) > 1 and len(batches[-1]) < smallest_batch:
        batches = batches[:-1]
    return batches


def release_probes(trainer: Trainer) -> None:
    """Free the examples that this Trainer's callbacks shared."""
    _probes.pop(trainer, None)


def _resolve(
    trainer: Trainer | None, data: Any, argument: str
) -> tuple[str, Dataset[Any], Callable[[list[Any]], Any], tuple[int, ...] | None]:
    """Name, data set, collate function, and the indices to choose from if a sampler leaves some out."""
    name, source = data if isinstance(data, str) else type(data).__name__, data
    if name == "train" and isinstance(data, str):
        assert trainer is not None
        source = trainer.train_dataloader
    elif name == "val" and isinstance(data, str):
        assert trainer is not None
        with preserved_random_state():
            source = validation_loaders(trainer)
        if source is None or (isinstance(source, list | tuple) and not source):
            raise ConfigurationError(
                f"`{argument}='val'`, but there is no validation data: use `{argument}='train'` or a Dataset"
            )
    elif isinstance(data, str):
        raise ConfigurationError(f"`{argument}` must be 'train', 'val', a Dataset or a DataLoader; got {data!r}")
    if isinstance(data, str) and isinstance(source, list | tuple | dict) and len(source) == 1:
        source = next(iter(source.values() if isinstance(source, dict) else source))
    collate: Callable[[list[Any]], Any] = default_collate
    population = None
    if isinstance(source, DataLoader):
        indexed = not isinstance(source.dataset, IterableDataset)
        if indexed and source.batch_sampler is None and not isinstance(source.sampler, BatchSampler):
            raise ConfigurationError(
                f"`{argument}={name!r}`: with `batch_size=None` the loader's data set hands out whole batches, not "
                f"examples; pass a Dataset of single examples (`{argument}=Dataset`)"
            )
        # A loader without batches of its own has a collate function for single examples.
        collate = source.collate_fn if source.batch_sampler is not None else default_collate
        population = sampled_indices(source)
        source = source.dataset
    if isinstance(source, IterableDataset) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise ConfigurationError(
            f"`{argument}={data if isinstance(data, str) else name!r}` is a {type(source).__name__}: its examples have "
            f"no index to choose by; pass a map-style Dataset (`{argument}=Dataset`) of a few hundred examples instead"
        )
    if isinstance(source, list | tuple | dict) and not isinstance(data, list | tuple):
        raise ConfigurationError(
            f"`{argument}={name!r}` stands for {len(source)} loaders: pass the Dataset of the one you mean"
        )
    if len(source) == 0:
        raise ConfigurationError(f"`{argument}={name!r}` is an empty data set: there is nothing to analyse")
    return name, source, collate, population


def _bytes(batch: Any) -> int:
    if isinstance(batch, torch.Tensor):
        return batch.numel() * batch.element_size() if batch.device.type != "cpu" else 0
    if isinstance(batch, Mapping):
        return sum(map(_bytes, batch.values()))
    return sum(map(_bytes, batch)) if isinstance(batch, Sequence) and not isinstance(batch, str) else 0
