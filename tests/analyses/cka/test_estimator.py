"""The published mathematics, against formulas written differently, in every dtype and layout."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.cka import cka
from lightning_dynamics.analyses.cka import estimator as E
from lightning_dynamics.core.precision import full_precision
from tests.analyses.cka import reference as R

FLOAT32_ERROR = 2e-6
FLOAT64_ERROR = 1e-12
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def error_allowed(*tensors: Tensor) -> float:
    return FLOAT64_ERROR if all(t.dtype in (torch.float64, torch.complex128) for t in tensors) else FLOAT32_ERROR


def related(shape: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two float64 representations of the same examples with a few factors in common."""
    generator = torch.Generator().manual_seed(seed)
    n, p = shape[0], max(1, int(np.prod(shape[1:])))
    factors = torch.randn(n, 5, generator=generator, dtype=torch.float64)

    def one() -> Tensor:
        mixed = factors @ torch.randn(5, p, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, p, generator=generator, dtype=torch.float64)
        return (scale * (0.5 * mixed + noise)).reshape(shape)

    return one(), one()


def expected(x: Tensor, y: Tensor, **options: object) -> float:
    return float(R.cka_map([[x]], [[y]], **options)[0, 0])  # type: ignore[arg-type]


# ---- HSIC itself -------------------------------------------------------------------------------------------


def test_hsic1_is_the_u_statistic_over_distinct_examples():
    x, y = related((7, 3))
    k, m = R.linear(x), R.linear(y)
    # Song et al. 2012: the mean over 4-tuples of distinct indices of K_ij (L_ij + L_kl - 2 L_ik).
    tuples = list(permutations(range(7), 4))
    brute = np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in tuples])
    rows = [E.centered_rows(E.gram(t)[None]) for t in (x, y)]
    value = E.inner_products(*rows).item() / (7 * (7 - 3))
    assert value == pytest.approx(brute, rel=1e-12)
    assert R.hsic1(k, m) == pytest.approx(brute, rel=1e-10)  # and so is the formula the other tests rest on


def test_biased_hsic_is_the_trace_formula():
    x, y = related((9, 4))
    rows = [E.centered_rows(E.gram(t)[None], debiased=False) for t in (x, y)]
    value = E.inner_products(*rows).item() / (9 - 1) ** 2
    assert value == pytest.approx(R.hsic0(R.linear(x), R.linear(y)), rel=1e-12)


def test_hsic1_has_expectation_zero_for_independent_data_while_the_biased_does_not():
    generator = torch.Generator().manual_seed(3)
    values = torch.stack(
        [
            torch.stack([cka(x, y, debiased=flag) for flag in (True, False)])
            for x, y in (torch.randn(2, 16, 40, generator=generator).unbind() for _ in range(200))
        ]
    )
    unbiased, biased = values.mean(0).tolist()
    assert abs(unbiased) < 3 * values[:, 0].std().item() / 200**0.5 + 1e-3
    assert values[:, 0].min() < -0.05  # kept, not clamped
    assert biased > 0.5


# ---- numbers that are right in every dtype -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shift", [0, 10, 100, 1000])
@pytest.mark.parametrize("shape", [(4, 3), (33, 7), (64, 1), (32, 3, 5, 5), (48, 17, 9), (16, 2, 3, 4, 2)], ids=str)
@pytest.mark.parametrize("debiased", [True, False])
def test_cka_equals_float64_reference(shape, shift, dtype, debiased):
    # bfloat16 has a resolution of 4 at 1000: the spread must survive its rounding for there to be an answer.
    pair = [(t + shift).to(dtype) for t in related(shape, scale=10.0)]
    truth = expected(*pair, debiased=debiased)
    value = cka(*pair, debiased=debiased)
    assert value.dtype == torch.float64 and value.shape == ()
    assert np.isfinite(truth)
    # n = 4 divides by n - 3 = 1 and cancels most: there the sums lose a digit more.
    assert abs(value.item() - truth) <= error_allowed(*pair)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_features(dtype):
    pair = [t.to(dtype) for t in related((48, 20_000))]
    assert abs(cka(*pair).item() - expected(*pair)) <= error_allowed(*pair)


