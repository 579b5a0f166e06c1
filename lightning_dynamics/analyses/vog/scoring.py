"""What one event measures of its examples, minibatch by minibatch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.analyses.vog.attribution import Outcome, attribute
from lightning_dynamics.analyses.vog.dynamics import MEASURED, measure
from lightning_dynamics.analyses.vog.estimator import Channel, per_pixel
from lightning_dynamics.analyses.vog.outputs import Setup
from lightning_dynamics.analyses.vog.storage import Shelf
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Batch
from lightning_dynamics.core.storage import Storage


@dataclass(frozen=True, eq=False)
class Measured:
    """One minibatch at one event, on the CPU.

    Args:
        number: of the minibatch.
        gradients: ``(n, D)``: per pixel.
        dynamics: ``(n, 5)`` float64, see :mod:`~lightning_dynamics.vog.dynamics`; NaN where they are not defined.
        labels: ``(n,)`` int64; −1 if there are none.
        predictions: ``(n,)`` int64; −1 if the output is not logits of classes, or NaN.
    """

    number: int
    gradients: Tensor
    dynamics: Tensor
    labels: Tensor
    predictions: Tensor


def measure_minibatches(
    context: Context, setup: Setup, channel: Channel, storage: Storage, chosen: Sequence[Tensor] | None = None
) -> list[Measured]:
    """This process's minibatches, isolated.

    Args:
        context: module and examples.
        setup: what is differentiated by what.
        channel: see :func:`~lightning_dynamics.vog.estimator.per_pixel`.
        storage: for the gradients, until they are merged into the record.
        chosen: per minibatch of the probe the classes whose logits are meant, ``(n,)`` each.
    """
    numbers = context.ranks.shard(range(len(context.probe.batches)))
    shelf = Shelf(storage, sum(len(context.probe.batches[number]) for number in numbers))
    measured = []
    for batch in context.batches():
        classes = None if chosen is None else chosen[batch.number]
        outcome = attribute(context.module, batch.data, setup, seed=context.probe.seed + batch.number, chosen=classes)
        outcome = in_order(outcome, batch, len(context.probe.batches[batch.number]))
        if len(outcome.gradient) != len(batch):
            raise RuntimeError(f"a minibatch of {len(batch)} examples gave gradients for {len(outcome.gradient)}")
        gradients = shelf.put(per_pixel(outcome.gradient, channel))
        measured.append(Measured(batch.number, gradients, *_beside(outcome)))
    return measured


def require_rows(batch: Batch, examples: int) -> tuple[int, ...]:
    """For each row of a collated minibatch the place of its example.

    Raises:
        ConfigurationError: nobody can tell which row is which example, or some have none.
    """
    if batch.order is not None and len(batch.order) == examples:
        return batch.order
    what = "merges examples" if batch.order is None else f"leaves out {examples - len(batch.order)} of {examples}"
    raise ConfigurationError(
        f"the collate function {what}, so that scores do not belong to single examples: give a Dataset whose "
        "examples are collated one row each, as `data=DataLoader(dataset, collate_fn=…)`"
    )


def in_order(outcome: Outcome, batch: Batch, examples: int) -> Outcome:
    """Rows in the order of the probe's examples, whatever the collate function has made of it.

    Raises:
        ConfigurationError: see :func:`require_rows`.
    """
    order = require_rows(batch, examples)
    if order == tuple(range(examples)):
        return outcome
    rows = torch.tensor(order).argsort().to(outcome.gradient.device)
    return Outcome(
        outcome.gradient[rows],
        None if outcome.logits is None else outcome.logits[rows],
        None if outcome.labels is None else outcome.labels[rows.to(outcome.labels.device)],
    )


def _beside(outcome: Outcome) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamics, labels and predictions."""
    unknown = torch.full((len(outcome.gradient),), -1)
    labels = unknown if outcome.labels is None else outcome.labels.cpu()
    if outcome.logits is None:
        return torch.full((len(unknown), len(MEASURED)), math.nan, dtype=torch.float64), labels, unknown
    # On the CPU, where there is float64 whatever the device.
    logits = outcome.logits.cpu()
    predictions = logits.argmax(1).masked_fill(logits.isnan().any(1), -1)
    if outcome.labels is None:
        return torch.full((len(unknown), len(MEASURED)), math.nan, dtype=torch.float64), labels, predictions
    return measure(logits, labels), labels, predictions
