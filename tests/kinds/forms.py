"""Forms of modules and of loaders, around a plain classifier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.kinds.batches import Classifier
from tests.kinds.kind import (
    BATCH,
    CLASSES,
    FEATURES,
    Expected,
    Kind,
    Net,
    class_terms,
    count,
    labelled,
    loader_of,
    negative_log_likelihood,
)


class Stream(IterableDataset[Any]):
    """Examples without an index."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*labelled(), strict=True)


class TwoSources(Classifier):
    """Labelled batches of two kinds, and a loss that adds both."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(  # type: ignore[return-value]
            weight * F.cross_entropy(self(batch[key][0]), batch[key][1]) for key, weight in WEIGHT_OF.items()
        )


WEIGHT_OF = {"clinic": 1.0, "survey": 0.5}


def _two_sources_loss(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Each of the two means is over as many examples, so the sum is a mean over pairs of them."""
    losses = [w * negative_log_likelihood(module(batch[key][0]), batch[key][1]) for key, w in WEIGHT_OF.items()]
    return torch.stack(losses).sum(), count(losses[0])


def _two_sources_correct(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    right = [module(x).argmax(1) == y for x, y in batch.values()]
    return torch.cat(right).sum(), count(torch.cat(right))


class WithoutForward(Net):
    """All of it in ``training_step``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


class AnyArguments(WithoutForward):
    """A ``forward`` that hands on what it gets."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.net(*args, **kwargs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class Manual(Classifier):
    """Manual optimisation."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()


class EvalAnswers(Classifier):
    """In eval mode it returns classes, as detectors return boxes there."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if self.training else logits.argmax(1)


class EvalProbabilities(Classifier):
    """In eval mode it returns probabilities: a loss of them is a number, but a wrong one."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if self.training else logits.softmax(1)


def _train_logits(module: Any, batch: Any) -> Tensor:
    return module.train()(batch[0])


def _list_loader() -> Any:
    return DataLoader(list(zip(*labelled(), strict=True)), BATCH)  # type: ignore[arg-type]


_PLAIN = class_terms(lambda module, batch: module(batch[0]), lambda batch: batch[1])
_OF_THE_NET = class_terms(lambda module, batch: module.net(batch[0]), lambda batch: batch[1])
_IN_TRAIN_MODE = class_terms(_train_logits, lambda batch: batch[1])

PLAIN = Kind("(inputs, classes)", Classifier, lambda: loader_of(*labelled()), Expected("multiclass", "logits"), *_PLAIN)

KINDS = (
    PLAIN,
    Kind("a list as data set", Classifier, _list_loader, Expected("multiclass", "logits"), *_PLAIN),
    Kind(
        "an IterableDataset",
        Classifier,
        lambda: DataLoader(Stream(), BATCH),
        Expected("multiclass", "logits"),
        *_PLAIN,
    ),
    Kind(
        "a dict of two loaders",
        TwoSources,
        lambda: {"clinic": loader_of(*labelled()), "survey": loader_of(*labelled(seed=9))},
        Expected("unknown", "unknown", inputs=(("clinic", 0), ("survey", 0)), targets=None),
        _two_sources_loss,
        _two_sources_correct,
    ),
    Kind(
        "no forward",
        WithoutForward,
        lambda: loader_of(*labelled()),
        Expected("multiclass", "logits"),
        _OF_THE_NET[0],
        _OF_THE_NET[1],
    ),
    Kind(
        "forward(*args, **kwargs)",
        AnyArguments,
        lambda: loader_of(*labelled()),
        Expected("multiclass", "logits"),
        *_PLAIN,
    ),
    Kind(
        "manual optimisation",
        Manual,
        lambda: loader_of(*labelled()),
        Expected("multiclass", "logits"),
        *_PLAIN,
    ),
    Kind(
        "eval mode answers",
        EvalAnswers,
        lambda: loader_of(*labelled()),
        Expected("multiclass", "logits", eval_differs=True),
        *_IN_TRAIN_MODE,
    ),
    Kind(
        "eval mode returns probabilities",
        EvalProbabilities,
        lambda: loader_of(*labelled()),
        Expected("multiclass", "logits", eval_differs=True),
        *_IN_TRAIN_MODE,
    ),
)
