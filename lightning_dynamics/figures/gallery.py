"""A sheet of example images, one row per class and one column per kind of example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures.axes import GRID
from lightning_dynamics.figures.canvas import FAINT, INK, PAD, TEXT_PX, Canvas, house_style, text_width
from lightning_dynamics.figures.lettering import (
    draw_title_and_footer,
    fit,
    footer_height,
    shorten,
    title_height,
    wrap,
)
from lightning_dynamics.figures.map import MIN_WIDTH

MARKED = "#d55e00"
"""Colour of the frame around a marked tile."""
_EDGE = "#c8c8c8"
_FRAME = 4
_SIDE = 96  # Pixels that small images are enlarged to, as near as whole numbers get.
_LARGEST = 112  # Pixels: larger images are shrunk.
_NARROWEST = 100  # Pixels that the lines below an image need, however narrow it is.
_SIZES = (15.0, 14.0, 13.0)
_LINE = 18
_TILES_APART = 16
_COLUMNS_APART = 52
_ROWS_APART = 26
_HEADING = 46
_ROW_NAME, _ROW_CHARACTERS = 150, 40  # A name wider than so many pixels is wrapped.


@dataclass(frozen=True)
class Tile:
    """One example.

    Args:
        image: ``(h, w, 3)`` uint8.
        lines: what is written below, one short text per line.
        marked: whether it gets a coloured frame.
    """

    image: NDArray[np.uint8]
    lines: tuple[str, ...] = ()
    marked: bool = False


@house_style()
def gallery(
    groups: Sequence[Sequence[Sequence[Tile]]],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str,
    footer: str,
) -> NDArray[np.uint8]:
    """Draw example images side by side in rows and columns of groups.

    Small images are enlarged by a whole number to about 96 pixels, each pixel a square; images of more than
    112 pixels are shrunk. A marked one has an orange frame. A group without a tile says "none".

    Args:
        groups: ``groups[r][c]`` holds the tiles of row r and column c, from left to right; their numbers may
            differ.
        row_names: one per row, written on the left; long ones are shortened in the middle, staying distinct.
        column_names: one per column, written above.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the names, the largest number of tiles in a group, the largest
        number of lines below a tile, and the shapes of the images.

    Raises:
        ValueError: if groups and names do not fit together, or an image is not ``(h, w, 3)`` uint8.
    """
    if not row_names or not column_names:
        raise ValueError("a gallery has at least one row and one column")
    if len(groups) != len(row_names) or any(len(row) != len(column_names) for row in groups):
        raise ValueError(
            f"there are groups in rows of {[len(row) for row in groups]}, "
            f"but {len(row_names)} row_names and {len(column_names)} column_names"
        )
    tiles = [tile for row in groups for group in row for tile in group]
    images = {id(tile): _to_size(tile.image) for tile in tiles}
    tall = max((image.shape[0] for image in images.values()), default=_SIDE)
    wide = max((image.shape[1] for image in images.values()), default=_SIDE)
    wide = max(wide, _NARROWEST)
    lines = max((len(tile.lines) for tile in tiles), default=0)
    most = max((len(group) for row in groups for group in row), default=0) or 1

    names = [wrap(name, _ROW_NAME, 4, TEXT_PX) for name in shorten(row_names, _ROW_CHARACTERS)]
    beside = max((text_width(line) for name in names for line in name), default=0)
    left = PAD + (round(beside) + 26 if beside else _FRAME)
    column = most * (wide + _TILES_APART) - _TILES_APART
    across = len(column_names) * (column + _COLUMNS_APART) - _COLUMNS_APART
    row_height = tall + 2 * _FRAME + lines * _LINE + _ROWS_APART
    sheet_width = max(left + across + _FRAME + PAD, MIN_WIDTH)
    foot = footer_height(sheet_width)
    canvas = Canvas(sheet_width, foot + len(row_names) * row_height + _HEADING + title_height())

    draw_title_and_footer(canvas, title, footer)
    top = canvas.height - title_height() - _HEADING
    for c, name in enumerate(column_names):
        x = left + c * (column + _COLUMNS_APART)
        line, px = fit(name, column, bold=True)
        canvas.text(x, top + 20, line, px=px, bold=True, va="baseline")
        canvas.lines([[(x, top + 8), (x + column, top + 8)]], color=FAINT, width=1.5)
    for r, (row, name_lines) in enumerate(zip(groups, names, strict=True)):
        upper = top - r * row_height - _FRAME - _ROWS_APART // 4  # The upper edge of the images' room.
        middle = upper - tall / 2
        for i, line in enumerate(name_lines):
            canvas.text(PAD, middle + ((len(name_lines) - 1) / 2 - i) * 1.25 * TEXT_PX, line)
        if r:
            y = upper + _FRAME + _ROWS_APART // 2 - 2
            canvas.lines([[(PAD, y), (left + across, y)]], color=GRID)
        for c, group in enumerate(row):
            x = left + c * (column + _COLUMNS_APART)
            if not group:
                canvas.text(x, middle, "none", color=FAINT)
            for tile in group:
                _draw_tile(canvas, tile, images[id(tile)], (x, upper - tall, wide, tall))
                x += wide + _TILES_APART
    return canvas.pixels()


def _to_size(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge or shrink an image to a side of about 100 pixels."""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"an image is (h, w, 3) uint8, got {pixels.shape} {pixels.dtype}")
    longer = max(pixels.shape[:2])
    if longer <= _LARGEST:
        times = max(1, round(_SIDE / longer))
        return pixels.repeat(times, axis=0).repeat(times, axis=1)
    from PIL import Image

    height, width = (max(1, round(side * _LARGEST / longer)) for side in pixels.shape[:2])
    shrunk = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(shrunk, dtype=np.uint8)


def _draw_tile(canvas: Canvas, tile: Tile, image: NDArray[np.uint8], room: tuple[int, int, int, int]) -> None:
    """Draw an image in the middle of its room (left, bottom, width, height), and its lines below the room."""
    left, bottom, width, height = room
    tall, wide = image.shape[:2]
    x, y = left + (width - wide) // 2, bottom + (height - tall) // 2
    edge = _FRAME if tile.marked else 1
    canvas.boxes([(x - edge, y - edge, wide + 2 * edge, tall + 2 * edge)], color=MARKED if tile.marked else _EDGE)
    canvas.image(image, x, y)
    for i, text in enumerate(tile.lines):
        line, px = fit(text, width + _FRAME, _SIZES)
        baseline = bottom - _FRAME - (i + 1) * _LINE + 2
        canvas.text(left + width / 2, baseline, line, px=px, ha="center", va="baseline", color=FAINT if i else INK)