def test_float16_features_whose_products_overflow_float16():
    pair = [(t + 500).half() for t in related((32, 4096), scale=100.0)]
    assert abs(cka(*pair).item() - expected(*pair)) <= FLOAT32_ERROR


def test_float64_beside_float32():
    x, y = related((40, 30))
    pair = (x, y.float())
    assert abs(cka(*pair).item() - expected(*pair)) <= FLOAT32_ERROR
    assert abs(cka(*pair[::-1]).item() - expected(*pair)) <= FLOAT32_ERROR


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_small_and_large_activations(scale):
    pair = [t.float() for t in related((24, 10))]
    scaled = [pair[0] * scale, pair[1]]
    assert abs(cka(*scaled).item() - expected(*scaled)) <= FLOAT32_ERROR


LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "every other": lambda x: x.repeat_interleave(2, 0)[::2],
    "sliced channels": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "requires grad": lambda x: x.clone().requires_grad_(),
    "parameter": torch.nn.Parameter,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout):
    x, y = (t.float() for t in related((24, 6, 5, 7)))
    changed = LAYOUTS[layout](x)
    before = changed.detach().clone()
    assert abs(cka(changed, y).item() - expected(x, y)) <= FLOAT32_ERROR
    assert torch.equal(changed.detach(), before)  # the activation itself is never written to


def test_channels_last_three_dimensional():
    x, y = (t.float() for t in related((12, 3, 4, 5, 2)))
    changed = x.to(memory_format=torch.channels_last_3d)
    assert abs(cka(changed, y).item() - expected(x, y)) <= FLOAT32_ERROR


def test_expanded_features_count_as_often_as_they_stand_there():
    x, y = (t.float() for t in related((16, 5, 1, 1)))
    spread = x.expand(16, 5, 4, 4)
    assert abs(cka(spread, y).item() - expected(x, y)) <= FLOAT32_ERROR
    # Beside other features the repetition is a weight.
    mixed = torch.cat((spread.flatten(1), y.flatten(1)), 1)
    assert abs(cka(mixed, y).item() - expected(mixed, y)) <= FLOAT32_ERROR


def test_one_dimensional_is_one_feature():
    x, y = (t.float() for t in related((20,)))
    assert abs(cka(x, y).item() - expected(x[:, None], y[:, None])) <= FLOAT32_ERROR


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("conjugate", [False, True])
def test_complex_is_real_and_imaginary_part(dtype, conjugate):
    a, b = related((20, 6))
    c, d = related((20, 6), seed=1)
    x, y = torch.complex(a, b).to(dtype), torch.complex(c, d).to(dtype)
    assert abs(cka(x.conj() if conjugate else x, y).item() - expected(x, y)) <= error_allowed(x, y)


def test_no_features_at_all_is_a_constant():
    x = torch.randn(8, 3)
    for _ in range(5):
        dirt = torch.full((8, 8), 3.0)  # what an uninitialised Gram matrix may find in memory
        del dirt
        assert cka(torch.empty(8, 0), x).isnan()


# ---- whatever training has switched on ---------------------------------------------------------------------


def test_inside_autocast():
    x, y = (t.float() for t in related((32, 200)))
    outside = cka(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cka(x, y), outside)
        assert torch.is_autocast_enabled("cpu")


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_under_reduced_matmul_precision(precision, matmul_precision):
    x, y = (t.float() for t in related((64, 512)))
    outside = cka(x, y)
    torch.set_float32_matmul_precision(precision)
    assert torch.equal(cka(x, y), outside)
    assert torch.get_float32_matmul_precision() == precision


NEW_API = hasattr(torch.backends, "fp32_precision")


@pytest.fixture
def fp32_precision():
    owners = [torch.backends, torch.backends.mkldnn, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul]
    yield owners
    for owner in owners:
        owner.fp32_precision = "none"


