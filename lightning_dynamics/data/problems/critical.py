"""Every critical point of a linear network, in closed form: where it is, its loss, and how many ways lead down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from lightning_dynamics.core.lightning import ConfigurationError

MOST = 10_000
"""More families of critical points than this are not listed."""


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """One family of critical points: all have the same loss, and Hessians of the same signs.

    Args:
        theta: ``(P,)`` float64: one of them.
        loss: of all of them.
        index: negative eigenvalues of the Hessian there; 0 at a solution.
        nullity: eigenvalues that are 0.
        modes: which singular modes the network has learnt, from 0, in falling order of their singular values; for a
            product of scalars, the weights that are not 0.
    """

    theta: Tensor
    loss: float
    index: int
    nullity: int
    modes: tuple[int, ...]


def two_layers(whitener: Tensor, left: Tensor, values: Tensor, right: Tensor, hidden: int) -> Iterator[CriticalPoint]:
    r"""All critical points of ½ ‖(W_2 W_1 − A) X‖², up to an invertible C in W_2 C⁻¹, C W_1.

    Baldi & Hornik (1989, fact 4): W_2 W_1 is A projected on a set S of at most ``hidden`` left singular vectors
    of A X; of all sets, only that of the largest values is no saddle. Their number of ways down, which the paper leaves
    open: in coordinates of the singular vectors (rows i of W_2, columns i of W_1) the Hessian falls into blocks of two.
    For j in S and i not, [[s_j², −s_i], [−s_i, 1]] has a negative eigenvalue where s_i > s_j. For each hidden unit that
    is not used and i not in S, [[0, −s_i], [−s_i, 0]] always has one. So

        index = #{(j in S, i not in S): s_i > s_j} + (hidden − \|S\|) (d − \|S\|),
        nullity = \|S\|² + 2 \|S\| (hidden − \|S\|).

    With distinct positive s all critical points of one S are one orbit of C, which changes the Hessian by a congruence:
    the signs are those of every one of them. (With a rank-deficient A there would be others.)

    Args:
        whitener: ``(d, d)``: (E xxᵀ)^(−½).
        left: ``(d, d)``: columns are left singular vectors of A (E xxᵀ)^½.
        values: ``(d,)``: its singular values s, falling, distinct, positive.
        right: ``(d, d)``: columns are its right singular vectors.
        hidden: units of the hidden layer.

    Yields:
        From the origin to the solutions, by \|S\|.
    """
    d = len(values)
    check_number(sum(comb(d, size) for size in range(min(hidden, d) + 1)))
    for size in range(min(hidden, d) + 1):
        for chosen in combinations(range(d), size):
            first, second = values.new_zeros(hidden, d), values.new_zeros(d, hidden)
            learnt = list(chosen)
            second[:, :size] = left[:, learnt]
            first[:size] = values[learnt, None] * right[:, learnt].T @ whitener
            left_out = [i for i in range(d) if i not in chosen]
            inverted = sum(i < j for j in chosen for i in left_out)
            yield CriticalPoint(
                theta=torch.cat([first.flatten(), second.flatten()]),
                loss=float((values[left_out] ** 2).sum() / 2),
                index=inverted + (hidden - size) * (d - size),
                nullity=size**2 + 2 * size * (hidden - size),
                modes=chosen,
            )


def product_of(depth: int) -> Iterator[CriticalPoint]:
    """All critical points of ½ (w_1 ⋯ w_L − 1)², up to the values of the weights that are not 0.

    Where p = 1: a solution, whose Hessian ∇p ∇pᵀ has one positive eigenvalue. Else all products of L − 1 weights
    vanish, so at least two weights are 0. With exactly two, the Hessian has a single pair of entries that are not 0,
    minus the product of all the others: one eigenvalue down, one up. With three or more it is 0 altogether: a saddle
    that second derivatives do not see.
    """
    for zeros in (*range(depth, 1, -1), 0):
        weights = torch.ones(depth, dtype=torch.float64)
        weights[:zeros] = 0.0
        nullity = {0: depth - 1, 2: depth - 2}.get(zeros, depth)
        yield CriticalPoint(weights, 0.5 * (zeros > 0), int(zeros == 2), nullity, tuple(range(zeros, depth)))


def check_number(count: int) -> None:
    """Refuse to list very many.

    Raises:
        ConfigurationError: above :data:`MOST`.
    """
    if count > MOST:
        raise ConfigurationError(
            f"there are {count:,} families of critical points, more than {MOST:,}: use fewer modes or hidden units"
        )


def check_distinct(values: Sequence[float]) -> None:
    """Refuse singular values that tie or vanish, up to rounding.

    Raises:
        ConfigurationError: naming them.
    """
    least = 1e-12 * values[0]
    if min([a - b for a, b in zip(values, values[1:], strict=False)] + [values[-1]]) <= least:
        raise ConfigurationError(
            "critical points are isolated families only where the singular values of A (E xxᵀ)^½ are positive and "
            f"distinct; these are {', '.join(f'{value:.6g}' for value in values)}"
        )
