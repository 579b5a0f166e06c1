"""Moments of learning, against loops in numpy, and the test of chance against what chance does."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.synchrony import FEWEST_EVENTS, peaks, synchrony


def noise(seed: int, events: int = 300, columns: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(events, columns, generator=generator, dtype=torch.float64)


def slow_peaks(series: np.ndarray, share: float, reach: int) -> np.ndarray:
    """The definition, one value at a time."""
    events, columns = series.shape
    found = np.zeros(series.shape, dtype=bool)
    for t, k in itertools.product(range(1, events - 1), range(columns)):
        column, value = series[:, k], series[t, k]
        after = t + 1
        while after < events and column[after] == value:
            after += 1
        around = column[max(0, t - reach) : t + reach + 1]
        allowed = max(1, math.floor(np.isfinite(around).sum() * share))
        found[t, k] = (
            value < 0
            and value < column[t - 1]
            and after < events
            and value < column[after]
            and (around < value).sum() < allowed
        )
    return found


# ---- peaks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "reach"), [(0.1, 10), (0.3, 4), (1.0, 50), (0.01, 1)])
@pytest.mark.parametrize("rounded", [False, True])
def test_peaks_are_those_of_the_definition(share, reach, rounded):
    series = noise(1, 120, 5)
    series = (series * 2).round() if rounded else series  # with plateaus
    series[40, 2], series[80:84, 3], series[0, 0] = math.nan, math.nan, -math.inf
    expected = slow_peaks(series.numpy(), share, reach)
    assert expected.any()
    np.testing.assert_array_equal(peaks(series, share=share, reach=reach).numpy(), expected)


def test_a_peak_is_below_zero_and_below_its_neighbours():
    series = torch.tensor([[0.0], [-1], [0], [2], [1], [2], [-1], [-1], [0], [-3]], dtype=torch.float64)
    assert peaks(series, share=1.0).nonzero()[:, 0].tolist() == [1, 6]


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 3), (5, 0)])
def test_too_few_events_for_a_peak(shape):
    found = peaks(torch.zeros(shape, dtype=torch.float64))
    assert found.shape == shape and not found.any()


def test_peaks_are_as_frequent_late_as_early():
    """Most is learned early; peaks are looked for everywhere."""
    series = (noise(2, 1000, 20) - 1) * (10 * torch.exp(-torch.arange(1000) / 50) + 0.01)[:, None]
    early, late = (part.double().mean().item() for part in peaks(series).split(500))
    assert early == pytest.approx(late, rel=0.1)


# ---- chance ------------------------------------------------------------------------------------------------


def test_the_statistic_counts_pairs():
    series = noise(3)
    test = synchrony(series, draws=10)
    found = slow_peaks(series.numpy(), 0.1, 10)
    pairs = sum(int((found[:, i] & found[:, j]).sum()) for i, j in itertools.combinations(range(6), 2))
    assert test.statistic == pairs
    np.testing.assert_array_equal(test.peaks.numpy(), found)
    np.testing.assert_array_equal(test.counts.numpy(), found.sum(1))


@pytest.mark.parametrize("events", [8, 101, 300])
def test_chance_is_that_of_shifted_columns(events):
    """Against rolled arrays, with the same offsets."""
    series, draws, seed = noise(4, events, 7), 50, 11
    series[:, 3] = 1  # a column that never peaks
    test = synchrony(series, draws=draws, seed=seed)
    found = test.peaks[:, test.peaks.any(0)].numpy()
    offsets = torch.randint(events, (draws, found.shape[1]), generator=torch.Generator().manual_seed(seed)).numpy()
    null, shifted_counts = [], []
    for row in offsets:
        shifted = np.stack([np.roll(found[:, k], by) for k, by in enumerate(row)], 1)
        counts = shifted.sum(1)
        shifted_counts.append(counts)
        null.append((counts * (counts - 1)).sum() // 2)
    assert test.null_mean == pytest.approx(np.mean(null)) and test.null_std == pytest.approx(np.std(null))
    assert test.p_value == (1 + sum(n >= test.statistic for n in null)) / (1 + draws)
    assert test.z == pytest.approx((test.statistic - np.mean(null)) / np.std(null))
    drawn = np.concatenate(shifted_counts)
    assert (drawn <= test.band + 1).mean() >= 0.95 and (drawn <= test.band - 1).mean() <= 0.97


def test_the_band_of_equal_columns_is_binomial():
    series = torch.zeros(100, 3, dtype=torch.float64)
    series[5::10] = -1 - noise(0, 10, 3).abs()
    test = synchrony(series, share=1.0, draws=10)
    assert test.peaks.sum(0).tolist() == [10, 10, 10]  # P(0) = 0.729, P(at most 1) = 0.972
    assert test.band == 1


def test_peaks_planted_together_are_found():
    series = noise(5, 400, 5)
    series[20::40] -= 6
    test = synchrony(series)
    assert test.p_value == pytest.approx(1 / 1001) and test.z > 10
    assert (test.counts[20::40] > test.band).all()


@pytest.mark.parametrize("course", ["steady", "decaying", "oscillating"])
def test_independent_columns_are_rarely_called_synchronous(course):
    """Also where all of them learn most at the beginning: of 200 tests at level 0.1, 20 ± 4 fail by chance."""
    values = []
    for seed in range(200):
        series = noise(seed)
        if course == "decaying":
            series = (series - 1) * (20 * torch.exp(-torch.arange(300) / 25) + 0.1)[:, None]
        if course == "oscillating":
            for t in range(1, len(series)):
                series[t] -= 0.7 * series[t - 1]
        values.append(synchrony(series, draws=99, seed=seed).p_value)
    p = np.array(values)
    assert 6 <= (p <= 0.1).sum() <= 34
    assert 70 <= (p <= 0.5).sum() <= 130


def test_the_same_seed_gives_the_same_and_the_global_stream_stays():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, two, other = (synchrony(noise(6), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert (one.null_mean, one.null_std, one.p_value) == (two.null_mean, two.null_std, two.p_value)
    assert one.null_mean != other.null_mean and one.statistic == other.statistic


@pytest.mark.parametrize(
    "series",
    [
        noise(0, FEWEST_EVENTS - 1),
        noise(0, 50, 1),
        noise(0, 50, 0),
        noise(0).abs(),
        torch.zeros(50, 3),
        torch.full((50, 3), math.nan),
        torch.zeros(0, 3),
    ],
)
def test_where_chance_means_nothing_the_numbers_are_nan(series):
    test = synchrony(series)
    numbers = (test.statistic, test.null_mean, test.null_std, test.z, test.p_value, test.band)
    assert all(map(math.isnan, numbers))
    assert test.peaks.shape == series.shape and test.counts.shape == series.shape[:1]


def test_events_without_a_value_are_no_peaks():
    series = noise(7)
    series[50:60] = math.nan
    test = synchrony(series)
    assert not test.peaks[49:61].any() and math.isfinite(test.p_value)
