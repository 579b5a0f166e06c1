"""What a model's outputs are beside its targets: logits of classes, probabilities, tokens, numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_dynamics.core.usual_losses import (
    Evidence,
    Form,
    binary_form,
    distribution,
    is_squared_error,
    likely_forms,
    log_probabilities,
)

Kind = Literal["multiclass", "binary", "multilabel", "regression", "tokens", "dense", "pairs", "unknown"]
Output = Literal["logits", "probabilities", "log_probabilities", "values", "embeddings", "unknown"]

_USUAL_IGNORED = (-100, -1, 0, 255)


@dataclass(frozen=True)
class Reading:
    """How outputs and targets belong together.

    Args:
        kind: of task.
        output: what the numbers are.
        classes: how many; 0 where there are none.
        class_axis: of the output; None where every number stands for one yes-or-no question.
        soft: targets are one number per class: one-hot, or probabilities.
        shift: the output at a place is about the target that many places later (1 in causal language models).
        ignored: class targets that count for nothing, beside those out of range.
        masked: flags in the batch say which targets count; those that do not are −100.
        weights: ``(C,)`` of the classes, if the loss weighs them.
        matched: name of the loss that the module's own is equal to; "" if none of those tried is.
        sums: it is equal to the sum, not the mean.
    """

    kind: Kind = "unknown"
    output: Output = "unknown"
    classes: int = 0
    class_axis: int | None = None
    soft: bool = False
    shift: int = 0
    ignored: tuple[int, ...] = ()
    masked: bool = False
    weights: Tensor | None = None
    matched: str = ""
    sums: bool = False

    def aligned(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """``(M, C)`` outputs and ``(M,)`` class targets (``(M, C)`` if soft), one row per place; all of them."""
        assert self.class_axis is not None
        scores = output.movedim(self.class_axis, -1)
        if self.soft:
            return scores.flatten(0, -2), targets.movedim(self.class_axis, -1).flatten(0, -2)
        if self.shift:
            scores, targets = scores[:, : -self.shift], targets[:, self.shift :]
        return scores.reshape(-1, scores.shape[-1]), targets.reshape(-1).long()

    def counted(self, targets: Tensor) -> Tensor:
        """Which of ``(M,)`` class targets count."""
        counts = (targets >= 0) & (targets < self.classes)
        for value in self.ignored:
            counts &= targets != value
        return counts

    def terms(self, targets: Tensor) -> float:
        """How many terms the mean of a loss over these targets has: places that count, or their weights."""
        if self.soft or self.class_axis is None:
            return float((~targets.isnan()).sum()) if targets.is_floating_point() else float(targets.numel())
        flat = (targets[:, self.shift :] if self.shift else targets).reshape(-1).long()
        counted = flat[self.counted(flat)]
        if self.weights is None:
            return float(len(counted))
        return float(self.weights.to(counted.device).double()[counted].sum())

    def accuracy(self, output: Tensor, targets: Tensor) -> Tensor | None:
        """Share of right predictions among the places that count, a float64 scalar; None if there is no such thing."""
        if self.kind == "multiclass" and output.ndim == 2 and not (self.soft or self.ignored or self.masked):
            wanted = targets.reshape(-1)  # one out of range is never right, nor is it counted
            counted = (wanted >= 0) & (wanted < self.classes)
            return (output.argmax(1) == wanted).double().sum() / counted.double().sum()
        if self.class_axis is not None:
            scores, wanted = self.aligned(output, targets)
            if self.soft:
                return (scores.argmax(1) == wanted.argmax(1)).double().mean()
            right, counted = scores.argmax(1) == wanted, self.counted(wanted)
            return (right & counted).double().sum() / counted.double().sum()
        if self.kind not in ("binary", "multilabel", "dense") or self.output not in ("logits", "probabilities"):
            return None
        wanted = targets.reshape(-1)
        counted = (wanted == 0) | (wanted == 1)
        says_yes = output.reshape(-1) > (0.5 if self.output == "probabilities" else 0)
        return ((says_yes == (wanted > 0.5)) & counted).double().sum() / counted.double().sum()


def read(
    output: Tensor,
    targets: Tensor,
    loss: float | None,
    gradient: Tensor | None,
    bounded: Callable[[], bool],
    weights: list[Tensor],
    *,
    declared: bool = False,
) -> Reading:
    """What the outputs are: shapes and values, and either a usual loss that gives the module's own, or its gradient.

    A loss of another form still tells what the targets are: it pulls the number of each target's class up.

    Args:
        output: of the model, ``(N, …)``.
        targets: beside it.
        loss: of the module on these; None if it is not known.
        gradient: of that loss by ``output``; None if it is not known.
        bounded: whether the outputs stay within [0, 1] whatever the weights are; asked only if nothing else tells.
        weights: vectors that the module holds, which may be weights of classes.
        declared: the user says that these are logits and their targets.
    """
    output, targets = output.detach(), targets.detach()
    if targets.is_complex() or output.is_complex() or not output.is_floating_point():
        return Reading()
    if targets.ndim > 1 and targets.ndim == output.ndim and targets.shape[1] == 1 < output.shape[1]:
        targets = targets[:, 0]
    evidence = Evidence(output, loss, gradient)
    for reading in _of_classes(output, targets):
        with_loss = _matched_classes(reading, evidence, targets, weights)
        if with_loss is not None:
            return with_loss
    for reading in _of_classes(output, targets):
        for shift in _shifts(reading, output, targets):
            pulled = replace(reading, shift=shift)
            if declared or (gradient is not None and _pulls_up(pulled, gradient, targets)):
                form = "logits" if declared else distribution(output.movedim(reading.class_axis or 0, -1))
                without = () if gradient is None else _without_slopes(pulled, output, gradient, targets)
                return replace(pulled, output=form, ignored=(*reading.ignored, *without))
    if targets.numel() == output.numel():
        return _of_numbers(evidence, targets, bounded, declared)
    return Reading()


# ---- classes -----------------------------------------------------------------------------------------------


def _of_classes(output: Tensor, targets: Tensor) -> Iterator[Reading]:
    """Ways in which whole-number targets can be classes of the outputs."""
    whole = not targets.is_floating_point() or bool((targets == targets.round()).all())
    if not whole or targets.dtype is torch.bool:
        return
    shapes: list[tuple[int, Tensor]] = []
    for axis in range(1, output.ndim):
        if (*output.shape[:axis], *output.shape[axis + 1 :]) == tuple(targets.shape):
            shapes.append((axis, targets))
    if not shapes and output.ndim == 2 and len(output) == targets.numel():  # outputs flattened over places
        shapes.append((1, targets))
    for axis, own in shapes:
        classes = output.shape[axis]
        values = own.unique()
        inside = values[(values >= 0) & (values < classes)]
        outside = values[(values < 0) | (values >= classes)]
        if classes < 2 or not len(inside) or len(outside) > 1:
            continue
        kind: Kind = "multiclass" if own.ndim == 1 else "tokens" if own.ndim == 2 else "dense"
        yield Reading(kind, classes=classes, class_axis=axis, ignored=tuple(map(int, outside)))


def _matched_classes(reading: Reading, evidence: Evidence, targets: Tensor, weights: list[Tensor]) -> Reading | None:
    """The reading under which a usual loss is the module's own."""
    output = evidence.output
    for shift in _shifts(reading, output, targets):
        shifted = replace(reading, shift=shift)
        scores, wanted = shifted.aligned(output, targets)
        present = [v for v in _USUAL_IGNORED if 0 <= v < reading.classes and bool((wanted == v).any())]
        common = int(wanted.mode().values)
        choices = [(), *((v,) for v in dict.fromkeys([*present, common]) if v >= 0)]
        vectors = [None, *(vector for vector in weights if vector.shape == (reading.classes,))]
        for ignored in choices:
            for vector in vectors:
                own = replace(shifted, ignored=(*reading.ignored, *ignored), weights=vector)
                counted = own.counted(wanted)
                if not bool(counted.any()):
                    continue
                for form in likely_forms(scores[counted]):
                    for sums in (False, True):
                        if evidence.fits(_cross_entropy(own, form, targets, sums)):
                            return replace(own, output=form, matched="cross_entropy", sums=sums)
    return None


