"""The estimator against a NumPy loop, streaming against all at once, and what it refuses."""

from __future__ import annotations

import math
from functools import reduce
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.vog.estimator import (
    CHANNELS,
    VARIANTS,
    Moments,
    error_by_percentile,
    normalize_per_class,
    rank_correlation,
    spread,
    variance_of_gradients,
)
from tests.analyses.vog import reference as R

NAN, INF = math.nan, math.inf
SHAPES = [(5,), (4, 6), (3, 2, 7), (3, 3, 4, 5), (2, 3, 2, 3, 4)]
"""N, and what follows: the last two are images."""


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def streamed(events: Tensor, dtype: torch.dtype = torch.float64) -> Moments:
    """``(K, N, D)``."""
    moments = Moments.zeros(*events.shape[1:], dtype=dtype)
    for event in events:
        moments.update(event)
    return moments


def equal(found: Tensor, expected: Any, rtol: float = 1e-12, atol: float = 0.0) -> None:
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), rtol=rtol, atol=atol)


# ---- the score ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_variant_is_what_the_loop_finds(variant: Any, channel: Any, ddof: int, shape: tuple[int, ...]) -> None:
    for events in range(2, 8):
        gradients = random(events, *shape, seed=events)
        found = variance_of_gradients(gradients, variant=variant, channel=channel, ddof=ddof)
        assert found.shape == shape[:1] and found.dtype == torch.float64
        equal(found, R.vog(gradients.numpy(), variant, channel, ddof))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_narrow_gradients_lose_nothing_on_the_way(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The mean over channels is not rounded back to the gradient's own type."""
    gradients = random(5, *shape, dtype=dtype)
    equal(variance_of_gradients(gradients), R.vog(gradients.double().numpy()))


@pytest.mark.parametrize(
    ("variant", "ddof", "score"),
    [
        ("vog", 0, 1.0),
        ("vog", 1, math.sqrt(2)),
        ("variance", 0, 1.0),
        ("variance", 1, 2.0),
        ("literal", 0, math.sqrt(2)),
        ("literal", 1, 2.0),
    ],
)
def test_two_events_by_hand(variant: Any, ddof: int, score: float) -> None:
    """1 and 3 deviate from 2 by 1 each."""
    assert variance_of_gradients(torch.tensor([[1.0], [3.0]]), variant=variant, ddof=ddof).item() == pytest.approx(
        score, rel=1e-15
    )


def test_the_root_is_taken_pixel_by_pixel() -> None:
    """Standard deviations 1 and 3: their mean is 2, the root of the mean variance √5."""
    gradients = torch.tensor([[[1.0, 3.0]], [[-1.0, -3.0]]])
    assert variance_of_gradients(gradients).item() == pytest.approx(2, rel=1e-15)
    assert variance_of_gradients(gradients, variant="variance").item() == 5


def test_channels_that_cancel_do_so_before_anything_is_squared() -> None:
    red = random(4, 3, 1, 5, 5)
    image = torch.cat([red, -red], dim=2)
    assert (variance_of_gradients(image) == 0).all()
    assert (variance_of_gradients(image, channel="none") > 0.1).all()


def test_text_keeps_its_second_dimension() -> None:
    """(K, N, words, features) is no image: nothing is averaged first."""
    gradients = random(4, 3, 6, 5)
    equal(variance_of_gradients(gradients), variance_of_gradients(gradients.flatten(2)), rtol=0)


def test_the_gradients_are_left_as_they_are() -> None:
    gradients = random(4, 3, 6)
    gradients[1, 1, 2] = NAN
    before = gradients.clone()
    variance_of_gradients(gradients)
    assert torch.equal(gradients.nan_to_num(7), before.nan_to_num(7))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e-30, 1e20])
