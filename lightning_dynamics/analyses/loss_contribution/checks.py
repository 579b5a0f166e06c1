"""What is found out before training: whether this module's loss can be split at all."""

from __future__ import annotations

import math

import torch
from torch import nn

from lightning_dynamics.analyses.loss_contribution.batchnorm import BatchNormMode, running_statistics
from lightning_dynamics.analyses.loss_contribution.classes import ExampleLosses
from lightning_dynamics.analyses.loss_contribution.coordinates import Coordinates
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, loss
from lightning_dynamics.core.probe import Batch, Probe

_TOO_NARROW = (torch.float16, torch.bfloat16)


def check_parameters(module: nn.Module, coordinates: Coordinates) -> None:
    """Of a kind that can be followed, and some of them trained.

    Raises:
        ConfigurationError: complex, in half precision, or all frozen.
    """
    tensors = coordinates.tensors
    if any(tensor.is_complex() for tensor in tensors.values()):
        raise ConfigurationError(
            f"{type(module).__name__} has complex parameters, which this analysis does not know: hold their real and "
            "imaginary parts as parameters (torch.view_as_complex joins them in `forward`)"
        )
    halves = [name for name, tensor in tensors.items() if tensor.dtype in _TOO_NARROW]
    if halves:
        raise ConfigurationError(
            f"{halves[0]!r} is in half precision, which most steps are too small for: train with "
            "Trainer(precision='bf16-mixed' or '16-mixed'), which keeps parameters in float32"
        )
    if not any(coordinates.wanting_gradient([False] * len(tensors))):
        raise ConfigurationError(f"no parameter of {type(module).__name__} requires a gradient")


def check_loss(
    context: Context,
    probe: Probe,
    loss_fn: LossFn | None,
    batchnorm: BatchNormMode,
    examples: ExampleLosses | None,
) -> None:
    """Compute the loss of every kind of minibatch that this process has: whole ones, and a smaller rest.

    Raises:
        ConfigurationError: no loss with a graph, a minibatch that BatchNorm refuses, example losses whose mean is
            another loss.
    """
    own = context.ranks.shard(range(len(probe.batches)))
    for number in {own[0], own[-1]} if own else ():
        batch = probe.batch(number)
        value = _loss(context, probe, batch, loss_fn, batchnorm)
        if examples is None:
            continue
        losses, classes = examples.tried(batch)
        mean = float(losses.double().mean())
        if classes.shape != losses.shape or not math.isclose(mean, value, rel_tol=1e-3, abs_tol=1e-5):
            raise ConfigurationError(
                f"`per_class=True` needs a loss per example whose mean is the loss: that is {mean:.6g}, the "
                f"loss is {value:.6g}; pass `example_loss_fn(module, batch) -> (losses, classes)`"
            )


def _loss(context: Context, probe: Probe, batch: Batch, loss_fn: LossFn | None, batchnorm: BatchNormMode) -> float:
    context.seed(batch)
    try:
        with torch.enable_grad():
            value = loss(context.module, batch.data, loss_fn)
    except ValueError as error:
        if batchnorm == "batch" and running_statistics(context.module) and "per channel" in str(error):
            raise ConfigurationError(
                f"a minibatch of {len(batch)} is too small for `batchnorm='batch'`: choose `batch_size` so that "
                f"{len(probe)} examples leave no such rest"
            ) from error
        raise
    if not value.requires_grad:
        raise ConfigurationError(
            "the loss does not depend on any parameter that is trained: `loss_fn` (or `training_step`) must return it "
            "with its graph, neither detached nor under `torch.no_grad()`"
        )
    return float(value)