def _cross_entropy(reading: Reading, form: Form, targets: Tensor, sums: bool) -> Callable[[Tensor], Tensor]:
    """As a function of the outputs."""
    terms = 1.0 if sums else reading.terms(targets)

    def loss(output: Tensor) -> Tensor:
        scores, wanted = reading.aligned(output, targets)
        if reading.soft:
            return -(wanted * log_probabilities(scores, form)).sum() / (1 if sums else len(scores))
        counted = reading.counted(wanted)
        weights = None if reading.weights is None else reading.weights.to(scores.device, scores.dtype)
        logs = log_probabilities(scores[counted], form)
        return F.nll_loss(logs, wanted[counted], weight=weights, reduction="sum") / terms

    return loss


def _shifts(reading: Reading, output: Tensor, targets: Tensor) -> tuple[int, ...]:
    sequences = reading.kind == "tokens" and output.ndim == targets.ndim + 1 and targets.shape[1] > 1
    return (0, 1) if sequences else (0,)


def _pulls_up(reading: Reading, gradient: Tensor, targets: Tensor) -> bool:
    """Whether going down the gradient raises each target's own number, and none of the others more."""
    slopes, wanted = reading.aligned(gradient, targets)
    counted = reading.counted(wanted) & (slopes != 0).any(1)
    slopes, wanted = slopes[counted], wanted[counted]
    own = slopes.gather(1, wanted[:, None])[:, 0]
    return bool(len(own)) and bool(((own < 0) & (own <= slopes.amin(1))).all())


