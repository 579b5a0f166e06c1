"""Variance of Gradients, from gradients that are all there, or event by event in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Variant = Literal["vog", "variance", "literal"]
Channel = Literal["mean", "none"]

VARIANTS: tuple[Variant, ...] = get_args(Variant)
CHANNELS: tuple[Channel, ...] = get_args(Channel)


def variance_of_gradients(
    gradients: Tensor, *, variant: Variant = "vog", channel: Channel = "mean", ddof: int = 0
) -> Tensor:
    r"""How much each example's input gradient varies over checkpoints.

    C. Agarwal, D. D'souza, S. Hooker, "Estimating Example Difficulty using Variance of Gradients", CVPR 2022, eq. 1-3.
    With S_t the gradient of a class logit with respect to the input at checkpoint t, and µ its mean over K checkpoints:

    - ``"vog"``: mean over pixels of √(Σ (S_t − µ)² / (K − ddof)): what the authors' ImageNet code computes; a standard
      deviation, in spite of its name.
    - ``"variance"``: mean over pixels of Σ (S_t − µ)² / (K − ddof).
    - ``"literal"``: mean over pixels of Σ (S_t − µ)² / √(K − ddof): the paper's eq. 2 as it is printed.

    Args:
        gradients: ``(K, N, C, H, W)``, or ``(K, N, …)``: K checkpoints, N examples. Any floating type.
        variant: see above.
        channel: ``"mean"``: images (five dimensions and more) are averaged over C first, with their signs, as in the
            authors' code. ``"none"``: every channel of every pixel counts by itself, as for all other inputs.
        ddof: 0 as in the paper, or 1 for the unbiased variance.

    Returns:
        ``(N,)`` float64.

    Raises:
        ValueError: fewer than two checkpoints, or no more than ``ddof``; an unknown ``variant`` or ``channel``.
    """
    check_options(variant, channel, ddof)
    if gradients.ndim < 2 or len(gradients) < max(2, ddof + 1):
        raise ValueError(
            f"gradients {tuple(gradients.shape)} must be (K, N, ...) with K >= {max(2, ddof + 1)} checkpoints: one "
            "alone does not vary; three are enough"
        )
    moments: Moments | None = None
    for gradient in gradients:
        values = per_pixel(gradient.double(), channel)
        if moments is None:
            moments = Moments.zeros(len(values), values.shape[1], dtype=torch.float64, device=values.device)
        moments.update(values)
    assert moments is not None
    return spread(moments, variant, ddof)


def check_options(variant: str, channel: str, ddof: int) -> None:
    """Whether these words mean something.

    Raises:
        ValueError: naming the argument.
    """
    for name, value, known in (("variant", variant, VARIANTS), ("channel", channel, CHANNELS), ("ddof", ddof, (0, 1))):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}; got {value!r}")


def per_pixel(gradient: Tensor, channel: Channel) -> Tensor:
    """A gradient ``(N, …)`` as ``(N, D)``; of images ``(N, C, …)``, the signed mean over C if so wanted."""
    if channel == "mean" and gradient.ndim >= 4:
        gradient = gradient.mean(1, dtype=torch.promote_types(gradient.dtype, torch.float32))
    return gradient.reshape(len(gradient), -1)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and sum of squared deviations over events, per example and pixel, streaming (Welford 1962).

    An example's event with a value that is not finite is left out for that example.

    Args:
        count: ``(N,)`` float64: events of each example.
        mean: ``(N, D)``.
        m2: ``(N, D)``: sum of squared deviations from the mean.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def zeros(
        cls, examples: int, size: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Moments:
        """Before the first event."""
        mean = torch.zeros(examples, size, dtype=dtype, device=device)
        return cls(torch.zeros(examples, dtype=torch.float64, device=device), mean, torch.zeros_like(mean))

    def update(self, values: Tensor) -> None:
        """Take in one event's values ``(N, D)``, in place."""
        known = finite_rows(values)
        self.count.add_(known)
        delta = values.to(self.mean.dtype) - self.mean
        step = delta / self.count.clamp(min=1).to(delta.dtype)[:, None]
        if not known.all():
            delta[~known] = 0
            step[~known] = 0
        self.mean.add_(step)
        # delta · (value − new mean), without the values once more.
        self.m2.addcmul_(delta, delta - step)

    def merged(self, other: Moments) -> Moments:
        """Both sets of events together, exactly (Chan, Golub, LeVeque 1983)."""
        count = self.count + other.count
        share = (other.count / count.clamp(min=1)).to(self.mean.dtype)[:, None]
        delta = other.mean - self.mean
        weight = self.count.to(self.mean.dtype)[:, None] * share
        return Moments(count, self.mean + delta * share, self.m2 + other.m2 + delta * (delta * weight))


