"""The gradient of one number per example with respect to its input, for a whole minibatch at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_dynamics.core.layers import named_layers, select_layers
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import PredictFn, first_tensor, forward, inputs_in, targets_in, with_inputs

Attribution = Literal["gradient", "smoothgrad", "integrated_gradients"]
Target = Literal["label", "prediction", "final_prediction"]
TargetFn = Callable[[Any, Any], Tensor]

ATTRIBUTIONS: tuple[Attribution, ...] = get_args(Attribution)
TARGETS: tuple[Target, ...] = get_args(Target)
NOISE = 0.15
"""SmoothGrad's standard deviation, as a share of an example's range of values."""


@dataclass(frozen=True)
class Setup:
    """What is differentiated by what.

    Args:
        target: ``"label"``, ``"prediction"``, ``"final_prediction"``, or a function ``(output, targets) -> (N,)``.
        attribution: see :func:`attribute`.
        samples: of ``"smoothgrad"`` and ``"integrated_gradients"``.
        with_respect_to: ``"input"``, or the name of one layer, whose output is meant.
        channels_last: lay out images with their channels innermost: faster convolutions on many machines.
        predict_fn: ``(module, batch) -> (logits, targets)``.
    """

    target: Target | TargetFn = "label"
    attribution: Attribution = "gradient"
    samples: int = 16
    with_respect_to: str = "input"
    channels_last: bool = False
    predict_fn: PredictFn | None = None

    @property
    def classifies(self) -> bool:
        """Whether the output is logits of classes."""
        return isinstance(self.target, str)


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

    Examples do not influence each other in evaluation mode, so the gradient of the *sum* of their logits holds each
    one's own gradient.

    - ``"gradient"``: at the example itself.
    - ``"smoothgrad"``: mean over ``samples`` copies with Gaussian noise (Smilkov et al. 2017), of standard deviation
      0.15 × (largest − smallest value of the example), the same noise at every event.
    - ``"integrated_gradients"``: (x − 0) × mean of the gradients at ``samples`` midpoints of the straight way from 0 to
      x (Sundararajan, Taly, Yan 2017, eq. 3).

    Args:
        module: isolated, in evaluation mode.
        batch: as ``training_step`` gets it.
        setup: what is meant.
        seed: of SmoothGrad's noise.
        chosen: ``(n,)`` classes, for ``"final_prediction"``.

    Raises:
        ConfigurationError: the gradient cannot be taken; the text names the argument and the fix.
    """
    if setup.attribution == "gradient":
        return _gradient(module, batch, setup, lambda point: point, chosen)
    with torch.no_grad():
        logits, labels = predict(module, batch, setup)
    if setup.target == "prediction":
        assert logits is not None
        chosen = logits.argmax(1)  # for the examples, not for the points around them
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    point: Tensor | None = None
    for number in range(setup.samples):

        def moved(x: Tensor, number: int = number) -> Tensor:
            nonlocal point
            point = x
            if setup.attribution == "integrated_gradients":
                return x * ((number + 0.5) / setup.samples)
            flat = x.reshape(len(x), -1)
            size = NOISE * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.ndim - 1))
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            return x + size * noise.to(x)

        gradient = _gradient(module, batch, setup, moved, chosen).gradient
        total = gradient if total is None else total + gradient
    assert total is not None and point is not None
    mean = total / setup.samples
    return Outcome(mean * point if setup.attribution == "integrated_gradients" else mean, logits, labels)


def predict(module: nn.Module, batch: Any, setup: Setup) -> tuple[Tensor | None, Tensor | None]:
    """Logits ``(n, C)`` and labels ``(n,)`` of a minibatch, without gradients; None where there are none."""
    output, targets = _run(module, copy.deepcopy(batch), setup)
    return _classified(output, targets, setup) if setup.classifies else (None, _labels_if_any(targets))


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
    first = _gradient(module, batch, plain, lambda point: point, chosen, only_first=True).gradient
    others = first[1:]
    if bool(((others != 0) & others.isfinite()).any()):
        coupled = [
            name
            for name, layer in named_layers(module).items()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None
        ]
        hint = f": {', '.join(coupled[:3])} has no running statistics (`track_running_stats=True`)" if coupled else ""
        raise ConfigurationError(
            "the examples of a minibatch influence each other's outputs in evaluation mode, so gradients are not those "
            f"of single examples{hint or ': use no batch statistics there'}; or set `batch_size=1`"
        )
    return outcome


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
            output, targets = _run(module, own_batch, setup)
        logits, labels = _classified(output, targets, setup) if setup.classifies else (None, _labels_if_any(targets))
        if logits is None:
            numbers = _numbers(setup, output, targets)
        else:
            classes = labels if setup.target == "label" else chosen if chosen is not None else logits.argmax(1)
            numbers = _of_class(output, logits, classes)
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
        inputs = inputs_in(batch)
        if not isinstance(inputs, Tensor):
            raise ConfigurationError(
                f"found no input tensor in a batch that is a {type(batch).__name__}: name the layer whose output to "
                "take gradients by, as `with_respect_to='layer.name'`"
            )
        if not inputs.is_floating_point():
            embeddings = [name for name, layer in named_layers(module).items() if isinstance(layer, nn.Embedding)]
            known = f" (there are {', '.join(embeddings)})" if embeddings else ""
            raise ConfigurationError(
                f"inputs are {str(inputs.dtype).removeprefix('torch.')}, which have no gradient: name the layer that "
                f"embeds them, as `with_respect_to='{(embeddings or ['embedding'])[0]}'`{known}"
            )
        if setup.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        yield with_inputs(copy.deepcopy(with_inputs(batch, None)), enter(inputs)), leaves
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


