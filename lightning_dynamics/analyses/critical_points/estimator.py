"""The linear system of a Newton step: MINRES, and the solution of minimum length where the matrix is singular.

Pure linear algebra on ``matvec: (P,) -> (P,)`` in float64; whose matrix it is does not matter here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MatVec = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Solution:
    """What MINRES found for A x = b.

    Args:
        x: ``(P,)`` float64.
        residual: ``(P,)``: b − A x.
        relative_residual: ‖b − A x‖ / ‖b‖, 0 to 1; 0 for b = 0.
        iterations: products with A.
        first_product: ``(P,)``: A b; zeros for b = 0.
        norm: ‖A‖ as far as it was met: a lower bound of max|λ|.
        outcome: ``"solved"``; ``"least squares"``: b is not in the range, or only by way of eigenvalues that count as
            zero, and x is the pseudo-inverse solution; ``"iterations"``: neither yet.
    """

    x: Tensor
    residual: Tensor
    relative_residual: float
    iterations: int
    first_product: Tensor
    norm: float
    outcome: Literal["solved", "least squares", "iterations"]


def minres(
    matvec: MatVec,
    b: Tensor,
    *,
    tolerance: float = 1e-8,
    max_iterations: int | None = None,
    zero: float = 1e-8,
    kept: int | None = None,
) -> Solution:
    r"""Minimise ‖A x − b‖ over growing Krylov spaces, for a symmetric A that may be indefinite and singular.

    The recurrences are those of Paige and Saunders, "Solution of sparse indefinite systems of linear equations" (SIAM
    J. Numer. Anal. 12, 1975), section 6. Where b is not in the range of A, they end with r = b − A x in the kernel of A
    and an x that may have a part in that kernel. All of a Krylov space that lies in the kernel is the line through r,
    so x − r ⟨r, x⟩ / ⟨r, r⟩ has none left: it is A⁺ b, the solution of minimum length, which MINRES-QLP (Choi, Paige,
    Saunders, SIAM J. Sci. Comput. 33, 2011) returns too (Liu, Milzarek, Roosta, "Obtaining pseudo-inverse solutions
    with MINRES", arXiv:2309.17096, 2023: the lifting). Lanczos vectors are orthogonalised against earlier ones again,
    so that P iterations suffice and a kernel is noticed; without it rounding delays both.

    Cost: one product with A for each iteration, 4 n P operations after n of them; memory: ``kept`` + 6 vectors.

    Args:
        matvec: A, symmetric.
        b: ``(P,)`` float64.
        tolerance: solved when ‖b − A x‖ ≤ ``tolerance`` ‖b‖.
        max_iterations: by default P.
        zero: r counts as lying in the kernel when ‖A r‖ ≤ ``zero`` ‖A‖ ‖r‖. Much below the root of the rounding error
            the recurrences cannot tell, and go on into the kernel.
        kept: Lanczos vectors in memory, the first ones; by default all.

    Raises:
        ValueError: a product is not finite.
    """
    size, length = len(b), _length(b)
    most = size if max_iterations is None else min(max_iterations, size)
    nothing = torch.zeros_like(b)
    if length == 0 or most == 0:
        return Solution(nothing, b.clone(), min(length, 1.0), 0, nothing, 0.0, "iterations" if length else "solved")
    limit = most if kept is None else min(kept, most)
    basis = _Basis(b, limit)
    x, residual, first = nothing.clone(), b.clone(), nothing
    earlier, vector, beta = nothing, b / length, 0.0
    older, old, current = nothing, nothing, nothing  # directions that x moves along
    cosine, sine, below, above = -1.0, 0.0, 0.0, 0.0
    remaining, norm = length, 0.0
    outcome: Literal["solved", "least squares", "iterations"] = "iterations"
    iterations = 0
    while iterations < most:
        product = matvec(vector)
        if not bool(product.isfinite().all()):
            raise ValueError("a product of the matrix with a vector is not finite")
        if iterations == 0:
            first = product * length
        iterations += 1
        basis.append(vector)
        alpha = float(vector @ product)
        following = basis.without(product - alpha * vector - beta * earlier)
        column = math.hypot(beta, alpha)
        beta = _length(following)
        norm = max(norm, math.hypot(column, beta))
        if beta <= 10 * torch.finfo(b.dtype).eps * norm or iterations == limit == size:
            beta = 0.0  # the Krylov space is exhausted; P vectors of which not all are orthogonal need not exhaust it
        # One column of the tridiagonal matrix, turned by the last rotation.
        two_above, delta = above, cosine * below + sine * alpha
        diagonal = sine * below - cosine * alpha
        above, below = sine * beta, -cosine * beta
        if math.hypot(diagonal, below) <= zero * norm:  # ‖A r‖ / ‖r‖ of the residual as it is
            outcome = "least squares"
            break
        pivot = math.hypot(diagonal, beta)
        cosine, sine = diagonal / pivot, beta / pivot
        older, old = old, current
        current = (vector - two_above * older - delta * old) / pivot
        x = x + cosine * remaining * current
        remaining *= sine
        earlier, vector = vector, following / beta if beta else following
        residual = sine**2 * residual - cosine * remaining * vector
        if remaining <= tolerance * length:
            outcome = "solved"
            break
    if outcome == "least squares":
        x = x - residual * ((residual @ x) / (residual @ residual))
    return Solution(x, residual, remaining / length, iterations, first, norm, outcome)


class _Basis:
    """Orthonormal vectors, as many as fit; memory grows with their number."""

    def __init__(self, like: Tensor, limit: int) -> None:
        self._rows = like.new_empty(min(limit, 16), len(like))
        self._limit, self._count = limit, 0

    def append(self, vector: Tensor) -> None:
        if self._count == self._limit:
            return
        if self._count == len(self._rows):
            more = min(self._limit, 2 * len(self._rows)) - len(self._rows)
            self._rows = torch.cat([self._rows, self._rows.new_empty(more, self._rows.shape[1])])
        self._rows[self._count] = vector
        self._count += 1

    def without(self, vector: Tensor) -> Tensor:
        """What is orthogonal to all of them; twice, since once leaves rounding errors of a long vector."""
        rows = self._rows[: self._count]
        for _ in range(2):
            vector = vector - (rows @ vector) @ rows
        return vector


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
