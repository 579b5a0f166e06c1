"""Bars on both sides of zero, one row per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.panels.drawing.axes import (
    GRID,
    ZERO,
    Plot,
    as_rows,
    draw_x_axis,
    round_limits,
    tick_texts,
    x_axis_height,
)
from lightning_dynamics.panels.drawing.canvas import PAD, Canvas, house_style
from lightning_dynamics.panels.drawing.diverging import NEGATIVE, POSITIVE
from lightning_dynamics.panels.drawing.legend import Entry, draw_legend, legend_height, legend_rows, series_colours
from lightning_dynamics.panels.drawing.lettering import (
    axis_labels,
    draw_title_and_footer,
    draw_y_labels,
    fit,
    footer_height,
    shorten,
    title_height,
)
from lightning_dynamics.panels.drawing.scale import check_limits, tick_values
from lightning_dynamics.panels.drawing.timemap import row_height

_WIDTH = 780
_STRIPE = "#f5f5f5"


@house_style()
def bars(
    values: ArrayLike,
    *,
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    footer: str,
    x_title: str,
    colours: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Draw horizontal bars from zero, ``K`` below each other in one row per layer, row 0 on top.

    A single series without a colour is green below 0 and purple above. NaN has no bar. A bar that goes on
    beyond the limits ends in a white arrow head.

    Args:
        values: ``(K, L)`` or ``(L,)``: one row per series, one column per layer.
        labels: ``L`` names; long ones are shortened in the middle, staying distinct.
        names: ``K`` names for the legend, which is there for more than one series.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what the values are.
        colours: ``K`` colours such as ``"#0072b2"``.
        limits: lower and upper end of the axis; by default round numbers around all values and 0.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the labels and names alone.

    Raises:
        ValueError: if values, labels, names and colours do not fit together, or ``limits`` do not rise.
    """
    rows = as_rows(values, len(labels), "values")
    count = len(rows)
    if not rows.size or len(names) != count or (colours is not None and len(colours) != count):
        raise ValueError(f"there are {count} series, but {len(names)} names and {colours and len(colours)} colours")
    low, high = round_limits(rows) if limits is None else check_limits(limits)
    signs = count == 1 and colours is None
    palette = [POSITIVE] if signs else list(colours or series_colours(count))

    # At least three pixels for every bar, and one between the groups.
    pitch = row_height(len(labels), 3.0 * count + 2 if len(labels) <= 150 else 0.0)
    height = round(pitch * len(labels))
    axis = axis_labels(labels, pitch)
    left = PAD + axis.extent + 12
    sheet_width = max(left + _WIDTH + 30 + PAD, 900)
    width = sheet_width - left - 30 - PAD
    short = shorten(names)
    legend = legend_height(legend_rows(short, width)) + 6 if count > 1 else 0
    title_room = x_axis_height(x_title)
    bottom = footer_height(sheet_width) + title_room
    canvas = Canvas(sheet_width, bottom + height + legend + title_height())
    plot = Plot(left, bottom, width, height, (low, high))

    draw_title_and_footer(canvas, title, footer)
    tops = bottom + height - pitch * np.arange(len(labels), dtype=np.float64)
    if pitch >= 8:
        canvas.boxes([(left, y - pitch, width, pitch) for y in tops[::2]], color=_STRIPE)
    ticks = tick_values(low, high)
    canvas.lines([[(x, bottom), (x, bottom + height)] for x in plot.x(ticks)], color=GRID)
    zero = float(np.clip(plot.x(0), left, left + width))
    thick = _thickness(pitch, count)
    for k, (row, colour) in enumerate(zip(rows, palette, strict=True)):
        for part, shade in ((row < 0, NEGATIVE if signs else colour), (row > 0, colour)):
            _draw_bars(canvas, plot, row, np.flatnonzero(part), tops, zero, (pitch, thick, k, count), shade)
    canvas.lines([[(zero, bottom), (zero, bottom + height)]], color=ZERO, width=1.5)
    draw_y_labels(canvas, axis, left, bottom + height, -pitch)
    draw_x_axis(canvas, plot, ticks, tick_texts(ticks))
    if x_title:
        line, px = fit(x_title, width)
        canvas.text(left + width / 2, footer_height(sheet_width) + 8, line, px=px, ha="center", va="baseline")
    if count > 1:
        entries = [Entry(name, colour, "box") for name, colour in zip(short, palette, strict=True)]
        draw_legend(canvas, entries, left, bottom + height + legend, width)
    return canvas.pixels()


def _thickness(pitch: float, count: int) -> float:
    """Thickness of a bar: whole pixels if there are any, with a fifth of the row left free."""
    thick = min(0.8 * pitch / count, 26.0)
    return float(np.floor(thick)) if thick >= 2 else thick


def _draw_bars(
    canvas: Canvas,
    plot: Plot,
    row: NDArray[np.float64],
    at: NDArray[np.intp],
    tops: NDArray[np.float64],
    zero: float,
    layout: tuple[float, float, int, int],
    colour: str,
) -> None:
    """Draw the bars of one series and one sign, with arrow heads where they leave the plot."""
    pitch, thick, k, count = layout
    ends = np.clip(plot.x(row[at]), plot.left, plot.left + plot.width)
    uppers = np.round(tops[at] - (pitch - count * thick) / 2 - k * thick)
    boxes, heads = [], []
    slack = 1e-6 * (plot.x_limits[1] - plot.x_limits[0])
    for i, end, upper in zip(at, ends, uppers, strict=True):
        # A value that is not zero is at least a thread.
        length = max(abs(end - zero), 1.0) * (1 if row[i] > 0 else -1)
        boxes.append((min(zero, zero + length), upper - thick, abs(length), thick))
        if row[i] < plot.x_limits[0] - slack or row[i] > plot.x_limits[1] + slack:
            point, back = (end + 2, end + 12) if row[i] < 0 else (end - 2, end - 12)
            heads.append([(point, upper - thick / 2), (back, upper - 2), (back, upper - thick + 2)])
    canvas.boxes(boxes, color=colour)
    canvas.areas(heads, color="white")
