"""Lightning's own demonstrations, and a module that keeps torchmetrics as everybody does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_dynamics.core.random_state import seed_all
from tests.kinds.batches import Classifier
from tests.kinds.kind import BATCH, CLASSES, SIZE, Expected, Kind, class_terms, count, integers, labelled, loader_of
from tests.third_party.case import Case

WORDS, STEPS = 15, 5


def _boring(manual: bool) -> Any:
    from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel

    seed_all(0)
    return ManualOptimBoringModel() if manual else BoringModel()


def _random_loader() -> Any:
    from lightning.pytorch.demos.boring_classes import RandomDataset

    seed_all(1)
    return DataLoader(RandomDataset(32, SIZE), BATCH)


def _distance_from_ones(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    out = module.layer(batch)
    return (out - 1).square().sum(), count(out)


def boring_loss(module: Any, batch: Any) -> Tensor:
    """What its ``training_step`` minimises, by hand."""
    return (module(batch) - 1).square().mean()


def _boring_kind(manual: bool) -> Kind:
    expected = Expected("unknown", "values", inputs=(), targets=None)
    return Kind("boring", lambda: _boring(manual), _random_loader, expected, _distance_from_ones)


def _transformer() -> Any:
    from lightning.pytorch.demos.transformer import LightningTransformer, Transformer

    class SmallTransformer(LightningTransformer):
        def prepare_data(self) -> None:
            """Downloads nothing."""

    seed_all(0)
    module = SmallTransformer(WORDS)
    module.model = Transformer(WORDS, ninp=8, nhead=2, nhid=8, nlayers=1)
    return module


def _token_loader() -> Any:
    words = integers(WORDS, SIZE, STEPS + 1)
    return loader_of(words[:, :-1], words[:, 1:], shuffle=True)


_NEXT = class_terms(lambda module, batch: module(batch[0], batch[1]), lambda batch: batch[1].flatten())


class WithMetrics(Classifier):
    """A collection of metrics, some of them with lists that grow, logged by step and by epoch."""

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics import MetricCollection
        from torchmetrics.aggregation import CatMetric, MeanMetric
        from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

        scores = [MulticlassAccuracy(CLASSES), MulticlassF1Score(CLASSES)]
        self.scores = MetricCollection(scores, prefix="train_")
        self.confusion = MulticlassConfusionMatrix(CLASSES)
        self.seen, self.mean_loss = CatMetric(), MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        loss = torch.nn.functional.cross_entropy(logits, batch[1])
        self.scores.update(logits, batch[1])
        self.confusion.update(logits, batch[1])
        self.seen.update(logits.detach())
        self.log("train_mean_loss", self.mean_loss(loss))
        self.log_dict(self.scores, on_step=True, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("seen", self.seen.compute().sum())
        self.log("right", self.confusion.compute().diagonal().sum().float())
        self.seen.reset()
        self.confusion.reset()


BY_LOSS = ("LossContributionCallback", "LandscapeCallback", "CurvatureCallback", "CriticalPointsCallback")

CASES = {
    "BoringModel": Case("lightning", lambda: _boring_kind(False), "layer.*"),
    "ManualOptimBoringModel": Case(
        "lightning", lambda: _boring_kind(True), "layer.*", given=dict.fromkeys(BY_LOSS, {"loss_fn": boring_loss})
    ),
    "LightningTransformer": Case(
        "lightning",
        lambda: Kind(
            "transformer",
            _transformer,
            _token_loader,
            Expected("tokens", "log_probabilities", "tokens", inputs=(0, 1)),
            *_NEXT,
        ),
        "model.transformer.decoder.norm.*",
    ),
    "a classifier with torchmetrics": Case(
        "torchmetrics",
        lambda: Kind(
            "metrics",
            WithMetrics,
            lambda: loader_of(*labelled(), shuffle=True),
            Expected("multiclass", "logits"),
            *class_terms(lambda module, batch: module(batch[0]), lambda batch: batch[1]),
        ),
        "head.*",
        ("body", "head"),
    ),
}
