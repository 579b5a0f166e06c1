"""A plane of measured heights: checked, made smooth between its grid points, and given a scale of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import tick_texts
from lightning_dynamics.figures.diverging import DivergingScale
from lightning_dynamics.figures.scale import check_limits, tick_values

CMAP = "YlGnBu_r"
"""Colour map of landscapes: valleys deep blue, heights pale; dark and light lines are readable on it."""
_SPAN = (0.04, 0.97)  # Without the nearly black and the nearly white end.
_HUGEST = 1e300  # Differences of larger numbers overflow.
_FINEST = 1e-9  # A range below this share of the values is rounding: drawn as a plain.
_MANTISSAS = ([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9])


class HeightScale(DivergingScale):
    """Colours for heights; with ``log``, heights are decimal logarithms and the bar says the values themselves.

    Args:
        low: height at the lower end.
        high: height at the upper end.
        cmap: name of a matplotlib colour map.
        label: what the values are.
        log: whether heights are logarithms.
    """

    def __init__(self, low: float, high: float, cmap: str, label: str, *, log: bool) -> None:
        """Choose the round numbers."""
        super().__init__(low, high, cmap, label, span=_SPAN if cmap == CMAP else None)
        self.log = log
        self._ticks = [low, *(tick for tick in self.ticks(6) if low < tick < high), high]

    def ticks(self, most: int) -> list[float]:
        """Heights of round values, about ``most`` of them, from end to end."""
        if not self.log:
            return tick_values(self.low, self.high, most)
        return [math.log10(value) for value in log_ticks(10**self.low, 10**self.high, most)]

    def texts(self, heights: Sequence[float]) -> list[str]:
        """Write the values at some heights."""
        return value_texts([10**height for height in heights], log=True) if self.log else value_texts(heights)

    def _write(self, ticks: Sequence[float]) -> list[str]:
        return self.texts(ticks)


@dataclass(frozen=True)
class Relief:
    """Heights over a grid, without holes, and where the holes are.

    Args:
        xs: ``(X,)`` coordinates of the columns.
        ys: ``(Y,)`` coordinates of the rows.
        heights: ``(Y, X)`` values, or their decimal logarithms; holes are filled with what is around them.
        holes: ``(Y, X)``: True where nothing is known.
        limits: heights at the two ends of the scale.
    """

    xs: NDArray[np.float64]
    ys: NDArray[np.float64]
    heights: NDArray[np.float64]
    holes: NDArray[np.bool_]
    limits: tuple[float, float]

    def known(self) -> NDArray[np.float64]:
        """Heights with NaN for holes."""
        return np.where(self.holes, np.nan, self.heights)

    def at(self, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Heights on a finer grid, ``(len(ys), len(xs))``, and whether the grid point nearest to a place is a hole.

        The surface is smooth and runs through every grid point. Within a cell it is never higher or lower than
        the cell's corners: no valley is seen that was not measured.
        """
        low, high = self.limits
        # A cliff that towers above the scale would be cut off right beside its foot, in steps like the grid.
        tame = np.clip(self.heights / (high - low) - low / (high - low), -1.0, 2.0)
        across = _between(tame.T, self.xs, xs).T
        row, column = _nearest(self.ys, ys), _nearest(self.xs, xs)
        return low + (high - low) * _between(across, self.ys, ys), self.holes[row][:, column]

    def cut(self, heights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Heights with what is beyond the limits cut off flat."""
        return np.clip(heights, *self.limits)


def relief(values: ArrayLike, xs: ArrayLike, ys: ArrayLike, limits: tuple[float, float] | None, *, log: bool) -> Relief:
    """Check a grid of values; by default its limits are those of the values.

    Raises:
        ValueError: if the shapes do not fit, coordinates do not rise, or limits do not.
    """
    across, up = check_coordinates(xs, "xs"), check_coordinates(ys, "ys")
    grid = np.asarray(values, dtype=np.float64)
    if grid.shape != (len(up), len(across)):
        raise ValueError(
            f"the values are {grid.shape}, but there are {len(up)} ys (rows) and {len(across)} xs (columns)"
        )
    heights = as_heights(grid, log=log)
    holes = np.isnan(heights)
    known = heights[~holes]
    if limits is not None:
        ends = check_limits(limits)
        if log and ends[0] <= 0:
            raise ValueError(f"on a logarithmic scale the limits are above 0, got {limits}")
        ends = (math.log10(ends[0]), math.log10(ends[1])) if log else ends
    else:
        ends = _around(known)
    return Relief(across, up, _filled(heights, holes, ends[0]), holes, ends)


def check_coordinates(places: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return coordinates as floats; raise ValueError unless they are two or more rising finite numbers."""
    numbers = np.asarray(places, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2 or not np.isfinite(numbers).all() or (np.diff(numbers) <= 0).any():
        raise ValueError(f"{name} must be two or more rising finite numbers in one row")
    return numbers


def as_heights(values: NDArray[np.float64], *, log: bool) -> NDArray[np.float64]:
    """Values, or with ``log`` their decimal logarithms, with NaN for what has no place on such a scale."""
    usable = np.isfinite(values) & (np.abs(values) < _HUGEST) & ((values > 0) | (not log))
    clean = np.where(usable, values, 1.0)
    return np.where(usable, np.log10(clean) if log else clean, np.nan)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` round numbers on a logarithmic scale: powers of ten, or 1, 2, 5 and the like between them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    slack = 1 + 1e-9

    def within(values: Sequence[float]) -> list[float]:
        return [value for value in values if low / slack <= value <= high * slack]

    best: list[float] = []
    for mantissas in _MANTISSAS:
        ticks = within([float(f"{m}e{power}") for power in range(first, last + 1) for m in mantissas])
        best = ticks if len(ticks) <= most else best
    for step in (2, 3, 5, 10, 20, 50, 100):
        if not best:
            start = math.ceil(first / step) * step
            ticks = within([float(f"1e{power}") for power in range(start, last + 1, step)])
            best = ticks if len(ticks) <= most else best
    return best if len(best) >= min(3, most) else [tick for tick in tick_values(low, high, most) if tick > 0]


def value_texts(values: Sequence[float], *, log: bool = False) -> list[str]:
    """Write numbers with three digits, or as many as tell them apart; with ``log`` each in its own way."""
    for digits in range(3, 8):
        rounded = [float(f"{value:.{digits}g}") for value in values]
        texts = [tick_texts([value])[0] for value in rounded] if log else tick_texts(rounded)
        if len(set(texts)) == len(set(values)):
            return texts
    return [f"{value:.10g}".replace("-", "−") for value in values]


def plot_size(xs: NDArray[np.float64], ys: NDArray[np.float64], side: float, most: float) -> tuple[int, int]:
    """Width and height for a plane: one unit is as long on both axes unless one is ``most`` times the other."""
    ratio = float(np.clip((xs[-1] - xs[0]) / (ys[-1] - ys[0]), 1 / most, most))
    return round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))


def _around(known: NDArray[np.float64]) -> tuple[float, float]:
    """Least and largest height; never a range of nothing."""
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    size = max(abs(low), abs(high))
    if high - low <= _FINEST * size or high == low:
        half = 0.5 * size or 0.5
        low, high = low - half, high + half
    return low, high


def _filled(heights: NDArray[np.float64], holes: NDArray[np.bool_], default: float) -> NDArray[np.float64]:
    """Fill holes from their rims inwards with the mean of their neighbours."""
    if holes.all():
        return np.full_like(heights, default)
    filled = heights.copy()
    while np.isnan(filled).any():
        framed = np.pad(filled, 1, constant_values=np.nan)
        around = np.stack([framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]])
        count = (~np.isnan(around)).sum(axis=0)
        next_ring = np.isnan(filled) & (count > 0)
        filled[next_ring] = (np.nan_to_num(around).sum(axis=0) / np.maximum(count, 1))[next_ring]
    return filled


def _nearest(places: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index of the coordinate nearest to each place."""
    return np.searchsorted((places[1:] + places[:-1]) / 2, at)


def _between(values: NDArray[np.float64], places: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate along the first axis by cubics that keep the order of neighbours (Fritsch & Carlson, 1980)."""
    steps = np.diff(places)[:, None]
    slopes = np.diff(values, axis=0) / steps
    tangents = np.empty_like(values)
    tangents[0], tangents[-1] = slopes[0], slopes[-1]
    if len(places) > 2:
        # The slope of the parabola through three neighbours, at both ends and between.
        tangents[1:-1] = (slopes[:-1] * steps[1:] + slopes[1:] * steps[:-1]) / (steps[1:] + steps[:-1])
        tangents[0], tangents[-1] = 2 * slopes[0] - tangents[1], 2 * slopes[-1] - tangents[-2]
    before, after = np.concatenate([slopes[:1], slopes]), np.concatenate([slopes, slopes[-1:]])
    most = 3 * np.minimum(np.abs(before), np.abs(after))
    tangents = np.where((before * after > 0) & (tangents * after > 0), np.clip(tangents, -most, most), 0.0)

    cell = np.clip(np.searchsorted(places, at, side="right") - 1, 0, len(places) - 2)
    step = steps[cell]
    share = ((at - places[cell])[:, None] / step).clip(0, 1)
    low, high, leave, arrive = values[cell], values[cell + 1], tangents[cell] * step, tangents[cell + 1] * step
    bend = 2 * (low - high) + leave + arrive
    cubic = ((bend * share + 3 * (high - low) - 2 * leave - arrive) * share + leave) * share + low
    return np.clip(cubic, np.minimum(low, high), np.maximum(low, high))  # Rounding alone reaches beyond.
