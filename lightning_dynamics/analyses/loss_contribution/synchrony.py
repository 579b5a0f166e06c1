"""Moments of learning: events at which a layer's contribution peaks, and whether layers peak together.

Lan, Liu, Zhou and Yosinski (NeurIPS 2019) find that peaks of learning fall on the same events in all layers, and show
them. How a peak is chosen and how chance is reckoned with is our own definition, given below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_EVENTS = 8
"""With fewer events nothing can be said about chance."""
SHARE = 0.1
"""Of the events around it, how many of the lowest a peak may be among."""
DRAWS = 1000
"""How many times chance is tried."""
REACH = 10
"""Events before and after that a peak is compared with."""


@dataclass(frozen=True, eq=False)
class Synchrony:
    """Whether columns peak together more often than by chance.

    Args:
        statistic: pairs of columns that peak in the same event, summed over events.
        null_mean: mean of the statistic by chance.
        null_std: its standard deviation by chance.
        z: ``(statistic - null_mean) / null_std``.
        p_value: how probable that many pairs or more are by chance, ``(1 + draws as high) / (1 + draws)``.
        band: by chance, at least 95 of 100 events have this many peaks or fewer.
        peaks: ``(T, K)`` bool.
        counts: ``(T,)`` int64, columns that peak in each event.

    All numbers are NaN where chance means nothing: with fewer than 8 events, or with fewer than two columns that peak.
    """

    statistic: float
    null_mean: float
    null_std: float
    z: float
    p_value: float
    band: float
    peaks: Tensor
    counts: Tensor


def peaks(series: Tensor, *, share: float = SHARE, reach: int = REACH) -> Tensor:
    """Events at which a contribution is a peak of learning.

    A contribution is a peak if it is below 0, below the ones just before and just after it (of equal neighbours, the
    first counts), and among the lowest ``share`` of the events at most ``reach`` before or after it, itself included
    (at least the lowest of them may be one). It is compared with its surroundings and not with the whole of training,
    because most is learned early: the lowest of the whole would be the first events in every layer, which says nothing
    of synchrony.

    Args:
        series: ``(T, K)`` contributions of K layers, or whatever the columns are. NaN is no peak, nor are its
            neighbours and the first and last event, which lack a neighbour.
        share: above 0, up to 1.
        reach: from 1 up.

    Returns:
        ``(T, K)`` bool.
    """
    events, columns = series.shape
    if events < 3 or not columns:
        return torch.zeros(events, columns, dtype=torch.bool)
    before, after = torch.full_like(series, torch.nan), torch.full_like(series, torch.nan)
    before[1:], after[:-1] = series[:-1], series[1:]
    falls = series < before
    # From the back: whether the next different value is a higher one (NaN ends a plateau without).
    rises = series < after
    level = series == after
    for _ in range(events):  # as often as the longest plateau is long: once, for real numbers
        further = level[:-1] & rises[1:] & ~rises[:-1]
        if not further.any():
            break
        rises[:-1] |= further
    margin = torch.full((reach, columns), torch.nan, dtype=series.dtype)
    around = torch.cat([margin, series, margin]).unfold(0, 2 * reach + 1, 1)  # (T, K, 2 reach + 1)
    lower = (around < series[..., None]).sum(-1)
    allowed = (around.isfinite().sum(-1) * share).floor().clamp(min=1)
    return (series < 0) & falls & rises & (lower < allowed)


def synchrony(
    series: Tensor, *, draws: int = DRAWS, seed: int = 0, share: float = SHARE, reach: int = REACH
) -> Synchrony:
    """Test whether columns peak in the same events more often than by chance.

    By chance means: every column keeps its own peaks and the distances between them, but is shifted in time, round
    the ends, by an offset of its own, uniform over the events. That is fair as long as peaks are as frequent late as
    early, which :func:`peaks` sees to. The generator is its own; the global one is not touched.

    Args:
        series: ``(T, K)`` contributions, as for :func:`peaks`.
        draws: how many times chance is tried.
        seed: of the offsets.
        share: as for :func:`peaks`.
        reach: as for :func:`peaks`.

    Returns:
        The test; NaN where it means nothing.
    """
    found = peaks(series, share=share, reach=reach)
    counts = found.sum(1)
    events = len(found)
    peaking = found[:, found.any(0)]
    if events < FEWEST_EVENTS or peaking.shape[1] < 2:
        return Synchrony(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, found, counts)
    statistic = int((counts * (counts - 1)).sum()) // 2
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(events, (draws, peaking.shape[1]), generator=generator)
    null = _shifted_pairs(peaking, offsets)
    mean, std = null.mean().item(), null.std(correction=0).item()
    return Synchrony(
        statistic=float(statistic),
        null_mean=mean,
        null_std=std,
        z=(statistic - mean) / std if std else math.nan,
        p_value=(1 + int((null >= statistic).sum())) / (1 + draws),
        band=_band(peaking),
        peaks=found,
        counts=counts,
    )


def _shifted_pairs(found: Tensor, offsets: Tensor) -> Tensor:
    """Pairs of columns that peak together once each is shifted by its offset: ``(T, K)``, ``(D, K)`` to ``(D,)``.

    How many two columns share depends only on how far they are shifted against each other: their circular
    cross-correlation, from which every draw just reads.
    """
    events, columns = found.shape
    spectra = torch.fft.rfft(found.T.double())
    pairs = torch.zeros(len(offsets), dtype=torch.float64)
    for first in range(columns - 1):
        shared = torch.fft.irfft(spectra[first].conj() * spectra[first + 1 :], n=events).round()  # (K', T), whole
        against = (offsets[:, first, None] - offsets[:, first + 1 :]) % events
        pairs += shared.gather(1, against.T).sum(0)
    return pairs


def _band(found: Tensor) -> float:
    """The 95 % quantile of an event's number of peaks by chance: columns with their own frequency, independent."""
    probability = torch.ones(1, dtype=torch.float64)
    for frequency in found.double().mean(0):
        without, with_it = probability * (1 - frequency), probability * frequency
        probability = torch.nn.functional.pad(without, (0, 1)) + torch.nn.functional.pad(with_it, (1, 0))
    return float((probability.cumsum(0) < 0.95).sum())
