"""Targets, outputs and losses of one vector per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import (
    CLASSES,
    FEATURES,
    SIZE,
    Expected,
    Kind,
    Net,
    Terms,
    class_terms,
    count,
    integers,
    labelled,
    loader_of,
    negative_log_likelihood,
    numbers,
)

WEIGHTS = (0.5, 1.0, 4.0)
"""Of the classes."""


class Perceptron(Net):
    """A loss, and what is done to the last layer's output before ``forward`` returns it."""

    def __init__(self, outputs: int, loss: Callable[..., Tensor], last: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, outputs))
        if last is not None:
            self.layers.append(last())
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self(batch[0]), batch[1])


def _kind(
    name: str,
    perceptron: tuple[Any, ...],
    targets: Callable[[Tensor, Tensor], Tensor],
    expected: Expected,
    loss_terms: Terms,
    correct: Terms | None = None,
) -> Kind:
    """With targets from inputs and classes."""

    def make_loader() -> Any:
        x, y = labelled()
        return loader_of(x, targets(x, y))

    return Kind(name, lambda: Perceptron(*perceptron), make_loader, expected, loss_terms, correct)


def _one_hot(x: Tensor, y: Tensor) -> Tensor:
    return F.one_hot(y, CLASSES).float()


def _soft(x: Tensor, y: Tensor) -> Tensor:
    return 0.7 * _one_hot(x, y) + 0.3 * numbers(SIZE, CLASSES, seed=4).softmax(1)


def _labels(x: Tensor, y: Tensor) -> Tensor:
    """None, one or more of four."""
    return (x[:, :4] > 1).float()


def _yes_or_no(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, 0] > 1).float()


def _distribution_loss(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return -(batch[1] * module(batch[0]).log_softmax(1)).sum(), count(batch[1][:, 0])


def _distribution_correct(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return (module(batch[0]).argmax(1) == batch[1].argmax(1)).sum(), count(batch[1][:, 0])


def _bernoulli(probabilities: Tensor, targets: Tensor) -> Tensor:
    return -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log())


def _right_labels(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Each label counts."""
    return ((module(batch[0]) > 0) == (batch[1] > 0.5)).sum(), count(batch[1])


def _own_nll(probabilities: Tensor, classes: Tensor) -> Tensor:
    return -(probabilities[torch.arange(len(classes)), classes] + 1e-12).log().mean()


def _weighted(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits, classes, weight=torch.tensor(WEIGHTS, dtype=logits.dtype))


def _weighted_terms(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[batch[1]]
    return (weights * negative_log_likelihood(module(batch[0]), batch[1])).sum(), weights.sum()


def _summed(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits, classes, reduction="sum")


def _squares(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    output = module(batch[0])
    return (output - batch[1].reshape(output.shape)).square().sum(), count(output)


_class_loss, _class_correct = class_terms(lambda module, batch: module(batch[0]), lambda batch: batch[1])
_log_loss, _ = class_terms(lambda module, batch: module(batch[0]).log(), lambda batch: batch[1])

KINDS = (
    _kind(
        "one-hot targets",
        (CLASSES, F.cross_entropy),
        _one_hot,
        Expected("multiclass", "logits"),
        _distribution_loss,
        _distribution_correct,
    ),
    _kind(
        "soft targets",
        (CLASSES, F.cross_entropy),
        _soft,
        Expected("multiclass", "logits"),
        _distribution_loss,
        _distribution_correct,
    ),
    _kind(
        "labels, any number of them",
        (4, F.binary_cross_entropy_with_logits),
        _labels,
        Expected("multilabel", "logits"),
        lambda module, batch: (_bernoulli(module(batch[0]).sigmoid(), batch[1]).sum(), count(batch[1])),
        _right_labels,
    ),
    _kind(
        "sigmoid and BCELoss",
        (1, lambda p, y: F.binary_cross_entropy(p[:, 0], y), nn.Sigmoid),
        _yes_or_no,
        Expected("binary", "probabilities"),
        lambda module, batch: (_bernoulli(module(batch[0])[:, 0], batch[1]).sum(), count(batch[1])),
        lambda module, batch: (((module(batch[0])[:, 0] > 0.5) == (batch[1] > 0.5)).sum(), count(batch[1])),
    ),
    _kind(
        "one logit (N, 1), whole targets (N,)",
        (1, lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(1), y.to(z.dtype))),
        lambda x, y: _yes_or_no(x, y).long(),
        Expected("binary", "logits"),
        lambda module, batch: (_bernoulli(module(batch[0]).sigmoid()[:, 0], batch[1]).sum(), count(batch[1])),
        lambda module, batch: (((module(batch[0])[:, 0] > 0) == (batch[1] > 0.5)).sum(), count(batch[1])),
    ),
    _kind(
        "LogSoftmax and NLLLoss",
        (CLASSES, F.nll_loss, lambda: nn.LogSoftmax(1)),
        lambda x, y: y,
        Expected("multiclass", "log_probabilities"),
        _class_loss,
        _class_correct,
    ),
    _kind(
        "softmax and a loss of its own",
        (CLASSES, _own_nll, lambda: nn.Softmax(1)),
        lambda x, y: y,
        Expected("multiclass", "probabilities"),
        _log_loss,
        _class_correct,
    ),
    _kind(
        "regression (N,)",
        (1, lambda out, y: F.mse_loss(out.squeeze(1), y)),
        lambda x, y: x[:, 0] * x[:, 1],
        Expected("regression", "values"),
        _squares,
    ),
    _kind(
        "regression (N, 1)", (1, F.mse_loss), lambda x, y: x[:, :1].square(), Expected("regression", "values"), _squares
    ),
    _kind(
        "regression (N, 3)",
        (3, F.l1_loss),
        lambda x, y: x[:, :3].sin() + integers(2, SIZE, 3),
        Expected("regression", "values"),
        lambda module, batch: ((module(batch[0]) - batch[1]).abs().sum(), count(batch[1])),
    ),
    _kind(
        "class weights",
        (CLASSES, _weighted),
        lambda x, y: y,
        Expected("multiclass", "logits", "weights"),
        _weighted_terms,
        _class_correct,
    ),
    _kind(
        "summed loss",
        (CLASSES, _summed),
        lambda x, y: y,
        Expected("multiclass", "logits", "sum"),
        _class_loss,
        _class_correct,
    ),
)
