"""Legends: which line, area or mark is what, set in rows above a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_dynamics.figures.canvas import INK, Canvas, text_width

ROW = 30
"""Height of one row of entries, in pixels."""
_SWATCH = 44
# Okabe and Ito's colours for all kinds of colour vision, the yellow (too faint on white) left out.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)


@dataclass(frozen=True)
class Entry:
    """One entry of a legend.

    Args:
        text: the name, short enough for one row.
        colour: of the sample.
        kind: what the sample looks like; ``"none"`` is a text alone.
    """

    text: str
    colour: str = INK
    kind: Literal["line", "solid", "dashed", "dotted", "box", "tick", "none"] = "line"


def series_colours(count: int, *, ink: bool = True) -> list[str]:
    """Colours for ``count`` series: distinct ones for a few, one colour map from first to last for many.

    Args:
        count: how many.
        ink: whether the colour of the ink itself may be among them.
    """
    palette = _COLOURS if ink else _COLOURS[:-1]
    if count <= len(palette):
        return list(palette[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.92 * i / (count - 1))) for i in range(count)]


def checked_colours(count: int, names: Sequence[str], colours: Sequence[str] | None) -> list[str]:
    """Give each of ``count`` series its colour, by default one of ours; raise ValueError unless all have a name."""
    if not count or len(names) != count or (colours is not None and len(colours) != count):
        raise ValueError(f"there are {count} series, but {len(names)} names and {colours and len(colours)} colours")
    return list(colours or series_colours(count))


def legend_rows(texts: Sequence[str], width: float) -> int:
    """Rows that entries with these texts need."""
    places = _places(texts, width)
    return places[-1][1] + 1 if places else 0


def legend_height(rows: int) -> int:
    """Pixels that so many rows take."""
    return rows * ROW + 6 if rows else 0


def draw_legend(canvas: Canvas, entries: Sequence[Entry], left: float, top: float, width: float) -> None:
    """Draw the entries one after the other, wrapped at ``width``."""
    for (offset, row), entry in zip(_places([entry.text for entry in entries], width), entries, strict=True):
        x, y = left + offset, top - (row + 0.5) * ROW
        if entry.kind == "box":
            canvas.boxes([(x + 4, y - 9, 26, 18)], color=entry.colour)
            canvas.box((x + 4, y - 9), 26, 18, color="#999999")
        elif entry.kind == "tick":
            canvas.lines([[(x + 15, y - 9), (x + 15, y + 9)]], color=entry.colour, width=2.5)
        elif entry.kind == "line":
            canvas.line([x, x + 30], [y, y], color=entry.colour, width=2.5)
        elif entry.kind != "none":
            style = {"solid": "-", "dashed": (0, (2.2, 1.6)), "dotted": (0, (1, 1))}[entry.kind]
            canvas.line([x, x + 32], [y, y], color=entry.colour, width=4, linestyle=style, dash_capstyle="butt")
        canvas.text(x + (0 if entry.kind == "none" else _SWATCH), y, entry.text)


def capped(texts: Sequence[str], importance: Sequence[float], width: float, rows: int) -> list[int]:
    """Choose the entries for which ``rows`` rows suffice together with a last one "+ n more".

    Args:
        texts: one per entry.
        importance: one per entry; the most important ones stay.
        width: of a row, in pixels.
        rows: how many there may be.

    Returns:
        The indices that stay, in the order given; all of them if they fit.
    """
    if legend_rows(texts, width) <= rows:
        return list(range(len(texts)))
    ranked = sorted(range(len(texts)), key=lambda i: -importance[i])
    fits, too_many = 0, len(texts)
    while too_many - fits > 1:
        count = (fits + too_many) // 2
        chosen = [texts[i] for i in sorted(ranked[:count])]
        enough = legend_rows([*chosen, more_text(len(texts))], width) <= rows
        fits, too_many = (count, too_many) if enough else (fits, count)
    return sorted(ranked[:fits])


def more_text(count: int) -> str:
    """Say that so many entries are not shown."""
    return f"+ {count} more"


def _places(texts: Sequence[str], width: float) -> list[tuple[float, int]]:
    """Offset and row of each entry, set one after the other and wrapped at ``width``."""
    places: list[tuple[float, int]] = []
    x, row = 0.0, 0
    for text in texts:
        needed = _SWATCH + text_width(text)
        if x and x + needed > width:
            x, row = 0.0, row + 1
        places.append((x, row))
        x += needed + 32
    return places
