"""Curves over the layers of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import AXIS_TITLE, Plot, draw_baseline, draw_y_axis, draw_y_title
from lightning_dynamics.figures.canvas import PAD, Canvas, house_style, text_width
from lightning_dynamics.figures.legend import Entry, draw_legend, legend_height, legend_rows, series_colours
from lightning_dynamics.figures.lettering import (
    axis_labels,
    draw_title_and_footer,
    draw_x_labels,
    footer_height,
    shorten,
    title_height,
    x_labels_height,
)
from lightning_dynamics.figures.map import MIN_WIDTH, cell_size
from lightning_dynamics.figures.scale import check_limits, number, tick_values

_HEIGHT = 420
_EDGE = 14  # Between the limits and the frame: a curve that runs along a limit stays whole.


@house_style()
def profile(
    values: ArrayLike,
    *,
    labels: Sequence[str],
    title: str,
    footer: str,
    y_title: str,
    limits: tuple[float, float] = (0.0, 1.0),
    series_names: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """Draw one or several curves over the layers.

    A point outside the limits is drawn as an open triangle at the edge. NaN leaves a gap. Up to seven series
    have colours of their own; more run through one colour map from first to last.

    Args:
        values: ``(K, L)`` or ``(L,)``: one row per curve, one column per layer.
        labels: ``L`` names; long ones are shortened in the middle, staying distinct.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        y_title: what the values are.
        limits: lower and upper end of the vertical axis.
        series_names: ``K`` names for the legend.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on ``labels``, ``limits`` and ``series_names`` alone.

    Raises:
        ValueError: if values, labels and names do not fit together, or ``limits`` are not two rising numbers.
    """
    curves = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if curves.ndim != 2 or curves.shape[1] != len(labels) or curves.size == 0:
        raise ValueError(f"values are {np.shape(values)}, but there are {len(labels)} labels (columns)")
    if series_names is not None and len(series_names) != len(curves):
        raise ValueError(f"there are {len(curves)} curves, but {len(series_names)} series_names")
    low, high = check_limits(limits)

    pitch, _ = cell_size(len(labels), len(labels))
    width = round(pitch * len(labels))
    axis = axis_labels(labels, pitch)
    ticks = tick_values(low, high)
    tick_width = math.ceil(max(text_width(number(tick)) for tick in ticks))
    left = PAD + AXIS_TITLE + tick_width + 12
    sheet_width = max(left + width + PAD, MIN_WIDTH)
    width = sheet_width - PAD - left
    pitch = width / len(labels)
    names = shorten(series_names or ())
    legend = legend_height(legend_rows(names, width))
    bottom = footer_height(sheet_width) + x_labels_height(axis)
    canvas = Canvas(sheet_width, bottom + _HEIGHT + legend + title_height())
    plot = Plot(left, bottom, width, _HEIGHT, y_limits=(low, high), edge=_EDGE)

    draw_title_and_footer(canvas, title, footer)
    draw_y_axis(canvas, plot, ticks, [number(tick) for tick in ticks])
    draw_baseline(canvas, plot)
    draw_x_labels(canvas, axis, left, bottom, pitch)
    draw_y_title(canvas, plot, y_title)

    colours = series_colours(len(curves))
    x = left + (np.arange(len(labels)) + 0.5) * pitch
    dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": min(9.0, 0.45 * pitch)}
    triangles: dict[str, Any] = {"linestyle": "none", "markersize": min(11.0, 0.8 * pitch)}
    triangles["markerfacecolor"] = "white"
    for curve, colour in zip(curves, colours, strict=True):
        share = (curve - low) / (high - low)
        y = plot.y(np.clip(curve, low, high))
        canvas.line(x, y, color=colour, width=2.5)
        for outside, shape, shift in ((share < -1e-6, "v", -5), (share > 1 + 1e-6, "^", 5)):
            canvas.line(x[outside], y[outside] + shift, color=colour, marker=shape, **triangles)
        inside = (share >= -1e-6) & (share <= 1 + 1e-6)
        canvas.line(x[inside], y[inside], color=colour, **dots)
    entries = [Entry(name, colour) for name, colour in zip(names, colours, strict=False)]
    draw_legend(canvas, entries, left, bottom + _HEIGHT + legend, width)
    return canvas.pixels()
