"""The box around a surface: its back walls with a grid, and numbers and titles along three edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import tick_texts
from lightning_dynamics.figures.canvas import FAINT, INK, Canvas, text_width
from lightning_dynamics.figures.lettering import fit
from lightning_dynamics.figures.raycast import View
from lightning_dynamics.figures.relief import HeightScale, Relief
from lightning_dynamics.figures.scale import tick_values

Place: TypeAlias = tuple[float, float, float]

TALL = 0.62
"""Height of the box; both sides of its ground together are 2."""
_WALL, _FLOOR, _GRID, _EDGE = "#f4f6f8", "#eceff3", "#d3d9df", "#9aa5b1"
_PX = 16.0
_LEFT, _RIGHT, _BELOW = 124, 76, 80  # Pixels for numbers and titles.


class Room:
    """Where numbers are in a box seen from a side.

    Args:
        land: the coordinates and limits of the box.
        half: half of the length of its ground along x and along y.
        view: from where it is seen.
        frame: the part of the sheet that it fills with its numbers.
        scale: the round heights.
    """

    def __init__(
        self, land: Relief, half: tuple[float, float], view: View, frame: tuple[int, int, int, int], scale: HeightScale
    ) -> None:
        """Make the box as large as fits."""
        self.land, self.half, self.frame = land, half, frame
        corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)]) * [*half, TALL]
        flat = view(corners)
        low, high = flat.min(axis=0), flat.max(axis=0)
        left, bottom, right, top = frame
        room = right - left - _LEFT - _RIGHT, top - bottom - _BELOW - 12
        size = min(room[0] / (high[0] - low[0]), room[1] / (high[1] - low[1]))
        x = (left + _LEFT + right - _RIGHT) / 2 - size * (low[0] + high[0]) / 2
        y = (bottom + _BELOW + top - 12) / 2 - size * (low[1] + high[1]) / 2
        self.view = replace(view, scale=float(size), x=float(x), y=float(y))
        # The sides of the ground that are in front: -1 or 1 along x and along y.
        self.front = tuple(-1 if self.view.ahead[i] > 0 else 1 for i in (0, 1))
        self._xs, self._ys = tick_values(*land.xs[[0, -1]]), tick_values(*land.ys[[0, -1]])
        self._zs, self._z_texts = scale.ticks(5), scale.texts(scale.ticks(5))
        ticks = np.zeros((max(len(self._xs), len(self._ys)), 2))
        ticks[: len(self._xs), 0], ticks[: len(self._ys), 1] = self._xs, self._ys
        self._on_ground = self.ground(ticks)

    def ground(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places on the ground of ``(K, 2)`` coordinates."""
        low = np.array([self.land.xs[0], self.land.ys[0]])
        high = np.array([self.land.xs[-1], self.land.ys[-1]])
        return np.asarray((2 * (points - low) / (high - low) - 1) * np.array(self.half))

    def up(self, heights: ArrayLike) -> NDArray[np.float64]:
        """Places of heights above the ground."""
        low, high = self.land.limits
        return (np.asarray(heights, dtype=np.float64) - low) / (high - low) * TALL

    def draw_back(self, canvas: Canvas) -> None:
        """Draw the floor and the two walls behind with their grid."""
        a, b = self.half
        back_x, back_y = -self.front[0] * a, -self.front[1] * b
        faces = (
            (_FLOOR, [(-a, -b, 0), (a, -b, 0), (a, b, 0), (-a, b, 0)]),
            (_WALL, [(back_x, -b, 0), (back_x, b, 0), (back_x, b, TALL), (back_x, -b, TALL)]),
            (_WALL, [(-a, back_y, 0), (a, back_y, 0), (a, back_y, TALL), (-a, back_y, TALL)]),
        )
        for colour, face in faces:
            canvas.areas([self._flat(face)], color=colour)
        xs, ys, zs = self._ticks()
        lines = [[(x, -b, 0), (x, b, 0)] for x in xs] + [[(x, back_y, 0), (x, back_y, TALL)] for x in xs]
        lines += [[(-a, y, 0), (a, y, 0)] for y in ys] + [[(back_x, y, 0), (back_x, y, TALL)] for y in ys]
        lines += [[(-a, back_y, z), (a, back_y, z)] for z in zs] + [[(back_x, -b, z), (back_x, b, z)] for z in zs]
        canvas.lines([self._flat(line) for line in lines], color=_GRID)
        canvas.lines([self._flat([*face, face[0]]) for _, face in faces], color=_EDGE)

    def draw_numbers(self, canvas: Canvas, titles: tuple[str, str, str]) -> None:
        """Draw marks, numbers and titles along the two edges in front and the upright one on the left."""
        a, b = self.half
        front_x, front_y = self.front[0] * a, self.front[1] * b
        xs, ys, zs = self._ticks()
        # The upright edge that is farthest to the left.
        corners = [(x, y) for x in (-a, a) for y in (-b, b)]
        left, y = min(corners, key=lambda corner: float(np.array(corner) @ self.view.right))
        edges: tuple[tuple[list[Place], list[Place], list[str]], ...] = (
            ([(-a, front_y, 0), (a, front_y, 0)], [(x, front_y, 0) for x in xs], tick_texts(self._xs)),
            ([(front_x, -b, 0), (front_x, b, 0)], [(front_x, y, 0) for y in ys], tick_texts(self._ys)),
            ([(left, y, 0), (left, y, TALL)], [(left, y, z) for z in zs], self._z_texts),
        )
        for (edge, ticks, texts), title in zip(edges, titles, strict=True):
            self._edge(canvas, edge, ticks, texts, title)

    def _edge(
        self,
        canvas: Canvas,
        edge: Sequence[Place],
        ticks: Sequence[Place],
        texts: Sequence[str],
        title: str,
    ) -> None:
        """Draw one edge with its marks and numbers on the outer side, and its title along it."""
        start, end = np.array(self._flat(edge))
        canvas.lines([[tuple(start), tuple(end)]], color=_EDGE, width=1.4)
        way = (end - start) / max(float(np.hypot(*(end - start))), 1e-9)
        out = np.array([way[1], -way[0]])
        centre = self.view(np.array([0.0, 0.0, TALL / 2]))
        out = out if out @ ((start + end) / 2 - centre) > 0 else -out
        deepest = 0.0
        for text, place in zip(texts, np.array(self._flat(ticks)), strict=True):
            canvas.lines([[tuple(place), tuple(place + 6 * out)]], color=FAINT)
            text, px = fit(text, _LEFT - 44, (_PX, 14.0, 12.0))
            half = np.array([text_width(text, px) / 2, 0.5 * px])
            reach = 11 + float(np.abs(out) @ half)
            x, y = place + reach * out
            canvas.text(float(x), float(y), text, px=px, ha="center", color=FAINT)
            deepest = max(deepest, 11 + 2 * float(np.abs(out) @ half))
        if title:
            line, px = fit(title, max(float(np.hypot(*(end - start))), 200.0))
            angle = float(np.degrees(np.arctan2(way[1], way[0])))
            angle = (angle + 89.9) % 180 - 89.9
            x, y = (start + end) / 2 + (deepest + 18) * out
            canvas.text(float(x), float(y), line, px=px, ha="center", color=INK, angle=angle)

    def _ticks(self) -> tuple[list[float], list[float], list[float]]:
        """Places of the round numbers along the three axes."""
        xs, ys = self._on_ground[: len(self._xs), 0], self._on_ground[: len(self._ys), 1]
        return xs.tolist(), ys.tolist(), self.up(self._zs).tolist()

    def _flat(self, points: ArrayLike) -> list[tuple[float, float]]:
        """Pixels of places in the box."""
        return [(float(x), float(y)) for x, y in self.view(np.asarray(points, dtype=np.float64))]
