"""Draws the training examples by the difficulty that a callback measures while the model trains."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sized
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DistributedSampler, IterableDataset

from lightning_dynamics.core.checks import check_count, speaking, spoken
from lightning_dynamics.core.lightning import ConfigurationError

Order = Literal["easy_first", "hard_first", "proportional", "drop_easiest", "drop_hardest"]
_DROPPING = ("drop_easiest", "drop_hardest")


class Scoring(Protocol):
    """What is asked of the callback: a ``last_result`` that has ``indices``, ``hardness(score)`` and ``epoch``."""

    @property
    def last_result(self) -> Any:
        """The latest result, the same in every process; None before the first event."""


class DifficultySampler(DistributedSampler[int]):
    """Training examples in the order, or with the frequency, that their difficulty gives them.

    Goes into the training loader, ``DataLoader(dataset, batch_size, sampler=DifficultySampler(...))``, and the
    callback into the Trainer. Every epoch uses the scores that the callback has when the epoch begins. Until there are
    any, and during ``warmup_epochs``, examples are drawn at random.

    Only ranks count. An example's *percentile* is the share of scored examples that are easier; equally hard ones
    count half. So it means the same for every score, negative and infinite values included. Examples without a score
    (not watched by the callback, or NaN) get percentile 0.5, the median. To rank every example, the callback must
    watch all of them: ``data="train"``, ``num_examples=len(dataset)``.

    ====================  =====================================================================================
    ``order``             an epoch
    ====================  =====================================================================================
    ``"easy_first"``      every example once, sorted by percentile; minibatches are of one difficulty, and perhaps
                          of one class
    ``"hard_first"``      the same in reverse order
    ``"proportional"``    as many draws as examples, at random; on average, an example is drawn 2 x its percentile
                          times: the hardest twice, the median once, the easiest hardly ever. In one epoch this
                          number is rounded up or down at random. The loss is not reweighted to compensate.
    ``"drop_easiest"``    the easiest ``share`` is left out, the rest once each, in random order
    ``"drop_hardest"``    the same with the hardest
    ====================  =====================================================================================

    Equally hard examples are in random order. What is random depends only on ``seed``, the epoch and the scores, and
    the global random state is not touched. So a training that is resumed between two epochs continues as if it had not
    been interrupted. (With workers, this needs an event in the last epoch before the interruption: Lightning starts the
    workers of a resumed training before it says which epoch it is, so the sampler assumes the epoch after the latest
    event.) In plain torch, call :meth:`set_epoch` as with any ``DistributedSampler``; otherwise each pass counts as an
    epoch.

    With n processes, each takes every n-th example of the same order; no example is in two of them. All get the same
    number: up to n - 1 examples, different ones each epoch, are left out. Lightning keeps this sampler if it is the
    loader's ``sampler``; it would replace one inside a ``batch_sampler``. Copies of the sampler, and of its loader, use
    the same callback.

    Args:
        dataset: the training data set, or how many examples it has.
        callback: measures the difficulty, e.g. ``VoGCallback(data="train")``; must also be in the Trainer.
        order: see above.
        score: which of the callback's scores.
        share: of all examples, from 0 to below 1: what ``"drop_easiest"`` and ``"drop_hardest"`` leave out, also
            while it is chosen at random, so that every epoch is equally long. With these two only.
        warmup_epochs: this many epochs at the beginning are drawn at random, even if there are scores: those of a
            hardly trained model say little.
        seed: of everything random; from 0 up.

    Raises:
        ConfigurationError: on values that cannot work; also when an epoch begins, if the callback does not know the
            score, or its examples are not of this data set.
    """

    @speaking
    def __init__(
        self,
        dataset: Sized | int,
        callback: Scoring,
        *,
        order: Order,
        score: str = "vog",
        share: float | None = None,
        warmup_epochs: int = 0,
        seed: int = 0,
    ) -> None:
        """Store and check the arguments."""
        # Not the base class's: it would ask for the processes now, and Lightning starts them later.
        if isinstance(dataset, np.integer):
            dataset = int(dataset)
        if not isinstance(dataset, int) and (isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__")):
            raise ConfigurationError(
                f"`dataset` is a {type(dataset).__name__}, which cannot be asked for its i-th example: give a "
                "map-style data set (a list is one), or its number of examples, e.g. `dataset=50_000`"
            )
        size = dataset if isinstance(dataset, int) else len(dataset)
        if isinstance(dataset, bool) or size < 1:
            raise ConfigurationError(f"`dataset` must have at least one example, got {dataset!r}")
        if not hasattr(callback, "last_result"):
            raise ConfigurationError(
                f"`callback` must be a callback that scores examples, such as VoGCallback, got {callback!r}"
            )
        if order not in get_args(Order):
            raise ConfigurationError(f"`order` must be one of {', '.join(map(repr, get_args(Order)))}; got {order!r}")
        if not isinstance(score, str) or not score:
            raise ConfigurationError(f"`score` must be the name of one of the callback's scores, got {score!r}")
        if order not in _DROPPING and share is not None:
            raise ConfigurationError(
                f"`share` says how much is left out, and `order={order!r}` leaves nothing out: remove `share`, or use "
                "`order='drop_easiest'` or `order='drop_hardest'`"
            )
        if order in _DROPPING and share is None:
            raise ConfigurationError(
                f"`order={order!r}` needs `share`, the share of the examples to leave out, e.g. `share=0.2`"
            )
        if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1):
            raise ConfigurationError(f"`share` must be a number from 0 to below 1, got {share!r}")
        check_count("warmup_epochs", warmup_epochs, least=0)
        check_count("seed", seed, least=0)
        dropped = 0 if share is None else round(share * size)
        if dropped == size:
            raise ConfigurationError(f"`share={share!r}` leaves nothing of {size} example(s): use a smaller one")
        self.dataset = range(size)  # type: ignore[assignment]  # torch's attribute; only the length is needed
        self.callback = callback
        self.order: Order = order
        self.score = score
        self.share = share
        self.warmup_epochs = warmup_epochs
        self.seed = seed
        self.shuffle = True
        self.drop_last = True
        self.epoch = 0
        self._size = size
        self._dropped = dropped
        self._passes = 0
        self._told = False
        self._warned = False

    # ---- this process's share: asked for when it is needed, for processes start later than samplers -----------

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """How many processes there are at the moment."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which of them this is."""
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Examples per epoch in each process, the same in every epoch."""
        return (self._size - self._dropped) // self.num_replicas

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Examples per epoch in all processes."""
        return self.num_samples * self.num_replicas

    def __len__(self) -> int:
        """Examples per epoch in this process."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next. Lightning does, also with a single process."""
        self.epoch = epoch
        self._passes = 0
        self._told = True

    def __iter__(self) -> Iterator[int]:
        """The data set indices of this process for one epoch."""
        # Nothing happens before the first index is asked for: Lightning makes iterators long before it uses them.
        result = self.callback.last_result
        epoch = self.epoch + self._passes
        if not self._told and result is not None:
            epoch = max(epoch, result.epoch + 1)  # resumed, see the class
        self._passes += 1
        percentiles = torch.full((self._size,), 0.5, dtype=torch.float64, device="cpu")
        if result is None:
            self._warn_if_overdue(epoch)
        elif epoch >= self.warmup_epochs:
            try:
                indices, own = self._scored(result)
            except ConfigurationError as error:
                raise spoken(error, type(self).__name__) from error.__cause__
            percentiles[indices] = own
        # Not `seed + epoch`, as torch has it: there, the next seed has the same epochs, one earlier.
        state = np.random.SeedSequence([self.seed, epoch]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        yield from self._drawn(percentiles, generator)[self.rank :: self.num_replicas].tolist()

    def _scored(self, result: Any) -> tuple[Tensor, Tensor]:
        """Data set indices (S,) and percentiles (S,) of the S examples that have a score."""
        if getattr(result, "data", None) == "val":
            raise ConfigurationError(
                "`callback` scores the validation data, and its example i is not that of the training data: give the "
                "callback `data='train'`"
            )
        indices = torch.as_tensor(result.indices, dtype=torch.int64, device="cpu")
        outside = indices[(indices < 0) | (indices >= self._size)]
        if len(outside):
            raise ConfigurationError(
                f"`callback` scores example {int(outside[0])}, but the sampler's `dataset` has {self._size}: the "
                "callback watches another data set; give it `data='train'`, and the sampler the training data set"
            )
        try:
            hardness = result.hardness(self.score)
        except ConfigurationError:
            raise
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"`score={self.score!r}`: the callback has no such score ({error}); the default is `score='vog'`"
            ) from error
        hardness = torch.as_tensor(hardness, dtype=torch.float64, device="cpu")
        known = ~hardness.isnan()
        _, place, alike = torch.unique(hardness[known], return_inverse=True, return_counts=True)
        alike = alike.double()
        below = alike.cumsum(0) - alike
        return indices[known], ((below + alike / 2) / max(1, len(place)))[place]

    def _warn_if_overdue(self, epoch: int) -> None:
        """Once: a callback that is not in the Trainer never measures, and all epochs would be drawn at random."""
        every = getattr(self.callback, "every_n_epochs", None)
        if self._told and not self._warned and isinstance(every, int) and epoch >= max(every, self.warmup_epochs, 1):
            self._warned = True
            warnings.warn(
                f"DifficultySampler: epoch {epoch} begins and `callback` has no scores yet, so examples are drawn at "
                f"random; is this very {type(self.callback).__name__} in `Trainer(callbacks=[...])`?",
                stacklevel=3,
            )

    def _drawn(self, percentiles: Tensor, generator: torch.Generator) -> Tensor:
        """The epoch of all processes (total_size,), from the examples' percentiles (size,)."""

        def shuffled(values: Tensor) -> Tensor:
            return values[torch.randperm(len(values), generator=generator, device="cpu")]

        examples = shuffled(torch.arange(self._size, device="cpu"))
        if self.order == "proportional":
            # Evenly spaced marks on the line where each example is as long as its percentile: with a single random
            # number, an example gets its expected number of marks, rounded up or down.
            ends = percentiles[examples].cumsum(0)
            start = torch.rand((), generator=generator, dtype=torch.float64, device="cpu")
            marks = (torch.arange(self.total_size, device="cpu") + start) * (ends[-1] / self.total_size)
            hit = torch.searchsorted(ends, marks, right=True).clamp(max=self._size - 1)
            return shuffled(examples[hit])
        order = examples[percentiles[examples].argsort(stable=True)]
        if self.order == "hard_first":
            order = order.flip(0)
        if self.order in _DROPPING:
            left = order[self._dropped :] if self.order == "drop_easiest" else order[: self._size - self._dropped]
            order = shuffled(left)
        if self.total_size < len(order):
            # Anywhere, not at the end: the hardest would be left out each time.
            order = order[shuffled(torch.arange(len(order), device="cpu"))[: self.total_size].sort().values]
        return order

    def __deepcopy__(self, memo: dict[int, Any]) -> DifficultySampler:
        """The same callback: a copy of it would never be told a score."""
        return copy.copy(self)
