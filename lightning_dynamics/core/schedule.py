"""When: a value that answers one question, "is an analysis due at this moment?"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from lightning_dynamics.core.lightning import ConfigurationError


@dataclass(frozen=True)
class Moment:
    """A point of training at which an analysis may run.

    Args:
        kind: ``"start"`` (before the first batch), ``"step"`` (an optimizer has just stepped), ``"epoch"`` (a
            training epoch has ended, validation included), ``"end"`` (training has ended).
        epoch: from 0.
        step: training batches that have stepped so far; 0 is the untrained model.
    """

    kind: Literal["start", "step", "epoch", "end"]
    epoch: int
    step: int


@dataclass(frozen=True)
class Length:
    """How long a training is to be.

    Args:
        steps: None if nobody knows.
        epoch_steps: of one epoch; likewise.
        is_fast_dev_run: a ``fast_dev_run``: a batch or two, to see whether everything runs.
    """

    steps: int | None = None
    epoch_steps: int | None = None
    is_fast_dev_run: bool = False


class Due(Protocol):
    """Anything that can tell whether an analysis is due."""

    def due(self, moment: Moment) -> bool:
        """Whether to analyse now."""
        ...


@dataclass(frozen=True)
class Never:
    """At no moment."""

    def due(self, moment: Moment) -> bool:
        """No."""
        return False


@dataclass(frozen=True)
class Schedule:
    """Every n epochs, every n steps, at the start, at the end: whatever is asked for, together.

    Args:
        every_n_epochs: analyse after every n-th epoch; None for never.
        every_n_train_steps: analyse after every n-th step; None for never.
        at_start: analyse the model before its first step.
        at_end: analyse when training ends.

    Raises:
        ConfigurationError: a period below 1, or nothing asked for at all.
    """

    every_n_epochs: int | None = 1
    every_n_train_steps: int | None = None
    at_start: bool = False
    at_end: bool = True

    def __post_init__(self) -> None:
        """Check the periods."""
        for name in ("every_n_epochs", "every_n_train_steps"):
            period = getattr(self, name)
            if period is not None and (isinstance(period, bool) or not isinstance(period, int) or period < 1):
                raise ConfigurationError(f"`{name}` must be a whole number from 1 up, or None; got {period!r}")
        if not (self.every_n_epochs or self.every_n_train_steps or self.at_start or self.at_end):
            raise ConfigurationError(
                "nothing would ever be analysed: set `every_n_epochs`, `every_n_train_steps`, `at_start` or `at_end`"
            )

    def due(self, moment: Moment) -> bool:
        """Whether to analyse now."""
        if moment.kind == "start":
            return self.at_start
        if moment.kind == "end":
            return self.at_end
        if moment.kind == "epoch":
            return self.every_n_epochs is not None and (moment.epoch + 1) % self.every_n_epochs == 0
        return self.every_n_train_steps is not None and moment.step % self.every_n_train_steps == 0
