"""A lit surface seen from a side: for every pixel, where the line of sight first meets the surface.

Seen along parallel lines, each column of pixels shows one vertical cut through the landscape. Along the cut, the
first place as high as a pixel is where the highest (from above) or lowest (from below) so far reaches it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SAMPLES = 700  # Along each cut.
_FINER = 2  # Lines of sight per pixel and direction.


@dataclass(frozen=True)
class View:
    """How a box around (0, 0) is seen from a side, in pixels of the sheet.

    Args:
        elevation: degrees above the ground from which one looks.
        azimuth: direction from which one looks, degrees from the x axis towards the y axis.
        scale: pixels per unit.
        x: of the middle of the ground, in pixels.
        y: of the middle of the ground, in pixels.
    """

    elevation: float
    azimuth: float
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0

    @property
    def right(self) -> NDArray[np.float64]:
        """Horizontal direction to the right of who looks."""
        angle = math.radians(self.azimuth)
        return np.array([-math.sin(angle), math.cos(angle)])

    @property
    def ahead(self) -> NDArray[np.float64]:
        """Horizontal direction away from who looks."""
        angle = math.radians(self.azimuth)
        return np.array([-math.cos(angle), -math.sin(angle)])

    @property
    def tilt(self) -> tuple[float, float]:
        """Sine and cosine of the elevation."""
        return math.sin(math.radians(self.elevation)), math.cos(math.radians(self.elevation))

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn ``(..., 3)`` places into ``(..., 2)`` pixels."""
        sine, cosine = self.tilt
        across = points[..., :2] @ self.right
        up = (points[..., :2] @ self.ahead) * sine + points[..., 2] * cosine
        return np.stack([self.x + self.scale * across, self.y + self.scale * up], axis=-1)


