"""Which events a score is taken over: named windows of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from lightning_dynamics.core.lightning import ConfigurationError

Measure = Literal["share", "epochs", "steps", "accuracy"]
WindowSpecs = Mapping[str, Mapping[str, Sequence[float | None]]]

ALL = "all"
FEWEST_EVENTS = 2
DEFAULT: WindowSpecs = {"early": {"share": [0, 0.5]}, "late": {"share": [0.5, None]}}
_MOST_LISTED = 100_000


@dataclass(frozen=True)
class Place:
    """Where in training an event is.

    Args:
        epoch: from 0.
        step: training batches that have stepped.
        planned_steps: of the whole training; None if unknown.
        accuracy: of the examples at this event; NaN if unknown.
    """

    epoch: int
    step: int
    planned_steps: int | None = None
    accuracy: float = math.nan

    def along(self, measure: Measure) -> float:
        """How far training is, by this measure; NaN if that is not known."""
        if measure == "share":
            # That of the batch that has just stepped, of planned batches numbered from 0: the last is below 1.
            return max(0, self.step - 1) / self.planned_steps if self.planned_steps else math.nan
        return {"epochs": self.epoch, "steps": self.step, "accuracy": self.accuracy}[measure]


@dataclass(frozen=True)
class Window:
    """Events from ``first`` to before ``end``, by one measure.

    Args:
        name: of the window.
        measure: ``"share"`` of the planned training, ``"epochs"`` (from 0), ``"steps"``, ``"accuracy"``.
        first: the lower end, itself inside.
        end: the upper end, itself outside; infinity for none.
    """

    name: str
    measure: Measure
    first: float
    end: float

    def holds(self, place: Place) -> bool:
        """Whether the event is in the window."""
        return self.first <= place.along(self.measure) < self.end

    def __str__(self) -> str:
        """As the panels say it."""
        first, end = (f"{100 * x:g} %" if self.measure in ("share", "accuracy") else f"{x:g}" for x in self.limits)
        what = {"share": "training", "accuracy": "accuracy", "epochs": "epochs", "steps": "steps"}[self.measure]
        return f"{what} from {first}" + (f" to before {end}" if math.isfinite(self.end) else "")

    @property
    def limits(self) -> tuple[float, float]:
        """Both ends."""
        return self.first, self.end


def parse_windows(specs: WindowSpecs | None) -> tuple[Window, ...]:
    """What the user writes, e.g. ``{"late": {"epochs": [10, None]}}``; None for the first and the second half.

    Raises:
        ConfigurationError: names, measures or ends that mean nothing.
    """
    specs = DEFAULT if specs is None else specs
    if not isinstance(specs, Mapping):
        raise ConfigurationError(f"`windows` must be as `{{'late': {{'epochs': [10, None]}}}}`; got {specs!r}")
    windows = []
    for name, spec in specs.items():
        example = f"`windows={{{name!r}: {{'epochs': [0, 5]}}}}`"
        if not isinstance(name, str) or not name or name == ALL or "/" in name:
            raise ConfigurationError(
                f"`windows` has a window {name!r}: a name is any text without '/', and {ALL!r} is always there"
            )
        if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in get_args(Measure):
            raise ConfigurationError(
                f"`windows[{name!r}]` must be one of {', '.join(get_args(Measure))} with its two ends, as in "
                f"{example}; got {spec!r}"
            )
        ((measure, ends),) = spec.items()
        if isinstance(ends, str) or not isinstance(ends, Sequence) or len(ends) != 2:
            raise ConfigurationError(f"`windows[{name!r}]` needs two ends, the second may be None: {example}")
        first, end = -math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1]
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (first, end))
        if not numbers or not max(first, 0) < end:
            raise ConfigurationError(
                f"`windows[{name!r}]={dict(spec)!r}`: from the first number up to before the second, so the second "
                "must be larger"
            )
        if measure in ("share", "accuracy") and first > 1:
            raise ConfigurationError(f"`windows[{name!r}]={dict(spec)!r}`: {measure} is from 0 to 1, not in percent")
        windows.append(Window(name, cast(Measure, measure), max(0.0, float(first)), float(end)))
    return tuple(windows)


@dataclass(frozen=True)
class Plan:
    """When events will be, as far as that is known before training.

    Args:
        every_n_epochs: or None.
        every_n_train_steps: or None.
        at_start: an event before the first step.
        at_end: an event when training ends.
        steps: of the whole training; None if unknown.
        epoch_steps: of one epoch; likewise.
    """

    every_n_epochs: int | None
    every_n_train_steps: int | None
    at_start: bool
    at_end: bool
    steps: int | None
    epoch_steps: int | None

    def check(self, windows: Sequence[Window], asked_for: bool) -> None:
        """Whether there will be enough events.

        Args:
            windows: beside all events.
            asked_for: whether the user named these windows.

        Raises:
            ConfigurationError: fewer than two events, or none of a window the user asked for can be placed.
        """
        relative = next((window for window in windows if window.measure == "share"), None)
        if self.steps is None:
            if relative is not None and asked_for:
                raise ConfigurationError(
                    f"`windows[{relative.name!r}]` is a share of a training whose length is not known: set the "
                    "Trainer's `max_epochs` or `max_steps`, or give the window in epochs or steps"
                )
            return
        if self.epoch_steps is None and self.every_n_epochs:
            return  # nobody knows how often epochs will end
        by_step = self.steps // (self.every_n_train_steps or self.steps + 1)
        by_epoch = self.steps // ((self.epoch_steps or self.steps + 1) * (self.every_n_epochs or self.steps + 1))
        if max(by_step, by_epoch) > _MOST_LISTED:
            return  # far more than enough
        places = list(self._places())
        if len(places) < FEWEST_EVENTS:
            raise ConfigurationError(
                f"there would be {len(places)} event in {self.steps} steps, and the gradients of one checkpoint do not "
                f"vary: set `every_n_train_steps` ({max(1, self.steps // 10)}, say), a smaller `every_n_epochs`, or "
                "`at_start=True`, or train longer; three events are enough"
            )
        for window in windows if asked_for else ():
            inside = sum(map(window.holds, places))
            if window.measure != "accuracy" and inside < FEWEST_EVENTS:
                raise ConfigurationError(
                    f"`windows[{window.name!r}]` ({window}) would hold {inside} of {len(places)} events, and needs two:"
                    " make it wider, or set `every_n_epochs` or `every_n_train_steps` smaller"
                )

    def _places(self) -> Iterator[Place]:
        """Events in order, those at one step once."""
        assert self.steps is not None
        epoch = self.epoch_steps or self.steps
        at = {0} if self.at_start else set()
        if self.every_n_train_steps:
            at |= set(range(self.every_n_train_steps, self.steps + 1, self.every_n_train_steps))
        if self.every_n_epochs and self.epoch_steps:
            at |= set(range(self.every_n_epochs * epoch, self.steps + 1, self.every_n_epochs * epoch))
            # An epoch that the last step cuts short is one, too.
            at |= {self.steps} if math.ceil(self.steps / epoch) % self.every_n_epochs == 0 else set()
        if self.at_end:
            at.add(self.steps)
        for step in sorted(at):
            yield Place(max(0, math.ceil(step / epoch) - 1), step, self.steps)
