"""Whether products with the Hessian can be right, found out on one minibatch before anything is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature.double_precision import as_double, in_double
from lightning_dynamics.analyses.curvature.graphs import twice_differentiable
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.passes import derivative, gradient, nodes, own_functions, unchanging
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, loss
from lightning_dynamics.core.parameters import plain_name

_ASYMMETRY, _FLOAT32_ASYMMETRY = 1e-8, 1e-5
_STEPS = (1e-5, 1e-6)  # of differences of gradients, in units of each parameter's magnitude


def check_second_derivatives(
    module: nn.Module, loss_fn: LossFn | None, batches: Minibatches, parameters: dict[str, nn.Parameter]
) -> None:
    """Refuse a loss whose gradient, or whose Hessian's products, fail or cannot be right.

    On the smallest minibatch: the loss twice, its gradient, and products with two random vectors u and v, for which
    u·Hv must be v·Hu. Where symmetry fails, and where a ``backward`` takes part that is not PyTorch's, once more in
    float64, against differences of gradients: symmetry does not see where both sides lack the same.

    Cost: two forward passes, a backward pass, two products; a few more in float64 where they are needed.

    Args:
        module: isolated; the parameters chosen require gradients, and no others do.
        loss_fn: ``loss_fn(module, batch)``; None for ``training_step``.
        batches: of this process; without any, there is nothing to try.
        parameters: the coordinates.

    Raises:
        ConfigurationError: the loss is no function of the weights; an operation has no derivative, or a wrong one.
    """
    if not len(batches):
        return
    place = batches.smallest()
    with torch.enable_grad(), twice_differentiable(module):
        value = unchanging(lambda: loss(module, batches.load(place), loss_fn))
        if not value.requires_grad:
            return
        own = own_functions(value)
        trial = _Trial.of(value, list(parameters.values()))
        if not math.isfinite(trial.asymmetry):  # a loss that has diverged has no Hessian to be wrong
            return
        is_double = all(tensor.dtype is torch.float64 for tensor in parameters.values())
        is_symmetric = trial.asymmetry <= (_ASYMMETRY if is_double else _FLOAT32_ASYMMETRY)
        if is_symmetric and not own:
            return
        try:
            with in_double(module):
                fault = _fault_in_double(module, loss_fn, batches, place, list(parameters))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError):  # it does not run in float64
            fault = None if is_symmetric else _asymmetric(trial)
        if fault is not None:
            raise ConfigurationError(_complaint(fault, own))


@dataclass(frozen=True, eq=False)
class _Trial:
    """A gradient and a product of the Hessian, by tensor.

    Args:
        gradient: g.
        direction: v.
        product: Hv.
        asymmetry: |u·Hv − v·Hu| / (‖u‖ ‖Hv‖ + ‖v‖ ‖Hu‖), with another vector u.
    """

    gradient: list[Tensor]
    direction: list[Tensor]
    product: list[Tensor]
    asymmetry: float

    @classmethod
    def of(cls, value: Tensor, tensors: Sequence[Tensor]) -> _Trial:
        """Of a loss with its graph.

        Raises:
            ConfigurationError: a backward fails, or is marked as having no derivative.
        """
        found = gradient(value, tensors, create_graph=True)
        # Autograd does not go there: no parameter lies behind it.
        if any(node.name() == "torch::autograd::Error" for node in nodes(found)):
            raise ConfigurationError(_complaint("a `backward` is `once_differentiable`", own_functions(value)))
        generator = torch.Generator().manual_seed(0)
        u, v = _random(tensors, generator), _random(tensors, generator)
        hu, hv = _product(found, tensors, u), _product(found, tensors, v)
        scale = _norm(u) * _norm(hv) + _norm(v) * _norm(hu)
        asymmetry = 0.0 if scale == 0 else abs(_dot(u, hv) - _dot(v, hu)) / scale
        return cls(_dense(found, tensors), v, hv, asymmetry)


def _product(found: Sequence[Tensor | None], tensors: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    pairs = [(part, v) for part, v in zip(found, vector, strict=True) if part is not None and part.requires_grad]
    if not pairs:
        return [torch.zeros_like(tensor) for tensor in tensors]
    outputs, along = zip(*pairs, strict=True)
    return _dense(derivative(outputs, tensors, along), tensors)


def _fault_in_double(
    module: nn.Module, loss_fn: LossFn | None, batches: Minibatches, place: int, names: Sequence[str]
) -> str | None:
    """What is wrong with the products, in words; None if nothing can be said against them."""
    named = {plain_name(name): parameter for name, parameter in module.named_parameters()}
    tensors = [named[name] for name in names]
    for name, parameter in named.items():
        parameter.requires_grad_(name in names)

    def value() -> Tensor:
        return loss(module, as_double(batches.load(place)), loss_fn)

    trial = _Trial.of(value(), tensors)
    if trial.asymmetry > _ASYMMETRY:
        return _asymmetric(trial)
    origin = [tensor.detach().clone() for tensor in tensors]

    def gradient_at(shift: float) -> list[Tensor]:
        for tensor, start, piece in zip(tensors, origin, trial.direction, strict=True):
            tensor.data.copy_(start + shift * piece)
        return _dense(gradient(value(), tensors), tensors)

    slopes = []
    for step in _STEPS:
        ends = zip(gradient_at(step), gradient_at(-step), strict=True)
        slopes.append([(after - before) / (2 * step) for after, before in ends])
    floor = 1e-6 * (_norm(trial.product) + _norm(trial.gradient))
    for name, product, wide, narrow in zip(names, trial.product, *slopes, strict=True):
        off, size = float((product - narrow).norm()), max(float(product.norm()), float(narrow.norm()))
        # Differences that depend on their step say nothing: there is a kink on the way, or they drown in rounding.
        if off > 0.01 * size + 10 * float((wide - narrow).norm()) + floor:
            return (
                f"along a random direction, the gradient of {name!r} changes by a vector of norm "
                f"{float(narrow.norm()):.3g}, and the product is {off:.2g} away from it"
            )
    return None


def _asymmetric(trial: _Trial) -> str:
    return f"for two random vectors u and v, u·Hv and v·Hu differ by {trial.asymmetry:.1g} of ‖u‖ ‖Hv‖"


def _complaint(fault: str, own: Sequence[str]) -> str:
    told = f"products of the loss's Hessian are wrong: {fault}. "
    if not own:
        return (
            f"{told}Either a hook changes gradients, or an operation's second derivative is wrong: leave out the "
            "parameters before it, by narrower patterns in `parameters`"
        )
    names = ", ".join(f"`{name}`" for name in own)
    return (
        f"{told}The loss passes {names}: a `backward` that is no derivative of its `forward`, or leaves torch, or uses "
        "values without a graph, cannot be differentiated. Write it in torch operations on what "
        "`ctx.save_for_backward` kept, or leave out the parameters whose gradient passes it, by narrower patterns in "
        "`parameters`"
    )


def _random(tensors: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Normal, of each tensor's own magnitude."""
    found = []
    for tensor in tensors:
        piece = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
        size = float(tensor.detach().norm()) / math.sqrt(max(1, tensor.numel()))
        found.append(piece * (size or 1.0))
    return found


def _dense(found: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = [torch.zeros_like(t) if part is None else part.detach() for part, t in zip(found, tensors, strict=True)]
    return [part.to_dense() if part.is_sparse else part for part in parts]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def _norm(pieces: Sequence[Tensor]) -> float:
    return math.sqrt(_dot(pieces, pieces))
