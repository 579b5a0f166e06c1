"""Many points, each with a place and a colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import FAINT, Canvas, house_style
from lightning_dynamics.figures.diverging import DivergingScale
from lightning_dynamics.figures.scale import check_limits

_WIDTH, _HEIGHT = 860, 640
_EDGE = 10  # Pixels around the plot into which the outermost points reach.
_ASIDE = 30
_CMAP, _SPAN = "plasma", (0.0, 0.82)  # Without the yellow, which is too faint on white.


@house_style()
def scatter(
    x: ArrayLike,
    y: ArrayLike,
    *,
    colour: ArrayLike,
    title: str,
    footer: str,
    x_title: str,
    y_title: str,
    colour_label: str,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
    colour_limits: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Draw up to some hundred thousand points, transparent, so that more of them make a denser colour.

    The more points, the smaller and the more transparent they are. Where points lie over each other, the colour
    is that of their mean value; which of them comes first makes no difference. A point with a NaN is left out.
    A point beyond the limits is a grey triangle at the edge, one for all that are about there.

    Args:
        x: ``(N,)``.
        y: ``(N,)``.
        colour: ``(N,)`` values for the colour, by default between 0 and 1.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``x`` is.
        y_title: what ``y`` is.
        colour_label: what the colour is.
        x_limits: left and right end of the horizontal axis; by default round numbers around all points.
        y_limits: lower and upper end of the vertical axis; by default round numbers around all points.
        colour_limits: the values at the two ends of the colour scale, by default 0 and 1. An end that values
            lie beyond says "≤" or "≥".

    Returns:
        ``(H, W, 3)`` uint8, always of the same size for the same titles of the axes.

    Raises:
        ValueError: if there are not as many ``x`` as ``y`` and colours, or limits do not rise.
    """
    points = [np.asarray(part, dtype=np.float64) for part in (x, y, colour)]
    if any(part.ndim != 1 for part in points) or len({len(part) for part in points}) != 1:
        raise ValueError(f"x, y and colour have the same length, got {[part.shape for part in points]}")
    table = np.stack(points)
    across, up, values = table[:, ~np.isnan(table).any(axis=0)]
    given = [x_limits, y_limits]
    limits = [
        axes.round_limits(part, zero=False) if ends is None else check_limits(ends)
        for part, ends in zip((across, up), given, strict=True)
    ]
    scale = DivergingScale(*check_limits(colour_limits or (0.0, 1.0)), _CMAP, colour_label, span=_SPAN)

    beside = _EDGE + _ASIDE + scale.width
    canvas, plot = axes.start_chart(
        _WIDTH, _HEIGHT, *limits, title=title, footer=footer, x_title=x_title, beside=beside
    )
    axes.draw_number_axes(canvas, plot, x_title, y_title)
    if len(values):
        _draw_points(canvas, plot, across, up, values, scale)
    else:
        axes.draw_nothing(canvas, plot)
    # The bar is as high as the plot: no swatch is ever needed below it.
    bar = round(plot.left) + _WIDTH + _EDGE + _ASIDE, round(plot.bottom) - scale.foot
    scale.draw(canvas, *bar, _HEIGHT + scale.foot, values)
    return canvas.pixels()


def _draw_points(
    canvas: Canvas,
    plot: axes.Plot,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    values: NDArray[np.float64],
    scale: DivergingScale,
) -> None:
    """Paint all points at once, and triangles at the edge for those beyond the limits."""
    right, top = plot.left + plot.width, plot.bottom + plot.height
    places = np.clip(plot.x(x), plot.left, right), np.clip(plot.y(y), plot.bottom, top)
    sides = {"<": _beyond(-x, plot.x_limits, -1), ">": _beyond(x, plot.x_limits, 1)}
    sides |= {"v": _beyond(-y, plot.y_limits, -1), "^": _beyond(y, plot.y_limits, 1)}
    inside = ~np.any(list(sides.values()), axis=0)

    left, bottom = round(plot.left) - _EDGE, round(plot.bottom) - _EDGE
    columns = np.floor(places[0][inside] - left).astype(np.intp)
    rows = np.floor(places[1][inside] - bottom).astype(np.intp)
    pixels = _paint(columns, rows, np.clip(values[inside], scale.low, scale.high), scale)
    canvas.image(pixels[::-1], left, bottom)
    for marker, beyond in sides.items():
        # One triangle for every 12 pixels tells where; more would cover each other.
        at = np.unique(np.round(np.stack(places)[:, beyond] / 12), axis=1) * 12
        at = np.clip(at.T, (plot.left, plot.bottom), (right, top)).T
        canvas.line(*at, color=FAINT, linestyle="none", marker=marker, markersize=9, markerfacecolor="white")


def _beyond(values: NDArray[np.float64], limits: tuple[float, float], sign: int) -> NDArray[np.bool_]:
    """Tell which values, times ``sign``, are farther out than the limit on that side, up to rounding."""
    low, high = limits
    end = high if sign > 0 else -low
    return np.asarray(values > end + 1e-6 * (high - low))


def _paint(
    columns: NDArray[np.intp], rows: NDArray[np.intp], values: NDArray[np.float64], scale: DivergingScale
) -> NDArray[np.uint8]:
    """Colours and opacity of the pixels on and around the plot, ``(H, W, 4)``, the lowest row first.

    Each point is a disc that lets part of what is behind shine through; what comes through several of them is
    the product. Products and means need no order.
    """
    height, width = _HEIGHT + 2 * _EDGE, _WIDTH + 2 * _EDGE
    count = max(len(values), 1)
    radius = float(np.interp(np.log10(count), (2, 3, 4, 5), (5.0, 3.8, 2.4, 1.5)))
    opacity = float(np.interp(np.log10(count), (2, 3, 4, 5), (0.85, 0.75, 0.55, 0.4)))
    through, weights, sums = (np.zeros(height * width) for _ in range(3))
    reach = int(np.ceil(radius))
    places = rows * width + columns
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            covered = min(max(radius + 0.5 - float(np.hypot(down, across)), 0.0), 1.0)
            if covered:
                at = places + down * width + across  # One pixel of all discs at once.
                np.add.at(through, at, np.log1p(-opacity * covered))
                np.add.at(weights, at, covered)
                np.add.at(sums, at, covered * values)
    pixels = np.zeros((height * width, 4), dtype=np.uint8)
    painted = weights > 0
    pixels[painted, :3] = scale.colours(sums[painted] / weights[painted])
    pixels[painted, 3] = np.round(255 * (1 - np.exp(through[painted])))
    return pixels.reshape(height, width, 4)
