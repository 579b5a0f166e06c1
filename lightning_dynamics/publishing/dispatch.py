"""One event, shown once by every logger the Trainer has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from lightning_dynamics.core.lightning import both
from lightning_dynamics.figures.result import Result
from lightning_dynamics.panels import Panels, Scalar


@dataclass(frozen=True, eq=False)
class Event:
    """Everything one analysis has to say at one moment; it becomes one log call.

    Args:
        group: the analysis, e.g. ``"cka"``; also the prefix of every panel's key.
        epoch: as in :class:`~lightning_dynamics.figures.result.Result`.
        step: likewise; the loggers' x-axis.
        panels: key to panel; each key begins with ``"{group}/"``.
        result: the raw numbers behind the panels, if this event has new ones.
    """

    group: str
    epoch: int
    step: int
    panels: Panels
    result: Result | None = None


def scalars(event: Event) -> dict[str, float]:
    """The event's numbers, ready for ``log_metrics``: NaN and infinity left out, the epoch added."""
    numbers = {key: panel.value for key, panel in event.panels.items() if isinstance(panel, Scalar)}
    return {"epoch": event.epoch} | {key: value for key, value in numbers.items() if math.isfinite(value)}


@singledispatch
def show(logger: Any, event: Event) -> None:
    """Show ``event`` in ``logger``; any logger that has no rule of its own gets the scalars."""
    logger.log_metrics(scalars(event), step=event.step)


def _nothing(logger: Any, event: Event) -> None:
    """``fast_dev_run`` swaps the loggers for dummies that swallow every call."""


for _class in both("loggers.logger.DummyLogger"):
    show.register(_class, _nothing)


def publish(loggers: Iterable[Any], event: Event) -> None:
    """Show ``event`` in every logger; call it on rank zero only.

    Raises:
        Exception: the first logger's failure, after the other loggers had their turn.
    """
    failure: Exception | None = None
    for logger in loggers:
        try:
            show(logger, event)
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


def publish_panels(
    loggers: Any, panels: Panels, label: str, *, epoch: int = 0, step: int = 0, result: Result | None = None
) -> None:
    """Show panels that belong together in one logger or several; call it on rank zero only.

    Args:
        loggers: one logger, or several.
        panels: name to panel; the keys become ``"{label}/{name}"``.
        label: the prefix; W&B and the local report make a section of it.
        epoch: of these panels.
        step: likewise; the loggers' x-axis.
        result: the raw numbers behind them, which a local report keeps.

    Raises:
        Exception: as for :func:`publish`.
    """
    many = loggers if isinstance(loggers, Iterable) else [loggers]
    labelled = {f"{label}/{name}": panel for name, panel in panels.items()}
    publish(many, Event(label, epoch, step, labelled, result))


def publish_result(loggers: Any, result: Result, label: str, *, epoch: int = 0, step: int = 0) -> None:
    """Show a result in one logger or several: its numbers, pictures and tables; call it on rank zero only.

    Callbacks publish their results themselves. This is for results that no callback made::

        publish_result([wandb_logger, report], compare_intrinsic_dimensions(found), "subspace")

    Args:
        loggers: one logger, or several.
        result: what to show; a local report keeps its raw numbers, too.
        label: as for :func:`publish_panels`.
        epoch: likewise.
        step: likewise.

    Raises:
        Exception: as for :func:`publish`.
    """
    numbers = {name: Scalar(value) for name, value in result.scalars().items()}
    publish_panels(loggers, {**result.panels(), **numbers}, label, epoch=epoch, step=step, result=result)