@pytest.mark.skipif(not NEW_API, reason="torch.backends.*.fp32_precision came with torch 2.9")
@pytest.mark.parametrize("place", [0, 1, 2, 3], ids=["all", "mkldnn", "mkldnn.matmul", "cuda.matmul"])
def test_under_the_newer_precision_settings(place, fp32_precision):
    x, y = (t.float() for t in related((64, 512)))
    outside = cka(x, y)
    owner = fp32_precision[place]
    owner.fp32_precision = "tf32" if place in (0, 3) else "bf16"
    settings = [each.fp32_precision for each in fp32_precision]
    assert torch.equal(cka(x, y), outside)
    assert [each.fp32_precision for each in fp32_precision] == settings


@pytest.mark.skipif(not NEW_API, reason="torch.backends.*.fp32_precision came with torch 2.9")
def test_a_setting_that_is_inherited_stays_inherited(fp32_precision):
    everything, _, matmul, _ = fp32_precision
    x = torch.randn(8, 3)
    cka(x, x)
    everything.fp32_precision = "tf32"
    assert matmul.fp32_precision == "tf32"
    cka(x, x)
    everything.fp32_precision = "ieee"
    assert matmul.fp32_precision == "ieee"


def test_settings_come_back_after_an_exception(matmul_precision):
    torch.set_float32_matmul_precision("medium")
    with pytest.raises(RuntimeError, match="inside"), full_precision():
        raise RuntimeError("inside")
    assert torch.get_float32_matmul_precision() == "medium"
    assert torch.is_grad_enabled()


# ---- what CKA does and does not see ------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("debiased", [True, False])
def test_invariances(kernel, debiased):
    x, y = related((30, 8))
    generator = torch.Generator().manual_seed(9)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(8, generator=generator)

    def value(x: Tensor) -> float:
        return cka(x, y, kernel=kernel, debiased=debiased).item()

    same = value(x)
    assert 0.01 < same < 0.99
    for changed in (x @ rotation, 3.7 * x, -x, x + 41.5, x[:, order]):
        assert value(changed) == pytest.approx(same, abs=1e-9)
    shuffled = x[torch.randperm(30, generator=generator)]
    assert abs(value(shuffled) - same) > 0.05
    stretched = x * torch.tensor([10.0] + [1.0] * 7, dtype=torch.float64)
    assert abs(value(stretched) - same) > 1e-3


def test_with_itself_it_is_one_and_it_is_symmetric():
    x, y = (t.float() for t in related((30, 8)))
    assert cka(x, x).item() == pytest.approx(1, abs=1e-15)
    assert cka(x, y).item() == pytest.approx(cka(y, x).item(), abs=1e-15)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [4, 17, 129])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e7, 1 / 3])
def test_a_constant_representation_has_no_similarity(value, n, debiased, kernel):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    constant = torch.full((n, 11), value)
    for pair in ((constant, x), (x, constant), (constant, constant)):
        assert cka(*pair, debiased=debiased, kernel=kernel).isnan()


def test_nan_in_nan_out():
    x, y = torch.randn(2, 8, 3).unbind()
    x[2, 1] = torch.nan
    assert cka(x, y).isnan() and cka(y, x).isnan()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_examples(n):
    with pytest.raises(ValueError, match="4 examples"):
        cka(torch.randn(n, 5), torch.randn(n, 5))


def test_different_examples():
    with pytest.raises(ValueError, match="same examples.*8 and 9"):
        cka(torch.randn(8, 5), torch.randn(9, 5))


# ---- RBF ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bandwidth", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("n", [13, 14, 16])  # odd and even numbers of pairs
def test_rbf_equals_the_formula_of_its_docstring(n, bandwidth):
    x, y = related((n, 6))
    rows = [R.rbf(t, bandwidth) for t in (x, y)]
    truth = R.hsic1(*rows) / np.sqrt(R.hsic1(rows[0], rows[0]) * R.hsic1(rows[1], rows[1]))
    assert cka(x, y, kernel="rbf", bandwidth=bandwidth).item() == pytest.approx(truth, abs=1e-11)
    assert cka(x.float(), y.float(), kernel="rbf", bandwidth=bandwidth).item() == pytest.approx(truth, abs=5e-6)