def finite_rows(values: Tensor) -> Tensor:
    """``(N,)`` bool: whether all values ``(N, D)`` of a row are finite."""
    # What is not finite makes the sum not finite; one pass that nearly always says all there is to say.
    known = values.sum(1).isfinite()
    return known if bool(known.all()) else values.isfinite().all(1)


def spread(moments: Moments, variant: Variant = "vog", ddof: int = 0) -> Tensor:
    """The score ``(N,)`` float64 of :func:`variance_of_gradients`; NaN for examples with fewer than two events."""
    count = moments.count
    degrees = torch.where(count >= max(2, ddof + 1), count - ddof, math.nan)
    pixels = moments.m2.sqrt() if variant == "vog" else moments.m2
    return pixels.mean(1, dtype=torch.float64) / (degrees if variant == "variance" else degrees.sqrt())


def normalize_per_class(scores: Tensor, classes: Tensor) -> Tensor:
    """Scores as standard deviations from the mean of their class (population: ddof 0), eq. 4 of the paper.

    Args:
        scores: ``(N,)``; NaN is left out and stays NaN.
        classes: ``(N,)`` integers.

    Returns:
        ``(N,)`` float64; NaN in classes with fewer than two scores, or none that differ.

    Raises:
        ValueError: shapes that do not fit, or classes that are no integers.
    """
    if scores.ndim != 1 or scores.shape != classes.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and classes {tuple(classes.shape)} must both be (N,)")
    if classes.is_floating_point() or classes.is_complex():
        raise ValueError(f"classes must be integers, got {classes.dtype}")
    scores = scores.double()
    normalized = torch.full_like(scores, math.nan)
    for one in classes.unique():
        members = (classes == one) & scores.isfinite()
        values = scores[members]
        if len(values) > 1 and bool((values != values[0]).any()):
            normalized[members] = (values - values.mean()) / values.std(correction=0)
    return normalized


def error_by_percentile(scores: Tensor, wrong: Tensor, bins: int = 10) -> Tensor:
    """Error rate between percentiles of a score, easiest first.

    Bins are half-open and the last one is closed, so that every example is in one; the authors' code leaves out those
    at the edges, the smallest and the largest score among them.

    Args:
        scores: ``(N,)``; NaN is left out.
        wrong: ``(N,)`` bool.
        bins: how many percentile ranges of equal width.

    Returns:
        ``(bins,)`` float64; NaN where no score falls.
    """
    known = ~scores.isnan()
    scores, errors = scores[known].double(), wrong[known].double()
    rates = torch.full((bins,), math.nan, dtype=torch.float64)
    if not len(scores):
        return rates
    # Not `torch.quantile`, which takes at most 2**24 values.
    place = torch.linspace(0, len(scores) - 1, bins + 1, dtype=torch.float64)[1:-1]
    ordered = scores.sort().values
    low, high = ordered[place.floor().long()], ordered[place.ceil().long()]
    edges = torch.where(low == high, low, low + (high - low) * place.frac())
    inside = torch.bucketize(scores, edges, right=True)
    counts = torch.bincount(inside, minlength=bins)
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, inside, errors)
    return torch.where(counts > 0, sums / counts, rates)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's ρ of two ``(N,)`` vectors, ties at their mean rank; NaN if one of them does not vary.

    Pairs with a NaN are left out; infinity ranks last.
    """
    both = ~(a.isnan() | b.isnan())
    if int(both.sum()) < 2:
        return math.nan
    x, y = (_ranks(values[both]) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = float((x @ x).sqrt() * (y @ y).sqrt())
    return float(x @ y) / scale if scale > 0 else math.nan


def _ranks(values: Tensor) -> Tensor:
    """From 1, ties at their mean; float64."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]
