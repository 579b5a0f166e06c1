"""Panels in TensorBoard: scalars, images and Markdown; it can show no HTML."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lightning_dynamics.core.lightning import both
from lightning_dynamics.panels import Download, Film, Page, Picture, Table
from lightning_dynamics.panels.encode import gif
from lightning_dynamics.panels.values import Cell
from lightning_dynamics.publishing.dispatch import Event, scalars, show

MAX_ROWS = 200  # the browser renders every step's table at once


def show_in_tensorboard(logger: Any, event: Event) -> None:
    """Show an event in a ``TensorBoardLogger``.

    Pictures and films are in the Images tab (a film as an animated GIF), tables in the Text tab, as far as
    their first 200 rows and without their pictures. A page and files to download leave a note there that says
    where to find them.

    Args:
        logger: a ``TensorBoardLogger`` of either Lightning package.
        event: what to show.
    """
    logger.log_metrics(scalars(event), step=event.step)
    writer = logger.experiment
    for key, panel in event.panels.items():
        if isinstance(panel, Picture):
            writer.add_image(key, panel.image, event.step, dataformats="HWC")
        elif isinstance(panel, Film):
            _add_gif(writer, key, panel, event.step)
        elif isinstance(panel, Table):
            writer.add_text(key, markdown(panel), event.step)
        elif isinstance(panel, Page):
            note = "*An interactive page, which TensorBoard cannot show: see the local report, or W&B.*"
            writer.add_text(key, f"{_escape(panel.caption)}\n\n{note}", event.step)
        elif isinstance(panel, Download):
            names = "\n".join(f"- {_escape(f'{name} ({len(data):,} bytes)')}" for name, data in panel.files.items())
            note = "*Files, which TensorBoard cannot hold: see the local report, or the run's artifacts in W&B.*"
            writer.add_text(key, f"{_escape(panel.caption)}\n\n{names}\n\n{note}", event.step)


for _class in both("loggers.TensorBoardLogger"):
    show.register(_class, show_in_tensorboard)


def markdown(table: Table) -> str:
    """The caption and the first 200 rows as a Markdown table, with a line that says how many are missing."""
    head = [[_escape(column) for column in table.columns], ["---"] * len(table.columns)]
    body = [[_escape(_text(cell)) for cell in row] for row in table.rows[:MAX_ROWS]]
    lines = [f"| {' | '.join(cells)} |" for cells in head + body]
    parts = [_escape(table.caption), "\n".join(lines)]
    if len(table.rows) > MAX_ROWS:
        parts.append(f"*{len(table.rows) - MAX_ROWS} more rows are not shown.*")
    return "\n\n".join(parts)


def _text(cell: Cell) -> str:
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, Picture):
        return "(image)"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def _escape(text: str) -> str:
    """Text that means nothing in Markdown and HTML: every character that could is written as an entity."""
    return "".join(char if char.isalnum() or char in " .,:+/-" else f"&#{ord(char)};" for char in text)


def _add_gif(writer: Any, tag: str, film: Film, step: int) -> None:
    """Write a film as an image summary; the writers' own ``add_video`` needs moviepy.

    The private ``_get_file_writer`` (Lightning itself calls it for hyperparameters) was checked on torch 2.6.0
    and 2.13.0, and on tensorboardX 2.6.5.
    """
    # tensorboardX is what Lightning uses where tensorboard is missing.
    is_x = type(writer).__module__.startswith("tensorboardX")
    proto = import_module("tensorboardX.proto.summary_pb2" if is_x else "tensorboard.compat.proto.summary_pb2")
    height, width, _ = film.frames[0].shape
    image = proto.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif(film))
    summary = proto.Summary(value=[proto.Summary.Value(tag=tag, image=image)])
    writer._get_file_writer().add_summary(summary, step)
