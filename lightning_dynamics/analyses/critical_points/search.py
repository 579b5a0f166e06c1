"""From a point to where the gradient of a function vanishes, or to where the search for that gets stuck.

On any function that can give its gradient and the products of its Hessian; in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from lightning_dynamics.analyses.critical_points.estimator import minres
from lightning_dynamics.analyses.critical_points.settings import NewtonMR, Search
from lightning_dynamics.analyses.curvature.operator import NotFinite

Status = Literal["critical", "gradient-flat", "unfinished"]
Stopped = Literal["converged", "stalled", "iterations", "not finite"]

_STALLED = 0.5  # of ‖g‖² left after as many iterations as the method has patience for
_IN_THE_KERNEL = 0.9  # of ‖g‖ that no Newton step takes away
_ARMIJO = 1e-4
_SHORTEST = 2.0**-60
_LOOSE, _TIGHT = 0.1, 1e-8  # residuals of a step of Newton-MR
_NEARLY_ZERO, _ZERO = 0.01, 1e-8  # eigenvalues that count as kernel in it, as a share of the largest
_BASIS_BYTES = 2**28


class Surface(Protocol):
    """A function of P numbers."""

    def at(self, point: Tensor) -> tuple[float, Tensor]:
        """Go to a point ``(P,)``; the function's value and its gradient ``(P,)`` there, or NotFinite."""
        ...

    def product(self, vector: Tensor) -> Tensor:
        """H v where it went last: ``(P,)`` to ``(P,)``, or NotFinite."""
        ...


@dataclass(frozen=True, eq=False)
class SearchPath:
    """Where a search has led, and how.

    Args:
        point: ``(P,)`` the last point.
        status: see :func:`search`.
        stopped: why the search ended.
        losses: L at the start and after every step.
        squared: ‖g‖² likewise.
        flatness: ‖Hg‖ / (‖g‖ Λ) at the last point, with Λ the largest ‖Hv‖ / ‖v‖ met anywhere in the search; 0 where
            Hg = 0, NaN at a critical point.
        newton_residual: ‖Hp + g‖ / ‖g‖ at the last point, for the p at which MINRES stops when it is down to 0.1 or
            when what is left, r, has ‖Hr‖ ≤ ε ‖H‖ ‖r‖, where ε is the flatness tolerance. NaN at a critical point.
    """

    point: Tensor
    status: Status
    stopped: Stopped
    losses: list[float]
    squared: list[float]
    flatness: float
    newton_residual: float


def search(surface: Surface, start: Tensor, how: Search, advanced: Callable[[], None] = lambda: None) -> SearchPath:
    """Lower ‖g‖² from ``start`` until it is small enough, no longer falls, or the iterations are used up.

    What is lowered is ½‖g‖², whose own gradient is Hg: a point where that vanishes is critical, or g lies in the kernel
    of H there, which stops every such method (Frye et al. 2021). The status tells which:

    - ``"critical"``: ‖g‖² ≤ ``tolerance``.
    - ``"gradient-flat"``: not so; ‖g‖² has stalled (less than halved in 25 steps of Newton-MR, the last of which took
      the whole spectrum into account, or in 200 of descent); and g lies in the kernel of H, up to ε =
      ``flatness_tolerance``, by one of two measures. ``flatness`` ≤ ε: H hardly bends g at all. Or ``newton_residual``
      ≥ 0.9 with ‖Hr‖ ≤ ε ‖H‖ ‖r‖: most of g is a vector r that H hardly bends, though a small rest of g, along steep
      directions, may dominate Hg. The first alone would overlook this; the second alone would overlook places where
      all of H vanishes, as for x³/3 + x at 0: every vector is in the kernel there, but next to it none is. Therefore
      Λ is the largest curvature that the search has met, not that of the point.
    - ``"unfinished"``: neither.

    Args:
        surface: the function.
        start: ``(P,)`` float64.
        how: method and tolerances.
        advanced: called before every step.
    """
    watched = _Measured(surface)
    stride = _NewtonSteps(how.method) if isinstance(how.method, NewtonMR) else _DescentSteps()
    point, patience, since = start.clone(), how.method.patience, 0
    losses, squared = [math.nan], [math.nan]
    stopped: Stopped = "iterations"
    try:
        losses[0], gradient = watched.at(point)
        squared[0] = float(gradient @ gradient)
        while squared[-1] > how.tolerance and len(squared) <= how.method.max_iterations:
            advanced()
            moved = stride.step(watched, point, gradient)
            if moved is None:
                watched.at(point)
            else:
                point, loss, gradient = moved
                losses.append(loss)
                squared.append(float(gradient @ gradient))
            latest = len(squared) - 1
            if moved is None or (latest - since >= patience and squared[-1] > _STALLED * squared[latest - patience]):
                if not stride.continues_exactly():
                    stopped = "stalled"
                    break
                since = latest
        if squared[-1] <= how.tolerance:
            return SearchPath(point, "critical", "converged", losses, squared, math.nan, math.nan)
        flatness, residual, is_flat = _in_the_kernel(watched, gradient, how)
    except NotFinite:
        return SearchPath(point, "unfinished", "not finite", losses, squared, math.nan, math.nan)
    status: Status = "gradient-flat" if is_flat and stopped == "stalled" else "unfinished"
    return SearchPath(point, status, stopped, losses, squared, flatness, residual)


