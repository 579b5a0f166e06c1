"""Fitting words into a given space: shortened names, wrapped lines, labels along an axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_dynamics.figures.canvas import FAINT, PAD, TEXT_PX, TITLE_PX, Canvas, text_width

MAX_CHARACTERS = 28
"""Longer names are shortened in the middle."""
MAX_LABELS = 150
"""More labels than this on one axis are thinned out evenly."""
_LINE = 25  # Height of one line of the footer, in pixels.
_FOOTER_CHARACTERS = 230  # What the footer holds at its full letter size.


@dataclass(frozen=True)
class AxisLabels:
    """The labels that fit along one axis.

    Args:
        at: index of the cell of each shown label.
        texts: what is written there.
        px: letter size in pixels.
        flat: whether they fit side by side without being turned.
        extent: the widest of them, in pixels.
    """

    at: tuple[int, ...]
    texts: tuple[str, ...]
    px: float
    flat: bool
    extent: int


def axis_labels(labels: Sequence[str], pitch: float) -> AxisLabels:
    """Choose letter size and which labels to show for cells ``pitch`` pixels apart."""
    step = max(math.ceil(len(labels) / MAX_LABELS), math.ceil(10 / pitch))
    at = tuple(range(0, len(labels), step))
    px = min(TEXT_PX, 0.84 * pitch * step)
    texts = tuple(shorten([labels[i] for i in at]))
    extent = math.ceil(max(text_width(text, px) for text in texts))
    return AxisLabels(at, texts, px, flat=extent + px <= pitch * step, extent=extent)


def draw_x_labels(canvas: Canvas, labels: AxisLabels, left: float, top: float, pitch: float) -> int:
    """Write the labels below ``top``, with their ticks; return the height they take."""
    draw_x_ticks(canvas, labels, left, top, pitch)
    draw_x_texts(canvas, labels, left, top, pitch)
    return x_labels_height(labels)


def draw_x_ticks(canvas: Canvas, labels: AxisLabels, left: float, top: float, pitch: float) -> None:
    """Draw a short line from ``top`` downwards at each label."""
    canvas.lines([[(x, top), (x, top - 5)] for x in (left + (i + 0.5) * pitch for i in labels.at)], color=FAINT)


def draw_x_texts(canvas: Canvas, labels: AxisLabels, left: float, top: float, pitch: float) -> None:
    """Write the labels below ``top``, without their ticks."""
    for i, text in zip(labels.at, labels.texts, strict=True):
        x = left + (i + 0.5) * pitch
        if labels.flat:
            canvas.text(x, top - 10 - labels.px, text, px=labels.px, ha="center", va="baseline")
        else:
            canvas.text(x, top - 10, text, px=labels.px, ha="right", vertical=True)


def draw_y_labels(canvas: Canvas, labels: AxisLabels, right: float, first: float, pitch: float) -> None:
    """Write the labels left of ``right``, upwards from the edge ``first`` (downwards if ``pitch`` < 0)."""
    draw_y_ticks(canvas, labels, right, first, pitch)
    draw_y_texts(canvas, labels, right, first, pitch)


def draw_y_ticks(canvas: Canvas, labels: AxisLabels, right: float, first: float, pitch: float) -> None:
    """Draw a short line from ``right`` to the left at each label."""
    canvas.lines([[(right - 5, y), (right, y)] for y in (first + (i + 0.5) * pitch for i in labels.at)], color=FAINT)


def draw_y_texts(canvas: Canvas, labels: AxisLabels, right: float, first: float, pitch: float) -> None:
    """Write the labels left of ``right``, without their ticks."""
    for i, text in zip(labels.at, labels.texts, strict=True):
        canvas.text(right - 10, first + (i + 0.5) * pitch, text, px=labels.px, ha="right")


def x_labels_height(labels: AxisLabels) -> int:
    """Height that :func:`draw_x_labels` takes, in pixels."""
    return 14 + (math.ceil(1.2 * labels.px) if labels.flat else labels.extent)


def footer_lines(width: int) -> int:
    """Lines reserved for the footer of an image ``width`` pixels wide, whatever the footer says."""
    return max(2, math.ceil(_FOOTER_CHARACTERS * 0.56 * TEXT_PX / (width - 2 * PAD)))


def title_height() -> int:
    """Height of the strip that holds the title, in pixels."""
    return PAD + round(TITLE_PX) + 22


def footer_height(width: int) -> int:
    """Height of the strip that holds the footer, in pixels."""
    return 20 + footer_lines(width) * _LINE + PAD - 8


def draw_title_and_footer(canvas: Canvas, title: str, footer: str) -> None:
    """Write the title on one line and the footer on the lines reserved for it, smaller if need be."""
    room = canvas.width - 2 * PAD
    line, px = fit(title, room, (TITLE_PX, 22.0, 19.0, 17.0), bold=True)
    canvas.text(PAD, canvas.height - PAD - TITLE_PX, line, px=px, bold=True, va="baseline")

    count = footer_lines(canvas.width)
    for px in (TEXT_PX, 17.0, 15.0, 13.0):
        # A smaller letter also needs less height: as many lines as fit into the same strip.
        lines = wrap(footer, room, int(count * TEXT_PX / px), px)
        if not lines or not lines[-1].endswith("…") or footer.rstrip().endswith("…"):
            break
    for i, line in enumerate(lines):
        y = footer_height(canvas.width) - 20 - (i + 0.75) * _LINE * px / TEXT_PX
        canvas.text(PAD, y, line, px=px, color=FAINT, va="baseline")


def fit(
    text: str, width: float, sizes: Sequence[float] = (TEXT_PX, 17.0, 15.0, 13.0), *, bold: bool = False
) -> tuple[str, float]:
    """Set ``text`` on one line in the largest of the letter sizes that fits; return the line and the size."""
    text = clean(text, width, sizes[-1])
    px = next((px for px in sizes if text_width(text, px, bold) <= width), sizes[-1])
    return (wrap(text, width, 1, px, bold=bold) or [""])[0], px


def wrap(text: str, width: float, max_lines: int, px: float, *, bold: bool = False) -> list[str]:
    """Break ``text`` into at most ``max_lines`` lines of ``width`` pixels; what does not fit becomes "…"."""
    lines: list[str] = []
    line = ""
    for word in clean(text, max_lines * width, px).split():
        joined = f"{line} {word}" if line else word
        if text_width(joined, px, bold) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while text_width(word, px, bold) > width:  # One word longer than a line: cut it anywhere.
            cut = _fitting_prefix(word, width, px, bold)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    if line:
        lines.append(line)
    if len(lines) > max_lines:
        rest = " ".join(lines[max_lines - 1 :])
        room = width - text_width("…", px, bold)
        lines = [*lines[: max_lines - 1], rest[: _fitting_prefix(rest, room, px, bold)].rstrip() + "…"]
    return lines


def _fitting_prefix(text: str, width: float, px: float, bold: bool) -> int:
    """Count the leading characters that fit into ``width``, at least one."""
    low, high = 1, max(1, len(text))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle], px, bold) <= width else (low, middle - 1)
    return low


def clean(text: str, width: float = math.inf, px: float = 1.0) -> str:
    """Put one space for what has no place on a line: line breaks, control characters, lone surrogates.

    A text that cannot possibly fit into ``width`` pixels is cut somewhere beyond, for measuring takes time.
    """
    if math.isfinite(width):
        text = text[: int(5 * width / px) + 5]  # No letter is narrower than a fifth of its height.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shorten(names: Sequence[str], limit: int = MAX_CHARACTERS) -> list[str]:
    """Shorten long names in the middle so that no two different names look the same.

    A shortened name ``head…tail`` is chosen such that no other name given begins with that head and ends with
    that tail. Whole dot-separated parts are dropped where possible: ``encoder…attention``.

    Args:
        names: the names of all layers shown together.
        limit: characters a name may have.

    Returns:
        One label per name, in order, each at most ``limit`` characters.
    """
    names = [clean(name) for name in names]
    distinct = set(names)
    chosen: dict[str, str] = {}
    for index, name in enumerate(names):
        if name in chosen:
            continue
        if len(name) <= limit:
            chosen[name] = name
            continue
        for head, tail in _cuts(name, limit):
            others = (other for other in distinct if other != name and len(other) >= len(head) + len(tail))
            if not any(other.startswith(head) and other.endswith(tail) for other in others):
                chosen[name] = f"{head}…{tail}"
                break
        else:  # Alike at both ends: the place in the list tells them apart.
            number = f"[{index}] …"
            chosen[name] = number + name[len(number) - limit :]
    return [chosen[name] for name in names]


def _cuts(name: str, limit: int) -> Iterator[tuple[str, str]]:
    """Give heads and tails to keep, best first: cuts at dots, then at the start of a word, then anywhere.

    The end of a name says most about the layer; one that keeps its beginning too is easier to find.
    """
    dots = [i for i, character in enumerate(name) if character == "."]
    cuts = [(name[:i], name[j + 1 :]) for i in dots for j in dots if i < j]
    cuts.sort(key=lambda cut: (len(cut[0]) + len(cut[1]), len(cut[1])), reverse=True)
    words = [i for i in range(1, len(name)) if name[i] == "_" or name[i - 1] == "."]
    cuts += [("", name[i:]) for i in words]
    cuts += [(name[:i], "") for i in reversed(words)]
    yield from ((head, tail) for head, tail in cuts if len(head) + len(tail) < limit)
    kept = limit - 1
    for length in sorted(range(kept + 1), key=lambda length: abs(length - kept // 3)):
        yield name[:length], name[len(name) - (kept - length) :]