def test_rbf_far_from_the_origin():
    x, y = (t.float() + 1000 for t in related((32, 20)))
    assert abs(cka(x, y, kernel="rbf").item() - expected(x, y, kernel="rbf")) <= 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rbf_when_most_examples_are_identical(dtype):
    """A dead layer that answers to a few examples alone: the median distance is 0, the kernel an indicator."""
    generator = torch.Generator().manual_seed(4)
    x = torch.zeros(40, 300, dtype=dtype)
    x[:8] = torch.randn(8, 300, generator=generator, dtype=dtype)
    y = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    group = np.array([*range(8), *[8] * 32])
    indicator = (group[:, None] == group[None]).astype(float)
    other = R.rbf(y)
    truth = R.hsic1(indicator, other) / np.sqrt(R.hsic1(indicator, indicator) * R.hsic1(other, other))
    assert cka(x, y, kernel="rbf").item() == pytest.approx(truth, abs=5e-6)


# ---- first principal component -----------------------------------------------------------------------------


def components(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    centred = E.double_center(E.gram(x)[None])
    total = centred.diagonal(dim1=-2, dim2=-1).sum(-1)
    values, vectors = E.first_component(centred)
    return (values / total)[0], vectors[0], E.remove_component(centred, values, vectors)


@pytest.mark.parametrize("shape", [(20, 6), (12, 40), (16, 3, 4, 4)], ids=str)
def test_first_component_equals_svd_of_the_features(shape):
    x, y = related(shape)
    share, scores, without = components(x)
    variances = R.spectrum(x)
    assert share.item() == pytest.approx(variances[0] / variances.sum(), abs=1e-12)
    assert abs(scores.numpy() @ R.first_scores(x)) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(without[0].numpy(), R.linear(R.without_first(x)), atol=1e-9 * variances[0])
    rows = E.centered_rows(without), E.centered_rows(E.gram(y)[None])
    value = E.similarity(E.inner_products(*rows), E.norms(rows[0]), E.norms(rows[1])).item()
    assert value == pytest.approx(expected(R.without_first(x), y), abs=1e-11)


def test_a_layer_that_is_not_finite_leaves_the_others_alone():
    x, y = related((10, 4))
    grams = torch.stack((E.gram(x), torch.full((10, 10), torch.nan, dtype=torch.float64), E.gram(y)))
    values, vectors = E.first_component(E.double_center(grams))
    assert values.isnan().tolist() == [False, True, False]
    assert vectors.isnan().all(1).tolist() == [False, True, False]
    alone, _ = E.first_component(E.double_center(E.gram(y)[None]))
    assert values[2].item() == pytest.approx(alone.item(), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_single_feature_leaves_nothing_behind(dtype):
    """Rounding error is no representation: after removal there is nothing to be similar to."""
    x, y = (t.to(dtype) for t in related((33, 1)))
    wide = x * torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).to(dtype) + 7
    for alone in (x, wide):
        share, _, without = components(alone)
        assert share.item() == pytest.approx(1, abs=1e-5)
        assert not without.any()
    assert components(torch.cat((x, y), 1))[2].any()


def test_a_constant_has_no_first_component():
    values, vectors = E.first_component(torch.zeros(1, 6, 6))
    assert values.tolist() == [0] and vectors.isnan().all()
    assert not E.remove_component(torch.zeros(1, 6, 6), values, vectors).any()


def test_the_first_example_is_not_where_the_others_are_measured_from():
    """Measured from an example 1,000 away, the others would be 1,000 away again."""
    x, y = related((32, 6))
    x[0] += 1000
    x, y = x.float(), y.float()
    centred = R.examples(x) - R.examples(x).mean(0)
    rest = E.gram(x)[1:, 1:].double().numpy() - (centred @ centred.T)[1:, 1:]
    # The outlier leaves the others about 31 from the mean: products near 6,000, rounded to 24 bits.
    assert np.abs(rest).max() < 0.02
    assert abs(cka(x, y).item() - expected(x, y)) <= FLOAT32_ERROR
