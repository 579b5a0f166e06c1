"""A landscape from a side: a lit surface in a box with numbers, and the way over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import Plot, draw_nothing
from lightning_dynamics.figures.canvas import INK, PAD, Canvas, house_style
from lightning_dynamics.figures.legend import legend_height
from lightning_dynamics.figures.lettering import draw_title_and_footer, footer_height, title_height
from lightning_dynamics.figures.raycast import Terrain, View, lid_over, look
from lightning_dynamics.figures.relief import CMAP, HeightScale, Relief, as_heights, plot_size, relief
from lightning_dynamics.figures.room import TALL, Room
from lightning_dynamics.figures.scale import STRIPE, striped
from lightning_dynamics.figures.trail import (
    check_path,
    draw_marks,
    draw_path,
    draw_path_sample,
    path_sample_width,
    place_names,
)

_WIDTH, _HEIGHT = 960, 680
_FINE = 720  # Points along each side of the surface.
_LINES = 12
_BAR = 420
_LID = 0.3  # How much of what is below the lid one does not see.


@house_style()
def surface_plot(
    values: ArrayLike,
    xs: ArrayLike,
    ys: ArrayLike,
    *,
    title: str,
    footer: str,
    x_title: str,
    y_title: str,
    z_title: str,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    path: ArrayLike | None = None,
    path_values: ArrayLike | None = None,
    path_name: str = "",
    marks: Sequence[tuple[str, float, float]] = (),
    elevation: float = 35.0,
    azimuth: float = -60.0,
    cmap: str = CMAP,
) -> NDArray[np.uint8]:
    """Draw a landscape as a lit surface seen from a side, with lines of equal height.

    Between grid points the surface is as in :func:`~lightning_dynamics.figures.contour.contour_map`. What is
    higher than the upper limit is cut off: a lid as of glass lies over it at that height, and the legend says so.
    What is nearest to a value that is not finite is hatched, as high as what is around it. A path behind a hill is
    seen faintly through it.

    Args:
        values: ``(Y, X)``; ``values[i, j]`` is at ``(xs[j], ys[i])``.
        xs: ``(X,)`` rising coordinates of the columns, not necessarily evenly spaced.
        ys: ``(Y,)`` rising coordinates of the rows.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``xs`` are.
        y_title: what ``ys`` are.
        z_title: what the values are.
        limits: the values at the bottom and the top of the box, and at the ends of the colour scale; by default
            the least and the largest finite one.
        log: whether heights and colours follow the logarithm; values of 0 or less are then hatched.
        path: ``(T, 2)`` coordinates of a path such as a training's; NaN leaves a gap.
        path_values: ``(T,)`` values of the points of the path, which then lie that high; by default it lies on
            the surface.
        path_name: what the path is, for the legend.
        marks: names and coordinates of places on the surface; one outside of it is left out.
        elevation: degrees above the ground from which one looks, 5 to 85.
        azimuth: direction from which one looks, degrees from the x axis towards the y axis.
        cmap: name of a matplotlib colour map.

    Returns:
        ``(H, W, 3)`` uint8, always of the same size.

    Raises:
        ValueError: if the shapes do not fit together, coordinates do not rise, the limits do not rise or, with
            ``log``, are not above 0, or the elevation is not from 5 to 85.
    """
    land = relief(values, xs, ys, limits, log=log)
    trail = check_path(path)
    heights_of_path = None if path_values is None else np.asarray(path_values, dtype=np.float64)
    if heights_of_path is not None and heights_of_path.shape != (len(trail),):
        raise ValueError(f"there are {len(trail)} points of the path, but path_values are {heights_of_path.shape}")
    if not 5 <= elevation <= 85:
        raise ValueError(f"elevation is 5 to 85 degrees, got {elevation}")
    scale = HeightScale(*land.limits, cmap, "", log=log)
    legend = legend_height(1)
    sheet_width = PAD + _WIDTH + scale.width + PAD
    bottom = footer_height(sheet_width)
    canvas = Canvas(sheet_width, bottom + _HEIGHT + legend + title_height())
    draw_title_and_footer(canvas, title, footer)

    # Both sides of the ground together are always as long.
    width, height = plot_size(land.xs, land.ys, 2.0 * 1000, 2.5)
    half = width / (width + height), height / (width + height)
    room = Room(land, half, View(elevation, azimuth), (PAD, bottom, PAD + _WIDTH, bottom + _HEIGHT), scale)
    room.draw_back(canvas)
    terrain = _terrain(land, half, scale)
    image, depth = look(terrain, room.view, room.frame)
    canvas.image(image, PAD, bottom)
    cut_off = bool((terrain.excess > 0).any())
    if cut_off:
        lid = np.broadcast_to(np.append(scale.colours(np.array(land.limits[1])), 0), image.shape).copy()
        lid[..., 3] = np.round(_LID * 255 * lid_over(terrain, room.view, room.frame))
        canvas.image(lid, PAD, bottom)
    room.draw_numbers(canvas, (x_title, y_title, z_title))
    if land.holes.all():
        draw_nothing(canvas, Plot(PAD, bottom, _WIDTH, _HEIGHT))

    frame = room.frame
    line, stops = _way(trail, heights_of_path, terrain, room, log)
    ground = room.ground(np.array([(x, y) for _, x, y in marks], dtype=np.float64).reshape(-1, 2))
    inside = np.all(np.abs(ground) <= np.array(half) * (1 + 1e-9), axis=1).tolist()
    ground = ground[inside]
    places = room.view(np.column_stack([ground, terrain.height(*ground.T)]))
    names = [mark[0] for mark, on in zip(marks, inside, strict=True) if on]
    labels = place_names(names, places, frame, room.view(line))
    shown = _seen(line, room, depth)
    behind = room.view(np.where(shown[:, None], np.nan, line))
    for colour, wide in (("#1b273366", 4.0), ("#ffffff99", 2.0)):
        canvas.line(behind[:, 0], behind[:, 1], color=colour, width=wide)
    flat = room.view(stops)
    inner = np.where((_seen(stops, room, depth) | _outer(len(stops)))[:, None], flat, np.nan)
    draw_path(canvas, room.view(np.where(shown[:, None], line, np.nan)), inner, frame)
    draw_marks(canvas, places, labels, frame, flat)

    x, top = PAD, bottom + _HEIGHT + legend / 2 + 4
    if path is not None:
        draw_path_sample(canvas, path_name, x, top, _WIDTH / 2)
        x += round(min(path_sample_width(path_name), _WIDTH / 2)) + 40
    if cut_off:
        canvas.boxes([(x, top - 10, 28, 20)], color="#999999")
        canvas.image(np.broadcast_to(scale.colours(np.array(land.limits[1])), (18, 26, 3)), x + 1, round(top) - 9)
        canvas.text(x + 38, top, f"cut off at {scale.texts([land.limits[1]])[0]}", color=INK)
    scale.draw(canvas, PAD + _WIDTH, bottom + (_HEIGHT - _BAR) // 2 - scale.foot, _BAR + scale.foot, land.known())
    return canvas.pixels()


def _terrain(land: Relief, half: tuple[float, float], scale: HeightScale) -> Terrain:
    """Refine the surface, cut it off at the limits, and paint colours and lines of equal height on it."""
    low, high = land.limits
    columns = round(_FINE * half[0] / max(half))
    rows = round(_FINE * half[1] / max(half))
    heights, unknown = land.at(
        np.linspace(land.xs[0], land.xs[-1], columns), np.linspace(land.ys[0], land.ys[-1], rows)
    )
    colours = scale.colours(np.where(unknown, np.nan, heights))
    slack = 1e-6 * (high - low)
    levels = [level for level in scale.ticks(_LINES) if low + slack < level < high - slack]
    # Light lines on dark ground, dark ones on light ground.
    greys = np.where(scale.colours(np.array(levels)).mean(axis=-1) < 105, 235.0, 25.0)
    up = (np.array(levels) - low) / (high - low) * TALL
    colours[unknown & striped(rows, columns, 14)] = STRIPE
    lines = tuple(zip(up.tolist(), greys.tolist(), strict=True))
    cut = (land.cut(heights) - low) / (high - low) * TALL
    # A hole keeps its hatch where what is around it is cut off.
    excess = np.where(unknown, -1.0, (heights - high) / (high - low) - 1e-6)
    return Terrain(half, cut, colours, excess, TALL, lines)


def _way(
    trail: NDArray[np.float64],
    values: NDArray[np.float64] | None,
    terrain: Terrain,
    room: Room,
    log: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places of the path's line, close to each other, and of its points, in the box."""
    ground = room.ground(trail)
    outside = np.any(np.abs(ground) > np.array(terrain.half) * (1 + 1e-9), axis=1, keepdims=True)
    ground = np.where(outside, np.nan, ground)
    lengths = np.nan_to_num(np.hypot(*np.diff(ground, axis=0).T)) if len(ground) > 1 else np.empty(0)
    along = np.concatenate([[0.0], np.cumsum(lengths + 1e-12)])[: len(ground)]
    at = np.union1d(along, np.arange(0.0, along[-1], 0.004)) if len(along) else along
    fine = np.stack([np.interp(at, along, ground[:, i]) for i in (0, 1)], axis=1) if len(along) else ground
    if values is None:
        heights, fine_heights = (terrain.height(*np.nan_to_num(at).T) for at in (ground, fine))
    else:
        heights = room.up(np.clip(as_heights(values, log=log), *room.land.limits))
        fine_heights = np.interp(at, along, heights) if len(along) else heights
    return np.column_stack([fine, fine_heights]), np.column_stack([ground, heights])


def _seen(points: NDArray[np.float64], room: Room, depth: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which places are not behind the surface; those on it are in front."""
    pixels = np.nan_to_num(room.view(points) - room.frame[:2]).astype(np.intp)
    row, column = (np.clip(pixels[:, i], 0, size - 1) for i, size in ((1, depth.shape[0]), (0, depth.shape[1])))
    # On a slope that one looks along, a pixel is many steps deep: the farthest around counts.
    around = [
        depth[np.clip(row + i, 0, depth.shape[0] - 1), np.clip(column + j, 0, depth.shape[1] - 1)]
        for i in (-2, 0, 2)
        for j in (-2, 0, 2)
    ]
    return np.asarray(points[:, :2] @ room.view.ahead <= np.max(around, axis=0) + 0.02)


def _outer(count: int) -> NDArray[np.bool_]:
    """Mark the first and the last of so many."""
    ends = np.zeros(count, dtype=bool)
    ends[[0, -1][: 2 * bool(count)]] = True
    return ends
