"""Curves over the layers of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.panels.drawing.canvas import FAINT, PAD, Canvas, house_style, text_width
from lightning_dynamics.panels.drawing.lettering import (
    axis_labels,
    draw_title_and_footer,
    draw_x_labels,
    fit,
    footer_height,
    shorten,
    title_height,
    x_labels_height,
)
from lightning_dynamics.panels.drawing.map import AXIS_TITLE, MIN_WIDTH, cell_size
from lightning_dynamics.panels.drawing.scale import check_limits, number, tick_values

_HEIGHT = 420
_EDGE = 14  # Between the limits and the frame: a curve that runs along a limit stays whole.
_LEGEND_LINE = 30
_SWATCH = 44
# Okabe and Ito's colours for all kinds of colour vision, the yellow (too faint on white) left out.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")


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
    legend = _legend_places(series_names or (), width)
    legend_height = (legend[-1][1] + 1) * _LEGEND_LINE + 6 if legend else 0
    bottom = footer_height(sheet_width) + x_labels_height(axis)
    canvas = Canvas(sheet_width, bottom + _HEIGHT + legend_height + title_height())

    draw_title_and_footer(canvas, title, footer)
    heights = bottom + _EDGE + (np.array(ticks) - low) / (high - low) * (_HEIGHT - 2 * _EDGE)
    canvas.lines([[(left, y), (left + width, y)] for y in heights], color="#e2e2e2")
    for tick, y in zip(ticks, heights, strict=True):
        canvas.text(left - 10, y, number(tick), ha="right", color=FAINT)
    canvas.lines([[(left, bottom), (left + width, bottom)]], color="#999999", width=1.5)
    draw_x_labels(canvas, axis, left, bottom, pitch)
    if y_title:
        line, px = fit(y_title, _HEIGHT)
        canvas.text(PAD + 16, bottom + _HEIGHT / 2, line, px=px, ha="center", va="baseline", vertical=True)

    colours = _series_colours(len(curves))
    x = left + (np.arange(len(labels)) + 0.5) * pitch
    dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": min(9.0, 0.45 * pitch)}
    triangles: dict[str, Any] = {"linestyle": "none", "markersize": min(11.0, 0.8 * pitch)}
    triangles["markerfacecolor"] = "white"
    for curve, colour in zip(curves, colours, strict=True):
        share = (curve - low) / (high - low)
        y = bottom + _EDGE + np.clip(share, 0, 1) * (_HEIGHT - 2 * _EDGE)
        canvas.line(x, y, color=colour, width=2.5)
        for outside, shape, shift in ((share < -1e-6, "v", -5), (share > 1 + 1e-6, "^", 5)):
            canvas.line(x[outside], y[outside] + shift, color=colour, marker=shape, **triangles)
        inside = (share >= -1e-6) & (share <= 1 + 1e-6)
        canvas.line(x[inside], y[inside], color=colour, **dots)
    for (place, row), name, colour in zip(legend, shorten(series_names or ()), colours, strict=False):
        y = bottom + _HEIGHT + legend_height - (row + 0.5) * _LEGEND_LINE
        canvas.line([left + place, left + place + 30], [y, y], color=colour, width=2.5)
        canvas.text(left + place + _SWATCH, y, name)
    return canvas.pixels()


def _legend_places(names: Sequence[str], width: float) -> list[tuple[float, int]]:
    """Offset and line of each legend entry, set one after the other and wrapped at ``width``."""
    places: list[tuple[float, int]] = []
    x, row = 0.0, 0
    for name in shorten(names):
        needed = _SWATCH + text_width(name)
        if x and x + needed > width:
            x, row = 0.0, row + 1
        places.append((x, row))
        x += needed + 32
    return places


def _series_colours(count: int) -> list[str]:
    """Colours for ``count`` series."""
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.92 * i / (count - 1))) for i in range(count)]
