"""Projections against explicit matrices in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from lightning_dynamics.interventions.random_subspace import estimator
from lightning_dynamics.interventions.random_subspace.estimator import (
    DenseProjection,
    FastfoodProjection,
    Projection,
    SparseProjection,
    project,
    walsh_hadamard,
)

CPU = torch.device("cpu")
KINDS = ("dense", "sparse", "fastfood")
SIZES = [(1, 1), (2, 1), (5, 3), (64, 64), (100, 7), (127, 16), (129, 33), (1000, 17)]


def make(kind: str, size: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Projection:
    return project(kind, size, dim, seed, dtype=dtype, device=CPU)  # type: ignore[arg-type]


def matrix(projection: Projection) -> torch.Tensor:
    return torch.stack([projection.up(unit) for unit in torch.eye(projection.dim, dtype=projection.dtype)], 1)


@pytest.mark.parametrize("length", [2**k for k in range(14)])
def test_walsh_hadamard_is_the_matrix_of_scipy(length: int) -> None:
    x = torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    kept = x.clone()
    expected = hadamard(length).astype(np.float64) @ x.numpy()
    np.testing.assert_allclose(walsh_hadamard(x).numpy(), expected, rtol=1e-12, atol=1e-11)
    assert torch.equal(x, kept)


def test_walsh_hadamard_twice_is_the_length() -> None:
    x = torch.randn(2**16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(x)) / 2**16, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (0,), (12,), (4, 4)], ids=str)
def test_walsh_hadamard_refuses_other_lengths(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1, 2, 4, 8"):
        walsh_hadamard(torch.zeros(shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "dim"), SIZES)
def test_basis_vectors_have_unit_length(kind: str, size: int, dim: int) -> None:
    """Over all parameters together (Li et al. 2018, section 2)."""
    for seed in range(3):
        lengths = matrix(make(kind, size, dim, seed)).norm(dim=0)
        torch.testing.assert_close(lengths, torch.ones(dim, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "dim"), SIZES)
def test_down_is_the_transpose_of_up(kind: str, size: int, dim: int) -> None:
    projection = make(kind, size, dim)
    high = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = high.clone()
    torch.testing.assert_close(projection.down(high), matrix(projection).T @ high)
    low = torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(projection.up(low), matrix(projection) @ low)
    assert torch.equal(high, kept)


@pytest.mark.parametrize(("size", "dim"), SIZES)
def test_fastfood_is_its_formula(size: int, dim: int) -> None:
    """P = the first D rows and d columns of H G Π H B with explicit matrices, columns divided by their lengths."""
    seed = 5
    length = 2 ** math.ceil(math.log2(size))
    generator = torch.Generator().manual_seed(seed)
    b = 2.0 * torch.randint(2, (length,), generator=generator).double() - 1
    permutation = torch.eye(length, dtype=torch.float64)[torch.randperm(length, generator=generator)]
    g = torch.randn(length, generator=generator, dtype=torch.float64)
    h = torch.from_numpy(hadamard(length).astype(np.float64))
    explicit = h @ torch.diag(g) @ permutation @ h @ torch.diag(b)
    # Over all rows the length is that of Le et al. 2013 and of the authors' code.
    torch.testing.assert_close(explicit.norm(dim=0), torch.full_like(g, math.sqrt(length) * float(g.norm())))
    explicit = explicit[:size, :dim]
    projection = make("fastfood", size, dim, seed)
    assert isinstance(projection, FastfoodProjection) and projection.padded == length
    torch.testing.assert_close(matrix(projection), explicit / explicit.norm(dim=0))


@pytest.mark.parametrize(
    ("size", "padded"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (2**10, 2**10), (2**10 + 1, 2**11)]
)
def test_fastfood_pads_to_the_next_power_of_two(size: int, padded: int) -> None:
    projection = make("fastfood", size, 1)
    assert isinstance(projection, FastfoodProjection) and projection.padded == padded


def test_dense_directions_are_normal_vectors_divided_by_their_length() -> None:
    generator = torch.Generator().manual_seed(3)
    expected = torch.stack([torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(4)], 1)
    torch.testing.assert_close(matrix(make("dense", 50, 4, 3)), expected / expected.norm(dim=0))


def test_sparse_has_one_entry_in_sqrt_d_and_two_signs() -> None:
    """Li, Hastie, Church 2006: a share of 1/√D is not zero; after normalisation ±1/√n with n entries in the column."""
    size, dim = 10_000, 50
    basis = matrix(make("sparse", size, dim))
    entries = basis != 0
    per_column = entries.sum(0)
    # Binomial(D, 0.01): mean 100, standard deviation 10; over 50 columns the mean has 1.4.
    assert 94 < float(per_column.double().mean()) < 106 and 6 < float(per_column.double().std()) < 14
    expected = per_column.double().rsqrt().expand(size, dim)[entries]
    torch.testing.assert_close(basis[entries].abs(), expected)
    assert 0.45 < float((basis[entries] > 0).double().mean()) < 0.55
    # Anywhere alike: 5,000 entries in ten stripes of rows.
    stripes = entries.view(10, -1).sum(1)
    assert 400 < int(stripes.min()) and int(stripes.max()) < 600


def test_bernoulli_places_are_independent_trials() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = torch.zeros(7)
    for _ in range(3000):
        places = estimator._bernoulli_places(7, 0.3, generator)
        assert len(places.unique()) == len(places) and bool((places >= 0).all()) and bool((places < 7).all())
        hits[places] += 1
    torch.testing.assert_close(hits / 3000, torch.full((7,), 0.3), rtol=0, atol=0.04)
    assert torch.equal(estimator._bernoulli_places(5, 1.0, generator), torch.arange(5))


@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_isotropic(kind: str) -> None:
    """E[P Pᵀ] = (d/D) I: no direction of parameter space is preferred."""
    size, dim, seeds = 24, 6, 400
    mean = sum(matrix(make(kind, size, dim, seed)) @ matrix(make(kind, size, dim, seed)).T for seed in range(seeds))
    mean = mean / seeds * size / dim  # type: ignore[operator]
    off = mean - torch.diag(mean.diag())
    assert float((mean.diag() - 1).abs().max()) < 0.15
    assert float(off.abs().max()) < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_everything_follows_from_the_seed(kind: str) -> None:
    before = torch.get_rng_state()
    first, again, other = make(kind, 100, 5, 1), make(kind, 100, 5, 1), make(kind, 100, 5, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(matrix(first), matrix(again))
    assert not torch.equal(matrix(first), matrix(other))
    single = make(kind, 100, 5, 1, torch.float32)
    assert single.up(torch.ones(5)).dtype is torch.float32
    torch.testing.assert_close(matrix(single).double(), matrix(first), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_what_it_says(kind: str) -> None:
    size, dim = 3000, 20
    projection = make(kind, size, dim, dtype=torch.float32)
    stored = {
        "dense": 4 * size * dim,
        "sparse": projection.bytes(),
        "fastfood": 12 * 4096 + 4 * dim,
    }[kind]
    assert projection.bytes() == stored
    if isinstance(projection, SparseProjection):
        entries = int((matrix(projection) != 0).sum())
        assert stored == 24 * entries + 8 * (size + dim + 2)
    assert isinstance(projection, DenseProjection | SparseProjection | FastfoodProjection)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [0, -1, 11])
def test_impossible_dimensions(kind: str, dim: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        make(kind, 10, dim)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="fastfood"):
        make("slow", 10, 1)


def test_progress_sees_every_column() -> None:
    seen = []

    def watch(items, total):  # type: ignore[no-untyped-def]
        for item in items:
            seen.append((item, total))
            yield item

    FastfoodProjection(10, 3, 0, torch.float32, CPU, watch)
    assert seen == [(0, 3), (1, 3), (2, 3)]
