"""What a loss is a mean over: the minibatches of this process, loaded again and again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.random_state import seed_all


@dataclass(frozen=True, eq=False)
class Minibatches:
    """This process's minibatches.

    Args:
        examples: how many are in each.
        numbers: what each is called, over all processes.
        load: place (from 0) to data, for one run of the loss: random streams begin anew, as at every earlier run
            of the same minibatch, so that dropout is a fixed function. The caller may change containers and tensors.
        count_terms: place to the number of terms that the loss of that minibatch is a mean over; asked once for each.
            None for their examples.
    """

    examples: tuple[int, ...]
    numbers: tuple[int, ...]
    load: Callable[[int], Any]
    count_terms: Callable[[int], float] | None = None
    _terms: dict[int, float] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """How many minibatches."""
        return len(self.examples)

    def terms(self, place: int) -> float:
        """The weight of a minibatch's loss in the mean over all of them."""
        if place not in self._terms:
            self._terms[place] = float(self.examples[place] if self.count_terms is None else self.count_terms(place))
        return self._terms[place]

    def smallest(self) -> int:
        """The place of the minibatch with the fewest examples."""
        return min(range(len(self)), key=self.examples.__getitem__)

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[Any],
        *,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        streams: Sequence[Any] = (),
    ) -> Minibatches:
        """Any iterable's batches, read once and held in memory, so that a shuffling loader stays what it was.

        Args:
            batches: tensors, or tuples, lists or mappings of tensors; those without an example are left out.
            weights: terms of each batch's mean, one number per batch; by default its examples.
            seed: of random streams: minibatch i gets ``seed + i``.
            streams: generators that the module holds.

        Raises:
            ConfigurationError: no batches, one whose examples cannot be counted, weights that do not fit.
        """
        if isinstance(batches, Tensor | str | Mapping) or not isinstance(batches, Iterable):
            raise ConfigurationError(
                f"`batches` must be a list (or another iterable) of batches, got a {type(batches).__name__}; a single "
                "batch is `[batch]`"
            )
        kept = [_Kept(batch) for batch in batches]
        if weights is not None:
            _check_weights(weights, len(kept))
        elif any(item.is_ambiguous for item in kept) and len({item.examples for item in kept}) > 1:
            raise ConfigurationError(
                "`batches`: their tensors have first axes of different lengths, so their examples cannot be counted: "
                "give `weights`, the number of terms that each batch's loss is a mean over"
            )
        numbers = [number for number, item in enumerate(kept) if item.examples]
        if not numbers:
            raise ConfigurationError(
                "`batches` holds no example: is it an iterator that was used up before? Give a list or a DataLoader"
            )

        def load(place: int) -> Any:
            seed_all(seed + numbers[place], *streams)
            return kept[numbers[place]].copied()

        count = None if weights is None else lambda place: weights[numbers[place]]
        return cls(tuple(kept[number].examples for number in numbers), tuple(numbers), load, count)

    @classmethod
    def from_context(cls, context: Context, probe: Probe | None = None) -> Minibatches:
        """This process's share of a context's probe (or of another one)."""
        source = context.probe if probe is None else probe
        numbers = tuple(context.ranks.shard(range(len(source.batches))))

        def load(place: int) -> Any:
            batch = source.batch(numbers[place])
            context.seed(batch)
            return batch.data

        def count(place: int) -> float:
            return context.terms(source.batch(numbers[place]), source)

        return cls(tuple(len(source.batches[number]) for number in numbers), numbers, load, count)


def _check_weights(weights: Any, count: int) -> None:
    """One positive number per batch."""
    if not isinstance(weights, Sequence) or len(weights) != count:
        given = len(weights) if isinstance(weights, Sequence) else type(weights).__name__
        raise ConfigurationError(
            f"`weights` must be a list with one number for each of the {count} batches, got {given}"
        )
    for number, weight in enumerate(weights):
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigurationError(
                f"`weights[{number}]` must be a positive number, got {weight!r}: leave batches without a term out"
            )


class _Kept:
    """A batch whose user gets a copy, until he has shown that he leaves it alone: then the tensors themselves."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._is_trusted: bool | None = None
        self._given: list[tuple[Tensor, int]] = []
        first = next(_tensors(batch), None)
        if first is None or first.ndim == 0:
            raise ConfigurationError(
                f"cannot count the examples of a batch that is a {type(batch).__name__}: its first tensor must have "
                "one row per example"
            )
        self.examples = len(first)
        self.is_ambiguous = any(tensor.ndim and len(tensor) != self.examples for tensor in _tensors(batch))

    def copied(self) -> Any:
        if self._is_trusted is None and self._given:
            self._is_trusted = all(tensor._version == version for tensor, version in self._given)
            self._given = []
        if self._is_trusted:
            return _with_new_containers(self._batch)
        copied = copy.deepcopy(self._batch)
        if self._is_trusted is None:
            self._given = [(tensor, tensor._version) for tensor in _tensors(copied)]
        return copied


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | list | tuple):
        for item in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(item)


def _with_new_containers(batch: Any) -> Any:
    """The same tensors: a loss may pop the labels out of a dict."""
    if isinstance(batch, Mapping):
        changed = copy.copy(batch)
        for key in batch:
            changed[key] = _with_new_containers(batch[key])  # type: ignore[index]
        return changed
    if isinstance(batch, list):
        return [_with_new_containers(item) for item in batch]
    return batch
