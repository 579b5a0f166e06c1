"""A map of layers over training time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import PAD, Canvas, house_style
from lightning_dynamics.figures.diverging import DIVERGING, DivergingScale, symmetric_limit
from lightning_dynamics.figures.lettering import (
    axis_labels,
    draw_title_and_footer,
    draw_y_labels,
    footer_height,
    title_height,
)
from lightning_dynamics.figures.sampling import paint_missing, pixel_means, time_edges
from lightning_dynamics.figures.scale import check_limits


@house_style()
def time_map(
    values: ArrayLike,
    *,
    x: ArrayLike,
    labels: Sequence[str],
    title: str,
    footer: str,
    x_title: str,
    colorbar_label: str,
    limits: tuple[float, float] | None = None,
    cmap: str = DIVERGING,
    origin: Literal["lower", "upper"] = "upper",
) -> NDArray[np.uint8]:
    """Draw one row of colours per layer over training time: by default green below 0 and purple above.

    Column j covers the time from ``x[j - 1]`` to ``x[j]``, true to scale. Where columns are narrower than a
    pixel, a pixel shows their mean. What is not finite is hatched grey (a pixel, if a fifth of it is).

    Args:
        values: ``(L, T)``.
        x: ``(T,)`` rising numbers such as training steps.
        labels: ``L`` names; long ones are shortened in the middle, staying distinct.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``x`` is.
        colorbar_label: what the values are.
        limits: the values at the two ends of the colour scale; by default symmetric around 0 such that 99.5 %
            of the values are within. An end that values lie beyond says "≤" or "≥".
        cmap: name of a matplotlib colour map.
        origin: ``"upper"`` puts row 0 on top, ``"lower"`` at the bottom.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the labels alone.

    Raises:
        ValueError: if values, ``x`` and labels do not fit together, or ``limits`` do not rise.
    """
    matrix, steps = np.asarray(values, dtype=np.float64), axes.check_steps(x)
    if matrix.shape != (len(labels), len(steps)) or matrix.size == 0:
        raise ValueError(f"values are {matrix.shape}, but there are {len(labels)} labels and {len(steps)} columns")
    if origin not in ("lower", "upper"):
        raise ValueError(f"origin is 'lower' or 'upper', got {origin!r}")
    if limits is None:
        limit = symmetric_limit(matrix)
        limits = -limit, limit
    scale = DivergingScale(*check_limits(limits), cmap, colorbar_label)

    pitch = row_height(len(labels))
    height = round(pitch * len(labels))
    axis = axis_labels(labels, pitch)
    left = PAD + axis.extent + 12
    sheet_width = left + axes.TIME_WIDTH + 26 + scale.width + PAD
    bottom = footer_height(sheet_width) + axes.x_axis_height(x_title)
    canvas = Canvas(sheet_width, bottom + height + title_height())
    edges = time_edges(steps)
    plot = axes.Plot(left, bottom, axes.TIME_WIDTH, height, (edges[0], edges[-1]))

    draw_title_and_footer(canvas, title, footer)
    # A value far beyond the scale must not drown its neighbours in rounding errors.
    reach = 1e6 * max(map(abs, limits))
    means = pixel_means(np.where(np.isfinite(matrix), np.clip(matrix, -reach, reach), np.nan), edges, axes.TIME_WIDTH)
    row_of_pixel = np.arange(height) * len(labels) // height
    pixels = scale.colours(means)[row_of_pixel]
    paint_missing(pixels, np.isnan(means)[row_of_pixel])
    upper = origin == "upper"
    canvas.boxes([(left - 1, bottom - 1, axes.TIME_WIDTH + 2, height + 2)], color="#aaaaaa")  # An edge for white cells.
    canvas.image(pixels if upper else pixels[::-1], left, bottom)
    draw_y_labels(canvas, axis, left, bottom + (height if upper else 0), -pitch if upper else pitch)
    ticks = axes.time_ticks(steps, plot.x_limits)
    axes.draw_x_axis(canvas, plot, ticks, axes.tick_texts(ticks))
    axes.draw_x_title(canvas, plot, x_title)
    scale.draw(canvas, left + axes.TIME_WIDTH + 26, bottom, height, np.where(np.isfinite(matrix), matrix, np.nan))
    return canvas.pixels()


def row_height(rows: int, least: float = 0.0) -> float:
    """Height of one of ``rows`` rows in pixels, at least ``least``: a whole number where possible."""
    sides = np.interp(rows, (1, 5, 12, 30, 60, 100, 150), (260, 330, 480, 720, 900, 1140, 1500))
    pitch = max(float(sides) / rows, least)
    return float(np.floor(pitch)) if pitch >= 1 else pitch
