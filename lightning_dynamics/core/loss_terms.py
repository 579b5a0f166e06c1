"""What the loss of a minibatch is a mean over: a minibatch is compared with its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.core.batch_tree import Path, at, tensors, worded
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.outputs import Reading
from lightning_dynamics.core.task import Counter, LossUnit

Part = tuple[Any, int, float]
"""A minibatch, its number of examples, its loss."""


def is_mean_over(count: Callable[[Any, int], float], whole: Part, parts: Sequence[Sequence[Part]]) -> bool:
    """Whether the whole's loss is the mean of its parts' losses, weighted by these counts, for every division."""
    try:
        total = count(whole[0], whole[1])
        for division in parts:
            counts = [count(batch, examples) for batch, examples, _ in division]
            if abs(sum(counts) - total) > 1e-6 * abs(total) or min(counts) < 0 or total <= 0:
                return False
            losses = [loss for _, _, loss in division]
            mean = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / total
            if abs(mean - whole[2]) > 1e-5 * abs(whole[2]) + 1e-3 * (max(losses) - min(losses)):
                return False
    except (RuntimeError, IndexError, KeyError, TypeError, ValueError):
        return False
    return True


def is_sum(whole: float, parts: Sequence[Sequence[Part]]) -> bool:
    """Whether the whole's loss is the sum of its parts' losses, for every division."""
    return all(abs(sum(loss for _, _, loss in division) - whole) <= 1e-4 * abs(whole) for division in parts)


def counters(whole: Any, reading: Reading, target: Path | None, mask: Path | None) -> Iterator[Counter]:
    """Things in a batch that can be counted, the likeliest first."""
    if target is not None and reading.kind != "unknown":
        yield _of_targets(reading, target, mask)
    targets_first = sorted(tensors(whole), key=lambda path: path != target)
    for path in targets_first:
        tensor = at(whole, path)
        if tensor.is_complex() or not tensor.numel():
            continue
        for described, count in _ways_to_count(tensor):
            unit: LossUnit = "weights" if described == "sum" and tensor.is_floating_point() else "terms"
            yield Counter(unit, f"{described} of {worded(path)}", _counting(path, count))


def _of_targets(reading: Reading, target: Path, mask: Path | None) -> Counter:
    unit: LossUnit = "weights" if reading.weights is not None else "tokens"
    counted = {"tokens": "tokens that count", "dense": "pixels that count"}.get(reading.kind, "targets that count")

    def count(batch: Any, _: int) -> float:
        targets = at(batch, target)
        if mask is not None:
            targets = targets.masked_fill(~at(batch, mask), -100)
        terms = reading.terms(targets)
        if terms != terms:
            raise ConfigurationError(
                "the loss weighs classes, and the weight of one in this minibatch is not known: no example of it was "
                "among those tried; give `loss_fn` without weights, or the weights as a tensor that the module holds"
            )
        return terms

    return Counter(unit, "class weights" if reading.weights is not None else counted, count)


def _counting(path: Path, count: Callable[[Tensor], Tensor | int]) -> Callable[[Any, int], float]:
    return lambda batch, _: float(count(at(batch, path)))


def _ways_to_count(tensor: Tensor) -> Iterator[tuple[str, Callable[[Tensor], Tensor | int]]]:
    if tensor.is_floating_point():
        yield "known entries", lambda x: (~x.isnan()).sum()
        if bool((tensor >= 0).all()):
            yield "sum", lambda x: x.double().sum()
        yield "entries that are not 0", lambda x: (x != 0).sum()
    elif tensor.dtype is torch.bool:
        yield "flags", lambda x: x.sum()
        yield "flags that are not set", lambda x: (~x).sum()
    else:
        yield "entries from 0 up", lambda x: (x >= 0).sum()
        yield "entries that are not 0", lambda x: (x != 0).sum()
        if tensor.ndim > 1:
            yield "entries from 0 up after the first", lambda x: (x[:, 1:] >= 0).sum()
            yield "entries after the first that are not 0", lambda x: (x[:, 1:] != 0).sum()
        if bool((tensor >= 0).all()):
            yield "sum", lambda x: x.double().sum()
    yield "entries", lambda x: x.numel()
    yield "length", lambda x: x.shape[-1]


def held_vectors(module: nn.Module) -> list[Tensor]:
    """Vectors of positive numbers that a module holds: weights of classes may be among them."""
    found: dict[int, Tensor] = {}
    for sub in module.modules():
        for value in (*sub._buffers.values(), *vars(sub).values()):
            if isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point() and len(value) > 1:
                with suppress(RuntimeError):  # one that has outlived its transform cannot be read
                    if bool((value > 0).all()) and not bool((value == value[0]).all()):
                        found[id(value)] = value.detach().clone()
    return list(found.values())


def class_weights_of(
    reading: Reading, output: Tensor, targets: Tensor, gradient: Tensor, loss: float | None
) -> Tensor | None:
    """``(C,)`` weights of the classes in a cross-entropy of logits, measured by its gradient; NaN where none was seen.

    The gradient by the logit of target y is −w (1 − p) / Σ w. None if the loss is no such cross-entropy.
    """
    if loss is None or reading.class_axis is None or reading.soft or reading.output != "logits":
        return None
    scores, wanted = reading.aligned(output.detach().double(), targets)
    slopes, _ = reading.aligned(gradient.double(), targets)
    counted = reading.counted(wanted)
    scores, slopes, wanted = scores[counted], slopes[counted], wanted[counted]
    own = wanted[:, None]
    shares = -slopes.gather(1, own)[:, 0] / (1 - scores.softmax(1).gather(1, own)[:, 0])
    terms = F.cross_entropy(scores, wanted, reduction="none")
    if not bool(shares.isfinite().all()) or abs(float(shares.sum()) - 1) > 1e-3:
        return None
    if abs(float((shares * terms).sum()) - loss) > 1e-3 * abs(loss):
        return None
    weights = torch.full((reading.classes,), float("nan"), dtype=torch.float64)
    for one in wanted.unique().tolist():
        alike = shares[wanted == one]
        if float(alike.max() - alike.min()) > 1e-3 * float(alike.max()):
            return None  # examples of one class weigh differently
        weights[one] = alike.mean()
    known = weights[~weights.isnan()]
    return weights / known.mean()
