"""The numbers behind the pictures: what is added up, divided and left out before it is drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult, ratio


class Curves(NamedTuple):
    """Cumulative contributions from the start of training, one column per row of the series and one before."""

    steps: NDArray[np.float64]  # (T + 1,)
    layers: NDArray[np.float64]  # (layers, T + 1)
    loss_change: NDArray[np.float64]  # (T + 1,)
    total: NDArray[np.float64]  # (T + 1,), the sum of the layers
    buffers: NDArray[np.float64]  # (T + 1,)


def curves(result: LossContributionResult) -> Curves:
    """The series as they are drawn: from 0 at the first step on; what is not finite counts 0, but for the loss."""
    layers = _from_zero(result.layer_steps().T)
    return Curves(
        steps=np.concatenate([[result.initial_step], result.steps.double().numpy()]),
        layers=layers,
        loss_change=np.concatenate([[0.0], result.losses.double().numpy() - result.initial_loss]),
        total=layers.sum(0),
        buffers=_from_zero(result.buffers),
    )


def layer_rates(result: LossContributionResult) -> Tensor:
    """``(T, layers)``: mean contribution of each layer per event, which compares rows of one and of many events."""
    return result.layer_steps() / result.events[:, None]


def overall_flip_rate(result: LossContributionResult) -> float:
    """How often an element's contribution changes sign: mean over elements."""
    rates = torch.tensor(list(result.flip_rate.values()), dtype=torch.float64)
    sizes = [math.prod(result.shapes[name]) for name in result.flip_rate]
    weights = torch.tensor(sizes, dtype=torch.float64) * rates.isfinite()
    return ratio(float((rates.nan_to_num() * weights).sum()), float(weights.sum()))


def known(values: Tensor) -> NDArray[np.float64]:
    """As an array, with NaN for infinities."""
    return np.asarray(torch.where(values.isfinite(), values, math.nan).double().numpy())


def _from_zero(rows: Tensor) -> NDArray[np.float64]:
    """Cumulative sums over the last dimension, with a 0 in front; what is not finite counts 0."""
    known = torch.where(rows.isfinite(), rows, 0.0).double()
    return np.asarray(torch.nn.functional.pad(known.cumsum(-1), (1, 0)).numpy())
