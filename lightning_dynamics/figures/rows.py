"""What charts with one row per name have in common: sheet, stripes, grid, names, axis and legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures.axes import (
    Plot,
    draw_x_axis,
    draw_x_grid,
    draw_x_title,
    tick_texts,
    x_axis_height,
)
from lightning_dynamics.figures.canvas import PAD, Canvas
from lightning_dynamics.figures.legend import Entry, draw_legend, legend_height, legend_rows
from lightning_dynamics.figures.lettering import (
    axis_labels,
    draw_title_and_footer,
    draw_y_labels,
    footer_height,
    shorten,
    title_height,
)
from lightning_dynamics.figures.scale import tick_values
from lightning_dynamics.figures.timemap import row_height

_WIDTH = 780
_STRIPE = "#f5f5f5"


@dataclass(frozen=True)
class Rows:
    """A sheet on which each of ``K`` series has its place in each of ``L`` rows, row 0 on top.

    Args:
        canvas: the sheet.
        plot: where the numbers have their places.
        uppers: ``(K, L)``: the upper edge of each place, in pixels of the sheet.
        thick: height of a place in pixels: a whole number if there is room, with a fifth of the row left free.
    """

    canvas: Canvas
    plot: Plot
    uppers: NDArray[np.float64]
    thick: float


def start_rows(
    labels: Sequence[str],
    names: Sequence[str],
    colours: Sequence[str],
    limits: tuple[float, float],
    *,
    title: str,
    footer: str,
    x_title: str,
    least: float,
) -> Rows:
    """Start a sheet with everything but the values.

    Args:
        labels: ``L`` names of the rows; long ones are shortened in the middle, staying distinct.
        names: ``K`` names for the legend, which is there for more than one series.
        colours: ``K`` colours for the legend.
        limits: numbers at both ends of the axis.
        title: one line.
        footer: wrapped, and set smaller when long.
        x_title: what the values are.
        least: pixels that each of the series needs in a row.
    """
    count = len(names)
    # One pixel between the groups on either side; more than 150 rows are too many to be told apart anyway.
    pitch = row_height(len(labels), least * count + 2 if len(labels) <= 150 else 0.0)
    height = round(pitch * len(labels))
    axis = axis_labels(labels, pitch)
    left = PAD + axis.extent + 12
    sheet_width = max(left + _WIDTH + 30 + PAD, 900)
    width = sheet_width - left - 30 - PAD
    short = shorten(names)
    legend = legend_height(legend_rows(short, width)) + 6 if count > 1 else 0
    bottom = footer_height(sheet_width) + x_axis_height(x_title)
    canvas = Canvas(sheet_width, bottom + height + legend + title_height())
    plot = Plot(left, bottom, width, height, limits)

    draw_title_and_footer(canvas, title, footer)
    tops = bottom + height - pitch * np.arange(len(labels), dtype=np.float64)
    if pitch >= 8:
        canvas.boxes([(left, y - pitch, width, pitch) for y in tops[::2]], color=_STRIPE)
    ticks = tick_values(*limits)
    draw_x_grid(canvas, plot, ticks)
    draw_y_labels(canvas, axis, left, bottom + height, -pitch)
    draw_x_axis(canvas, plot, ticks, tick_texts(ticks))
    draw_x_title(canvas, plot, x_title)
    if count > 1:
        entries = [Entry(name, colour, "box") for name, colour in zip(short, colours, strict=True)]
        draw_legend(canvas, entries, left, bottom + height + legend, width)
    thick = _thickness(pitch, count)
    places = np.arange(count, dtype=np.float64)[:, None] * thick
    uppers: NDArray[np.float64] = np.round(tops - (pitch - count * thick) / 2 - places)
    return Rows(canvas, plot, uppers, thick)


def _thickness(pitch: float, count: int) -> float:
    """Thickness of a bar: whole pixels if there are any, with a fifth of the row left free."""
    thick = min(0.8 * pitch / count, 26.0)
    return float(np.floor(thick)) if thick >= 2 else thick