def test_what_does_not_vary_scores_exactly_zero(dtype: torch.dtype, value: float) -> None:
    gradients = torch.full((7, 2, 3, 4, 4), value, dtype=dtype)
    assert variance_of_gradients(gradients).tolist() == [0, 0]
    parts = [streamed(part.flatten(2).float(), torch.float32) for part in gradients.split([1, 2, 4])]
    assert spread(reduce(Moments.merged, parts)).tolist() == [0, 0]


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 3, 2), (1, 3), (3,), ()])
def test_one_checkpoint_is_refused_with_what_is_needed(ddof: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"gradients .* must be \(K, N, \.\.\.\) with K >= 2 .*three are enough"):
        variance_of_gradients(torch.zeros(shape), ddof=ddof)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"variant": "VoG"}, "`variant` must be one of 'vog', 'variance', 'literal'; got 'VoG'"),
        ({"channel": "max"}, "`channel` must be one of 'mean', 'none'; got 'max'"),
        ({"ddof": 2}, "`ddof` must be one of 0, 1; got 2"),
        ({"ddof": -1}, "`ddof` must be one of 0, 1; got -1"),
    ],
)
def test_unknown_words_are_named(words: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        variance_of_gradients(torch.zeros(2, 3), **words)


# ---- streaming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ddof", [0, 1])
def test_event_by_event_is_all_at_once(variant: Any, ddof: int) -> None:
    events = random(9, 5, 11)
    moments = streamed(events)
    equal(moments.mean, events.mean(0), atol=1e-15)
    equal(moments.m2, ((events - events.mean(0)) ** 2).sum(0))
    equal(spread(moments, variant, ddof), R.vog(events.numpy(), variant, ddof=ddof))


@pytest.mark.parametrize("seed", range(6))
def test_parts_merge_to_the_whole_in_any_order(seed: int) -> None:
    """Three parts of interleaved events, some of them empty, with events that are undefined for some examples."""
    events = random(8, 5, 7, seed=seed) + 100
    events[random(8, 5, seed=seed + 50) > 1.2] = NAN
    choice = torch.randint(3, (8,), generator=torch.Generator().manual_seed(seed))
    choice[choice == seed % 4] = 0
    parts = [streamed(events[choice == part]) for part in range(3)]
    expected = R.vog(events.numpy())
    for order in permutations(parts):
        merged = reduce(Moments.merged, order)
        equal(merged.count, np.isfinite(events.numpy()).all(2).sum(0))
        equal(spread(merged), expected, rtol=1e-11)


def test_every_split_into_early_and_late_gives_the_same() -> None:
    events = random(6, 4, 5)
    for at in range(7):
        early, late = streamed(events[:at]), streamed(events[at:])
        equal(spread(early.merged(late)), R.vog(events.numpy()))


def test_merging_changes_neither_part() -> None:
    a, b = streamed(random(3, 2, 4)), streamed(random(4, 2, 4, seed=1))
    before = [tensor.clone() for part in (a, b) for tensor in vars(part).values()]
    a.merged(b)
    after = [tensor for part in (a, b) for tensor in vars(part).values()]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("empty_first", [False, True])
def test_merging_with_nothing_changes_no_bit(empty_first: bool) -> None:
    """Not even gradients whose square float32 cannot hold."""
    events = random(3, 2, 4, dtype=torch.float32) * torch.tensor([1e-3, 1.0, 1e3, 1e18]) + torch.tensor([0, 0, 9, 1e25])
    whole, empty = streamed(events, torch.float32), Moments.zeros(2, 4, dtype=torch.float32)
    merged = empty.merged(whole) if empty_first else whole.merged(empty)
    assert all(map(torch.equal, vars(whole).values(), vars(merged).values()))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_undefined_event_is_left_out_for_its_example_alone(bad: float) -> None:
    events = random(5, 4, 6)
    broken = events.clone()
    broken[0, 0, 5], broken[3, 0, 0], broken[4, 2] = bad, bad, bad
    found = spread(streamed(broken))
    equal(found[0], R.vog(events[[1, 2, 4], :1].numpy())[0])
    equal(found[2], R.vog(events[:4, 2:3].numpy())[0])
    assert torch.equal(found[[1, 3]], spread(streamed(events))[[1, 3]])
    equal(variance_of_gradients(broken), R.vog(broken.numpy()))


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fewer_than_two_defined_events_have_no_spread(variant: Any, ddof: int) -> None:
    events = random(3, 4, 5)
    events[:, 0, 0] = NAN
    events[1:, 1, 0] = INF
    events[2, 2, 0] = NAN
    assert spread(Moments.zeros(2, 3), variant, ddof).isnan().all()
    assert spread(streamed(events), variant, ddof).isnan().tolist() == [True, True, False, False]


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("split", [0, 700])
def test_two_thousand_events_in_float32(offset: float, split: int) -> None:
    """A thousand standard deviations from zero: of float32's seven digits four are left in every value."""
    events = random(2000, 3, 40, dtype=torch.float32) + offset
    moments = streamed(events[:split], torch.float32).merged(streamed(events[split:], torch.float32))
    equal(spread(moments), R.vog(events.double().numpy()), rtol=1e-5)


# ---- normalisation within classes --------------------------------------------------------------------------


def test_normalisation_by_hand() -> None:
    """Class 0: mean 2, deviation 1; class −1: mean 6, deviation √2; 1 does not vary; 2 has one member, and a NaN."""
    scores = torch.tensor([1.0, 10.0, 3.0, 10.0, 5.0, NAN, 4.0, 6.0, 6.0, 8.0, NAN])
    classes = torch.tensor([0, 1, 0, 1, 2, 2, -1, -1, -1, -1, 0])
    root = math.sqrt(2)
    equal(normalize_per_class(scores, classes), [-1, NAN, 1, NAN, NAN, NAN, -root, 0, 0, root, NAN], atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normalisation_against_the_loop(dtype: torch.dtype) -> None:
    scores, classes = random(60, dtype=dtype).exp(), torch.arange(60) % 7 - 3
    scores[::11], scores[5], scores[6] = NAN, INF, -INF
    found = normalize_per_class(scores, classes)
    assert found.dtype == torch.float64
    equal(found, R.normalized(scores.double().numpy(), classes.numpy()), rtol=1e-10, atol=1e-13)


def test_no_scores_at_all_normalise_to_none() -> None:
    assert normalize_per_class(torch.empty(0), torch.empty(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("classes", [torch.zeros(4), torch.zeros(3), torch.zeros(3, 1).long(), torch.zeros(4).long()])
def test_classes_that_do_not_fit_are_refused(classes: Tensor) -> None:
    complaint = "classes must be integers, got torch.float32" if classes.shape == (3,) else r"must both be \(N,\)"
    with pytest.raises(ValueError, match=complaint):
        normalize_per_class(torch.zeros(3), classes)


def test_scores_must_be_a_vector() -> None:
    with pytest.raises(ValueError, match=r"scores \(2, 2\) and classes \(2, 2\) must both be \(N,\)"):
        normalize_per_class(torch.zeros(2, 2), torch.zeros(2, 2).long())


# ---- errors by percentile ----------------------------------------------------------------------------------


def test_errors_by_percentile_by_hand() -> None:
    """Quartiles of 0 … 8 begin at 2, 4 and 6; the largest is in the last."""
    scores = torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1, 0])
    wrong = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0, 1]).bool()
    equal(error_by_percentile(scores, wrong, 4), [1 / 2, 0, 1 / 2, 2 / 3])


