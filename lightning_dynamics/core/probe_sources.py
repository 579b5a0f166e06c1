"""Where a probe's examples come from: a data set and its collate function, found behind what the user gave."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, default_collate

from lightning_dynamics.core.collating import Collate
from lightning_dynamics.core.lightning import (
    ConfigurationError,
    batches_of_an_epoch,
    sampled_indices,
    undistributed,
    validation_loaders,
)
from lightning_dynamics.core.random_state import preserved_random_state, seed_all

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_SEVERAL = (list, tuple, dict)
_MOST_BUCKETS = 100_000
_EPOCHS = 6  # that are compared, to see whether all are alike


class NoIndex(ConfigurationError):
    """The examples have no index to choose by: of training data, the first minibatches can be recorded instead."""


@dataclass(frozen=True)
class Source:
    """Examples by index.

    Args:
        name: what the panels call them.
        dataset: map-style.
        collate: list of examples -> batch.
        population: the indices to choose from; None for all.
        buckets: the only sets of examples that go into one minibatch, where the user's own batch sampler says so.
    """

    name: str
    dataset: Dataset[Any]
    collate: Collate
    population: tuple[int, ...] | None = None
    buckets: tuple[tuple[int, ...], ...] | None = None

    def minibatches(
        self, num_examples: int, batch_size: int, seed: int, smallest_batch: int
    ) -> tuple[tuple[int, ...], ...]:
        """Data set indices of every minibatch, chosen by the seed."""
        generator = torch.Generator().manual_seed(seed)
        if self.buckets is not None:
            chosen: list[tuple[int, ...]] = []
            for place in torch.randperm(len(self.buckets), generator=generator).tolist():
                left = num_examples - sum(map(len, chosen))
                bucket = self.buckets[place][:left]
                parts = [bucket[start : start + batch_size] for start in range(0, len(bucket), batch_size)]
                chosen += [part for part in parts if len(part) >= smallest_batch]
                if left <= len(bucket):
                    break
            return tuple(chosen)
        size = len(self.dataset) if self.population is None else len(self.population)  # type: ignore[arg-type]
        picked = torch.randperm(size, generator=generator)[:num_examples]
        if self.population is not None:
            picked = torch.tensor(self.population)[picked]
        batches = tuple(tuple(part.tolist()) for part in picked.split(batch_size))
        if size < num_examples and len(batches) > 1 and len(batches[-1]) < smallest_batch:
            batches = batches[:-1]
        return batches


def resolve(trainer: Trainer | None, data: Any, argument: str) -> Source:
    """The source that ``data`` means.

    Raises:
        NoIndex: training data without an index.
        ConfigurationError: no such data, other data without an index, an empty data set.
    """
    name, source = _found(trainer, data, argument)
    is_word = isinstance(data, str)
    no_index = NoIndex if name == "train" and is_word else ConfigurationError
    loaders = list(source.values() if isinstance(source, dict) else source) if isinstance(source, _SEVERAL) else []
    if loaders and (is_word or any(isinstance(loader, DataLoader) for loader in loaders)):
        if len(loaders) != 1:
            raise no_index(
                f"`{argument}={name!r}` stands for {len(loaders)} loaders: pass the Dataset of the one you mean, "
                f"`{argument}=Dataset`"
            )
        source = loaders[0]
    collate: Collate = default_collate
    population, buckets = None, None
    if isinstance(source, DataLoader):
        indexed = not isinstance(source.dataset, IterableDataset)
        if indexed and source.batch_sampler is None and not isinstance(source.sampler, BatchSampler):
            raise no_index(
                f"`{argument}={name!r}`: with `batch_size=None` the loader's data set hands out whole batches, not "
                f"examples; pass a Dataset of single examples (`{argument}=Dataset`)"
            )
        # A loader without batches of its own has a collate function for single examples.
        collate = source.collate_fn if source.batch_sampler is not None else default_collate
        if indexed:
            population = sampled_indices(source, trainer if name == "train" and is_word else None)
            buckets = _buckets(source, trainer if name == "train" and is_word else None)
        source = source.dataset
    elif is_word:  # whatever it is, and with or without an index: it hands out minibatches
        raise no_index(
            f"`{argument}={name!r}` is a {type(source).__name__}, which hands out whole minibatches: its examples have "
            f"no index to choose by; pass a map-style Dataset (`{argument}=Dataset`) of a few hundred examples instead"
        )
    if isinstance(source, IterableDataset) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise no_index(
            f"`{argument}={data if is_word else name!r}` is a {type(source).__name__}: its examples have no index to "
            f"choose by; pass a map-style Dataset (`{argument}=Dataset`) of a few hundred examples instead"
        )
    if len(source) == 0:
        raise ConfigurationError(f"`{argument}={name!r}` is an empty data set: there is nothing to analyse")
    return Source(name, source, collate, population, buckets)


def _found(trainer: Trainer | None, data: Any, argument: str) -> tuple[str, Any]:
    if not isinstance(data, str):
        return type(data).__name__, data
    assert trainer is not None
    if data == "train":
        return data, trainer.train_dataloader
    if data != "val":
        raise ConfigurationError(f"`{argument}` must be 'train', 'val', a Dataset or a DataLoader; got {data!r}")
    with preserved_random_state():
        source = validation_loaders(trainer)
    if source is None or (isinstance(source, list | tuple) and not source):
        raise ConfigurationError(
            f"`{argument}='val'`, but there is no validation data: use `{argument}='train'` or a Dataset"
        )
    return data, source


def _buckets(loader: DataLoader[Any], trainer: Trainer | None) -> tuple[tuple[int, ...], ...] | None:
    """The minibatches of a batch sampler of the user's own, drawn from a copy of it; None for torch's.

    Where a Trainer is given, and cuts every epoch short, those that epochs begin with, if they are always the same.
    """
    sampler = loader.batch_sampler
    if sampler is None or type(sampler) is BatchSampler or type(sampler).__module__.startswith("lightning"):
        return None
    try:
        drawn = _drawn(loader, epoch=0)
        most = batches_of_an_epoch(trainer, loader) if trainer is not None else None
        if most is not None and all(drawn == _drawn(loader, epoch) for epoch in range(1, _EPOCHS)):
            drawn = drawn[:most]
    except Exception:  # no copy can be made, or it hands out no numbers: examples are chosen one by one
        return None
    return tuple(batch for batch in drawn if batch) or None


def _drawn(loader: DataLoader[Any], epoch: int) -> list[tuple[int, ...]]:
    """What a batch sampler would draw, from a seed: the same in every process, and however far training has come."""
    data = loader.dataset
    sampler: Any = copy.deepcopy(loader.batch_sampler, {id(data): data})
    with preserved_random_state():
        seed_all(epoch, sampler)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        if hasattr(sampler, "sampler"):
            sampler.sampler = undistributed(sampler.sampler, data)
        return [tuple(int(index) for index in batch) for batch in islice(iter(sampler), _MOST_BUCKETS)]
