"""One dot per example: an interactive scatter plot."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures.pages.document import document, text_of
from lightning_dynamics.figures.scale import ColourScale
from lightning_dynamics.panels.encode import png

Value: TypeAlias = float | int | str | None
Column: TypeAlias = Sequence[Value] | NDArray[Any]

SCATTER_HEIGHT = 640
"""The height, in pixels, that a frame around the page should have (``Page.height``)."""

_HERE = __name__.rpartition(".")[0]
_TEXT = 300  # characters of one text that are kept: a column of long texts must not make the page heavy
_DIGITS = 7  # of numbers: as many as float32 has
_COLOURS = 64
_SHARES = (0.0, 0.82)  # of plasma, as in the still scatter plot: its yellow is too faint on white
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)
_GOLDEN = (math.sqrt(5) - 1) / 2


def scatter_page(
    columns: Mapping[str, Column],
    *,
    x: str,
    y: str,
    colour: str,
    axes: Sequence[str],
    group: str | None = None,
    images: Mapping[int, NDArray[np.uint8]] | None = None,
    title: str,
    footer: str,
    max_points: int = 5000,
) -> str:
    """Write a scatter plot in which every dot tells what it is, as an HTML document without network.

    The reader chooses columns for both axes and the colour, filters by a group, and points at a dot (or taps it) to
    read all its columns and see its thumbnail; a click pins that. A row without a number (None, NaN, infinite)
    in one of the three chosen columns is not drawn; the page counts such rows.

    Args:
        columns: by name, one value per example, all of one length N. Texts are cut at 300 characters.
        x: the column along the horizontal axis at first.
        y: the column along the vertical axis at first.
        colour: the column that colours the dots at first.
        axes: the numeric columns that the reader may choose for the axes and the colour; the three above are
            among them.
        group: a column to filter by, like the label.
        images: by row number, ``(h, w, 3)`` uint8 thumbnails. They go into the page as they are: make them small
            (64 pixels are plenty).
        title: above the plot.
        footer: below the plot: the data, epoch and step, caveats.
        max_points: of more examples the page holds so many: those with a thumbnail and an even choice of the rest.

    Returns:
        The document. A frame of :data:`SCATTER_HEIGHT` pixels suits it.

    Raises:
        ValueError: if a column is missing, ragged or (for an axis) not numeric; if an image is not what it should be
            or belongs to no row; if ``max_points`` leaves no room for the examples with an image.
    """
    lists = {name: values.tolist() if hasattr(values, "tolist") else list(values) for name, values in columns.items()}
    total = _check_columns(lists)
    axes = list(dict.fromkeys(axes))
    _check_names(lists, axes, {"x": x, "y": y, "colour": colour}, group)
    images = dict(images or {})
    _check_images(images, total)
    rows = choose_rows(total, max_points, images)
    names = list(lists)
    content = {
        "columns": [{"name": name, "values": [_plain(lists[name][row]) for row in rows]} for name in names],
        "x": names.index(x),
        "y": names.index(y),
        "colour": names.index(colour),
        "axes": [names.index(name) for name in axes],
        "group": None if group is None else names.index(group),
        "images": [[i, *_thumbnail(images[row])] for i, row in enumerate(rows) if row in images],
        "total": total,
        "colours": _colours(),
    }
    return document(
        _HERE,
        title=title,
        footer=footer,
        style=[text_of(_HERE, "scatter.css")],
        scripts=[text_of(_HERE, "scatter.js")],
        template="scatter.html.j2",
        content=content,
    )


def choose_rows(total: int, most: int, always: Collection[int] = ()) -> list[int]:
    """At most ``most`` of ``total`` rows, rising: those in ``always``, and an even choice of the others.

    One row is taken from each of equally long stretches, at a place that varies from stretch to stretch: with a
    fixed stride, every tenth example of a data set that is sorted in turns would be of one class.

    Raises:
        ValueError: if there is no room for ``always``, or for anything.
    """
    if most < max(1, len(always)):
        raise ValueError(f"max_points={most}: at least 1, and no fewer than there are images ({len(always)})")
    if total <= most:
        return list(range(total))
    others = np.setdiff1d(np.arange(total), np.fromiter(always, dtype=np.int64, count=len(always)))
    stretch = np.arange(most - len(always), dtype=np.int64)
    first, end = (edge * len(others) // max(1, len(stretch)) for edge in (stretch, stretch + 1))
    place = first + ((end - first) * (stretch * _GOLDEN % 1.0)).astype(np.int64)
    return sorted([*map(int, always), *others[place].tolist()])


def _plain(value: Any) -> Value:
    """A value as JSON can say it: what is not a finite number or a text becomes None."""
    value = value.item() if isinstance(value, np.generic) else value
    match value:
        case None:
            return None
        case bool():
            return int(value)
        case int() if abs(value) < 2**53:  # what JavaScript counts exactly
            return value
        case int() | float():
            try:
                return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
            except OverflowError:
                return None
    text = str(value)
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _check_columns(columns: Mapping[str, Sequence[Any]]) -> int:
    """The number of examples."""
    lengths = {name: len(values) for name, values in columns.items()}
    if not any(lengths.values()):
        raise ValueError("a scatter plot needs at least one column with at least one value")
    (first, total), *others = lengths.items()
    for name, length in others:
        if length != total:
            raise ValueError(f"all columns must be of one length: {first!r} has {total} values, {name!r} has {length}")
    return total


def _check_names(
    columns: Mapping[str, Sequence[Any]], axes: Sequence[str], shown: Mapping[str, str], group: str | None
) -> None:
    named = [*shown.items(), *(("axes", name) for name in axes), *([] if group is None else [("group", group)])]
    for role, name in named:
        if name not in columns:
            raise ValueError(f"{role}: there is no column {name!r}; there are {list(columns)}")
    for role, name in shown.items():
        if name not in axes:
            raise ValueError(f"{role}: {name!r} is not among the axes {list(axes)}")
    for name in axes:
        for row, value in enumerate(columns[name]):
            if not (value is None or isinstance(value, _NUMBERS)):
                raise ValueError(f"axes: column {name!r} must hold numbers, row {row} is {value!r}")


def _check_images(images: Mapping[int, NDArray[np.uint8]], total: int) -> None:
    for row, image in images.items():
        if not 0 <= row < total:
            raise ValueError(f"images: there is no row {row}, the columns have {total}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"images: that of row {row} must be (h, w, 3) uint8, got {image.shape} {image.dtype}")


def _thumbnail(image: NDArray[np.uint8]) -> tuple[int, int, str]:
    """Width, height and PNG."""
    height, width, _ = image.shape
    return width, height, base64.b64encode(png(image)).decode()


def _colours() -> list[str]:
    scale = ColourScale(0.0, 1.0, "plasma", "")
    return [f"#{bytes(colour).hex()}" for colour in scale.colours(np.linspace(*_SHARES, _COLOURS))]
