"""Batches that are not ``(inputs, classes)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.kinds.kind import (
    BATCH,
    CLASSES,
    FEATURES,
    SIZE,
    Expected,
    Kind,
    Net,
    class_terms,
    count,
    integers,
    labelled,
    loader_of,
    numbers,
)


class Classifier(Net):
    """The plain one; ``part`` says where in the batch inputs and classes are."""

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(features, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.parts(batch)
        return F.cross_entropy(self(x), y)


# --- (inputs, lengths, classes)


class Lengths(Net):
    """A mean over the steps that a sequence has."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.head = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
        return self.head((torch.tanh(self.step(x)) * mask).sum(1) / lengths[:, None])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0], batch[1]), batch[2])


def _lengths_loader() -> Any:
    x, y = labelled()
    return loader_of(x[:, None] + numbers(SIZE, 6, FEATURES), 2 + integers(5, SIZE), y)


LENGTHS = Kind(
    "(inputs, lengths, classes)",
    Lengths,
    _lengths_loader,
    Expected("multiclass", "logits", inputs=(0, 1), targets=2),
    *class_terms(lambda module, batch: module(batch[0], batch[1]), lambda batch: batch[2]),
)


# --- (index, inputs, classes)


class Indexed(Classifier):
    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[1], batch[2]


INDEXED = Kind(
    "(index, inputs, classes)",
    Indexed,
    lambda: loader_of(torch.arange(SIZE), *labelled()),
    Expected("multiclass", "logits", inputs=(1,), targets=2),
    *class_terms(lambda module, batch: module(batch[1]), lambda batch: batch[2]),
)


# --- (user, item, rating)


class Ratings(Net):
    """Whole numbers, but not classes."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items, self.bias = nn.Embedding(6, 4), nn.Embedding(7, 4), nn.Embedding(7, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.users(user) * self.items(item)).sum(1) + self.bias(item)[:, 0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        user, item, rating = batch
        return F.mse_loss(self(user, item), rating.to(self.bias.weight.dtype))


RATINGS = Kind(
    "(user, item, rating)",
    Ratings,
    lambda: loader_of(integers(6, SIZE, seed=3), integers(7, SIZE, seed=4), 1 + integers(5, SIZE, seed=5)),
    Expected("regression", "values", inputs=(0, 1), targets=2),
    lambda module, batch: ((module(batch[0], batch[1]) - batch[2]).square().sum(), count(batch[2])),
)


# --- mappings, dataclasses, named tuples


class Rows(Dataset[Any]):
    """Examples made by ``make(index, inputs, class)``."""

    def __init__(self, make: Any) -> None:
        self.make, (self.x, self.y) = make, labelled()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> Any:
        return self.make(index, self.x[index], self.y[index])


class Dictionary(Classifier):
    """Under names that nobody can guess."""

    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch["signal"], batch["diagnosis"]


DICTIONARY = Kind(
    "dict with keys of its own",
    Dictionary,
    lambda: DataLoader(Rows(lambda i, x, y: {"patient": i, "diagnosis": y, "signal": x}), BATCH),
    Expected("multiclass", "logits", inputs=("signal",), targets="diagnosis"),
    *class_terms(lambda module, batch: module(batch["signal"]), lambda batch: batch["diagnosis"]),
)


@dataclass
class Scan:
    """One example, or a batch of them."""

    site: Tensor
    volume: Tensor
    finding: Tensor


def collate_scans(scans: list[Scan]) -> Scan:
    return Scan(*(torch.stack([getattr(scan, name) for scan in scans]) for name in ("site", "volume", "finding")))


class Scans(Classifier):
    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch.volume, batch.finding


DATACLASS = Kind(
    "dataclass",
    Scans,
    lambda: DataLoader(Rows(lambda i, x, y: Scan(torch.tensor(i % 2), x, y)), BATCH, collate_fn=collate_scans),
    Expected("multiclass", "logits", inputs=("volume",), targets="finding"),
    *class_terms(lambda module, batch: module(batch.volume), lambda batch: batch.finding),
)


class Sample(NamedTuple):
    """One example, or a batch of them."""

    group: Tensor
    features: Tensor
    label: Tensor


class Samples(Classifier):
    def parts(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch.features, batch.label


NAMED_TUPLE = Kind(
    "named tuple",
    Samples,
    lambda: DataLoader(Rows(lambda i, x, y: Sample(torch.tensor(i % 2), x, y)), BATCH),
    Expected("multiclass", "logits", inputs=("features",), targets="label"),
    *class_terms(lambda module, batch: module(batch.features), lambda batch: batch.label),
)

KINDS = (LENGTHS, INDEXED, RATINGS, DICTIONARY, DATACLASS, NAMED_TUPLE)
