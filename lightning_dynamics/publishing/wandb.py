"""Panels in Weights & Biases: one event becomes one row of the run's history."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

from lightning_dynamics.core.lightning import both
from lightning_dynamics.panels import Film, Page, Panel, Picture, Table
from lightning_dynamics.panels.encode import gif
from lightning_dynamics.panels.values import Cell
from lightning_dynamics.publishing.dispatch import Event, scalars, show

MAX_ROWS = 10_000  # what W&B shows of a table; it cuts longer ones without a word


def show_in_wandb(logger: Any, event: Event) -> None:
    """Show an event in a ``WandbLogger``.

    Everything goes into one ``log_metrics`` call, so all panels of the event share one W&B step, and the
    slider of one picks the same moment as the slider of the other. That slider counts log calls, not training
    steps; epoch and step are therefore in the captions. Scalars are plotted over ``trainer/global_step``, as
    Lightning sets it up.

    A table keeps its first 10,000 rows, in the order given; how many did not fit is logged beside it as
    ``{key}/rows_left_out`` (a number of its own, so that the table's key stays the same from run to run).
    W&B has no captions for tables and pages.

    Keys of media are also file names, so the characters Windows forbids there (W&B refuses them on Windows)
    are written as ``_``.

    Args:
        logger: a ``WandbLogger`` of either Lightning package.
        event: what to show.
    """
    if logger.experiment.disabled:
        return  # no row is written, so no media need be encoded
    row: dict[str, Any] = scalars(event)
    for key, panel in event.panels.items():
        medium = _medium(panel)
        if medium is not None:
            row[re.sub(r'[\\:*?"<>|]', "_", key)] = medium
        if isinstance(panel, Table) and len(panel.rows) > MAX_ROWS:
            row[f"{key}/rows_left_out"] = len(panel.rows) - MAX_ROWS
    logger.log_metrics(row, step=event.step)


for _class in both("loggers.WandbLogger"):
    show.register(_class, show_in_wandb)


def _medium(panel: Panel) -> Any:
    import wandb
    from PIL import Image

    if isinstance(panel, Picture):
        # Through Pillow: an array one pixel high or wide would be squeezed to another shape.
        return wandb.Image(Image.fromarray(panel.image), caption=panel.caption)
    if isinstance(panel, Film):
        return wandb.Video(io.BytesIO(gif(panel)), caption=panel.caption, format="gif")
    if isinstance(panel, Page):
        # As a stream: a string would be tried as a path first.
        return wandb.Html(io.StringIO(panel.html), inject=False)
    if isinstance(panel, Table):
        rows = [[_finite(cell) for cell in row] for row in panel.rows[:MAX_ROWS]]
        return wandb.Table(columns=list(panel.columns), data=rows, allow_mixed_types=_mixed(rows))
    return None


def _finite(cell: Cell) -> Cell:
    """NaN and infinity have no place in JSON: they become null."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _mixed(rows: Sequence[Sequence[Cell]]) -> bool:
    """Whether a column holds text beside numbers, or booleans beside either (W&B must be told)."""
    return any(len({_kind(cell) for cell in column if cell is not None}) > 1 for column in zip(*rows, strict=True))


def _kind(cell: Cell) -> type:
    return type(cell) if isinstance(cell, bool | str) else float
