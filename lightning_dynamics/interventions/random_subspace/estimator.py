r"""Random bases of subspaces of parameter space: θ = θ₀ + P θ_d (Li, Farkhoor, Liu, Yosinski 2018, equation 2).

A projection stands for the ``(D, d)`` matrix P, whose columns are the basis vectors. As in the paper (section 2) each
of them has unit length, over all parameters of the network together, so that a step along an axis of θ_d is a step of
the same length in a random direction of the whole space; they are nearly orthogonal to each other, as random ones
are, and are not made more so. Everything follows from the seed, on every device and in every process: numbers are drawn
on the CPU, from a generator of the projection's own.

================  ===================================  ============================  ==========================
                  entries before normalisation         memory                        operations of a product
================  ===================================  ============================  ==========================
``"dense"``       normal                               4 D d bytes                   2 D d
``"sparse"``      ±1 with a share 1/√D, else 0         24 d √D bytes, about          4 d √D
``"fastfood"``    rows of H G Π H B                    12 L bytes; L < 2 D           about 2 L log₂ L
================  ===================================  ============================  ==========================
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from lightning_dynamics.core.precision import full_precision

Kind = Literal["dense", "sparse", "fastfood"]
Watch = Callable[[Iterable[int], int], Iterator[int]]


class Projection(ABC):
    """The matrix P ``(D, d)`` of unit-length columns, as the two products that training needs.

    Args:
        size: D, the number of parameters.
        dim: d, at most D.
        dtype: of all vectors, float32 or float64.
        device: where they lie.
    """

    def __init__(self, size: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        """Check the sizes."""
        if not 1 <= dim <= size:
            raise ValueError(f"a subspace of {size} dimensions has 1 to {size}, not {dim}")
        self.size, self.dim, self.dtype, self.device = size, dim, dtype, device

    @abstractmethod
    def up(self, low: Tensor) -> Tensor:
        """P θ_d: ``(d,)`` to a new ``(D,)``."""

    @abstractmethod
    def down(self, high: Tensor) -> Tensor:
        """Pᵀ g: ``(D,)`` to a new ``(d,)``, the gradient by θ_d where g is that by θ."""

    @abstractmethod
    def bytes(self) -> int:
        """Memory that the projection holds."""


class DenseProjection(Projection):
    """Normal entries, each column divided by its length: directions uniform on the sphere. P is held in memory."""

    def __init__(self, size: int, dim: int, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        """Draw P, a basis vector at a time."""
        super().__init__(size, dim, dtype, device)
        generator = torch.Generator().manual_seed(seed)
        self._basis = torch.empty(dim, size, dtype=dtype, device=device)
        for row in self._basis:
            vector = torch.randn(size, generator=generator, dtype=torch.float64)
            row.copy_(vector / vector.norm())

    def up(self, low: Tensor) -> Tensor:
        """P θ_d."""
        with full_precision():
            return low @ self._basis

    def down(self, high: Tensor) -> Tensor:
        """Pᵀ g."""
        with full_precision():
            return self._basis @ high

    def bytes(self) -> int:
        """4 D d in float32."""
        return self._basis.numel() * self._basis.element_size()


class SparseProjection(Projection):
    """Very sparse random projection (Li, Hastie, Church 2006): a share of 1/√D of the entries is ±1, the others are 0.

    Each column is divided by its length. One that would be all zeros, as happens where D is a handful, gets one entry.
    """

    def __init__(self, size: int, dim: int, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        """Draw places and signs."""
        super().__init__(size, dim, dtype, device)
        generator = torch.Generator().manual_seed(seed)
        places = _bernoulli_places(size * dim, 1 / math.sqrt(size), generator)
        columns, rows = places // size, places % size
        empty = (torch.bincount(columns, minlength=dim) == 0).nonzero().flatten()
        columns = torch.cat([columns, empty])
        rows = torch.cat([rows, torch.randint(size, empty.shape, generator=generator)])
        signs = 2.0 * torch.randint(2, columns.shape, generator=generator).double() - 1
        values = signs / torch.bincount(columns, minlength=dim)[columns].double().sqrt()
        self._up = _csr(rows, columns, values, (size, dim), dtype, device)
        self._down = _csr(columns, rows, values, (dim, size), dtype, device)

    def up(self, low: Tensor) -> Tensor:
        """P θ_d."""
        return self._up @ low

    def down(self, high: Tensor) -> Tensor:
        """Pᵀ g."""
        return self._down @ high

    def bytes(self) -> int:
        """Of P and of Pᵀ, each stored by rows."""
        parts = [part for m in (self._up, self._down) for part in (m.crow_indices(), m.col_indices(), m.values())]
        return sum(part.numel() * part.element_size() for part in parts)


class FastfoodProjection(Projection):
    """Fastfood (Le, Sarlós, Smola 2013) over all parameters at once: P = first D rows, d columns of H G Π H B, scaled.

    With L the power of two from D up: H the Walsh-Hadamard matrix of size L, B random signs, Π a random permutation, G
    normal. Over all L rows every column has the length √(L Σ G²); the D rows that are used are divided by the columns'
    own lengths, so that these are exactly 1, as with the other projections. (To divide by √(L Σ G²) would leave all of
    them shorter, by about √(D/L).) That takes d products at the start: the only thing here that costs more the larger d
    is.

    Two of the four transforms of a step are small: θ_d fills d of L places, so that H B θ_d repeats a transform of
    length m, the power of two from d up, L/m times. The permutation then reads from a table of m entries, and nothing
    of B and H beyond them is needed.

    Args:
        watch: goes through ``range(d)`` while the columns' lengths are found: for a progress bar.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
        watch: Watch = lambda items, _: iter(items),
    ) -> None:
        """Draw B, Π and G; find the columns' lengths."""
        super().__init__(size, dim, dtype, device)
        generator = torch.Generator().manual_seed(seed)
        self.padded = 1 << (size - 1).bit_length()
        self._table = 1 << (dim - 1).bit_length()
        signs = 2.0 * torch.randint(2, (self.padded,), generator=generator) - 1
        order = torch.randperm(self.padded, generator=generator)
        normal = torch.randn(self.padded, generator=generator, dtype=torch.float64)
        self._normal = normal.to(device, dtype)
        self._from = (order % self._table).to(device, torch.int32)
        self._back = order.argsort().to(device, torch.int32)
        self._scale = signs[:dim].to(device, dtype)
        lengths = torch.empty(dim, dtype=torch.float64)
        unit = torch.zeros(dim, dtype=dtype, device=device)
        for column in watch(range(dim), dim):
            unit[column] = 1
            lengths[column] = self.up(unit).double().norm()
            unit[column] = 0
        self._scale /= lengths.to(device, dtype)

    def up(self, low: Tensor) -> Tensor:
        """P θ_d."""
        table = torch.zeros(self._table, dtype=self.dtype, device=self.device)
        torch.mul(low, self._scale, out=table[: self.dim])
        mixed = walsh_hadamard(table).index_select(0, self._from).mul_(self._normal)
        return walsh_hadamard(mixed)[: self.size]

    def down(self, high: Tensor) -> Tensor:
        """Pᵀ g: the factors in reverse order; H and G are symmetric."""
        padded = torch.zeros(self.padded, dtype=self.dtype, device=self.device)
        padded[: self.size] = high
        mixed = walsh_hadamard(padded).mul_(self._normal).index_select(0, self._back)
        table = walsh_hadamard(mixed.view(-1, self._table).sum(0))
        return table[: self.dim] * self._scale

    def bytes(self) -> int:
        """G, Π and its inverse."""
        parts = (self._normal, self._from, self._back, self._scale)
        return sum(part.numel() * part.element_size() for part in parts)


