"""Variance of Gradients and the scores beside it once more: float64 NumPy, one example after the other."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[Any]


# ---- Variance of Gradients ---------------------------------------------------------------------------------


def pixels(gradient: Numbers, channel: str) -> Array:
    """Of one example ``(…)``; images are ``(C, …)`` with two and more dimensions beside C."""
    gradient = np.asarray(gradient, dtype=np.float64)
    if channel == "mean" and gradient.ndim >= 3:
        total = np.zeros(gradient.shape[1:])
        for plane in gradient:
            total = total + plane
        gradient = total / gradient.shape[0]
    return gradient.ravel()


def vog(gradients: Numbers, variant: str = "vog", channel: str = "mean", ddof: int = 0) -> Array:
    """``(K, N, …)`` -> ``(N,)``, as the authors' ImageNet code goes about it: S, µ, root of the mean square, mean."""
    scores = []
    for example in range(gradients.shape[1]):
        maps = [pixels(gradients[k, example], channel) for k in range(gradients.shape[0])]
        maps = [one for one in maps if np.isfinite(one).all()]
        if len(maps) < 2:
            scores.append(math.nan)
            continue
        mu = sum(maps) / len(maps)
        squares = sum((one - mu) ** 2 for one in maps)
        k = len(maps) - ddof
        per_pixel = {
            "vog": np.sqrt(squares * (1 / k)),
            "literal": math.sqrt(1 / k) * squares,
            "variance": squares / k,
        }[variant]
        scores.append(float(np.mean(per_pixel)))
    return np.array(scores)


def normalized(scores: Numbers, classes: Numbers) -> Array:
    """(score − mean) / standard deviation, of the finite scores of the class; NaN where there is no deviation."""
    found = []
    for score, own in zip(scores, classes, strict=True):
        peers = [s for s, c in zip(scores, classes, strict=True) if c == own and math.isfinite(s)]
        if not math.isfinite(score) or len(set(peers)) < 2:
            found.append(math.nan)
            continue
        mean = sum(peers) / len(peers)
        deviation = math.sqrt(sum((s - mean) ** 2 for s in peers) / len(peers))
        found.append((score - mean) / deviation)
    return np.array(found)


def error_by_percentile(scores: Numbers, wrong: Numbers, bins: int) -> Array:
    """Share of wrong examples from each percentile up to before the next; the last holds the largest score too."""
    pairs = [(float(s), bool(w)) for s, w in zip(scores, wrong, strict=True) if not math.isnan(s)]
    ordered = sorted(score for score, _ in pairs)
    inner = [percentile(ordered, Fraction(k, bins)) for k in range(1, bins)] if ordered else []
    edges = [-math.inf, *inner, math.inf]
    rates = []
    for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        within = [w for s, w in pairs if low <= s and (s < high or number == bins - 1)]
        rates.append(sum(within) / len(within) if within else math.nan)
    return np.array(rates)


def percentile(ordered: list[float], share: Fraction) -> float:
    """Linear between neighbours, at an exact place."""
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high else low + (high - low) * float(place - math.floor(place))


# ---- training dynamics: logits (T, N, C), labels (N,) ------------------------------------------------------


def softmax(z: Numbers) -> Array:
    """Of one example ``(C,)``."""
    powers = [math.exp(float(x) - float(max(z))) for x in z]
    return np.array([power / math.fsum(powers) for power in powers])


def margin(z: Numbers, y: int) -> float:
    return float(z[y]) - max(float(x) for j, x in enumerate(z) if j != y)


def el2n(z: Numbers, y: int) -> float:
    return math.sqrt(math.fsum((p - (j == y)) ** 2 for j, p in enumerate(softmax(z))))


def cross_entropy(z: Numbers, y: int) -> float:
    top = float(max(z))
    return top - float(z[y]) + math.log(math.fsum(math.exp(float(x) - top) for x in z))


def is_correct(z: Numbers, y: int) -> bool:
    """The first of the largest is the prediction."""
    return [float(x) for x in z].index(float(max(z))) == y


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: list[float]) -> float:
    return math.sqrt(mean([(value - mean(values)) ** 2 for value in values]))


def forgetting_events(correct: list[bool]) -> float:
    """How often right is followed by wrong; infinity for an example that was never learned."""
    if True not in correct:
        return math.inf
    return float(sum(before and not after for before, after in zip(correct[:-1], correct[1:], strict=True)))


def dynamics(logits: Numbers, labels: Numbers) -> dict[str, Array]:
    """All of them, by name."""
    found: dict[str, list[float]] = {}
    for example, label in enumerate(labels):
        y, course = int(label), logits[:, example]
        confidence = [float(softmax(z)[y]) for z in course]
        loss = [cross_entropy(z, y) for z in course]
        correct = [is_correct(z, y) for z in course]
        one = {
            "aum": mean([margin(z, y) for z in course]),
            "el2n": mean([el2n(z, y) for z in course]),
            "confidence": mean(confidence),
            "variability": deviation(confidence),
            "correctness": mean([float(c) for c in correct]),
            "loss": mean(loss),
            "loss_spread": deviation(loss),
            "forgetting": forgetting_events(correct),
        }
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}
