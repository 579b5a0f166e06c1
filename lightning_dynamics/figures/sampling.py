"""From measurements in time to columns of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures.scale import MISSING, STRIPE, striped

_NARROW = 8  # Pixels: a gap narrower than this is too narrow to be hatched.


def time_edges(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ends of the intervals that lead up to each step: ``(T + 1,)``.

    Interval j reaches from ``steps[j - 1]`` to ``steps[j]``; the first is as long as the second, but does not
    reach below 0 if no step does.
    """
    first = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1.0)
    if steps[0] > 0:
        first = max(first, 0.0)
    return np.concatenate([[first], steps])


def pixel_means(values: NDArray[np.float64], edges: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Average what is constant between the edges over ``width`` pixels of equal length.

    Args:
        values: ``(R, T)``; whatever is not finite is missing.
        edges: ``(T + 1,)``, rising.
        width: number of pixels between the first and the last edge.

    Returns:
        ``(R, width)``: the mean over the part of each pixel that has values; NaN where a fifth or more has none.
    """
    known = np.isfinite(values)
    lengths = np.diff(edges)
    pixels = np.linspace(edges[0], edges[-1], width + 1)

    def integral(heights: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.concatenate([np.zeros((len(heights), 1)), np.cumsum(heights * lengths, axis=1)], axis=1)
        # The place of each pixel's edge among the measurements, once for all rows.
        j = np.clip(np.searchsorted(edges, pixels, side="right") - 1, 0, len(lengths) - 1)
        share = (pixels - edges[j]) / lengths[j]
        return np.diff(sums[:, j] * (1 - share) + sums[:, j + 1] * share, axis=1)

    total, covered = integral(np.where(known, values, 0.0)), integral(known.astype(np.float64))
    # One missing step among thousands must not vanish in the mean of its neighbours.
    enough = covered > 0.8 * (edges[-1] - edges[0]) / width * (1 + 1e-9)
    return np.where(enough, total / np.where(enough, covered, 1.0), np.nan)


def paint_missing(pixels: NDArray[np.uint8], missing: NDArray[np.bool_]) -> None:
    """Hatch the missing pixels ``(H, W)`` of an image in place; a gap of few columns becomes plain grey."""
    if not missing.any():
        return
    inner, wide = missing.copy(), missing.copy()
    for shift in range(1, _NARROW):
        inner[:, shift:] &= missing[:, :-shift]
        inner[:, :shift] = False
    wide[:] = inner
    for shift in range(1, _NARROW):
        wide[:, :-shift] |= inner[:, shift:]
    pixels[missing] = MISSING
    pixels[missing & (~wide | striped(*missing.shape))] = STRIPE
