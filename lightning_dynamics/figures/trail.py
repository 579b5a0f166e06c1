"""What lies on a landscape: the path of a training, and named places whose names do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.canvas import INK, TEXT_PX, Canvas, text_width
from lightning_dynamics.figures.lettering import clean, wrap

Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""

_RIM, _LIGHT, _END, _MARK = "#1b2733", "white", "#e0341f", "#ffb000"
_PX = 16.0
_DOT_EVERY = 15.0  # Pixels: dots closer than this are one.
_RING = 15.0
_SAMPLE = 64
_ENDS = " (○ start, ● end)"
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def check_path(path: ArrayLike | None) -> NDArray[np.float64]:
    """Return ``(T, 2)`` floats, none for None; raise ValueError for another shape."""
    points = np.empty((0, 2)) if path is None or not len(np.atleast_1d(path)) else np.asarray(path, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"the path is (T, 2), got {points.shape}")
    return points


def draw_path(canvas: Canvas, line: NDArray[np.float64], stops: NDArray[np.float64], clip: Box) -> None:
    """Draw a path in white with a dark rim, which shows on any colour: hollow start, dots, filled end.

    Args:
        canvas: the sheet.
        line: ``(N, 2)`` pixels of the line; NaN leaves a gap.
        stops: ``(T, 2)`` pixels of the points that were measured.
        clip: the part of the sheet that shows it.
    """
    if not len(stops):
        return
    for colour, width in ((_RIM, 5.0), (_LIGHT, 2.4)):
        canvas.line(line[:, 0], line[:, 1], color=colour, width=width, clip=clip)
    dots = _thinned(stops)
    for colour, size in ((_RIM, 8.5), (_LIGHT, 5.5)):
        style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": size, "markeredgewidth": 0}
        canvas.line(dots[:, 0], dots[:, 1], color=colour, clip=clip, **style)
    known = _known(stops)
    if len(known):
        _draw_ends(canvas, known[0], known[-1], clip)


def draw_path_sample(canvas: Canvas, name: str, left: float, y: float, width: float) -> None:
    """Explain the path in a legend, from ``left`` over at most ``width`` pixels."""
    line = np.array([[left + 10, y], [left + _SAMPLE - 10, y]])
    everything = (0.0, 0.0, float(canvas.width), float(canvas.height))
    draw_path(canvas, line, line, everything)
    text = (wrap(name, width - _SAMPLE - 4 - text_width(_ENDS), 1, TEXT_PX) or [""])[0] + _ENDS
    canvas.text(left + _SAMPLE + 4, y, text)


def path_sample_width(name: str) -> float:
    """Pixels that the explanation takes."""
    return _SAMPLE + 4 + text_width(clean(name) + _ENDS)


def place_names(
    names: Sequence[str], places: NDArray[np.float64], frame: Box, avoid: NDArray[np.float64]
) -> list[tuple[str, Box]]:
    """Find room within ``frame`` for a name beside each place: off other names and places, and off ``avoid``.

    Args:
        names: one per place; cut if it is longer than half of the frame.
        places: ``(K, 2)`` pixels.
        frame: what no name may leave.
        avoid: ``(N, 2)`` pixels that names had better not cover.
    """
    left, bottom, right, top = frame
    found: list[tuple[str, Box]] = []
    for name, (x, y) in zip(names, places, strict=True):
        text = (wrap(name, (right - left) / 2, 1, _PX) or [""])[0]
        half_w, half_h = text_width(text, _PX) / 2 + 6, 0.72 * _PX
        best: tuple[float, Box] = (math.inf, frame)
        for away in (14, 30, 50, 75, 105, 140, 180, 230, 300):
            for across, up in _DIRECTIONS:
                centre_x = min(max(x + across * (away + half_w), left + half_w + 3), right - half_w - 3)
                centre_y = min(max(y + up * (away + half_h), bottom + half_h + 3), top - half_h - 3)
                box = centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h
                covered = 1e6 * sum(_overlap(box, other, 3) for _, other in found)
                covered += 1e4 * _inside(places, box, 10)
                cost = covered + 3 * min(_inside(avoid, box, 6), 30) + away / 5
                if cost < best[0] - 1e-9:
                    best = cost, box
        found.append((text, best[1]))
    return found


def draw_marks(
    canvas: Canvas,
    places: NDArray[np.float64],
    labels: Sequence[tuple[str, Box]],
    frame: Box,
    stops: NDArray[np.float64],
) -> None:
    """Draw a diamond at each place, a triangle at the edge for one outside, and its name in the box found for it.

    A place where the path (``stops``) starts or ends keeps the sign that the path has there.
    """
    ends = _known(stops)[[0, -1]] if len(_known(stops)) else np.empty((0, 2))
    left, bottom, right, top = frame
    for (x, y), (_, box) in zip(places, labels, strict=True):
        near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
        if math.dist(near, (x, y)) > 20:
            for colour, width in ((_LIGHT, 3.0), (_RIM, 1.2)):
                canvas.line([x, near[0]], [y, near[1]], color=colour, width=width)
    for x, y in places:
        if any(math.dist(end, (x, y)) < 8 for end in ends):
            continue
        sides = {"<": x <= left + 1, ">": x >= right - 1, "v": y <= bottom + 1, "^": y >= top - 1}
        shape = next((marker for marker, beyond in sides.items() if beyond), "D")
        for colour, size in ((_LIGHT, 14.0), (_RIM, 11.0), (_MARK, 7.5)):
            style: dict[str, Any] = {"linestyle": "none", "marker": shape, "markersize": size, "markeredgewidth": 0}
            canvas.line([x], [y], color=colour, **style)
    for text, (low_x, low_y, high_x, high_y) in labels:
        if text:
            canvas.boxes([(low_x, low_y, high_x - low_x, high_y - low_y)], color="#ffffffe6")
            canvas.box((low_x, low_y), high_x - low_x, high_y - low_y, color="#9aa5b1", line=0.8)
            canvas.text((low_x + high_x) / 2, (low_y + high_y) / 2, text, px=_PX, ha="center", color=INK)


def held(places: NDArray[np.float64], frame: Box) -> NDArray[np.float64]:
    """Places, those outside of the frame moved to its edge."""
    return np.clip(places, frame[:2], frame[2:])


def _draw_ends(canvas: Canvas, first: NDArray[np.float64], last: NDArray[np.float64], clip: Box) -> None:
    """Draw the hollow start and, over it, the filled end."""
    for place, rings in (
        (first, ((_RIM, _RING), (_LIGHT, _RING - 4))),
        (last, ((_RIM, _RING + 2), (_LIGHT, _RING), (_END, _RING - 5))),
    ):
        for colour, size in rings:
            style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": size, "markeredgewidth": 0}
            canvas.line(place[:1], place[1:], color=colour, clip=clip, **style)


def _known(stops: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stops that are somewhere."""
    return stops[np.isfinite(stops).all(axis=1)]


def _thinned(stops: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out stops that are too close to the last one kept."""
    kept: list[NDArray[np.float64]] = []
    for stop in _known(stops):
        if not kept or math.dist(kept[-1], stop) >= _DOT_EVERY:
            kept.append(stop)
    return np.array(kept).reshape(-1, 2)


def _overlap(box: Box, other: Box, gap: float) -> bool:
    """Tell whether two boxes come closer than ``gap``."""
    return box[0] < other[2] + gap and other[0] < box[2] + gap and box[1] < other[3] + gap and other[1] < box[3] + gap


def _inside(points: NDArray[np.float64], box: Box, gap: float) -> int:
    """Count points that are in a box or closer to it than ``gap``."""
    if not len(points):
        return 0
    low, high = np.array(box[:2]) - gap, np.array(box[2:]) + gap
    return int(((points > low) & (points < high)).all(axis=1).sum())