@dataclass(frozen=True)
class Terrain:
    """A surface over the rectangle from ``-half`` to ``half``.

    Args:
        half: half of the length along x and along y.
        heights: ``(N, M)`` spread evenly, first row at the lowest y.
        colours: ``(N, M, 3)`` uint8.
        excess: ``(N, M)``: above 0 where there is no surface.
        tall: height of the lid where there is none.
        lines: heights at which there are lines, and the grey of each.
    """

    half: tuple[float, float]
    heights: NDArray[np.float64]
    colours: NDArray[np.uint8]
    excess: NDArray[np.float64]
    tall: float
    lines: tuple[tuple[float, float], ...] = ()

    def height(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Heights at places, those outside at the edge's."""
        return self._sample(self.heights, x, y)

    def gone(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether there is no surface at places."""
        return np.asarray(self._sample(self.excess, x, y) > 0)

    def nearest(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int32]:
        """Index of the point nearest to a place, in the flattened arrays."""
        rows, columns = self.heights.shape
        column = np.clip((x / self.half[0] + 1) / 2 * (columns - 1) + 0.5, 0, columns - 1).astype(np.int32)
        row = np.clip((y / self.half[1] + 1) / 2 * (rows - 1) + 0.5, 0, rows - 1).astype(np.int32)
        return np.asarray(row * columns + column)

    def _sample(
        self, field: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Interpolate between the four points around places."""
        rows, columns = field.shape
        column = np.clip((x / self.half[0] + 1) / 2, 0, 1) * (columns - 1)
        row = np.clip((y / self.half[1] + 1) / 2, 0, 1) * (rows - 1)
        left, low = np.minimum(column.astype(np.int32), columns - 2), np.minimum(row.astype(np.int32), rows - 2)
        right_share, up_share = column - left, row - low
        flat, at = field.ravel(), low * columns + left
        below = flat[at] * (1 - right_share) + flat[at + 1] * right_share
        above = flat[at + columns] * (1 - right_share) + flat[at + columns + 1] * right_share
        return np.asarray(below * (1 - up_share) + above * up_share)


def look(
    terrain: Terrain, view: View, frame: tuple[int, int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Draw the surface within a frame of the sheet.

    Returns:
        ``(height, width, 4)`` uint8, first row on top, see-through where there is no surface; and how far away
        what is seen is, ``(height, width)`` from below, in units along the ground, infinite where there is nothing.
    """
    left, bottom, right, top = frame
    across = (left + (np.arange((right - left) * _FINER) + 0.5) / _FINER - view.x) / view.scale
    up = (bottom + (np.arange((top - bottom) * _FINER) + 0.5) / _FINER - view.y) / view.scale
    depth, over = _first_met(terrain, view, across, up)
    met = np.isfinite(depth)
    rows, columns = np.nonzero(met)
    image = np.zeros((*depth.shape, 4), dtype=np.uint8)
    image[rows, columns, :3] = _colours(terrain, view, across[columns], up[rows], depth[met], over[met])
    image[rows, columns, 3] = 255
    coarse = depth.reshape(top - bottom, _FINER, right - left, _FINER).min(axis=(1, 3))
    return _coarser(image)[::-1], coarse


def lid_over(terrain: Terrain, view: View, frame: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """How much of each pixel within a frame shows a lid over the box wherever the surface is cut off.

    ``(height, width)`` between 0 and 1, first row on top.
    """
    left, bottom, right, top = frame
    sine, cosine = view.tilt
    across = (left + (np.arange((right - left) * _FINER) + 0.5) / _FINER - view.x) / view.scale
    up = (bottom + (np.arange((top - bottom) * _FINER) + 0.5) / _FINER - view.y) / view.scale
    along = (up[:, None] - terrain.tall * cosine) / sine
    x, y = (across * view.right[i] + along * view.ahead[i] for i in (0, 1))
    inside = (np.abs(x) <= terrain.half[0]) & (np.abs(y) <= terrain.half[1])
    lid = np.zeros(inside.shape, dtype=bool)
    lid[inside] = terrain.gone(x[inside], y[inside])
    return np.asarray(lid.reshape(top - bottom, _FINER, right - left, _FINER).mean(axis=(1, 3)))[::-1]


def _first_met(
    terrain: Terrain, view: View, across: NDArray[np.float64], up: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How far along the ground each line of sight meets the surface, and whether from above."""
    sine, cosine = view.tilt
    near, far = _stretch(terrain.half, view, across)
    hit = np.flatnonzero(far > near)
    way = near[hit, None] + (far - near)[hit, None] * np.linspace(0, 1, _SAMPLES)
    x, y = (across[hit, None] * view.right[i] + way * view.ahead[i] for i in (0, 1))
    seen = terrain.height(x, y) * cosine + way * sine
    gone = terrain.gone(x, y) if (terrain.excess > 0).any() else np.zeros(seen.shape, dtype=bool)
    # Each piece of the surface reaches to the first place beyond it: its rim is closed.
    there = ~gone
    there[:, 1:] |= ~gone[:, :-1]
    there[:, :-1] |= ~gone[:, 1:]
    depth, above = np.full((len(across), len(up)), np.inf), np.zeros((len(across), len(up)), dtype=bool)
    for i, column in enumerate(hit):
        edges = np.flatnonzero(np.diff(there[i].astype(np.int8), prepend=0, append=0))
        for start, stop in edges.reshape(-1, 2):  # From piece to piece of the surface, away from who looks.
            run = seen[i, start:stop]
            for over in (True, False):
                ladder, pixels = (np.maximum.accumulate(run), up) if over else (-np.minimum.accumulate(run), -up)
                after = np.searchsorted(ladder, pixels)
                met = np.flatnonzero((after > 0) & (after < len(run)) & np.isinf(depth[column]))
                after = after[met]
                share = (up[met] - run[after - 1]) / (run[after] - run[after - 1])
                step = way[i, 1] - way[i, 0]
                depth[column, met] = way[i, start] + (after - 1 + share) * step
                above[column, met] = over
    return depth.T, above.T


def _colours(
    terrain: Terrain,
    view: View,
    across: NDArray[np.float64],
    up: NDArray[np.float64],
    along: NDArray[np.float64],
    over: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Colours of ``N`` places that are seen, with lines of equal height and light from above and the left."""
    sine, cosine = view.tilt
    rows, columns = terrain.heights.shape
    steps = 2 * terrain.half[1] / (rows - 1), 2 * terrain.half[0] / (columns - 1)
    slope_y, slope_x = np.gradient(terrain.heights, *steps)
    # Light: the more a place faces it the brighter; and a shine where it would mirror the light.
    light = np.array([*(-0.8 * view.right - 0.55 * view.ahead), 1.3])
    light /= np.linalg.norm(light)
    halfway = light + np.array([*(-cosine * view.ahead), sine])
    halfway /= np.linalg.norm(halfway)
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    facing = np.clip((light[2] - slope_x * light[0] - slope_y * light[1]) / length, 0, 1)
    mirrored = np.clip((halfway[2] - slope_x * halfway[0] - slope_y * halfway[1]) / length, 0, 1)
    # Ground that lies flat keeps about its own colour, the one of the colour bar.
    bright, shine = 0.52 + 0.58 * facing, 18.0 * mirrored**40
    lit = np.clip(terrain.colours * bright[..., None] + shine[..., None], 0, 255).astype(np.uint8)

    at = terrain.nearest(*(across * view.right[i] + along * view.ahead[i] for i in (0, 1)))
    colours = lit.reshape(-1, 3)[at].astype(np.float32)
    if terrain.lines:
        heights = (up - along * sine) / cosine
        # By how much the height changes from pixel to pixel of the picture.
        to_right = (slope_x * view.right[0] + slope_y * view.right[1]).ravel()[at]
        to_back = (slope_x * view.ahead[0] + slope_y * view.ahead[1]).ravel()[at]
        change = np.hypot(to_right, to_back / sine) / np.maximum(np.abs(1 + to_back * cosine / sine), 0.25)
        change = np.maximum(change / view.scale, 1e-5)
        levels, greys = (np.array(part) for part in zip(*terrain.lines, strict=True))
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, heights)
        ink = 0.45 * np.clip(1.25 - np.abs(heights - levels[nearest]) / change, 0, 1)[:, None].astype(np.float32)
        colours += (greys[nearest][:, None].astype(np.float32) - colours) * ink
    colours[~over] *= 0.72  # The underside lies in the shade.
    return colours.astype(np.uint8)


def _stretch(
    half: tuple[float, float], view: View, across: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From where to where each cut is over the rectangle; the end before the start where it never is."""
    near, far = np.full(len(across), -np.inf), np.full(len(across), np.inf)
    for i in (0, 1):
        start, slope = across * view.right[i], view.ahead[i]
        if abs(slope) < 1e-9:
            far = np.where(np.abs(start) <= half[i], far, -np.inf)
        else:
            ends = np.sort(np.stack([(-half[i] - start) / slope, (half[i] - start) / slope]), axis=0)
            near, far = np.maximum(near, ends[0]), np.minimum(far, ends[1])
    outside = far <= near
    return np.where(outside, 0.0, near), np.where(outside, 0.0, far)


def _coarser(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average the lines of sight of each pixel: colours over those that met the surface."""
    parts = [image[i::_FINER, j::_FINER].astype(np.int32) for i in range(_FINER) for j in range(_FINER)]
    sums = np.sum(parts, axis=0)  # Where nothing was met the colour is 0.
    met = sums[..., 3:] // 255
    return np.concatenate([sums[..., :3] // np.maximum(met, 1), sums[..., 3:] // _FINER**2], axis=-1).astype(np.uint8)
