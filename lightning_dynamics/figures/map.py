"""A map of coloured cells, one row and one column per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import AXIS_TITLE
from lightning_dynamics.figures.canvas import PAD, TEXT_PX, Canvas, house_style
from lightning_dynamics.figures.lettering import (
    AxisLabels,
    axis_labels,
    draw_title_and_footer,
    draw_x_texts,
    draw_x_ticks,
    draw_y_texts,
    draw_y_ticks,
    fit,
    footer_height,
    title_height,
    x_labels_height,
)
from lightning_dynamics.figures.scale import STRIPE, ColourScale, check_limits, striped

MIN_WIDTH = 900
"""Pixels that a title and a footer need."""
_SHOW_VALUES_UP_TO = 12


@house_style()
def heat_map(
    matrix: ArrayLike,
    *,
    x_labels: Sequence[str],
    y_labels: Sequence[str],
    title: str,
    footer: str,
    x_title: str = "",
    y_title: str = "",
    limits: tuple[float, float] = (0.0, 1.0),
    cmap: str = "magma",
    origin: Literal["lower", "upper"] = "lower",
    blocks: Sequence[tuple[int, int]] = (),
    size: int | None = None,
    colorbar_label: str = "",
) -> NDArray[np.uint8]:
    """Draw a matrix of values as coloured cells, as the CKA maps of Nguyen et al. (2021).

    The colours are on the fixed scale ``limits``, so that pictures of different steps compare. A value below
    the lower limit (by more than 1e-6 of the range) gets a colour of its own, named beside the colour bar;
    NaN is hatched grey. Values above the upper limit get the topmost colour, and the colour bar
    then says "≥". Up to 12 rows and columns, each cell shows its number.

    Args:
        matrix: ``(L_y, L_x)``; ``matrix[i, j]`` is in row ``y_labels[i]`` and column ``x_labels[j]``.
        x_labels: ``L_x`` names; long ones are shortened in the middle, staying distinct.
        y_labels: ``L_y`` names.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what the columns are.
        y_title: what the rows are.
        limits: the values at the two ends of the colour scale.
        cmap: name of a matplotlib colour map.
        origin: ``"lower"`` puts row 0 at the bottom, ``"upper"`` at the top. Column 0 is on the left.
        blocks: half-open ranges ``(start, stop)`` of layers, each outlined by a square on the diagonal.
        size: pixels of the longer side of the map itself, at least 200; by default every layer gets room for
            its name.
        colorbar_label: what the values are.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the labels, ``size``, ``limits`` and on which of the axis
        titles and the colour bar's label are given, not on the values, the title or the footer.

    Raises:
        ValueError: if matrix and labels do not fit together, ``limits`` are not two rising finite numbers,
            or ``size`` is below 200.
    """
    values = np.asarray(matrix, dtype=np.float64)
    rows, columns = len(y_labels), len(x_labels)
    if values.shape != (rows, columns) or values.size == 0:
        raise ValueError(
            f"the matrix is {values.shape}, "
            f"but there are {rows} y_labels (one per row) and {columns} x_labels (one per column)"
        )
    if origin not in ("lower", "upper"):
        raise ValueError(f"origin is 'lower' or 'upper', got {origin!r}")
    if size is not None and size < 200:
        raise ValueError(f"size is at least 200 pixels, got {size}")
    scale = ColourScale(*check_limits(limits), cmap, colorbar_label)

    cell_w, cell_h = cell_size(rows, columns, size)
    width, height = round(cell_w * columns), round(cell_h * rows)
    x_axis, y_axis = axis_labels(x_labels, cell_w), axis_labels(y_labels, cell_h)
    left = PAD + (AXIS_TITLE if y_title else 0) + y_axis.extent + 12
    sheet_width = left + width + 26 + scale.width + PAD
    left += max(0, MIN_WIDTH - sheet_width) // 2
    sheet_width = max(sheet_width, MIN_WIDTH)
    bottom = footer_height(sheet_width) + (AXIS_TITLE if x_title else 0) + x_labels_height(x_axis)
    canvas = Canvas(sheet_width, bottom + height + title_height())

    up = 1 if origin == "lower" else -1
    first = bottom if origin == "lower" else bottom + height  # The outer edge of row 0.
    x_place, y_place = (x_axis, left, bottom, cell_w), (y_axis, left, first, up * cell_h)
    canvas.image(_label_texts(canvas.width, canvas.height, x_place, y_place), 0, 0)
    draw_title_and_footer(canvas, title, footer)
    colours = _draw_cells(canvas, values, scale, origin, left, bottom, width, height)
    draw_x_ticks(canvas, *x_place)
    draw_y_ticks(canvas, *y_place)
    if x_title:
        line, px = fit(x_title, width)
        canvas.text(left + width / 2, footer_height(sheet_width) + 8, line, px=px, ha="center", va="baseline")
    if y_title:
        line, px = fit(y_title, height)
        x = left - 12 - y_axis.extent - 18
        canvas.text(x, bottom + height / 2, line, px=px, ha="center", va="baseline", vertical=True)
    if max(rows, columns) <= _SHOW_VALUES_UP_TO and min(cell_w, cell_h) >= 44:
        for i, j in np.argwhere(~np.isnan(values)):
            # Dark letters on light cells: the usual weights of red, green and blue in brightness.
            light = float(colours[i, j] @ np.array([0.299, 0.587, 0.114])) > 140
            place = left + (j + 0.5) * cell_w, first + up * (i + 0.5) * cell_h
            text = _cell_text(float(values[i, j]), limits)
            px = min(TEXT_PX, cell_w / 3.2)
            canvas.text(*place, text, px=px, ha="center", color="#1a1a1a" if light else "white")
    for start, stop in blocks:
        a, b, c = max(0, start), min(stop, columns), min(stop, rows)
        if a < min(b, c):
            corner = left + a * cell_w, first + up * (a if up > 0 else c) * cell_h
            for edge, thick in (("#1a1a1a", 4), ("white", 2)):  # White with a dark rim shows on any colour.
                canvas.box(corner, (b - a) * cell_w, (c - a) * cell_h, color=edge, line=thick)
    scale.draw(canvas, left + width + 26, bottom, height, values)
    return canvas.pixels()


def cell_size(rows: int, columns: int, size: int | None = None) -> tuple[float, float]:
    """Width and height of a cell in pixels: whole numbers where possible, so that all cells are alike."""
    longer = max(rows, columns)
    layers, sides = (1, 5, 12, 30, 60, 100, 150), (400, 620, 840, 990, 1140, 1200, 1650)
    side = float(np.interp(longer, layers, sides)) if size is None else float(size)
    pitch = float(side // longer) if side >= longer else side / longer
    # A single row or column becomes a band, not a thread, and leaves room for the colour bar.
    shortest = 300 if size is None else min(300, size)
    width, height = (max(pitch, float(math.ceil(shortest / n) * (n < shortest))) for n in (columns, rows))
    return width, height


@lru_cache(maxsize=4)
def _label_texts(
    width: int, height: int, x: tuple[AxisLabels, int, int, float], y: tuple[AxisLabels, int, int, float]
) -> NDArray[np.uint8]:
    """Write the labels of both axes on a white sheet, once for the maps of all events: text takes most of the time.

    ``x`` and ``y`` are what ``draw_x_texts`` and ``draw_y_texts`` take.
    """
    canvas = Canvas(width, height)
    draw_x_texts(canvas, *x)
    draw_y_texts(canvas, *y)
    pixels = canvas.pixels()
    pixels.setflags(write=False)
    return pixels


def _draw_cells(
    canvas: Canvas,
    values: NDArray[np.float64],
    scale: ColourScale,
    origin: str,
    left: int,
    bottom: int,
    width: int,
    height: int,
) -> NDArray[np.uint8]:
    """Paint the cells; return their colours ``(L_y, L_x, 3)``."""
    rows, columns = values.shape
    row_of_pixel = np.arange(height) * rows // height
    column_of_pixel = np.arange(width) * columns // width
    if origin == "lower":
        row_of_pixel = row_of_pixel[::-1]
    colours = scale.colours(values)
    pixels = colours[row_of_pixel].take(column_of_pixel, axis=1)
    missing = np.isnan(values)
    if missing.any():
        pixels[missing[row_of_pixel][:, column_of_pixel] & striped(height, width)] = STRIPE
    canvas.image(pixels, left, bottom)
    return colours


def _cell_text(value: float, limits: tuple[float, float]) -> str:
    """Two decimals where the scale is of the order of one, else three digits."""
    scale = limits[1] - limits[0]
    value = 0.0 if -1e-6 * scale <= value <= 0 else value  # "−0.00" only in cells coloured as negative.
    text = f"{value:.2f}" if 0.5 <= scale <= 20 and abs(value) < 1000 else f"{value:.3g}"
    return text.replace("-", "−")
