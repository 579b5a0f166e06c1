"""One frame of a film: all weight tensors as mosaics, their layers as bars, and where in training it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import (
    GRID,
    ZERO,
    Plot,
    check_steps,
    draw_baseline,
    draw_y_axis,
    round_limits,
    tick_texts,
)
from lightning_dynamics.figures.canvas import FAINT, INK, PAD, TEXT_PX, Canvas, house_style, text_width
from lightning_dynamics.figures.diverging import NEGATIVE, POSITIVE, DivergingScale
from lightning_dynamics.figures.lettering import (
    AxisLabels,
    axis_labels,
    clean,
    draw_title_and_footer,
    draw_x_labels,
    fit,
    footer_height,
    shorten,
    title_height,
    x_labels_height,
)
from lightning_dynamics.figures.packing import Tile, pack
from lightning_dynamics.figures.sampling import paint_missing
from lightning_dynamics.figures.scale import check_limits, tick_values

_WIDTH = 1300
_TILES = 700  # Height that the mosaics get, unless there are too many cells.
_NAME_PX = 13.0
_NAME_CHARACTERS = 22
_COLOUR_BAR = 76
_STRIP = 150
_NUMBERS = 78
_CURVE = 330
_HEADING = 34
_CURVE_COLOUR = "#0072b2"


@house_style()
def mosaic_frame(
    tiles: Sequence[ArrayLike],
    *,
    tile_names: Sequence[str],
    tile_limit: float,
    bars: ArrayLike,
    bar_names: Sequence[str],
    bar_limits: tuple[float, float],
    title: str,
    footer: str,
    curve: tuple[ArrayLike, ArrayLike, float] | None = None,
    curve_title: str = "",
    tile_shapes: Sequence[str] | None = None,
    tile_title: str = "",
    bars_title: str = "",
) -> NDArray[np.uint8]:
    """Draw tensors as mosaics of coloured cells (green below 0, white, purple above) and layers as bars.

    Colours follow the square root of a value's size, for few values are large; the colour bar says so. Tiles
    follow each other from top to bottom, then from left to right. NaN is grey in a tile and no bar.

    Args:
        tiles: ``(h, w)`` each. Cells are whole pixels, larger ones in small tiles; best at most 60 x 120.
        tile_names: one per tile; long ones are shortened in the middle, staying distinct.
        tile_limit: the size of a value at the two ends of the colour scale.
        bars: ``(L,)``, downwards in green when negative, upwards in purple when positive.
        bar_names: ``L`` names.
        bar_limits: lower and upper end of the bars' axis; a bar that goes beyond ends in an arrow head.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        curve: ``(x, y, x of a dot)``: the same curve in every frame, such as the loss, and where this one is.
        curve_title: what ``y`` is.
        tile_shapes: what is written beside the names, by default the shapes of the tiles.
        tile_title: what the colours are.
        bars_title: what the bars are.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the shapes of the tiles, on the names, and on whether there is a
        curve: frames of one film fit.

    Raises:
        ValueError: if tiles, bars, curve and names do not fit together, or limits do not rise.
    """
    arrays = [np.asarray(tile, dtype=np.float64) for tile in tiles]
    heights = np.ravel(np.asarray(bars, dtype=np.float64))
    if not arrays or any(array.ndim != 2 or not array.size for array in arrays):
        raise ValueError("there must be tiles, each with rows and columns")
    shapes = [f"{h}×{w}" for h, w in (array.shape for array in arrays)] if tile_shapes is None else tile_shapes
    if not len(arrays) == len(tile_names) == len(shapes):
        raise ValueError(f"there are {len(arrays)} tiles, but {len(tile_names)} names and {len(shapes)} shapes")
    if not len(heights) == len(bar_names) or not len(heights):
        raise ValueError(f"there are {len(heights)} bars, but {len(bar_names)} bar_names")
    low, high = check_limits(bar_limits)
    check_limits((0.0, tile_limit))
    label = f"{tile_title} (square-root scale)" if tile_title else "square-root scale"
    scale = DivergingScale(-tile_limit, tile_limit, label=label, root=True)

    names, shapes = shorten(tile_names, _NAME_CHARACTERS), [clean(shape) for shape in shapes]
    name_widths = [math.ceil(text_width(name, _NAME_PX)) + 8 for name in names]
    widths = tuple(w + math.ceil(text_width(s, _NAME_PX)) for w, s in zip(name_widths, shapes, strict=True))
    room = _WIDTH - 2 * PAD
    places, tall = pack(tuple((a.shape[0], a.shape[1]) for a in arrays), widths, room, _TILES)

    left = PAD + _NUMBERS + 12
    strip_width = _WIDTH - PAD - left - (_CURVE + _NUMBERS + 40 if curve is not None else 0)
    pitch = min(strip_width / len(heights), 130.0)
    axis = axis_labels(bar_names, pitch)
    below = max(x_labels_height(axis), 30)
    bottom = footer_height(_WIDTH) + below
    top = bottom + _STRIP + _HEADING + _COLOUR_BAR  # Lower edge of the mosaics.
    canvas = Canvas(_WIDTH, top + tall + title_height())

    texts = tuple(
        (PAD + tile.left, top + tall - tile.top + 5, name, wide, shape)
        for name, shape, wide, tile in zip(names, shapes, name_widths, places, strict=True)
    )
    canvas.image(_names(canvas.width, canvas.height, texts, axis, left, bottom, pitch), 0, 0)
    draw_title_and_footer(canvas, title, footer)
    painted = [_tile_pixels(array, tile, scale) for array, tile in zip(arrays, places, strict=True)]
    corners = [(PAD + t.left, top + tall - t.top - len(p)) for t, p in zip(places, painted, strict=True)]
    frames = [(x - 1, y - 1, p.shape[1] + 2, p.shape[0] + 2) for (x, y), p in zip(corners, painted, strict=True)]
    canvas.boxes(frames, color="#bbbbbb")  # Seen as a thin edge around each tile.
    for (x, y), pixels in zip(corners, painted, strict=True):
        canvas.image(pixels, x, y)
    everything = np.concatenate([array.ravel() for array in arrays])
    scale.draw_flat(canvas, PAD + 40, top - 20, 400, everything)

    plot = Plot(left, bottom, pitch * len(heights), _STRIP, y_limits=(low, high), edge=4)
    _draw_strip(canvas, plot, heights)
    if bars_title:
        line, px = fit(bars_title, strip_width)
        canvas.text(left, bottom + _STRIP + 14, line, px=px)
    if curve is not None:
        _draw_curve(canvas, curve, curve_title, _WIDTH - PAD - 12 - _CURVE, bottom)
    return canvas.pixels()


@lru_cache(maxsize=2)
def _names(
    width: int,
    height: int,
    texts: tuple[tuple[int, int, str, int, str], ...],
    axis: AxisLabels,
    left: int,
    bottom: int,
    pitch: float,
) -> NDArray[np.uint8]:
    """Write the names of tiles and bars on a white sheet, once for all frames: letters take most of the time."""
    canvas = Canvas(width, height)
    for x, y, name, wide, shape in texts:
        canvas.text(x, y, name, px=_NAME_PX, va="baseline")
        canvas.text(x + wide, y, shape, px=_NAME_PX, va="baseline", color=FAINT)
    draw_x_labels(canvas, axis, left, bottom, pitch)
    pixels = canvas.pixels()
    pixels.setflags(write=False)
    return pixels


def _tile_pixels(array: NDArray[np.float64], tile: Tile, scale: DivergingScale) -> NDArray[np.uint8]:
    """Paint one tile: ``(h * down, w * across, 3)``."""
    if tile.pooled > 1:
        rows, columns = (-(-side // tile.pooled) for side in array.shape)
        padded = np.full((rows * tile.pooled, columns * tile.pooled), np.nan)
        padded[: array.shape[0], : array.shape[1]] = array
        blocks = padded.reshape(rows, tile.pooled, columns, tile.pooled)
        count = np.isfinite(blocks).sum(axis=(1, 3))
        array = np.where(count > 0, np.where(np.isfinite(blocks), blocks, 0).sum(axis=(1, 3)), np.nan)
        array = array / np.maximum(count, 1)
    colours = scale.colours(array)
    missing = np.isnan(array).repeat(tile.down, axis=0).repeat(tile.across, axis=1)
    pixels = colours.repeat(tile.down, axis=0).repeat(tile.across, axis=1)
    paint_missing(pixels, missing)
    return pixels


def _draw_strip(canvas: Canvas, plot: Plot, heights: NDArray[np.float64]) -> None:
    """Draw the bars with their axis; an arrow head says that a bar goes on."""
    low, high = plot.y_limits
    ticks = tick_values(low, high, 4)
    draw_y_axis(canvas, plot, ticks, tick_texts(ticks), _NUMBERS)
    pitch = plot.width / len(heights)
    wide = max(1.0, min(float(round(0.74 * pitch)), 46.0))
    lower, upper = plot.bottom, plot.bottom + plot.height
    zero = float(np.clip(plot.y(0), lower, upper))
    for part, colour in ((heights < 0, NEGATIVE), (heights > 0, POSITIVE)):
        boxes, heads = [], []
        for i in np.flatnonzero(part):
            x = round(plot.left + (i + 0.5) * pitch - wide / 2)
            end = float(np.clip(plot.y(heights[i]), lower, upper))
            boxes.append((x, min(zero, end), wide, max(abs(end - zero), 1.0)))
            if not low <= heights[i] <= high:
                back = end + (9 if end < zero else -9)
                half = min(wide / 2 - 1, 8.0)
                heads.append([(x + wide / 2, end), (x + wide / 2 - half, back), (x + wide / 2 + half, back)])
        canvas.boxes(boxes, color=colour)
        canvas.areas(heads, color="white")
    canvas.lines([[(plot.left, zero), (plot.left + plot.width, zero)]], color=ZERO, width=1.5)


def _draw_curve(
    canvas: Canvas, curve: tuple[ArrayLike, ArrayLike, float], title: str, left: float, bottom: float
) -> None:
    """Draw a small curve with a dot on it."""
    x, y = check_steps(curve[0]), np.ravel(np.asarray(curve[1], dtype=np.float64))
    if x.shape != y.shape:
        raise ValueError(f"the curve has {len(x)} x and {len(y)} y")
    limits = (x[0] - 1, x[0] + 1) if len(x) == 1 else (float(x[0]), float(x[-1]))
    low, high = round_limits(y, zero=False)
    plot = Plot(left, bottom, _CURVE, _STRIP, limits, (low, high), 8)
    ticks = tick_values(low, high, 4)
    draw_y_axis(canvas, plot, ticks, tick_texts(ticks), _NUMBERS)
    draw_baseline(canvas, plot)
    known = np.isfinite(y)
    canvas.line(plot.x(x), np.where(known, plot.y(y), np.nan), color=_CURVE_COLOUR, width=2)
    at = float(np.clip(curve[2], x[0], x[-1]))
    place = float(plot.x(at))
    canvas.lines([[(place, bottom), (place, bottom + _STRIP)]], color=GRID, width=2)
    if known.any():
        dot = float(plot.y(np.interp(at, x[known], y[known])))
        canvas.line([place], [dot], color="white", linestyle="none", marker="o", markersize=17)
        canvas.line([place], [dot], color=INK, linestyle="none", marker="o", markersize=13)
    for end, side in ((limits[0], "left"), (limits[1], "right")):
        if len(x) > 1:
            text = tick_texts([end])[0]
            canvas.text(
                float(plot.x(end)),
                bottom - 10 - TEXT_PX,
                text,
                ha="left" if side == "left" else "right",
                va="baseline",
                color=FAINT,
            )
    if title:
        line, px = fit(title, _CURVE)
        canvas.text(left, bottom + _STRIP + 14, line, px=px)