def _without_slopes(reading: Reading, output: Tensor, gradient: Tensor, targets: Tensor) -> tuple[int, ...]:
    """The class that the loss passes over: its places, several, have no slopes though the outputs there are wrong.

    Where they are right, a margin may be kept; where others too have none, something else decides.
    """
    scores, wanted = reading.aligned(output, targets)
    flat = (reading.aligned(gradient, targets)[0] == 0).all(1)
    passed_over = wanted[reading.counted(wanted) & flat & (scores.argmax(1) != wanted)].unique()
    if len(passed_over) != 1:
        return ()
    its_own = wanted == passed_over
    return (int(passed_over),) if int(its_own.sum()) > 1 and bool(flat[its_own].all()) else ()


# ---- one number per target ---------------------------------------------------------------------------------


def _of_numbers(evidence: Evidence, targets: Tensor, bounded: Callable[[], bool], declared: bool) -> Reading:
    output, gradient = evidence.output, evidence.gradient
    known = ~targets.isnan() if targets.is_floating_point() else torch.ones_like(targets, dtype=torch.bool)
    wanted = targets.to(output.dtype)
    if not bool(known.any()):
        return Reading()
    alike = output.shape == targets.shape and output.ndim >= 2 and output.shape[1] > 1
    if alike and bool((wanted >= 0).all()) and bool(((wanted.sum(1) - 1).abs() < 1e-4).all()):
        soft = Reading("multiclass" if output.ndim == 2 else "dense", classes=output.shape[1], class_axis=1, soft=True)
        one_hot = bool(((wanted == 0) | (wanted == 1)).all())
        scores, _ = soft.aligned(output, wanted)
        for form in likely_forms(scores):
            for sums in (False, True):
                if evidence.fits(_cross_entropy(soft, form, wanted, sums)):
                    return replace(soft, output=form, matched="cross_entropy", sums=sums)
        if one_hot and binary_form(evidence, wanted, known) is None:
            classes = replace(soft, soft=False)
            if declared or (gradient is not None and _pulls_up(classes, gradient, wanted.argmax(1))):
                return replace(soft, output=distribution(scores))
    if bool(((wanted == 0) | (wanted == 1))[known].all()):
        answer = binary_form(evidence, wanted, known)
        if answer is None and is_squared_error(evidence, wanted, known):
            if bounded():
                return Reading(_yes_or_no(targets), "probabilities", matched="mse")
            return Reading("regression", "values", matched="mse")
        if answer is None:
            if not declared and not (gradient is not None and _pushes_apart(gradient, wanted, known)):
                return Reading()
            return Reading(_yes_or_no(targets), "probabilities" if not declared and bounded() else "logits")
        return Reading(_yes_or_no(targets), answer, matched="binary_cross_entropy")
    return Reading("regression", "values", matched="mse" if is_squared_error(evidence, wanted, known) else "")


def _pushes_apart(gradient: Tensor, wanted: Tensor, known: Tensor) -> bool:
    """Whether going down the gradient raises the numbers of the yes, and lowers those of the no."""
    slopes, yes = gradient.reshape(-1)[known.reshape(-1)], wanted.reshape(-1)[known.reshape(-1)] > 0.5
    return bool((slopes != 0).any()) and bool((torch.where(yes, slopes <= 0, slopes >= 0)).all())


def _yes_or_no(targets: Tensor) -> Kind:
    if targets.numel() == len(targets):
        return "binary"
    return "multilabel" if targets.ndim == 2 else "dense"
