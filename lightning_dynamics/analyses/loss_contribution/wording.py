"""What pictures of a LossContributionResult say beside what they draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult


def moment(result: LossContributionResult) -> str:
    """When it was measured, for a title."""
    return f"epoch {result.epoch}, step {result.step}"


def basis(result: LossContributionResult) -> str:
    """What the numbers rest on and how far they can be trusted, for a footer."""
    every = result.every_n_train_steps
    how = [result.rule] * bool(result.rule) + ["every step" if every == 1 else f"every {every} steps"]
    parts = [f"{result.num_examples} examples of {result.data}", ", ".join(how)]
    if result.loss_is:
        parts.append(result.loss_is)
    if result.batchnorm:
        parts.append(f"batch norm: {result.batchnorm}")
    parts.append(_residual(result))
    if result.unresolved:
        parts.append(f"{_events(result.unresolved)} missed the tolerance")
    if result.undefined_events:
        latest = f", the latest at step {result.undefined_steps[-1]}" if result.undefined_steps else ""
        parts.append(f"{_events(result.undefined_events)} with a loss or gradient that is not finite{latest}")
    return "; ".join(parts)


def caption(result: LossContributionResult, what: str) -> str:
    """What a picture shows, for loggers that show a caption beside it."""
    return f"{what}, {moment(result)}; {basis(result)}"


def rows(result: LossContributionResult) -> str:
    """How many events a row of the series adds up, if more than one."""
    most = int(result.events.max()) if len(result.events) else 1
    return f"; {most} events added up in each row" if most > 1 else ""


def percent(share: float) -> str:
    """A share as a percentage with two or three digits that say something."""
    if not math.isfinite(share):
        return "not defined"
    value = 100 * share
    if 0 < abs(value) < 0.001:
        return "below 0.001 %"
    return f"{value:.{0 if abs(value) >= 99.95 else 1 if abs(value) >= 1 else 3}f} %"


def groups(names: Sequence[str], most: int = 12) -> dict[str, list[int]]:
    """Layers in few enough groups that a line for each can be told apart and is not lost below their sum.

    Up to ``most`` layers stand for themselves. More of them are grouped with the neighbours whose names begin alike,
    as finely as ``most`` groups allow; where names do not help, in runs of equal length.

    Args:
        names: of the layers, in order, all different.
        most: groups there may be.

    Returns:
        Group's name to the places of its layers, which follow each other.
    """
    if len(names) <= most:
        return {name: [place] for place, name in enumerate(names)}
    parts = [name.split(".") for name in names]
    for depth in range(max(map(len, parts)) - 1, 0, -1):
        heads = [".".join(part[:depth]) for part in parts]
        runs = [list(run) for _, run in groupby(range(len(names)), key=heads.__getitem__)]
        found = {heads[run[0]]: run for run in runs}
        if 1 < len(runs) <= most and len(found) == len(runs):
            return found
    bounds = [round(i * len(names) / most) for i in range(most + 1)]
    return {
        names[start] if stop == start + 1 else f"{names[start]} – {names[stop - 1]}": list(range(start, stop))
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    }


def shape_text(shape: Sequence[int]) -> str:
    """The shape of a parameter."""
    return " × ".join(map(str, shape)) or "scalar"


def _residual(result: LossContributionResult) -> str:
    if not len(result.steps):
        return "no step measured yet"
    if not math.isfinite(result.total_residual) or not math.isfinite(result.loss):
        return "residual not defined"
    if not math.isfinite(result.relative_residual):
        return f"residual so far {result.total_residual:.2g}, the loss has not changed"
    return f"residual so far {percent(result.relative_residual)} of the loss change"


def _events(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"
