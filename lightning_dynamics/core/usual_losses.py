"""The losses that people use, of outputs in every form; and whether a module's own loss is one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["logits", "probabilities", "log_probabilities"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a module's loss.

    Args:
        output: that it was computed from.
        loss: its value; None if that is not known.
        gradient: by ``output``; None if that is not known.
    """

    output: Tensor
    loss: float | None
    gradient: Tensor | None

    def fits(self, candidate: Callable[[Tensor], Tensor]) -> bool:
        """Whether the loss is this function of the outputs: by its value, and by its gradient where that is known.

        The value alone tells little of a network that says nothing yet: most losses are near the logarithm of the
        number of classes then, whatever they are a mean over.
        """
        if self.loss is None or not _equal(float(candidate(self.output)), self.loss):
            return False
        if self.gradient is None:
            return True
        with torch.enable_grad():
            leaf = self.output.detach().clone().requires_grad_()
            (slopes,) = torch.autograd.grad(candidate(leaf), leaf)
        gap, size = (slopes.double() - self.gradient.double()).norm(), self.gradient.double().norm()
        return bool(gap <= 0.03 * size)  # half precision keeps two digits; another loss is off by more than a third


def _equal(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * max(abs(a), abs(b)) + 1e-7


def likely_forms(scores: Tensor) -> Iterator[Form]:
    """What ``(M, C)`` scores can be, the most special first."""
    form = distribution(scores)
    if form != "logits":
        yield form
    yield "logits"


def distribution(scores: Tensor) -> Form:
    """By values alone: rows of probabilities, of their logarithms, or logits."""
    scores = scores.double()
    if bool((scores >= 0).all()) and bool(((scores.sum(-1) - 1).abs() < 1e-3).all()):
        return "probabilities"
    if bool((scores <= 0).all()) and bool((scores.exp().sum(-1) - 1).abs().max() < 1e-3):
        return "log_probabilities"
    return "logits"


def log_probabilities(scores: Tensor, form: Form) -> Tensor:
    """Of ``(…, C)`` scores."""
    if form == "probabilities":
        return scores.clamp(min=1e-38).log()
    return scores if form == "log_probabilities" else scores.log_softmax(-1)


def is_squared_error(evidence: Evidence, wanted: Tensor, known: Tensor) -> bool:
    """Whether the loss is a mean or sum of squares over the known entries."""
    return _is_reduced(evidence, wanted, known, lambda numbers, answers: (numbers - answers).square())


def binary_form(evidence: Evidence, wanted: Tensor, known: Tensor) -> Form | None:
    """The form under which binary cross-entropy, mean or sum, is the loss."""
    numbers = evidence.output.reshape(-1)[known.reshape(-1)]
    if bool(((numbers >= 0) & (numbers <= 1)).all()):
        if _is_reduced(evidence, wanted, known, lambda p, y: F.binary_cross_entropy(p, y, reduction="none")):
            return "probabilities"

    def of_logits(logits: Tensor, answers: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, answers, reduction="none")

    return "logits" if _is_reduced(evidence, wanted, known, of_logits) else None


def _is_reduced(evidence: Evidence, wanted: Tensor, known: Tensor, each: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the loss is the mean, or the sum, of a function of each known entry and its target."""
    which, answers = known.reshape(-1), wanted.reshape(-1)[known.reshape(-1)]
    reductions: tuple[Callable[[Tensor], Tensor], ...] = (torch.mean, torch.sum)
    return any(
        evidence.fits(lambda output, reduce=reduce: reduce(each(output.reshape(-1)[which], answers)))  # type: ignore[misc]
        for reduce in reductions
    )
