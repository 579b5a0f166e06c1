"""Eigenvalues, trace and spectral density of a symmetric matrix that is known only by its products with vectors.

Pure linear algebra on ``matvec: (P,) -> (P,)``; whose matrix it is does not matter here. Vectors lie on the matrix's
device in its dtype, everything of the size of the Krylov space in float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MatVec = Callable[[Tensor], Tensor]

CONFIDENCE = 0.95
"""With which :func:`overlooked` holds."""

_ROWS = 16  # vectors in one piece of memory
_ISOLATED = 10.0  # times the weight that one eigenvector of P has in a random vector, on average
_OVERLOOKED = 1e-3  # share of the spread, at an end of the spectrum that is no isolated eigenvalue


@dataclass(frozen=True, eq=False)
class ExtremePairs:
    """Both ends of a spectrum.

    Args:
        largest: ``(k,)`` float64, falling.
        smallest: ``(k,)`` float64, rising.
        largest_vectors: ``(k, P)`` unit vectors; the entry of largest magnitude is positive.
        smallest_vectors: likewise.
        largest_residuals: ``(k,)`` float64: ‖Hv − λv‖; an eigenvalue lies within this distance of λ.
        smallest_residuals: likewise.
        converged: see :func:`extreme_pairs`.
        complete: the Krylov space is exhausted: ``values`` are all the eigenvalues that there are.
        overlooked: see :func:`overlooked`; 0 if complete.
        products: how many products with vectors it took.
        values: ``(m,)`` float64, rising: all Ritz values.
    """

    largest: Tensor
    smallest: Tensor
    largest_vectors: Tensor
    smallest_vectors: Tensor
    largest_residuals: Tensor
    smallest_residuals: Tensor
    converged: bool
    complete: bool
    overlooked: float
    products: int
    values: Tensor


def extreme_pairs(
    matvec: MatVec,
    size: int,
    *,
    k: int = 1,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ExtremePairs:
    """The k largest and the k smallest eigenvalues (by value, not by magnitude), and their vectors.

    Lanczos with full reorthogonalisation, from k random vectors at once, so that an eigenvalue which occurs several
    times is found up to k times; from a single vector it would be found once, and a wrong one be given for the next.

    Converged are results of which *both* hold at each end, or for which the space is exhausted (then they are exact):

    - every residual is at most ``tolerance`` × the largest |λ| found;
    - nothing further out is likely to have been overlooked. A residual cannot tell: in the space of a few products, a
      crowd of eigenvalues near 0 looks like a converged smallest eigenvalue long before an isolated negative one has
      come forward. An end is taken for good if its vectors have no more weight in the random start than single
      eigenvectors have (10 times 1/P at most), so that it is no crowd; else only when :func:`overlooked` is at most
      0.001 (or the tolerance, if that is larger).

    Cost: at most ``max_iterations`` products, and 4 n P operations of orthogonalisation after n of them. Memory:
    (products + k) × P numbers, taken 16 vectors at a time.

    Args:
        matvec: the matrix.
        size: P.
        k: how many at each end, at most P.
        tolerance: 0 goes on until the space is exhausted, that is for up to P products.
        max_iterations: products at most.
        seed: of the start, which is drawn on the CPU.
        dtype: of the vectors.
        device: of the vectors.

    Raises:
        ValueError: ``k``, ``tolerance`` or ``max_iterations`` cannot work, or a product is not finite.
    """
    if not 1 <= k <= size:
        raise ValueError(f"`k` must be from 1 up to the size of the matrix, {size}; got {k}")
    if max_iterations < k:
        raise ValueError(f"`max_iterations` must be at least `k`, {k}; got {max_iterations}")
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be 0 or more, got {tolerance}")
    space = KrylovSpace(matvec, random_start(size, k, seed, dtype, device))
    while True:
        advanced = space.products < max_iterations and space.advance()
        dimension = space.products
        over = not advanced or space.is_exhausted or dimension == max_iterations
        if dimension < k or not (over or dimension % max(1, dimension // 10) == 0):
            continue
        ritz = space.ritz()
        converged = space.is_exhausted or _settled(ritz, k, tolerance, overlooked(dimension, size, k), k / size)
        if converged or over:
            break
    last = torch.arange(dimension - 1, dimension - 1 - k, -1)
    return ExtremePairs(
        ritz.values[last],
        ritz.values[:k],
        space.vectors(ritz.coefficients[:, last]),
        space.vectors(ritz.coefficients[:, :k]),
        ritz.residuals[last],
        ritz.residuals[:k],
        converged,
        space.is_exhausted,
        0.0 if space.is_exhausted else overlooked(dimension, size, k),
        dimension,
        ritz.values,
    )


def overlooked(products: int, size: int, k: int = 1) -> float:
    """How far beyond the ends found an eigenvalue may lie, as a share of λmax − λmin, with a confidence of 95 %.

    Kuczyński, Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start"
    (SIAM J. Matrix Anal. Appl. 13, 1992): after m products from a start uniform on the sphere, the probability that
    λmax − θ exceeds ε (λmax − λmin) is at most 1.648 √P exp(−√ε (2m − 1)), whatever the spectrum. Solved for ε; the
    space from k vectors contains that of one with m / k products.
    """
    steps = max(1, products // k)
    return min(1.0, (math.log(1.648 * math.sqrt(size) / (1 - CONFIDENCE)) / (2 * steps - 1)) ** 2)


@dataclass(frozen=True, eq=False)
class TraceEstimate:
    """Hutchinson's estimate.

    Args:
        samples: ``(n,)`` float64: zᵀHz of each probe.
    """

    samples: Tensor

    @property
    def trace(self) -> float:
        """Mean of the samples."""
        return float(self.samples.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean: std (ddof 1) / √n; NaN for one sample."""
        return float(self.samples.std() / math.sqrt(len(self.samples))) if len(self.samples) > 1 else math.nan