@pytest.mark.parametrize("bins", [1, 3, 7, 10])
@pytest.mark.parametrize("rounded", [False, True])
def test_errors_by_percentile_against_the_loop(bins: int, rounded: bool) -> None:
    for size in range(1, 70):
        scores, wrong = random(size, seed=size), random(size, seed=100 + size) > 0
        scores = scores.round() if rounded else scores
        found = error_by_percentile(scores, wrong, bins)
        equal(found, R.error_by_percentile(scores.numpy(), wrong.numpy(), bins), rtol=1e-14)


def test_every_example_is_in_a_percentile_range() -> None:
    """Each of ten in its own."""
    wrong = torch.tensor([1, 0, 0, 1, 0, 1, 1, 0, 1, 1])
    assert error_by_percentile(random(10).sort().values, wrong.bool()).tolist() == wrong.tolist()


def test_undefined_scores_are_in_no_percentile_range() -> None:
    scores, wrong = torch.tensor([NAN, 1.0, 2.0, NAN]), torch.tensor([True, False, True, True])
    assert error_by_percentile(scores, wrong, 2).tolist() == [0, 1]
    assert error_by_percentile(scores[:1], wrong[:1], 3).isnan().tolist() == [True] * 3


def test_an_infinite_score_is_among_the_hardest() -> None:
    """Forgetting events are infinite for what was never learned."""
    scores = torch.tensor([0.0, 1.0, INF, 2.0, INF, INF])
    assert error_by_percentile(scores, scores.isinf(), 2).tolist() == [0, 1]


def test_scores_that_do_not_differ_are_all_in_the_last_percentile_range() -> None:
    found = error_by_percentile(torch.ones(4), torch.tensor([True, False, False, False]), 3)
    equal(found, [NAN, NAN, 0.25])


# ---- rank correlation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1e9], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        ([1, 2, 3, 4], [1, 2, 2, 4], 4.5 / math.sqrt(5 * 4.5)),
        ([1, 1, 2, 2], [1, 2, 1, 2], 0),
        ([1, NAN, 2, 3, 9], [1, 0, 2, 3, NAN], 1),
        ([1, INF, 2, -INF], [2, 4, 3, 1], 1),
        ([1, INF, INF, 2], [1, 4, 4, 2], 1),
        ([5, 5, 5], [1, 2, 3], NAN),
        ([1, 2, 3], [INF, INF, INF], NAN),
        ([1, NAN], [1, 2], NAN),
        ([], [], NAN),
    ],
)
def test_rank_correlation_by_hand(a: list[float], b: list[float], rho: float) -> None:
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert rank_correlation(x, y) == pytest.approx(rho, abs=1e-15, nan_ok=True)
    assert rank_correlation(y, x) == pytest.approx(rho, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_scipy(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    a = random(50, seed=seed)
    b = ((a + random(50, seed=seed + 10)) * 3).round()
    a[b > 5] = INF
    assert 0.1 < rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, rel=1e-12)
