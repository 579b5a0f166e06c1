"""Descents on the surface of a product of weights, seen from above, as a still picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.data.problems.plane import AT_SADDLE, GONE, STILL_MOVING, Plane
from lightning_dynamics.figures.axes import (
    Plot,
    draw_x_axis,
    draw_x_title,
    draw_y_title,
    start_chart,
    tick_texts,
)
from lightning_dynamics.figures.canvas import FAINT, Canvas, house_style
from lightning_dynamics.figures.legend import Entry, draw_legend, legend_height, legend_rows
from lightning_dynamics.figures.scale import tick_values

_SIDE = 760
_ARROWS = 19  # along each side
_BRANCHES = ("#0072b2", "#d55e00", "#8a4fd0", "#00838f")
_OTHERS = {AT_SADDLE: "#c2185b", STILL_MOVING: "#8a7a00", GONE: "#777777"}
_SOLUTION, _FIELD, _CONTOUR = "#009e73", "#a8b0bb", "#dde1e7"


@house_style()
def descents_map(
    paths: ArrayLike, *, plane: Plane | None = None, limit: float = 2.5, title: str, footer: str
) -> NDArray[np.uint8]:
    r"""Draw descents over L = ½ (aᵐ bⁿ − 1)² in the colour of where they end.

    Behind them: lines of equal \|aᵐ bⁿ − 1\|, arrows downhill whose length is the cube root of the slope, the
    solutions, and for two weights the line a + b = 0, which flows to the saddle.

    Args:
        paths: ``(N, T + 1, 2)``: a and b from the start to the last of T steps; what leaves the plane shown is cut.
        plane: by default of two weights.
        limit: the plane is shown where \|a\|, \|b\| ≤ this.
        title: one line.
        footer: how the descents were run, caveats.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: for paths of another shape.
    """
    plane, points = plane or Plane(), np.asarray(paths, dtype=np.float64)
    if points.ndim != 3 or points.shape[2] != 2 or 0 in points.shape:
        raise ValueError(f"paths must be (N, T + 1, 2), got {points.shape}")
    ends = plane.ends(points[:, -1])
    kinds = [end for end in (*range(len(plane.branches)), *_OTHERS) if (ends == end).any()]
    entries = [Entry(f"{plane.name(end)} ({(ends == end).sum()})", _colour(end)) for end in kinds]
    entries.append(Entry("all solutions", _SOLUTION))
    if plane.powers == (1, 1):
        entries.append(Entry("a + b = 0", _OTHERS[AT_SADDLE], "dotted"))
    legend = legend_height(legend_rows([entry.text for entry in entries], _SIDE))
    limits = -limit, limit
    canvas, plot = start_chart(
        _SIDE, _SIDE, limits, limits, title=title, footer=footer, x_title="a", above=legend, beside=24
    )
    frame = plot.left, plot.bottom, plot.left + _SIDE, plot.bottom + _SIDE
    _draw_ground(canvas, plot, plane, limit)
    if plane.powers == (1, 1):
        canvas.line(plot.x(limits), plot.y(limits[::-1]), color=_OTHERS[AT_SADDLE], width=1.6, linestyle=(0, (1, 2)))
    for curve in plane.solutions(limit):
        canvas.line(plot.x(curve[:, 0]), plot.y(curve[:, 1]), color=_SOLUTION, width=5, clip=frame)
    for end in kinds:
        chosen = _cut(points[ends == end], limit)
        canvas.line(plot.x(chosen[..., 0]), plot.y(chosen[..., 1]), color=_colour(end), width=1.3, clip=frame)
    for end in kinds:
        style: dict[str, Any] = {"color": _colour(end), "linestyle": "none", "marker": "o", "clip": frame}
        (a, b), (last_a, last_b) = points[ends == end, 0].T, points[ends == end, -1].T
        canvas.line(plot.x(a), plot.y(b), **style, markerfacecolor="white", markersize=6.5, markeredgewidth=1.0)
        canvas.line(plot.x(last_a), plot.y(last_b), **style, markersize=6)
    _draw_frame(canvas, plot)
    draw_legend(canvas, entries, plot.left, frame[3] + legend, _SIDE)
    return canvas.pixels()


def _colour(end: int) -> str:
    return _BRANCHES[end] if end >= 0 else _OTHERS[end]


def _cut(points: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """One line for all paths, with gaps between them and where they are far outside."""
    far = ~(np.abs(points) <= 10 * limit).all(axis=-1, keepdims=True)
    joined = np.where(far, np.nan, points)
    return np.concatenate([joined, np.full((len(points), 1, 2), np.nan)], axis=1).reshape(-1, 2)


def _draw_ground(canvas: Canvas, plot: Plot, plane: Plane, limit: float) -> None:
    from contourpy import contour_generator

    places = np.linspace(-limit, limit, 201)
    grid = np.stack(np.meshgrid(places, places), axis=-1)
    errors = np.sqrt(2 * plane.loss(grid))
    generator = contour_generator(plot.x(places), plot.y(places), errors, name="serial")
    for level in np.arange(0.5, 8.1, 0.5):
        for line in generator.lines(level):
            canvas.line(*np.asarray(line).T, color=_CONTOUR, width=1.2)
    cell = 2 * limit / _ARROWS
    middles = -limit + cell * (np.arange(_ARROWS) + 0.5)
    grid = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
    downhill = -plane.gradient(grid)
    size = np.linalg.norm(downhill, axis=1, keepdims=True)
    steepest = float(np.linalg.norm(plane.gradient(np.array([limit, -limit]))))
    with np.errstate(invalid="ignore"):
        along = np.where(size > 1e-9, downhill / size * 0.95 * cell * np.cbrt(size / steepest), 0.0)
    aside = 0.5 * np.stack([-along[:, 1], along[:, 0]], axis=1)
    tip, tail = grid + along / 2, grid - along / 2
    for one, other in ((tail, tip), (tip - 0.35 * (along + aside), tip), (tip - 0.35 * (along - aside), tip)):
        ends = np.stack([one, other], axis=1)
        segments = np.stack([plot.x(ends[..., 0]), plot.y(ends[..., 1])], axis=-1)
        canvas.lines(list(segments), color=_FIELD, width=1.2)


def _draw_frame(canvas: Canvas, plot: Plot) -> None:
    ticks = tick_values(*plot.x_limits)
    draw_x_axis(canvas, plot, ticks, tick_texts(ticks))
    for text, y in zip(tick_texts(ticks), plot.y(ticks), strict=True):
        canvas.text(plot.left - 10, y, text, ha="right", color=FAINT)
    canvas.box((plot.left, plot.bottom), plot.width, plot.height, color="#8a949e")
    draw_x_title(canvas, plot, "a")
    draw_y_title(canvas, plot, "b")
