"""A plane through the weights that are multiplied by one: the first m of them are a, the other n are b."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.core.lightning import ConfigurationError

AT_SADDLE, STILL_MOVING, GONE = -1, -2, -3
"""Ends of a descent that are no branch of the solutions; see :meth:`Plane.ends`."""

_SOLVED = 1e-6  # of the loss
_FLAT = 1e-4  # of the gradient
_FAR = 1e6


@dataclass(frozen=True)
class Plane:
    """L = ½ (aᵐ bⁿ − 1)²: all of the problem for two weights, and a slice of it for m + n of them.

    No shadow of higher dimensions: equal weights have equal gradients and stay equal, so that gradient descent from a
    point of the plane never leaves it.

    Args:
        powers: (m, n).
    """

    powers: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        """Refuse powers that are none."""
        if len(self.powers) != 2 or any(not isinstance(power, int) or power < 1 for power in self.powers):
            raise ConfigurationError(f"`powers={self.powers!r}` must be two whole numbers from 1 on")

    def weights(self, points: ArrayLike) -> NDArray[np.float64]:
        """``(…, 2)`` as all the weights ``(…, m + n)``."""
        return np.repeat(np.asarray(points, dtype=np.float64), self.powers, axis=-1)

    def loss(self, points: ArrayLike) -> NDArray[np.float64]:
        """``(…)`` at ``(…, 2)``."""
        return (self._product(points) - 1) ** 2 / 2

    def gradient(self, points: ArrayLike) -> NDArray[np.float64]:
        """∂L/∂w ``(…, 2)``, for one of the weights that are a and for one of those that are b."""
        (a, b), (m, n) = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0), self.powers
        error = self._product(points) - 1
        return np.stack([error * a ** (m - 1) * b**n, error * a**m * b ** (n - 1)], axis=-1)

    @property
    def branches(self) -> list[tuple[int, int]]:
        """The signs of (a, b) on each branch of the solutions aᵐ bⁿ = 1."""
        m, n = self.powers
        return [(s, t) for s, t in product((1, -1), repeat=2) if s**m * t**n > 0]

    def solutions(self, limit: float, count: int = 200) -> list[NDArray[np.float64]]:
        r"""Each branch as a line ``(count, 2)``, as far as \|a\|, \|b\| ≤ ``limit``."""
        m, n = self.powers
        # Where b reaches the limit, a is least.
        a = np.geomspace(limit ** (-n / m), limit, count)
        return [np.stack([s * a, t * a ** (-m / n)], axis=-1) for s, t in self.branches]

    def ends(self, points: ArrayLike) -> NDArray[np.int64]:
        """Where descents have come to, ``(…)`` for ``(…, 2)``.

        The number of the branch where the loss is below 1e-6; else :data:`GONE` beyond 1e6 or not finite,
        :data:`AT_SADDLE` where the gradient is below 1e-4, and :data:`STILL_MOVING`.
        """
        points = np.asarray(points, dtype=np.float64)
        with np.errstate(all="ignore"):
            gone = ~(np.abs(points) <= _FAR).all(axis=-1)
            flat = np.linalg.norm(self.gradient(points), axis=-1) < _FLAT
            found = np.where(gone, GONE, np.where(flat, AT_SADDLE, STILL_MOVING))
            solved = self.loss(points) < _SOLVED
            for number, signs in enumerate(self.branches):
                found[solved & (np.sign(points) == signs).all(axis=-1)] = number
        return found

    def name(self, end: int) -> str:
        """An end in words."""
        if end >= 0:
            a, b = ("> 0" if sign > 0 else "< 0" for sign in self.branches[end])
            return f"solution, a {a}, b {b}"
        return {AT_SADDLE: "at a saddle", STILL_MOVING: "still moving", GONE: "gone: steps too long"}[end]

    def _product(self, points: ArrayLike) -> NDArray[np.float64]:
        a, b = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
        return np.asarray(a ** self.powers[0] * b ** self.powers[1])
