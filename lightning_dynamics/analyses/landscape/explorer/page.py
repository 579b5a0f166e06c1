"""Loss landscapes to explore: checks them and writes the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_dynamics.figures.pages.document import plain_numbers, plotly_page

EXPLORER_HEIGHT = 780
"""The height, in pixels, that a frame around the page should have (``Page.height``)."""

_HERE = __name__.rpartition(".")[0]
_SCRIPTS = ("interpolate.js", "descent.js", "view.js", "explorer.js")  # they share one scope, in this order
# From deep blue over teal and sand to white. The lightness (Oklab L) rises evenly, so that equal steps look equal and
# the map survives colour blindness and grey printing; the lowest is still lighter than the dark page.
_COLOURS = (
    "#1f2f6f", "#1b4581", "#155c91", "#1b739b", "#308a9f", "#4f9f9f", "#75b29f",
    "#9ac3a1", "#bed2a7", "#dddfb4", "#f0e6c2", "#faf3de",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Surface:
    """One landscape, at one moment of the training.

    Args:
        label: which moment, e.g. ``"epoch 3, step 120"``.
        xs: ``(X,)`` coordinates in the plane, rising.
        ys: ``(Y,)`` likewise.
        values: by name, ``(Y, X)``; ``"loss"`` always, others as there are (``"accuracy"``, ``"val/loss"``). What is
            not finite is drawn as a hole.
        path: ``(T, 2)`` trajectory of the training, projected on the plane, in the order of time.
        path_values: by name (of those in ``values``; some may lack), ``(T,)``: the slice's values at these points.
        path_notes: by name, ``(T,)``: further numbers that a reader finds when pointing at one, e.g. the step, the
            true loss, the distance from the plane.
        marks: named points: name, x, y.
    """

    label: str
    xs: ArrayLike
    ys: ArrayLike
    values: Mapping[str, ArrayLike]
    path: ArrayLike | None = None
    path_values: Mapping[str, ArrayLike] = field(default_factory=dict)
    path_notes: Mapping[str, ArrayLike] = field(default_factory=dict)
    marks: Sequence[tuple[str, float, float]] = ()


def explorer_page(surfaces: Sequence[Surface], *, title: str, footer: str, x_title: str, y_title: str) -> str:
    """Write the explorer of one or more landscapes as an HTML document without network.

    The reader turns the surface, points at it to read all values, chooses the quantity, its height and where huge
    values are cut off, goes through the moments in one common colour and height scale, and clicks the surface to let
    a ball roll down by gradient descent on the slice. The page holds plotly's script: about 5 MB.

    Args:
        surfaces: in the order of time.
        title: above the picture.
        footer: below: the data, what the plane is, caveats.
        x_title: what the horizontal coordinate is.
        y_title: what the other is.

    Returns:
        The document. A frame of :data:`EXPLORER_HEIGHT` pixels suits it.

    Raises:
        ValueError: if there is no surface, or one has no loss, coordinates that do not rise, or shapes that do not fit.
    """
    if not surfaces:
        raise ValueError("an explorer needs at least one surface")
    content = {
        "surfaces": [_surface(surface) for surface in surfaces],
        "title": title,
        "xTitle": x_title,
        "yTitle": y_title,
        "colours": _COLOURS,
    }
    return plotly_page(_HERE, title=title, footer=footer, scripts=_SCRIPTS, content=content)


def _surface(surface: Surface) -> dict[str, Any]:
    """A surface as JSON can say it. Names go into lists of pairs: as an object's keys, some would mean something."""
    where = f"surface {surface.label!r}"
    xs, ys = (_coordinates(getattr(surface, name), f"{where}: {name}") for name in ("xs", "ys"))
    if "loss" not in surface.values:
        raise ValueError(f"{where}: values must hold 'loss', got {list(surface.values)}")
    values = [
        (name, _numbers(array, (len(ys), len(xs)), f"{where}: values[{name!r}]", "(len(ys), len(xs))").ravel())
        for name, array in surface.values.items()
    ]
    path = np.empty((0, 2)) if surface.path is None else np.asarray(surface.path, dtype=np.float64)
    if path.ndim != 2 or path.shape[1] != 2:
        raise ValueError(f"{where}: path must be (T, 2), got {path.shape}")
    if unknown := [name for name in surface.path_values if name not in surface.values]:
        raise ValueError(f"{where}: path_values has {unknown}, which values has not: {list(surface.values)}")
    along = [
        [
            (
                name,
                plain_numbers(_numbers(array, (len(path),), f"{where}: {role}[{name!r}]", "(T,), the path's length")),
            )
            for name, array in named.items()
        ]
        for role, named in (("path_values", surface.path_values), ("path_notes", surface.path_notes))
    ]
    for name, x, y in surface.marks:
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"{where}: the mark {name!r} must stand at finite numbers, got ({x}, {y})")
    return {
        "label": surface.label,
        "xs": plain_numbers(xs, digits=17),  # exactly: rounded ones might no longer rise
        "ys": plain_numbers(ys, digits=17),
        "values": [(name, plain_numbers(array)) for name, array in values],
        "path": plain_numbers(path),
        "pathValues": along[0],
        "pathNotes": along[1],
        "marks": [(name, float(x), float(y)) for name, x, y in surface.marks],
    }


def _coordinates(values: ArrayLike, what: str) -> np.ndarray[Any, Any]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{what} must be a list of at least 2 numbers, got shape {array.shape}")
    if not (np.isfinite(array).all() and (np.diff(array) > 0).all()):
        raise ValueError(f"{what} must be finite and rise, got {array.tolist()}")
    return array


def _numbers(values: ArrayLike, shape: tuple[int, ...], what: str, meaning: str) -> np.ndarray[Any, Any]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{what} must have shape {shape} = {meaning}, got {array.shape}")
    return array