def _run(module: nn.Module, batch: Any, setup: Setup) -> tuple[Any, Any]:
    """Output and targets of a minibatch."""
    if setup.predict_fn is not None:
        return setup.predict_fn(module, batch)
    return forward(module, batch), targets_in(batch)


# ---- one number per example --------------------------------------------------------------------------------


def _numbers(setup: Setup, output: Any, targets: Any) -> Tensor:
    assert callable(setup.target)
    numbers = setup.target(output, targets)
    if not isinstance(numbers, Tensor) or numbers.ndim != 1:
        found = f"{tuple(numbers.shape)}" if isinstance(numbers, Tensor) else type(numbers).__name__
        raise ConfigurationError(f"`target(output, targets)` must return one number per example, (N,); got {found}")
    return numbers


def _labels_if_any(targets: Any) -> Tensor | None:
    """Targets that can stand for classes, where the output is no logits."""
    whole = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    return targets.detach().long() if whole else None


def _classified(output: Any, targets: Any, setup: Setup) -> tuple[Tensor, Tensor | None]:
    """Logits ``(n, C)`` with C ≥ 2 and labels ``(n,)``; a single logit z is that of two classes, 0 and z."""
    logits = first_tensor(output)
    if logits is None or not logits.is_floating_point() or logits.ndim not in (1, 2):
        found = "no tensor" if logits is None else f"{tuple(logits.shape)} {str(logits.dtype).removeprefix('torch.')}"
        raise ConfigurationError(
            f"`target={setup.target!r}` needs logits (N, classes), and the output is {found}: pass "
            "`predict_fn(module, batch) -> (logits, targets)`, or a function `target(output, targets) -> (N,)`"
        )
    single = logits.ndim == 1 or logits.shape[1] == 1
    if single:
        logits = torch.stack([torch.zeros_like(logits.reshape(-1)), logits.reshape(-1)], dim=1)
    labels = None
    if isinstance(targets, Tensor):
        labels = targets.detach().reshape(-1) if targets.ndim == 2 and targets.shape[1] == 1 else targets.detach()
        whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
        if labels.ndim != 1 or labels.is_complex() or not whole:
            raise ConfigurationError(
                f"targets are {tuple(targets.shape)} {str(targets.dtype).removeprefix('torch.')}, and class labels are "
                "whole numbers (N,): pass `predict_fn`, or a function `target(output, targets) -> (N,)`"
            )
        labels = labels.long()
        outside = labels[(labels < 0) | (labels >= logits.shape[1])]
        if len(outside):
            raise ConfigurationError(
                f"label {int(outside[0])} is out of range: there are logits of {logits.shape[1]} classes, 0 to "
                f"{logits.shape[1] - 1}; give labels from 0 up in `data`, or `predict_fn`"
            )
    if labels is None and setup.target == "label":
        raise ConfigurationError(
            "`target='label'`, but the batches have no labels: use `target='prediction'`, or pass "
            "`predict_fn(module, batch) -> (logits, targets)`"
        )
    return logits, labels


def _of_class(output: Any, logits: Tensor, classes: Tensor | None) -> Tensor:
    """Each example's logit of its class ``(n,)``; where there is but one logit z, z for class 1 and −z for class 0."""
    assert classes is not None
    own = first_tensor(output)
    assert own is not None
    if own.ndim == 1 or own.shape[1] == 1:
        return own.reshape(-1) * (2 * classes - 1).to(own.dtype)
    return logits.gather(1, classes[:, None])[:, 0]
