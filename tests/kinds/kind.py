"""What a kind of LightningModule is, and what is true of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.core.precision import default_dtype
from lightning_dynamics.core.random_state import seed_all

SIZE, BATCH, FEATURES, CLASSES = 22, 8, 5, 3
"""Of every data set here; its last minibatch has 6 examples, so a mean of minibatch means is not the mean."""

Terms = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""Module and batch, both in float64, to a sum over the batch and the number, or weight, of what was summed."""


@dataclass(frozen=True)
class Expected:
    """What can be found out about a module and its data.

    Args:
        kind: of task: what an output is compared with.
        output: what ``forward`` returns in train mode; ``"values"`` are those of a regression.
        loss_unit: what the loss is a mean over: ``"examples"``; ``"tokens"`` (or pixels) that are not ignored;
            ``"weights"`` of the examples; ``"batch"``: the examples of a batch cannot be told apart; ``"sum"``: no
            mean but a sum over examples.
        inputs: positions or keys in the batch of what ``forward`` gets, none if it gets all of it or there is none.
        targets: position or key of what the loss compares with; None if it compares with no item of the batch.
        eval_differs: the loss cannot be computed in eval mode: it is another function, beyond dropout and BatchNorm.
        ignore_index: target that does not count.
    """

    kind: Literal["multiclass", "binary", "multilabel", "regression", "tokens", "dense", "pairs", "unknown"]
    output: Literal["logits", "probabilities", "log_probabilities", "values", "embeddings", "unknown"]
    loss_unit: Literal["examples", "tokens", "weights", "batch", "sum"] = "examples"
    inputs: tuple[Any, ...] = (0,)
    targets: Any = 1
    eval_differs: bool = False
    ignore_index: int | None = None


@dataclass(frozen=True)
class Kind:
    """A small module, its data and the truth about both.

    Args:
        name: for people.
        make_module: a new module.
        make_loader: a new loader over the same data; or a dict of loaders.
        expected: what can be found out.
        loss_terms: sum of losses of a batch, and what it has to be divided by.
        correct: how many predictions of a batch are right, and how many there are; None where nothing is classified.
    """

    name: str
    make_module: Callable[[], lightning.LightningModule]
    make_loader: Callable[[], Any]
    expected: Expected
    loss_terms: Terms
    correct: Terms | None = None

    def true_loss(self, module: lightning.LightningModule, loader: Any) -> float:
        """The mean loss over the data set in float64: of all examples as one batch.

        With ``loss_unit="sum"`` it is the mean over examples; with ``"batch"`` that over the loader's minibatches.
        """
        return self._mean(self.loss_terms, module, loader)

    def true_accuracy(self, module: lightning.LightningModule, loader: Any) -> float | None:
        """Share of right predictions among those that count; None where nothing is classified."""
        return None if self.correct is None else self._mean(self.correct, module, loader)

    def _mean(self, terms: Terms, module: lightning.LightningModule, loader: Any) -> float:
        again = self.make_module()
        again.load_state_dict(module.state_dict())
        again.double().eval()
        read = [doubled(batch) for batch in batches(loader)]
        with torch.no_grad(), default_dtype(torch.float64):  # modules make masks and positions in the default dtype
            sums = [torch.stack([x.double() for x in terms(again, batch)]) for batch in read]
        total, weight = torch.stack(sums).sum(0).tolist()
        return float(total / weight)


class Net(lightning.LightningModule):
    """With an optimizer, from one seed."""

    def __init__(self) -> None:
        super().__init__()
        seed_all(0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def batches(loader: Any) -> Iterator[Any]:
    """One pass, as a Trainer would make it; of a dict of loaders, dicts."""
    if isinstance(loader, dict):
        for items in zip(*loader.values(), strict=True):
            yield dict(zip(loader, items, strict=True))
    else:
        yield from loader


def doubled(batch: Any) -> Any:
    """Its floating point tensors in float64."""
    if not isinstance(batch, dict) and hasattr(batch, "apply"):  # a PyTorch Geometric batch
        return batch.clone().apply(lambda x: x.double() if x.is_floating_point() else x)
    return apply_to_collection(batch, Tensor, lambda x: x.double() if x.is_floating_point() else x)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    """Normal ones."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def integers(end: int, *shape: int, seed: int = 2) -> Tensor:
    """From 0 to ``end``, excluded."""
    return torch.randint(end, shape, generator=torch.Generator().manual_seed(seed))


def labelled(size: int = SIZE, seed: int = 2) -> tuple[Tensor, Tensor]:
    """``(N, F)`` inputs that show their classes, and ``(N,)`` classes, more of some than of others."""
    classes = integers(2 * CLASSES - 1, size, seed=seed) // 2
    return numbers(size, FEATURES, seed=seed) + classes[:, None], classes


def loader_of(*tensors: Tensor, **options: Any) -> DataLoader[Any]:
    """Minibatches of a TensorDataset."""
    return DataLoader(TensorDataset(*tensors), BATCH, **options)


def count(tensor: Tensor) -> Tensor:
    """How many entries."""
    return torch.tensor(tensor.numel())


def negative_log_likelihood(logits: Tensor, classes: Tensor) -> Tensor:
    """Per example, written out: ``(N, C)`` and ``(N,)`` to ``(N,)``."""
    return logits.logsumexp(1) - logits.gather(1, classes[:, None])[:, 0]


def class_terms(output_of: Callable[[Any, Any], Tensor], classes_of: Callable[[Any], Tensor]) -> tuple[Terms, Terms]:
    """Loss and accuracy of a plain classifier, given its logits and the classes of a batch."""

    def loss(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return negative_log_likelihood(output_of(module, batch), classes_of(batch)).sum(), count(classes_of(batch))

    def correct(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return (output_of(module, batch).argmax(1) == classes_of(batch)).sum(), count(classes_of(batch))

    return loss, correct
