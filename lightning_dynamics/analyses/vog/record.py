"""What is remembered of all events so far: running moments, in memory that does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.vog.dynamics import MEASURED, Forgetting
from lightning_dynamics.analyses.vog.estimator import Moments, Variant, finite_rows, spread
from lightning_dynamics.analyses.vog.scoring import Measured
from lightning_dynamics.analyses.vog.windows import ALL, FEWEST_EVENTS, Place, Window
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.storage import Storage

_CORRECT = MEASURED.index("correct")
_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Reading:
    """Every example's scores, in the order of the probe.

    Args:
        scores: window -> ``(N,)`` float64; NaN with fewer than two events.
        dynamics: window -> name -> ``(N,)`` float64; see ``VoGResult.dynamics``. Means are NaN without an event,
            deviations with fewer than two.
        predictions: window -> ``(N,)`` int64, at its latest event; −1 if unknown.
        labels: ``(N,)`` int64; −1 if unknown.
        forgetting: ``(N,)`` float64; NaN if unknown.
    """

    scores: dict[str, Tensor]
    dynamics: dict[str, dict[str, Tensor]]
    predictions: dict[str, Tensor]
    labels: Tensor
    forgetting: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Reading]) -> Reading:
        """Those of several groups of examples, one after the other."""
        first = parts[0]
        return cls(
            scores={w: torch.cat([part.scores[w] for part in parts]) for w in first.scores},
            dynamics={
                w: {name: torch.cat([part.dynamics[w][name] for part in parts]) for name in kept}
                for w, kept in first.dynamics.items()
            },
            predictions={w: torch.cat([part.predictions[w] for part in parts]) for w in first.predictions},
            labels=torch.cat([part.labels for part in parts]),
            forgetting=torch.cat([part.forgetting for part in parts]),
        )


class Record:
    """Running moments of every example, kept once for every set of windows that events have fallen into.

    An event belongs to several windows at once, and windows may overlap. So moments are kept by *pattern* (which of the
    windows hold the event), and a window is the exact merger of the patterns that are in it. There are few: with early
    and late halves, two.

    Per-pixel moments lie in process zero alone, and so in its checkpoint, from which any number of processes can go on.
    Everything else is small, and the same in every process.

    Args:
        memory: tensors and plain values, updated in place; empty at first.
        minibatches: the probe's, as data set indices.
        windows: by name, beside ``"all"``.
        storage: where per-pixel moments lie.
        is_first: whether this is process zero.
    """

    def __init__(
        self,
        memory: dict[str, Any],
        minibatches: Sequence[Sequence[int]],
        windows: Mapping[str, Window],
        storage: Storage,
        is_first: bool = True,
    ) -> None:
        """Go on from a memory, or begin one."""
        self.memory = memory
        self.windows = windows
        self.storage = storage
        self.is_first = is_first
        self._lengths = [len(batch) for batch in minibatches]
        self._examples = sum(self._lengths)
        if not memory:
            names = (ALL, *windows)
            memory |= {
                "examples": [list(batch) for batch in minibatches],
                "patterns": {},
                "sizes": [],
                "gradients": {},
                "dynamics": {},
                "labels": torch.full((self._examples,), -1),
                "predictions": {name: torch.full((self._examples,), -1) for name in names},
                "forgetting": dict(vars(Forgetting.none(self._examples))),
                "undefined": 0,
            }

    def resume(self) -> None:
        """Put what came from a checkpoint where it belongs."""
        if not self.is_first:
            self.memory["gradients"] = {}
        for moments in self.memory["gradients"].values():
            moments |= {name: self.storage.store(moments[name]) for name in ("mean", "m2")}

    # ---- events --------------------------------------------------------------------------------------------

    def add(self, measured: Sequence[Measured], place: Place, ranks: Ranks) -> None:
        """Take in an event, of which each process has measured its own minibatches.

        Args:
            measured: by this process.
            place: the accuracy is that of the examples here, unless it is given.
            ranks: the processes.
        """
        dynamics = self._everywhere({one.number: one.dynamics for one in measured}, ranks)
        classes = {one.number: torch.stack([one.labels, one.predictions], dim=1) for one in measured}
        labels, predictions = self._everywhere(classes, ranks, columns=2, dtype=torch.int64).unbind(1)
        if math.isnan(place.accuracy):
            place = replace(place, accuracy=float(dynamics[:, _CORRECT].nanmean()))
        inside = [window.holds(place) for window in self.windows.values()]
        pattern = sum(2**i for i, holds in enumerate(inside) if holds)

        sizes, dtypes = self._layout(measured, ranks)
        moments = ranks.run_checked(lambda: self._gradient_moments(pattern, max(dtypes, key=_DTYPES.index)))
        own = {one.number: one.gradients for one in measured}
        undefined = 0
        for number, (length, size, dtype) in enumerate(zip(self._lengths, sizes, dtypes, strict=True)):
            values = own[number] if number in own else torch.empty(length, size, dtype=dtype)
            values = ranks.broadcast(values, owner=number % ranks.size)
            undefined += int((~finite_rows(values)).sum())
            if self.is_first:
                moments[number].update(values)

        kept = self.memory["patterns"].setdefault(pattern, {"events": 0, "first": place.step, "last": place.step})
        kept |= {"events": kept["events"] + 1, "last": place.step}
        kept = self.memory["dynamics"].setdefault(pattern, dict(vars(Moments.zeros(*dynamics.shape))))
        Moments(**kept).update(dynamics)
        Forgetting(**self.memory["forgetting"]).update(dynamics[:, _CORRECT] == 1)
        self.memory["labels"].copy_(labels)
        for name, holds in zip(self.memory["predictions"], (True, *inside), strict=True):
            if holds:
                self.memory["predictions"][name].copy_(predictions)
        self.memory["undefined"] += undefined

    def _everywhere(
        self, own: dict[int, Tensor], ranks: Ranks, columns: int = len(MEASURED), dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """All processes' rows ``(N, columns)``, in every process."""
        rows = torch.zeros(self._examples, columns, dtype=dtype)
        for number, place in enumerate(rows.split(self._lengths)):
            if number in own:
                place.copy_(own[number])
        return ranks.all_reduce(rows)

    def _layout(self, measured: Sequence[Measured], ranks: Ranks) -> tuple[list[int], list[torch.dtype]]:
        """Pixels per example and dtype of every minibatch's gradients, in every process."""
        layout = torch.zeros(len(self._lengths), 2, dtype=torch.int64)
        for one in measured:
            layout[one.number] = torch.tensor([one.gradients.shape[1], _DTYPES.index(one.gradients.dtype)])
        sizes, dtypes = ranks.all_reduce(layout).unbind(1)
        if self.memory["sizes"] and self.memory["sizes"] != sizes.tolist():
            raise RuntimeError(
                "examples have another size than at the event before, so their gradients cannot be merged"
            )
        self.memory["sizes"] = sizes.tolist()
        return sizes.tolist(), [_DTYPES[i] for i in dtypes]

    # ---- per-pixel moments, in process zero ----------------------------------------------------------------

    def _gradient_moments(self, pattern: int, dtype: torch.dtype) -> list[Moments]:
        """Of every minibatch, to be updated in place; none in the other processes."""
        if not self.is_first:
            return []
        if pattern not in self.memory["gradients"]:
            total = sum(n * size for n, size in zip(self._lengths, self.memory["sizes"], strict=True))
            self.memory["gradients"][pattern] = {
                "count": torch.zeros(self._examples, dtype=torch.float64),
                "mean": self.storage.zeros(total, dtype),
                "m2": self.storage.zeros(total, dtype),
            }
        return list(self._minibatches(pattern))

    def _minibatches(self, pattern: int) -> Iterator[Moments]:
        """Views of one pattern's moments."""
        kept = self.memory["gradients"][pattern]
        shapes = list(zip(self._lengths, self.memory["sizes"], strict=True))
        means, m2s = (kept[name].split([n * size for n, size in shapes]) for name in ("mean", "m2"))
        for count, mean, m2, shape in zip(kept["count"].split(self._lengths), means, m2s, shapes, strict=True):
            yield Moments(count, mean.view(shape), m2.view(shape))

    # ---- scores --------------------------------------------------------------------------------------------

    def patterns_of(self, window: str) -> list[int]:
        """The patterns that a window is merged from."""
        if window == ALL:
            return list(self.memory["patterns"])
        bit = list(self.windows).index(window)
        return [pattern for pattern in self.memory["patterns"] if pattern >> bit & 1]

    def events(self) -> dict[str, dict[str, int]]:
        """Of each window: how many events, and the steps of the first and the last (−1 if there is none)."""
        told = {}
        for window in self.memory["predictions"]:
            kept = [self.memory["patterns"][pattern] for pattern in self.patterns_of(window)]
            told[window] = {
                "events": sum(one["events"] for one in kept),
                "first_step": min((one["first"] for one in kept), default=-1),
                "last_step": max((one["last"] for one in kept), default=-1),
            }
        return told

    def read(self, variant: Variant, ddof: int, ranks: Ranks) -> Reading:
        """All scores as they are now, the same in every process."""
        windows = list(self.memory["predictions"])
        scores = ranks.run_checked(lambda: self._scores(windows, variant, ddof))
        scores = ranks.broadcast(scores, owner=0)
        known = self.memory["labels"] >= 0
        never = torch.full_like(scores[0], math.nan)
        return Reading(
            scores=dict(zip(windows, scores.unbind(0), strict=True)),
            dynamics={window: self._dynamics(window) for window in windows},
            predictions={name: predictions.clone() for name, predictions in self.memory["predictions"].items()},
            labels=self.memory["labels"].clone(),
            forgetting=torch.where(known, Forgetting(**self.memory["forgetting"]).scores(), never),
        )

    def _scores(self, windows: list[str], variant: Variant, ddof: int) -> Tensor:
        """``(windows, N)``; zeros, to be filled, in the other processes."""
        scores = torch.full((len(windows), self._examples), math.nan, dtype=torch.float64)
        for row, window in zip(scores, windows, strict=True):
            patterns = self.patterns_of(window)
            if self.is_first and patterns:
                parts = zip(*(self._minibatches(pattern) for pattern in patterns), strict=True)
                row.copy_(torch.cat([spread(reduce(Moments.merged, part), variant, ddof) for part in parts]))
        return scores

    def _dynamics(self, window: str) -> dict[str, Tensor]:
        patterns = self.patterns_of(window)
        empty = Moments.zeros(self._examples, len(MEASURED))
        moments = reduce(Moments.merged, [Moments(**self.memory["dynamics"][pattern]) for pattern in patterns], empty)
        count = moments.count[:, None]
        mean = moments.mean.masked_fill(count == 0, math.nan)
        # Of a single event it would be 0, as if the example had never changed.
        deviation = (moments.m2 / count.clamp(min=1)).sqrt().masked_fill(count < FEWEST_EVENTS, math.nan)
        column = {name: number for number, name in enumerate(MEASURED)}
        return {
            "aum": mean[:, column["margin"]],
            "el2n": mean[:, column["el2n"]],
            "confidence": mean[:, column["confidence"]],
            "variability": deviation[:, column["confidence"]],
            "correctness": mean[:, column["correct"]],
            "loss": mean[:, column["loss"]],
            "loss_spread": deviation[:, column["loss"]],
        }
