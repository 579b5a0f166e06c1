"""A landscape from above: colours, lines of equal height, the way through it and named places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import (
    Plot,
    draw_nothing,
    draw_x_axis,
    draw_x_title,
    draw_y_title,
    start_chart,
    tick_texts,
)
from lightning_dynamics.figures.canvas import FAINT, Canvas, house_style
from lightning_dynamics.figures.isolines import draw_isolines
from lightning_dynamics.figures.legend import legend_height
from lightning_dynamics.figures.relief import CMAP, HeightScale, Relief, as_heights, plot_size, relief
from lightning_dynamics.figures.scale import STRIPE, striped, tick_values
from lightning_dynamics.figures.trail import (
    check_path,
    draw_marks,
    draw_path,
    draw_path_sample,
    held,
    place_names,
)

_SIDE = 660  # Of a square plane, in pixels.
_MOST = 2.5  # Longer side to shorter side at the most.
_ASIDE = 26


@house_style()
def contour_map(
    values: ArrayLike,
    xs: ArrayLike,
    ys: ArrayLike,
    *,
    title: str,
    footer: str,
    x_title: str,
    y_title: str,
    colorbar_label: str,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    levels: int | Sequence[float] = 12,
    path: ArrayLike | None = None,
    path_name: str = "",
    marks: Sequence[tuple[str, float, float]] = (),
    cmap: str = CMAP,
) -> NDArray[np.uint8]:
    """Draw a landscape from above as smooth colours with lines of equal height, as Li et al. (2018) do.

    Every grid point has its value's colour at its coordinates; between grid points the surface is smooth and
    never higher or lower than the corners of the cell. One unit is as long on both axes, unless the plane is
    more than 2.5 times as long as it is wide. What is nearest to a value that is not finite is hatched. Values
    above the upper limit have the topmost colour, and the colour bar then says "≥".

    Args:
        values: ``(Y, X)``; ``values[i, j]`` is at ``(xs[j], ys[i])``.
        xs: ``(X,)`` rising coordinates of the columns, not necessarily evenly spaced.
        ys: ``(Y,)`` rising coordinates of the rows, upwards.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``xs`` are.
        y_title: what ``ys`` are.
        colorbar_label: what the values are.
        limits: the values at the two ends of the colour scale; by default the least and the largest finite one.
        log: whether colours and lines follow the logarithm; values of 0 or less are then hatched.
        levels: how many lines at most, at round numbers; or the values at which there are lines.
        path: ``(T, 2)`` coordinates of a path such as a training's; NaN leaves a gap.
        path_name: what the path is, for the legend.
        marks: names and coordinates of places; one outside of the plane is a triangle at the edge.
        cmap: name of a matplotlib colour map.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the proportions of the plane, on which of the axis titles are
        given and on whether there is a path, not on the values.

    Raises:
        ValueError: if the shapes do not fit together, coordinates do not rise, or limits do not rise or, with
            ``log``, are not above 0.
    """
    land = relief(values, xs, ys, limits, log=log)
    trail = check_path(path)
    scale = HeightScale(*land.limits, cmap, colorbar_label, log=log)
    width, height = plot_size(land.xs, land.ys, _SIDE, _MOST)
    legend = legend_height(1) if path is not None else 8
    x_limits, y_limits = (land.xs[0], land.xs[-1]), (land.ys[0], land.ys[-1])
    canvas, plot = start_chart(
        width,
        height,
        x_limits,
        y_limits,
        title=title,
        footer=footer,
        x_title=x_title,
        above=legend,
        beside=_ASIDE + scale.width,
    )
    left, bottom = round(plot.left), round(plot.bottom)
    frame = float(left), float(bottom), float(left + width), float(bottom + height)
    stops = np.stack([plot.x(trail[:, 0]), plot.y(trail[:, 1])], axis=1)
    spots = np.array([[plot.x(x), plot.y(y)] for _, x, y in marks]).reshape(-1, 2)
    spots = held(spots, frame)
    labels = place_names([name for name, _, _ in marks], spots, frame, _closely(stops))

    field = _draw_field(canvas, plot, land, scale)
    if not land.holes.all():
        boxes = [box for _, box in labels]
        draw_isolines(
            canvas, field, _levels(levels, scale), scale, frame, np.concatenate([_closely(stops), spots]), boxes
        )
    else:
        draw_nothing(canvas, plot)
    canvas.box((left, bottom), width, height, color="#8a949e")
    _draw_axes(canvas, plot)
    draw_x_title(canvas, plot, x_title)
    draw_y_title(canvas, plot, y_title)
    draw_path(canvas, stops, stops, frame)
    draw_marks(canvas, spots, labels, frame, stops)
    if path is not None:
        draw_path_sample(canvas, path_name, left, frame[3] + legend / 2 + 4, width)
    scale.draw(canvas, left + width + _ASIDE, bottom, height, land.known())
    return canvas.pixels()


def _draw_field(canvas: Canvas, plot: Plot, land: Relief, scale: HeightScale) -> NDArray[np.float64]:
    """Paint the heights; return them at every second pixel, the lowest row first, NaN where nothing is known."""
    width, height = round(plot.width), round(plot.height)
    x = land.xs[0] + (np.arange(width) + 0.5) / width * (land.xs[-1] - land.xs[0])
    y = land.ys[0] + (np.arange(height) + 0.5) / height * (land.ys[-1] - land.ys[0])
    heights, unknown = land.at(x, y)
    known = np.where(unknown, np.nan, heights)
    pixels = scale.colours(known)[::-1]
    pixels[unknown[::-1] & striped(height, width)] = STRIPE
    canvas.image(pixels, round(plot.left), round(plot.bottom))
    return known


def _levels(levels: int | Sequence[float], scale: HeightScale) -> list[float]:
    """Heights at which there are lines, inside of the scale."""
    if isinstance(levels, int):
        heights = scale.ticks(levels) if levels > 0 else []
    else:
        known = as_heights(np.asarray(levels, dtype=np.float64), log=scale.log)
        heights = sorted(set(known[~np.isnan(known)].tolist()))
    slack = 1e-6 * (scale.high - scale.low)
    return [height for height in heights if scale.low + slack < height < scale.high - slack]


def _draw_axes(canvas: Canvas, plot: Plot) -> None:
    """Draw marks and numbers along the lower and the left edge."""
    ticks = tick_values(*plot.x_limits)
    draw_x_axis(canvas, plot, ticks, tick_texts(ticks))
    ticks = tick_values(*plot.y_limits)
    canvas.lines([[(plot.left - 5, y), (plot.left, y)] for y in plot.y(ticks)], color=FAINT)
    for text, y in zip(tick_texts(ticks), plot.y(ticks), strict=True):
        canvas.text(plot.left - 10, y, text, ha="right", color=FAINT)


def _closely(stops: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points along a path, close enough to each other that nothing between them is overlooked."""
    if len(stops) < 2:
        return stops
    lengths = np.nan_to_num(np.hypot(*np.diff(stops, axis=0).T))
    along = np.concatenate([[0.0], np.cumsum(np.minimum(lengths, 2000.0))])
    at = np.arange(0.0, along[-1] + 4, 4.0)
    return np.stack([np.interp(at, along, stops[:, 0]), np.interp(at, along, stops[:, 1])], axis=1)
