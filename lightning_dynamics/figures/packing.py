"""Places for tiles of very different sizes on one sheet, in their given order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LABEL = 18
"""Pixels above each tile for its name."""
GAP = 9
"""Pixels between a tile and the name of the one below it."""
_ASIDE = 22  # Pixels between columns.
_LARGEST_CELL = 16
_LEAST_BAND = 11  # Pixels: a vector is a band, not a thread.
_WIDEST = 0.485  # Of the room: two columns fit side by side, unless the cells of one need more.
_DEPTHS = (1.0, 1.1, 1.2, 1.3, 1.45, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0)


@dataclass(frozen=True)
class Tile:
    """Where a tile lies and how large its cells are.

    Args:
        left: pixels from the left edge of the room.
        top: pixels from the top edge of the room to the first row of cells.
        across: pixels per cell from left to right.
        down: pixels per cell from top to bottom.
        pooled: how many cells along both sides are averaged into one, for a tile too large to be shown whole.
    """

    left: int
    top: int
    across: int
    down: int
    pooled: int = 1


@lru_cache(maxsize=64)
def pack(
    shapes: tuple[tuple[int, int], ...], names: tuple[int, ...], width: int, height: int
) -> tuple[tuple[Tile, ...], int]:
    """Find the largest cells with which all tiles fit into ``width`` x ``height`` pixels.

    Tiles follow each other from top to bottom in columns, columns from left to right in shelves, so that the
    vectors of a layer lie below its matrix. Small tiles have larger cells: the side of a cell falls with the
    fourth root of their number, so the area of a tile grows with the square root of its number of cells.

    Args:
        shapes: rows and columns of each tile.
        names: width of each tile's name in pixels.
        width: of the room.
        height: of the room; more is taken only if cells of one pixel do not fit.

    Returns:
        The tiles' places, and the height that they take.
    """
    found: tuple[tuple[Tile, ...], int] | None = None
    size = 160.0
    while size > 0.5:
        cells = [_cell(rows, columns, size, width, height) for rows, columns in shapes]
        # A vector of few large cells must not be wider than the matrices, which have the detail.
        widest = max((w * cell[0] for (h, w), cell in zip(shapes, cells, strict=True) if h > 2), default=width)
        cells = [
            _cell(h, w, size, min(width, max(round(widest / _WIDEST), 200)), height) if h <= 2 else cell
            for (h, w), cell in zip(shapes, cells, strict=True)
        ]
        tallest = max(_height(shape, cell) for shape, cell in zip(shapes, cells, strict=True))
        trials = [_flow(shapes, names, cells, width, int(tallest * more)) for more in _DEPTHS]
        found = min(trials, key=lambda trial: trial[1])
        if found[1] <= height:
            break
        size *= 0.94
    assert found is not None
    return found


def _cell(rows: int, columns: int, size: float, width: int, height: int) -> tuple[int, int, int]:
    """Pixels per cell across and down, and how many cells are averaged."""
    side = size / (rows * columns) ** 0.25
    widest, highest = _WIDEST * width, 0.55 * height
    side = min(side, _LARGEST_CELL, max(widest / columns, 1.0), max(highest / rows, 1.0))
    pooled = 1
    while -(-columns // pooled) > width or -(-rows // pooled) > height:
        pooled += 1
    across = max(1, int(side))
    return across, max(across, _LEAST_BAND // rows), pooled


def _height(shape: tuple[int, int], cell: tuple[int, int, int]) -> int:
    """Pixels from top to bottom, with the name."""
    return LABEL + -(-shape[0] // cell[2]) * cell[1]


def _flow(
    shapes: Sequence[tuple[int, int]],
    names: Sequence[int],
    cells: Sequence[tuple[int, int, int]],
    width: int,
    depth: int,
) -> tuple[tuple[Tile, ...], int]:
    """Fill columns at most ``depth`` high (one tile may be higher) and shelves at most ``width`` wide."""
    columns: list[list[int]] = []
    filled = 0
    for i, (shape, cell) in enumerate(zip(shapes, cells, strict=True)):
        tall = _height(shape, cell)
        if columns and filled + GAP + tall <= depth:
            columns[-1].append(i)
            filled += GAP + tall
        else:
            columns.append([i])
            filled = tall

    places: dict[int, Tile] = {}
    left = top = shelf = 0
    for column in columns:
        wide = max(max(-(-shapes[i][1] // cells[i][2]) * cells[i][0], names[i]) for i in column)
        if left and left + wide > width:
            left, top, shelf = 0, top + shelf + 2 * GAP, 0
        y = top
        for i in column:
            across, down, pooled = cells[i]
            places[i] = Tile(left, y + LABEL, across, down, pooled)
            y += _height(shapes[i], cells[i]) + GAP
        shelf = max(shelf, y - GAP - top)
        left += wide + _ASIDE
    return tuple(places[i] for i in range(len(shapes))), top + shelf
