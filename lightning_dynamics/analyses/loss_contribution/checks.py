"""What is found out before training: whether this module's loss can be split at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature.passes import gradient, unchanging
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
    coordinates: Coordinates,
    loss_fn: LossFn | None,
    batchnorm: BatchNormMode,
) -> None:
    """Try the loss on every kind of minibatch of this process, whole and rest, and its gradient on the smallest.

    Call it inside :func:`~lightning_dynamics.analyses.loss_contribution.probe_loss.differentiable`.

    Raises:
        ConfigurationError: no loss with a graph, a minibatch that BatchNorm refuses, a loss that changes by itself, a
            backward pass that fails or hides parameters.
    """
    batches = _kinds(context, probe)
    smallest = min(batches, key=len, default=None)
    buffers = coordinates.read_buffers()
    for batch in batches:

        def compute(number: int = batch.number) -> Tensor:
            coordinates.move_buffers(buffers)  # as before every minibatch of an event
            data = probe.batch(number)
            context.seed(data)
            with torch.enable_grad():
                return loss(context.module, data.data, loss_fn)

        try:
            value = unchanging(compute) if batch is smallest else compute()
        except ConfigurationError:
            raise
        except ValueError as error:
            if batchnorm == "batch" and running_statistics(context.module) and "per channel" in str(error):
                raise ConfigurationError(
                    f"a minibatch of {len(batch)} is too small for `batchnorm='batch'`: choose `batch_size` so that "
                    f"{len(probe)} examples leave no such rest"
                ) from error
            raise
        if not value.requires_grad:
            raise ConfigurationError(
                "the loss does not depend on any parameter that is trained: `loss_fn` (or `training_step`) must return "
                "it with its graph, neither detached nor under `torch.no_grad()`"
            )
        coordinates.move_buffers(buffers)
        if batch is smallest:
            gradient(value, [tensor for tensor in coordinates.tensors.values() if tensor.requires_grad])


def check_examples(context: Context, examples: ExampleLosses, loss_fn: LossFn | None) -> bool:
    """Try the losses of the examples, and their derivatives; whether those can be taken in forward mode.

    Raises:
        ConfigurationError: their mean is not the loss; they have no derivatives.
    """
    batches = _kinds(context, examples.probe)
    for batch in batches:
        terms = context.terms(batch, examples.probe)
        if terms == 0:
            continue
        losses, classes = examples.tried(batch)
        context.seed(batch)
        with torch.no_grad():
            value = float(loss(context.module, examples.probe.batch(batch.number).data, loss_fn))
        mean = float(losses.double().mean())
        if classes.shape != losses.shape or not math.isclose(mean, value, rel_tol=1e-3, abs_tol=1e-5):
            raise ConfigurationError(
                f"`per_class=True` needs a loss per example whose mean is the loss: that is {mean:.6g}, the "
                f"loss of a minibatch of {len(batch)} is {value:.6g}, a mean over {terms:g} terms; pass "
                "`example_loss_fn(module, batch) -> (losses, classes)`"
            )
    return not batches or examples.works_forward(min(batches, key=len))


def _kinds(context: Context, probe: Probe) -> list[Batch]:
    """A minibatch of each size that this process has."""
    own = context.ranks.shard(range(len(probe.batches)))
    return [probe.batch(number) for number in sorted({own[0], own[-1]})] if own else []
