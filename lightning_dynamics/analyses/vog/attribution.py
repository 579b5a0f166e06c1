"""The gradient of one number per example with respect to its input, for a whole minibatch at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.vog.outputs import (
    Setup,
    classified,
    inputs_of,
    labels_if_any,
    numbers_of,
    of_class,
    require_logits_by_values,
    run,
)
from lightning_dynamics.core.batch_tree import at, replaced
from lightning_dynamics.core.batchnorm import batchnorms
from lightning_dynamics.core.layers import named_layers, select_layers
from lightning_dynamics.core.lightning import ConfigurationError


@dataclass(frozen=True, eq=False)
class Outcome:
    """One minibatch, forward and backward.

    Args:
        gradient: ``(n, …)`` as the input (or the layer's output).
        logits: ``(n, C)`` at the examples themselves; None if the output is not logits of classes.
        labels: ``(n,)`` int64; None if the minibatch has none.
    """

    gradient: Tensor
    logits: Tensor | None
    labels: Tensor | None


def attribute(module: nn.Module, batch: Any, setup: Setup, *, seed: int, chosen: Tensor | None = None) -> Outcome:
    """Gradients of all examples of a minibatch, from one backward pass per sample.

    Examples do not influence each other (:func:`check` has seen to it), so the gradient of the *sum* of their logits
    holds each one's own gradient.

    Args:
        module: isolated, in the mode to analyse.
        batch: as ``training_step`` gets it.
        setup: what is meant.
        seed: of SmoothGrad's noise.
        chosen: ``(n,)`` classes, for ``"final_prediction"``.

    Raises:
        ConfigurationError: the gradient cannot be taken; the text names the argument and the fix.
    """
    method = setup.attribution
    if method == "gradient":
        return _gradient(module, batch, setup, lambda point: point, chosen)
    with torch.no_grad():
        logits, labels = predict(module, batch, setup)
    if setup.target == "prediction":
        assert logits is not None
        chosen = logits.argmax(1)  # for the examples, not for the points around them
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    point: Tensor | None = None
    for number in range(method.samples):

        def moved(x: Tensor, number: int = number) -> Tensor:
            nonlocal point
            point = x
            return method.point(x, number, generator)

        gradient = _gradient(module, batch, setup, moved, chosen).gradient
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        total = gradient if total is None else total + gradient
    assert total is not None and point is not None
    return Outcome(method.attribution(total / method.samples, point), logits, labels)


def predict(module: nn.Module, batch: Any, setup: Setup) -> tuple[Tensor | None, Tensor | None]:
    """Logits ``(n, C)`` and labels ``(n,)`` of a minibatch, without gradients; None where there are none."""
    output, targets = run(module, copy.deepcopy(batch), setup)
    return classified(output, targets, setup) if setup.classifies else (None, labels_if_any(targets))


def check(module: nn.Module, batch: Any, setup: Setup) -> Outcome:
    """One minibatch before training: whether gradients can be taken, example by example.

    Raises:
        ConfigurationError: see :func:`attribute`; or the examples of a minibatch influence each other.
    """
    chosen = None
    if setup.target == "final_prediction":
        logits, _ = predict(module, batch, setup)
        assert logits is not None
        chosen = logits.argmax(1)
    plain = replace(setup, attribution="gradient")
    outcome = _gradient(module, batch, plain, lambda point: point, chosen)
    if outcome.logits is not None and (setup.predict_fn is not None or setup.task.kind == "unknown"):
        require_logits_by_values(outcome.logits)
    first = _gradient(module, batch, plain, lambda point: point, chosen, only_first=True).gradient
    others = first[1:]
    if bool(((others != 0) & others.isfinite()).any()):
        raise ConfigurationError(
            "the examples of a minibatch influence each other's outputs, so gradients are not those of single "
            f"examples{_why_coupled(module)}; or set `batch_size=1`"
        )
    return outcome


def _why_coupled(module: nn.Module) -> str:
    """The layers that use batch statistics, and what to do."""
    names = {id(layer): name for name, layer in module.named_modules()}
    layers = batchnorms(module)
    trained = [names[id(layer)] for layer in layers if layer.running_mean is not None and layer.training]
    without = [names[id(layer)] for layer in layers if layer.running_mean is None]
    if trained:
        return f" by the batch statistics of {', '.join(trained[:3])}: use `mode='eval'`"
    if without:
        return f": {', '.join(without[:3])} has no running statistics (`track_running_stats=True`)"
    return ": use no batch statistics there"


# ---- one backward pass -------------------------------------------------------------------------------------


def _gradient(
    module: nn.Module,
    batch: Any,
    setup: Setup,
    moved: Callable[[Tensor], Tensor],
    chosen: Tensor | None,
    only_first: bool = False,
) -> Outcome:
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # no gradient of the weights is computed; isolation puts the flags back
    with torch.enable_grad():
        with _differentiating(module, batch, setup, moved) as (own_batch, leaves), _recurrence_with_gradient(module):
            output, targets = run(module, own_batch, setup)
        logits, labels = classified(output, targets, setup) if setup.classifies else (None, labels_if_any(targets))
        if logits is None:
            numbers = numbers_of(setup, output, targets)
        else:
            classes = labels if setup.target == "label" else chosen if chosen is not None else logits.argmax(1)
            numbers = of_class(output, logits, classes)
        total = numbers[0] if only_first else numbers.sum()
    if not leaves:
        raise ConfigurationError(
            f"`with_respect_to={setup.with_respect_to!r}` did not run in the forward pass: name a layer that does"
        )
    leaf = leaves[0]
    if len(numbers) != len(leaf):
        raise ConfigurationError(
            f"there are {len(numbers)} outputs for {len(leaf)} examples along the first dimension of "
            f"`with_respect_to={setup.with_respect_to!r}`: it must be the batch dimension"
        )
    gradient = None
    if numbers.requires_grad:
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    if gradient is None:
        raise ConfigurationError(
            f"the output does not depend differentiably on `with_respect_to={setup.with_respect_to!r}`: is it detached,"
            " or computed without gradients on the way? Name a layer above that, as `with_respect_to='layer.name'`"
        )
    return Outcome(gradient.detach(), None if logits is None else logits.detach(), labels)


@contextmanager
def _differentiating(
    module: nn.Module, batch: Any, setup: Setup, moved: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Any, list[Tensor]]]:
    """A copy of the batch to run, and where the point that is differentiated by will be found."""
    leaves: list[Tensor] = []

    def enter(point: Tensor) -> Tensor:
        leaf = moved(point.detach()).detach().requires_grad_()
        leaves.append(leaf)
        # A copy, which modules may change in place; a leaf they may not.
        return leaf.clone()

    if setup.with_respect_to == "input":
        path, axis = inputs_of(batch, setup)
        inputs = at(batch, path)
        if not inputs.is_floating_point():
            if inputs.dtype is torch.uint8:
                raise ConfigurationError(
                    "inputs are uint8, which have no gradient: make them floating point in the data set, or name the "
                    "layer whose output to take gradients by, as `with_respect_to='layer.name'`"
                )
            embeddings = [name for name, layer in named_layers(module).items() if isinstance(layer, nn.Embedding)]
            known = f" (there are {', '.join(embeddings)})" if embeddings else ""
            raise ConfigurationError(
                f"inputs are {str(inputs.dtype).removeprefix('torch.')}, which have no gradient: name the layer that "
                f"embeds them, as `with_respect_to='{(embeddings or ['embedding'])[0]}'`{known}"
            )
        if setup.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        own = copy.deepcopy(replaced(batch, {path: None}))
        point = enter(inputs.movedim(axis, 0) if axis else inputs)
        yield replaced(own, {path: point.movedim(0, axis) if axis else point}), leaves
        return
    layers = select_layers(module, setup.with_respect_to, argument="with_respect_to")
    if len(layers) > 1:
        raise ConfigurationError(
            f"`with_respect_to={setup.with_respect_to!r}` matches several layers, and must name one: "
            f"{', '.join(layers)}"
        )

    def hook(layer: nn.Module, args: Any, output: Any) -> Tensor:
        if leaves:
            raise ConfigurationError(
                f"`with_respect_to={setup.with_respect_to!r}` runs more than once in a forward pass: name a layer that "
                "runs once"
            )
        if not isinstance(output, Tensor) or not output.is_floating_point():
            raise ConfigurationError(
                f"`with_respect_to={setup.with_respect_to!r}` puts out no floating point tensor: name another layer"
            )
        return enter(output)

    (layer,) = layers.values()
    handle = layer.register_forward_hook(hook)
    try:
        yield copy.deepcopy(batch), leaves
    finally:
        handle.remove()


@contextmanager
def _recurrence_with_gradient(module: nn.Module) -> Iterator[None]:
    """Recurrent layers by PyTorch: cuDNN's have no gradient in evaluation mode."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = before and not any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