def _in_the_kernel(surface: _Measured, gradient: Tensor, how: Search) -> tuple[float, float, bool]:
    """Both measures of :func:`search`, and what they say."""
    solved = minres(
        surface.product,
        -gradient,
        tolerance=_LOOSE,
        zero=how.flatness_tolerance,
        max_iterations=how.method.inner_iterations,
        kept=_kept(len(gradient)),
    )
    turned = float(solved.first_product.norm())
    flatness = turned / (float(gradient.norm()) * surface.steepest) if turned else 0.0
    is_left = solved.outcome == "least squares" and solved.relative_residual >= _IN_THE_KERNEL
    return flatness, solved.relative_residual, is_left or flatness <= how.flatness_tolerance


def _kept(size: int) -> int:
    return max(2, _BASIS_BYTES // (8 * size))


class _Measured:
    """A surface, and the largest ‖Hv‖ / ‖v‖ seen on it."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self.steepest = 0.0

    def at(self, point: Tensor) -> tuple[float, Tensor]:
        return self._surface.at(point)

    def product(self, vector: Tensor) -> Tensor:
        found = self._surface.product(vector)
        length = float(vector.norm())
        if length:
            self.steepest = max(self.steepest, float(found.norm()) / length)
        return found

    def lower(self, point: Tensor, most: float) -> tuple[Tensor, float, Tensor] | None:
        """The point with its value and gradient if ‖g‖² is at most so much there."""
        try:
            loss, gradient = self.at(point)
        except NotFinite:
            return None
        return (point, loss, gradient) if float(gradient @ gradient) <= most else None


class _NewtonSteps:
    """Roosta, Liu, Xu, Mahoney, "Newton-MR: Inexact Newton method with minimum residual sub-problem solver" (2018).

    p = −H⁺g by MINRES, and a length α out of 1, ½, ¼, … that satisfies their condition of Armijo's kind,
    ‖g(x + αp)‖² ≤ ‖g‖² + 2ρα ⟨p, Hg⟩ with ρ = 10⁻⁴. After a short step the first guess below 1 is four times it.

    Inexact: with q = ‖g‖ / ‖g at the start‖, a residual of min(0.1, q) ‖g‖ will do, and eigenvalues up to about
    min(0.01, q) ‖H‖ count as kernel. Far from a critical point a full step along directions without curvature leads
    far away (along the scale symmetry of a linear autoencoder, into ever steeper valleys); near one, both bounds vanish
    and convergence is faster than linear, also where critical points are not isolated. When the search stalls, it goes
    on with exact steps.
    """

    def __init__(self, method: NewtonMR) -> None:
        self._method = method
        self._length = 1.0
        self._start = math.nan
        self._is_exact = False

    def continues_exactly(self) -> bool:
        """Whether it goes on with exact steps, after inexact ones."""
        goes_on, self._is_exact = not self._is_exact, True
        return goes_on

    def step(self, surface: _Measured, point: Tensor, gradient: Tensor) -> tuple[Tensor, float, Tensor] | None:
        steepness = float(gradient.norm())
        self._start = steepness if math.isnan(self._start) else self._start
        left = 0.0 if self._is_exact else steepness / self._start
        solved = minres(
            surface.product,
            -gradient,
            tolerance=max(_TIGHT, min(_LOOSE, left)),
            zero=max(_ZERO, min(_NEARLY_ZERO, left)),
            max_iterations=self._method.inner_iterations,
            kept=_kept(len(point)),
        )
        turned = -solved.first_product  # Hg
        direction, slope = solved.x, float(solved.x @ turned)
        if not slope < 0:  # what counts as kernel was none: downhill on ‖g‖²
            direction, slope = -turned, -float(turned @ turned)
        if not slope < 0:  # Hg = 0
            return None
        squared, length = float(gradient @ gradient), 1.0
        while length > _SHORTEST:
            moved = surface.lower(point + length * direction, squared + 2 * _ARMIJO * length * slope)
            if moved is not None:
                self._length = length
                return moved
            length = min(0.5, 4 * self._length) if length == 1 else length / 2
        return None


class _DescentSteps:
    """Gradient descent on f = ½‖g‖², whose gradient is Hg, with backtracking (Pennington, Bahri 2017; Frye 2019).

    The first length tried is that of Barzilai and Borwein (IMA J. Numer. Anal. 8, 1988) from the last step, and 1/Λ²
    at the start.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None

    def continues_exactly(self) -> bool:
        """There is nothing to go on with."""
        return False

    def step(self, surface: _Measured, point: Tensor, gradient: Tensor) -> tuple[Tensor, float, Tensor] | None:
        downhill = surface.product(gradient)
        fall = float(downhill @ downhill)
        if not fall > 0:
            return None
        length = 1 / surface.steepest**2
        if self._last is not None:
            moved_by, turned_by = point - self._last[0], downhill - self._last[1]
            along = float(moved_by @ turned_by)
            length = float(moved_by @ moved_by) / along if along > 0 else length
        self._last = point, downhill
        squared, shortest = float(gradient @ gradient), _SHORTEST * length
        while length > shortest:
            # ½‖g‖² must fall by ρ times what its slope promises.
            moved = surface.lower(point - length * downhill, squared - 2 * _ARMIJO * length * fall)
            if moved is not None:
                return moved
            length /= 2
        return None
