"""Distributions as boxes with whiskers, one row per class or layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import ZERO, round_limits
from lightning_dynamics.figures.canvas import INK, house_style
from lightning_dynamics.figures.legend import checked_colours
from lightning_dynamics.figures.rows import Rows, start_rows
from lightning_dynamics.figures.scale import check_limits

_PERCENTILES = (5, 25, 50, 75, 95)
_DOTS = 20  # On each side of a box.


@house_style()
def box_plot(
    values: Sequence[Sequence[ArrayLike]],
    *,
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    footer: str,
    x_title: str,
    colours: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Draw horizontal boxes with whiskers, ``K`` below each other in one row per label, row 0 on top.

    A box reaches from the 25th to the 75th percentile, the line in it is the median, and the whiskers end at the
    5th and the 95th percentile. Of the values beyond the whiskers and within the limits, at most 20 on each side
    are dots: the most extreme ones, and ever fewer towards the whisker. An open triangle at the edge says that
    there are values beyond the limits. What is not finite is left out; where nothing is left, there is no box.

    Args:
        values: ``K`` x ``L`` arrays of any length: ``values[k][l]`` is for series k and label l.
        labels: ``L`` names; long ones are shortened in the middle, staying distinct.
        names: ``K`` names for the legend, which is there for more than one series.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what the values are.
        colours: ``K`` colours such as ``"#0072b2"``.
        limits: lower and upper end of the axis; by default round numbers around all whiskers and around the dots,
            unless these are farther out than the whiskers are apart.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the labels, the names and on whether there is an ``x_title``.

    Raises:
        ValueError: if values, labels, names and colours do not fit together, or ``limits`` do not rise.
    """
    count = len(values)
    palette = checked_colours(count, names, colours)
    if not len(labels) or any(len(row) != len(labels) for row in values):
        raise ValueError(f"the series have {[len(row) for row in values]} arrays, but there are {len(labels)} labels")
    arrays = [[finite(array) for array in row] for row in values]
    limits = _limits([array for row in arrays for array in row]) if limits is None else check_limits(limits)

    sheet = start_rows(labels, names, palette, limits, title=title, footer=footer, x_title=x_title, least=6.0)
    plot = sheet.plot
    if limits[0] < 0 < limits[1]:
        zero = float(plot.x(0))
        sheet.canvas.lines([[(zero, plot.bottom), (zero, plot.bottom + plot.height)]], color=ZERO, width=1.5)
    for row, uppers, colour in zip(arrays, sheet.uppers, palette, strict=True):
        _draw_series(sheet, row, uppers - sheet.thick / 2, colour)
    return sheet.canvas.pixels()


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """Return the finite ones among values in one row, as floats; raise ValueError if they are not in one row."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"each array of values has one dimension, got {array.shape}")
    return array[np.isfinite(array)]


def tint(colour: str, share: float) -> str:
    """Mix a colour with white, of which ``share`` is the colour."""
    from matplotlib.colors import to_hex, to_rgb

    return str(to_hex([1 - share * (1 - part) for part in to_rgb(colour)]))


def _limits(arrays: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Round numbers around everything, or as far as the whiskers and once their span to either side."""
    arrays = [array for array in arrays if len(array)]
    if not arrays:
        return 0.0, 1.0
    low, high = min(array.min() for array in arrays), max(array.max() for array in arrays)
    whiskers = np.array([np.percentile(array, (5, 95)) for array in arrays])
    first, last = whiskers[:, 0].min(), whiskers[:, 1].max()
    if span := last - first:
        low, high = max(low, first - span), min(high, last + span)
    return round_limits(np.array([low, high]), zero=False)


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Choose from values in a row: all of a few, else the first ones and ever fewer of those behind."""
    if len(values) <= _DOTS:
        return values
    return values[np.unique(np.round(np.geomspace(1, len(values), _DOTS)).astype(np.intp)) - 1]


def _draw_series(sheet: Rows, row: Sequence[NDArray[np.float64]], middles: NDArray[np.float64], colour: str) -> None:
    """Draw the boxes of one series around the middles, in pixels."""
    canvas, plot = sheet.canvas, sheet.plot
    low, high = plot.x_limits
    left, right = plot.left, plot.left + plot.width
    small = sheet.thick < 9
    half = max((sheet.thick - (1 if small else 4)) / 2, 1.0)
    whiskers, boxes, medians = [], [], []
    dots: list[tuple[float, float]] = []
    beyond: dict[str, list[tuple[float, float]]] = {"<": [], ">": []}
    slack = 1e-6 * (high - low)
    for values, y in zip(row, middles, strict=True):
        if not len(values):
            continue
        values = np.sort(values)
        p5, p25, p50, p75, p95 = np.percentile(values, _PERCENTILES)
        ends = np.clip(plot.x([p5, p25, p75, p95]), left, right)
        whiskers += [[(ends[0], y), (ends[1], y)], [(ends[2], y), (ends[3], y)]]
        whiskers += [[(x, y - half / 2), (x, y + half / 2)] for x in (ends[0], ends[3]) if left < x < right]
        if p25 <= high + slack and p75 >= low - slack:
            boxes.append((ends[1], y - half, max(ends[2] - ends[1], 1.0), 2 * half))
        if low - slack <= p50 <= high + slack:
            medians.append([(float(plot.x(p50)), y - half), (float(plot.x(p50)), y + half)])
        inside = values[(values >= low - slack) & (values <= high + slack)]
        shown = [*_thinned(inside[inside < p5]), *_thinned(inside[inside > p95][::-1])]
        dots += [(float(plot.x(value)), y) for value in shown]
        if values[0] < low - slack:
            beyond["<"].append((left + 7, y))
        if values[-1] > high + slack:
            beyond[">"].append((right - 7, y))
    size = min(5.5, 0.55 * sheet.thick)
    style: dict[str, Any] = {"color": colour, "linestyle": "none"}
    if dots:
        canvas.line(*zip(*dots, strict=True), marker="o", markersize=size, markeredgewidth=0, alpha=0.55, **style)
    canvas.lines(whiskers, color=colour, width=1.0 if small else 1.8)
    canvas.boxes(boxes, color=tint(colour, 0.65 if small else 0.38))
    if not small:
        for x, y, width, height in boxes:
            canvas.box((x, y), width, height, color=colour, line=1.6)
    canvas.lines(medians, color=INK, width=2.0 if small else 3.0)
    for marker, places in beyond.items():
        if places:
            size = min(10.0, sheet.thick)
            canvas.line(*zip(*places, strict=True), marker=marker, markersize=size, markerfacecolor="white", **style)
