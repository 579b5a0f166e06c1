"""Many targets per example, or none: tokens, pixels, views of one thing, reconstructions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

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

WORDS, STEPS, TAGS, PADDING, VOID = 11, 6, 4, -100, 255


# --- a tag for every token, padded


class Tagger(Net):
    """Batch first: ``(N, T)`` words to ``(N, T, C)``."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.step, self.head = nn.Embedding(WORDS, 6), nn.Linear(12, 8), nn.Linear(8, TAGS)

    def forward(self, words: Tensor) -> Tensor:
        own = self.words(words)
        return self.head(torch.tanh(self.step(torch.cat([own, own.roll(1, 1)], 2))))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]).transpose(1, 2), batch[1], ignore_index=PADDING)


class TimeFirstTagger(Tagger):
    """``(T, N)`` words to ``(T, N, C)``, as recurrent layers have it."""

    def forward(self, words: Tensor) -> Tensor:
        return super().forward(words.T).transpose(0, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=PADDING)


def _tagged() -> tuple[Tensor, Tensor]:
    """Words and tags; one sequence in three is cut short."""
    words = integers(WORDS, SIZE, STEPS)
    tags = (words + words.roll(1, 1)) % TAGS
    lengths = torch.where(torch.arange(SIZE) % 3 == 0, 2 + torch.arange(SIZE) % 3, STEPS)
    lengths[BATCH : 2 * BATCH] = 2  # so that minibatches weigh differently
    tags[torch.arange(STEPS) >= lengths[:, None]] = PADDING
    return words, tags


def collate_time_first(examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    words, tags = zip(*examples, strict=True)
    return torch.stack(words, 1), torch.stack(tags, 1)


def _tag_logits(module: Any, batch: Any) -> Tensor:
    """Of the tokens that count; the order of the first two axes does not matter."""
    return module(batch[0])[batch[1] != PADDING]


_TAGS = class_terms(_tag_logits, lambda batch: batch[1][batch[1] != PADDING])


# --- the next word


class NextWord(Net):
    """The batch is one tensor of words; a loss of those that follow the first."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.recurrent(self.words(words))[0])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        logits = self(batch)[:, :-1]
        return F.cross_entropy(logits.reshape(-1, WORDS), batch[:, 1:].reshape(-1))


_NEXT_WORD = class_terms(
    lambda module, batch: module(batch)[:, :-1].flatten(0, 1), lambda batch: batch[:, 1:].flatten()
)


# --- a class for every pixel


class Segmenter(Net):
    """``(N, 2, 4, 5)`` pictures to ``(N, C, 4, 5)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], ignore_index=VOID)


def _segmented() -> Any:
    pictures = numbers(SIZE, 2, 4, 5)
    classes = (pictures[:, 0] > 0).long() + (pictures[:, 1] > 0.5).long()
    classes[:, :, 0] = VOID
    classes[:BATCH, :3] = VOID
    return loader_of(pictures, classes)


def _pixel_logits(module: Any, batch: Any) -> Tensor:
    return module(batch[0]).movedim(1, -1)[batch[1] != VOID]


_PIXELS = class_terms(_pixel_logits, lambda batch: batch[1][batch[1] != VOID])


# --- two views


class Contrastive(Net):
    """NT-Xent (SimCLR): every view must find the other of its pair among all views of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (first, second), _ = batch
        views = F.normalize(torch.cat([self(first), self(second)]), dim=1)
        similarity = (views @ views.T / 0.5).fill_diagonal_(float("-inf"))
        return F.cross_entropy(similarity, torch.arange(len(views)).roll(len(first)))


def _views() -> Any:
    x, y = labelled()
    first, second = x + 0.1 * numbers(SIZE, FEATURES, seed=5), x + 0.1 * numbers(SIZE, FEATURES, seed=6)
    return DataLoader([([first[i], second[i]], y[i]) for i in range(SIZE)], BATCH)  # type: ignore[arg-type]


def _contrastive_terms(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """One term per batch, in plain loops."""
    (first, second), _ = batch
    views = F.normalize(module(torch.cat([first, second])), dim=1)
    n, losses = len(first), []
    for i in range(2 * n):
        others = torch.stack([views[i] @ views[j] / 0.5 for j in range(2 * n) if j != i])
        losses.append(others.logsumexp(0) - views[i] @ views[(i + n) % (2 * n)] / 0.5)
    return torch.stack(losses).mean(), torch.tensor(1)


# --- a reconstruction


class Autoencoder(Net):
    """Lightning's own first example: ``forward`` is the code; the labels are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(FEATURES, CLASSES), nn.Linear(CLASSES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.decoder(self.encoder(batch[0])), batch[0])


def _reconstruction(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return (module.decoder(module.encoder(batch[0])) - batch[0]).square().sum(), count(batch[0])


KINDS = (
    Kind(
        "a tag per token, batch first",
        Tagger,
        lambda: loader_of(*_tagged()),
        Expected("tokens", "logits", "tokens", ignore_index=PADDING),
        *_TAGS,
    ),
    Kind(
        "a tag per token, time first",
        TimeFirstTagger,
        lambda: loader_of(*_tagged(), collate_fn=collate_time_first),
        Expected("tokens", "logits", "tokens", ignore_index=PADDING),
        *_TAGS,
    ),
    Kind(
        "the next word",
        NextWord,
        lambda: DataLoader(list(integers(WORDS, SIZE, STEPS)), BATCH),  # type: ignore[arg-type]
        Expected("tokens", "logits", inputs=((),), targets=()),
        *_NEXT_WORD,
    ),
    Kind(
        "a class per pixel",
        Segmenter,
        _segmented,
        Expected("dense", "logits", "tokens", ignore_index=VOID),
        *_PIXELS,
    ),
    Kind(
        "two views, NT-Xent",
        Contrastive,
        _views,
        Expected("pairs", "embeddings", "batch", inputs=((0, 0), (0, 1)), targets=None),
        _contrastive_terms,
    ),
    Kind(
        "autoencoder on labelled data",
        Autoencoder,
        lambda: loader_of(*labelled()),
        Expected("unknown", "values", inputs=(0,), targets=None),
        _reconstruction,
    ),
)
