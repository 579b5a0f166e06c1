"""Which events a score is taken over: named windows of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from lightning_dynamics.core.lightning import ConfigurationError

Measure = Literal["share", "epochs", "steps", "accuracy"]
Ends = tuple[float | None, float | None]

ALL = "all"
FEWEST_EVENTS = 2
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
    """The events from one point of training up to before another: ``Window(epochs=(10, None))``.

    Exactly one of the four is given, as two ends: the first is inside, the second is not. None is an open end.

    Args:
        epochs: from 0.
        steps: training batches that have stepped.
        share: of the planned training, from 0 to 1.
        accuracy: of the model on the examples, from 0 to 1.
    """

    epochs: Ends | None = None
    steps: Ends | None = None
    share: Ends | None = None
    accuracy: Ends | None = None

    @property
    def measure(self) -> Measure:
        """Which of the four it goes by."""
        return next(name for name in get_args(Measure) if getattr(self, name) is not None)

    @property
    def limits(self) -> tuple[float, float]:
        """Both ends: 0 and infinity where they are open."""
        first, end = getattr(self, self.measure)
        return max(0.0, float(first or 0)), math.inf if end is None else float(end)

    def holds(self, place: Place) -> bool:
        """Whether the event is in the window."""
        first, end = self.limits
        return first <= place.along(self.measure) < end

    def __str__(self) -> str:
        """As the panels say it."""
        first, end = (f"{100 * x:g} %" if self.measure in ("share", "accuracy") else f"{x:g}" for x in self.limits)
        what = "training" if self.measure == "share" else self.measure
        return f"{what} from {first}" + (f" to before {end}" if math.isfinite(self.limits[1]) else "")


WindowSpecs = Mapping[str, Window | Mapping[str, Sequence[float | None]]]
DEFAULT: WindowSpecs = {"early": Window(share=(0, 0.5)), "late": Window(share=(0.5, None))}


def parse_windows(specs: WindowSpecs | None) -> dict[str, Window]:
    """Windows by name; each is a value, or as ``{"epochs": [10, None]}``. None for the first and the second half.

    Raises:
        ConfigurationError: names, measures or ends that mean nothing.
    """
    specs = DEFAULT if specs is None else specs
    if not isinstance(specs, Mapping):
        raise ConfigurationError(
            "`windows` must give names to windows, as `{'late': Window(epochs=(10, None))}` or "
            f"`{{'late': {{'epochs': [10, None]}}}}`; got {specs!r}"
        )
    return {name: _checked(name, spec) for name, spec in specs.items()}


def _checked(name: Any, spec: Any) -> Window:
    argument, example = f"`windows[{name!r}]`", f"`windows={{{name!r}: {{'epochs': [0, 5]}}}}`"
    if not isinstance(name, str) or not name or name == ALL or "/" in name:
        raise ConfigurationError(
            f"`windows` has a window {name!r}: a name is any text without '/', and {ALL!r} is always there"
        )
    given = vars(spec) if isinstance(spec, Window) else spec
    given = {key: ends for key, ends in given.items() if ends is not None} if isinstance(given, Mapping) else {}
    if len(given) != 1 or next(iter(given)) not in get_args(Measure):
        raise ConfigurationError(
            f"{argument} must be one of {', '.join(get_args(Measure))} with its two ends, as in {example}; got {spec!r}"
        )
    ((measure, ends),) = given.items()
    if isinstance(ends, str) or not isinstance(ends, Sequence) or len(ends) != 2:
        raise ConfigurationError(f"{argument} needs two ends, the second may be None: {example}")
    first, end = -math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1]
    told = f"`windows[{name!r}]={given!r}`"
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (first, end))
    if not numbers or not max(first, 0) < end:
        raise ConfigurationError(f"{told}: from the first number up to before the second, so the second must be larger")
    if measure in ("share", "accuracy") and first > 1:
        raise ConfigurationError(f"{told}: {measure} is from 0 to 1, not in percent")
    return Window(**{measure: (ends[0], ends[1])})


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

    def check(self, windows: Mapping[str, Window], asked_for: bool) -> str:
        """Whether there will be enough events.

        Args:
            windows: beside all events.
            asked_for: whether the user named these windows.

        Returns:
            A warning about windows that nobody asked for and that will have no score; empty if all will.

        Raises:
            ConfigurationError: fewer than two events, or none of a window the user asked for can be placed.
        """
        if self.steps is None:
            relative = [name for name, window in windows.items() if window.measure == "share"]
            if relative and asked_for:
                raise ConfigurationError(
                    f"`windows[{relative[0]!r}]` is a share of a training whose length is not known: set the "
                    "Trainer's `max_epochs` or `max_steps`, or give the window in epochs or steps"
                )
            if not relative:
                return ""
            return (
                f"the windows {' and '.join(map(repr, relative))} are shares of a training whose length is not known, "
                "and will hold no event: set the Trainer's `max_epochs` or `max_steps`, or windows in epochs, e.g. "
                "`windows={'late': {'epochs': [10, None]}}`"
            )
        if self.epoch_steps is None and self.every_n_epochs:
            return ""  # nobody knows how often epochs will end
        if self._more_than_enough:
            return ""
        places = list(self._places())
        if len(places) < FEWEST_EVENTS:
            raise ConfigurationError(
                f"there would be {len(places)} event in {self.steps} steps, and the gradients of one checkpoint do not "
                f"vary: set `every_n_train_steps` ({max(1, self.steps // 10)}, say), a smaller `every_n_epochs`, or "
                "`at_start=True`, or train longer; three events are enough"
            )
        few = self._too_few(windows)
        for name, inside in few.items():
            told = f"({windows[name]}) would hold {inside} of {len(places)} events, and needs two"
            if asked_for:
                raise ConfigurationError(f"`windows[{name!r}]` {told}: {self._remedy({name: windows[name]})}")
        if not few:
            return ""
        held = " and ".join(f"{name!r} ({windows[name]}) will hold {inside or 'none'}" for name, inside in few.items())
        return (
            f"of {len(places)} events, the window {held}, and has no score with fewer than two, as a single gradient "
            f"does not vary: {self._remedy(windows)}, or `windows={{}}` for none"
        )

    def _too_few(self, windows: Mapping[str, Window]) -> dict[str, int]:
        """The windows that will not have enough events, with how many they will have."""
        places = list(self._places())
        inside = {name: sum(map(window.holds, places)) for name, window in windows.items()}
        return {n: count for n, count in inside.items() if count < FEWEST_EVENTS and windows[n].measure != "accuracy"}

    def _remedy(self, windows: Mapping[str, Window]) -> str:
        """What to set so that these windows have enough events: less time between events, or wider windows."""
        assert self.steps is not None
        plans: dict[str, Plan] = {}
        if self.every_n_epochs and self.epoch_steps:
            plans |= {f"every_n_epochs={n}": replace(self, every_n_epochs=n) for n in _halves(self.every_n_epochs)}
        halves = _halves(max(2, self.steps // 5))
        plans |= {f"every_n_train_steps={n}": replace(self, every_n_train_steps=n) for n in halves}
        for told, plan in plans.items():
            if plan._more_than_enough or not plan._too_few(windows):
                return f"set `{told}`"
        start = list(self._places())[-FEWEST_EVENTS].step
        return (
            f"train longer, or make it wider, e.g. `windows={{{next(iter(windows))!r}: {{'steps': [{start}, None]}}}}`"
        )

    @property
    def _more_than_enough(self) -> bool:
        assert self.steps is not None
        by_step = self.steps // (self.every_n_train_steps or self.steps + 1)
        by_epoch = self.steps // ((self.epoch_steps or self.steps + 1) * (self.every_n_epochs or self.steps + 1))
        return max(by_step, by_epoch) > _MOST_LISTED

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


def _halves(number: int) -> list[int]:
    """Half of it, a quarter, … to one: ``[5, 2, 1]`` of 10."""
    return [number >> shift for shift in range(1, number.bit_length())]