def walsh_hadamard(x: Tensor) -> Tensor:
    """H x of a vector whose length L is a power of two; H_ij = (-1)^popcount(i & j), not normalised: H H = L.

    H is a Kronecker product of small Hadamard matrices (Sylvester's), so the transform is log₁₆ L products with a
    16 x 16 matrix, each along one axis of x seen as a cube: the O(L log L) of the butterfly, in matrix products.

    Raises:
        ValueError: if L is no power of two.
    """
    length = x.numel()
    if x.ndim != 1 or length & (length - 1) or not length:
        raise ValueError(f"the Walsh-Hadamard transform takes a vector of 1, 2, 4, 8, … numbers, not {tuple(x.shape)}")
    bits = length.bit_length() - 1
    with full_precision():
        for order in [16] * (bits // 4) + [1 << bits % 4] * bool(bits % 4):
            # Along the last axis, which becomes the first: after all of them the axes are in order again.
            x = (_hadamard(order, x.dtype, x.device) @ x.view(-1, order).t()).view(-1)
    return x


def project(kind: Kind, size: int, dim: int, seed: int, *, dtype: torch.dtype, device: torch.device) -> Projection:
    """The projection of this kind.

    Raises:
        ValueError: an unknown kind, or not 1 <= dim <= size.
    """
    kinds: dict[str, type[DenseProjection | SparseProjection | FastfoodProjection]] = {
        "dense": DenseProjection,
        "sparse": SparseProjection,
        "fastfood": FastfoodProjection,
    }
    if kind not in kinds:
        raise ValueError(f"a projection is one of {', '.join(kinds)}; got {kind!r}")
    return kinds[kind](size, dim, seed, dtype, device)


def _hadamard(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    key = order, dtype, device
    if key not in _MATRICES:
        matrix = torch.ones(1, 1, dtype=dtype, device=device)
        while len(matrix) < order:
            matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
        _MATRICES[key] = matrix
    return _MATRICES[key]


_MATRICES: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def _bernoulli_places(count: int, share: float, generator: torch.Generator) -> Tensor:
    """The places, rising, of the successes among ``count`` independent trials: from the gaps between them.

    Gaps are geometric, so that the work is that of the successes and not of the trials.
    """
    if share >= 1:
        return torch.arange(count)
    found: list[Tensor] = []
    last = -1
    while last < count:
        expected = (count - last) * share
        more = int(expected + 6 * math.sqrt(expected) + 16)
        uniform = 1 - torch.rand(more, generator=generator, dtype=torch.float64)  # (0, 1]
        gaps = (uniform.log() / math.log1p(-share)).floor().long() + 1
        places = last + gaps.cumsum(0)
        found.append(places)
        last = int(places[-1])
    places = torch.cat(found)
    return places[places < count]


def _csr(
    rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A matrix stored by rows: its products add in a fixed order."""
    order = (rows * shape[1] + columns).argsort()
    starts = torch.zeros(shape[0] + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(rows, minlength=shape[0]), 0, out=starts[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*beta.*")
        return torch.sparse_csr_tensor(
            starts, columns[order], values[order].to(dtype), shape, check_invariants=True
        ).to(device)