def trace_estimate(
    matvec: MatVec,
    size: int,
    *,
    num_samples: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TraceEstimate:
    """The trace, as the mean of zᵀHz over probes z of ±1 (Hutchinson 1989): E = tr H, variance 2 Σ_{i≠j} H²_{ij}.

    The probes come from a generator on the CPU: the same on every device and in every process.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(num_samples):
        signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8)
        probe = signs.to(device=device, dtype=dtype).mul_(2).sub_(1)
        samples.append(float((probe * matvec(probe)).sum(dtype=torch.float64)))
    return TraceEstimate(torch.tensor(samples, dtype=torch.float64))


def quadrature(
    matvec: MatVec,
    size: int,
    *,
    num_samples: int,
    num_iterations: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Gauss quadrature of the spectrum, by Lanczos from random vectors (Golub, Welsch 1969; Lin, Saad, Yang 2016).

    For each start v, Σⱼ wⱼ f(θⱼ) is vᵀf(H)v for every polynomial f of degree up to 2m − 1, and its mean over v
    uniform on the sphere is tr f(H) / P.

    Returns:
        nodes ``(num_samples, m)`` and weights ``(num_samples, m)`` float64, each row of weights adding up to 1; m is
        ``num_iterations`` or less. Where a space was exhausted earlier, the rest has weight 0 at its last node.
    """
    rows = []
    for sample in range(num_samples):
        start = random_start(size, 1, seed + sample, dtype, device)
        ritz = lanczos(matvec, start, num_iterations).ritz()
        rows.append((ritz.values, ritz.weights / ritz.weights.sum()))
    longest = max(len(values) for values, _ in rows)
    nodes = torch.stack([torch.cat([values, values[-1:].expand(longest - len(values))]) for values, _ in rows])
    weights = torch.stack([torch.cat([w, w.new_zeros(longest - len(w))]) for _, w in rows])
    return nodes, weights


def broadened(nodes: Tensor, weights: Tensor, grid: Tensor, sigma: float) -> Tensor:
    """Σⱼ wⱼ N(grid; θⱼ, σ²): nodes ``(…, m)``, weights ``(…, m)`` and grid ``(G,)`` to ``(…, G)``."""
    distances = (grid - nodes.unsqueeze(-1)) / sigma
    bells = torch.exp(-0.5 * distances.square()) / (sigma * math.sqrt(2 * math.pi))
    return (weights.unsqueeze(-1) * bells).sum(-2)


def random_start(size: int, k: int, seed: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """``(k, P)`` normal vectors, drawn on the CPU in float32: the same on every device and in every dtype."""
    return torch.randn(k, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(device, dtype)


# ---- the Krylov space --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ritz:
    """What a Krylov space of m processed vectors knows of the matrix.

    Args:
        values: ``(m,)`` float64, rising.
        coefficients: ``(m, m)`` float64: columns are Ritz vectors in terms of the basis.
        residuals: ``(m,)`` float64: ‖Hy − θy‖.
        weights: ``(m,)`` float64: squared length of each Ritz vector's projection on the start.
    """

    values: Tensor
    coefficients: Tensor
    residuals: Tensor
    weights: Tensor


def lanczos(matvec: MatVec, start: Tensor, num_iterations: int) -> KrylovSpace:
    """The Krylov space of so many products, or of as many as it takes to exhaust it; ``start`` is ``(k, P)``."""
    space = KrylovSpace(matvec, start)
    while space.products < num_iterations and space.advance():
        pass
    return space


class KrylovSpace:
    """Lanczos from one or several vectors, one product at a time, every vector orthogonalised against all others.

    Ruhe's band variant (Math. Comp. 33, 1979). The projection T = VᵀHV is kept as it was measured; what the
    product of a vector adds beyond the basis is its next member, unless that is nothing but rounding error: then
    the number of vectors that wait for their product falls by one, and at 0 the space is invariant, exhausted.

    Args:
        matvec: the matrix.
        start: ``(k, P)``, independent of each other.
    """

    def __init__(self, matvec: MatVec, start: Tensor) -> None:
        """Orthogonalise the start."""
        self._matvec = matvec
        self._basis = _Basis(start)
        self._columns: list[Tensor] = []
        self._scale = 0.0
        for vector in start:
            remainder, _, length = self._basis.beyond(vector)
            if length > 1e-6 * float(vector.norm()):
                self._basis.append(remainder / length)
        self._start = len(self._basis)

    @property
    def products(self) -> int:
        """How many products were taken: the dimension m of the projection."""
        return len(self._columns)

    @property
    def is_exhausted(self) -> bool:
        """Whether the space is invariant: every vector's product lies in it."""
        return self.products == len(self._basis)

    def advance(self) -> bool:
        """Take one product; False if there is none to take."""
        if self.is_exhausted:
            return False
        product = self._matvec(self._basis[self.products])
        length = _length(product)
        if not math.isfinite(length):
            raise ValueError("a product of the matrix with a vector is not finite")
        self._scale = max(self._scale, length)
        remainder, column, beyond = self._basis.beyond(product)
        rounding = 10 * torch.finfo(product.dtype).eps * self._scale
        if beyond > rounding and len(self._basis) < len(product):
            self._basis.append(remainder / beyond)
            column = torch.cat([column, column.new_tensor([beyond])])
        self._columns.append(column)
        return True

    def ritz(self) -> Ritz:
        """Eigenpairs of the projection, and how far they are from eigenpairs of the matrix."""
        m, n = self.products, len(self._basis)
        full = torch.zeros(n, m, dtype=torch.float64)
        for j, column in enumerate(self._columns):
            full[: len(column), j] = column
        values, coefficients = torch.linalg.eigh((full[:m] + full[:m].T) / 2)
        residuals = (full[m:] @ coefficients).norm(dim=0)
        return Ritz(values, coefficients, residuals, coefficients[: self._start].square().sum(0))

    def vectors(self, coefficients: Tensor) -> Tensor:
        """``(m, q)`` in terms of the basis to ``(q, P)`` unit vectors."""
        found = self._basis.combined(coefficients)
        found /= found.norm(dim=1, keepdim=True)
        top = found.gather(1, found.abs().argmax(1, keepdim=True))
        return found.mul_(top.sign())


class _Basis:
    """Orthonormal vectors in memory that grows with their number."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._blocks: list[Tensor] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        return self._blocks[index // _ROWS][index % _ROWS]

    def append(self, vector: Tensor) -> None:
        if self._count == len(self._blocks) * _ROWS:
            self._blocks.append(self._like.new_empty(min(_ROWS, self._like.shape[1]), self._like.shape[1]))
        self._blocks[-1][self._count % _ROWS] = vector
        self._count += 1

    def beyond(self, vector: Tensor) -> tuple[Tensor, Tensor, float]:
        """What of a vector is orthogonal to the basis, its coefficients ``(n,)`` in it, and the remainder's length.

        Classical Gram-Schmidt, repeated until it takes away nothing more: orthogonal to rounding error.
        """
        rest, length = vector.clone(), _length(vector)
        coefficients = torch.zeros(self._count, dtype=torch.float64)
        for _ in range(4):
            before = length
            found = []
            for block in self._filled():
                inner = block @ rest
                rest -= inner @ block
                found.append(inner)
            if found:
                coefficients += torch.cat(found).double().cpu()
            length = _length(rest)
            if length > 0.7 * before or length == 0:
                break
        return rest, coefficients, length

    def combined(self, coefficients: Tensor) -> Tensor:
        total = self._like.new_zeros(coefficients.shape[1], self._like.shape[1])
        for number, block in enumerate(self._filled()):
            part = coefficients[number * _ROWS : number * _ROWS + len(block)].T
            total += part.to(total) @ block[: part.shape[1]]
        return total

    def _filled(self) -> list[Tensor]:
        return [block[: self._count - i * _ROWS] for i, block in enumerate(self._blocks)]


def _length(vector: Tensor) -> float:
    return math.sqrt(float(torch.linalg.vector_norm(vector, dtype=torch.float64).square()))


def _settled(ritz: Ritz, k: int, tolerance: float, unseen: float, single: float) -> bool:
    """Whether both ends have converged; ``single``: weight of one eigenvector in the start, on average."""
    allowed = tolerance * float(ritz.values.abs().max())
    for end in (slice(0, k), slice(len(ritz.values) - k, None)):
        if bool((ritz.residuals[end] > allowed).any()):
            return False
        is_crowd = bool((ritz.weights[end] > _ISOLATED * single).any())
        if is_crowd and unseen > max(tolerance, _OVERLOOKED):
            return False
    return True
