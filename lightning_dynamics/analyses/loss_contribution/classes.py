"""Contributions by example, class and layer, in the cheaper of two exact ways.

The contribution of example n is its share of the loss's directional derivative along the step: one product J Δ per
node gives it for all examples at once, where J holds the gradients of the examples' losses. By class and layer it takes
either one such product per layer (of Δ without the other layers), or one backward pass per class.

The product is taken in forward mode, or, where an operation has no forward-mode derivative, by two backward passes: the
gradient of Σ uᵢ ℓᵢ is Jᵀu, and the derivative of ⟨Jᵀu, Δ⟩ by u is J Δ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from lightning_dynamics.analyses.curvature.graphs import twice_differentiable
from lightning_dynamics.analyses.curvature.passes import gradient
from lightning_dynamics.analyses.loss_contribution.coordinates import Coordinates
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import PredictFn
from lightning_dynamics.core.parameters import plain_name
from lightning_dynamics.core.probe import Batch, Probe

_TOLERANCE = 1e-3  # of a sum of derivatives, in float32

ExampleLossFn = Callable[[Any, Any], tuple[Tensor, Tensor]]


def cross_entropies(predictions: PredictFn) -> ExampleLossFn:
    """Losses and classes of the examples of a batch, from logits ``(N, C)`` and classes ``(N,)``."""

    def losses(module: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits, targets = predictions(module, batch)
        if logits.ndim != 2 or targets.ndim != 1 or targets.is_floating_point() or len(targets) != len(logits):
            raise ConfigurationError(
                f"`per_class=True` needs logits (N, C) and classes (N,), got {tuple(logits.shape)} and "
                f"{tuple(targets.shape)} {targets.dtype}: pass `example_loss_fn(module, batch) -> (losses, classes)`"
            )
        return F.cross_entropy(logits, targets, reduction="none"), targets

    return losses


@dataclass(frozen=True)
class ExampleLosses:
    """Directional derivatives of the examples' losses, wherever the module is; for one step.

    Args:
        context: module, processes.
        probe: the examples.
        coordinates: of the module.
        losses_of: ``(module, batch) -> (losses (n,), classes (n,))``.
        layers: indices of the tensors of each layer.
        classes: every class there is, sorted.
        forward_mode: whether products are taken in forward mode.
    """

    context: Context
    probe: Probe
    coordinates: Coordinates
    losses_of: ExampleLossFn
    layers: Sequence[Sequence[int]]
    classes: Tensor
    forward_mode: bool = True

    @property
    def width(self) -> int:
        """Numbers that :meth:`along` returns."""
        return len(self.probe) + len(self.classes) * len(self.layers)

    def along(self, delta: Tensor) -> Tensor:
        """Derivative along ``delta`` ``(P,)`` of this process's minibatches, each with its terms shared out evenly.

        Divided by the terms of all minibatches, this adds up to the derivative of the mean loss.

        Returns:
            ``(N + C * L,)`` float64: by example, then by class and layer; zero for the examples of others.
        """
        by_example = torch.zeros(len(self.probe), dtype=torch.float64)
        by_class = torch.zeros(len(self.classes), len(self.layers), dtype=torch.float64)
        tensors = self.coordinates.tensors.values()
        pieces = [
            piece.view_as(tensor).to(tensor.device, tensor.dtype)
            for tensor, piece in zip(tensors, delta.split(self.coordinates.sizes), strict=True)
        ]
        moving = [[index for index in layer if bool(pieces[index].any())] for layer in self.layers]
        per_layer = sum(map(bool, moving)) <= len(self.classes)
        for batch in self.context.batches(self.probe):
            share = self.context.terms(batch, self.probe) / len(batch)
            if share == 0:
                continue
            place = slice(start := sum(map(len, self.probe.batches[: batch.number])), start + len(batch))
            if per_layer:
                for number, layer in enumerate(moving):
                    if layer:
                        slopes, classes = self._product(batch, {index: pieces[index] for index in layer})
                        by_example[place] += share * slopes
                        by_class[:, number].index_add_(0, self._row_of(classes), share * slopes)
            else:
                slopes, _ = self._product(batch, dict(enumerate(pieces)))
                by_example[place] += share * slopes
                self._backward(batch, pieces, moving, by_class, share)
        return torch.cat([by_example, by_class.flatten()])

    def tried(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses and classes of a minibatch."""
        with torch.no_grad():
            return self.losses_of(self.context.module, self._anew(batch))

    def works_forward(self, batch: Batch) -> bool:
        """Whether products can be taken in forward mode; if not, two backward passes serve.

        Both are tried with a random step of all tensors that carry a gradient, and must add up to the derivative of the
        summed loss along it.

        Raises:
            ConfigurationError: neither serves.
        """
        generator = torch.Generator().manual_seed(0)
        tensors = list(self.coordinates.tensors.values())
        step = {
            index: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
            for index, tensor in enumerate(tensors)
            if tensor.requires_grad
        }
        data = self._anew(batch)
        with torch.enable_grad():
            total = self.losses_of(self.context.module, data)[0].sum()
            found = gradient(total, [tensors[index] for index in step]) if total.requires_grad else [None] * len(step)
        pairs = [
            (g.to_dense() if g.is_sparse else g, v) for g, v in zip(found, step.values(), strict=True) if g is not None
        ]
        slope = sum(float((g.double() * v.double()).sum()) for g, v in pairs)
        failures = []
        for forward_mode, way in ((True, "in forward mode"), (False, "by two backward passes")):
            try:
                slopes, _ = replace(self, forward_mode=forward_mode)._product(batch, step)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError) as error:
                failures.append(f"{way}: {error}")
                continue
            if not abs(float(slopes.sum()) - slope) > _TOLERANCE * float(slopes.abs().sum() + abs(slope)):
                return forward_mode
            failures.append(f"{way}: they do not add up to the derivative of the mean loss")
        raise ConfigurationError(
            "`per_class=True` takes derivatives of the examples' losses along a step, which cannot be computed "
            f"({'; '.join(failures)}): replace the operation, or leave out `per_class`"
        )

    def own_classes(self) -> Tensor:
        """``(N,)`` int64: the class of every example of this process's minibatches, plus 1; 0 for the others'."""
        labels = torch.zeros(len(self.probe), dtype=torch.int64)
        for batch in self.context.batches(self.probe):
            start = sum(map(len, self.probe.batches[: batch.number]))
            labels[start : start + len(batch)] = self.losses_of(self.context.module, batch.data)[1].cpu() + 1
        return labels

    def _anew(self, batch: Batch) -> Any:
        """The minibatch as it was before any module changed it, and the random streams at its beginning."""
        self.context.seed(batch)
        return self.probe.batch(batch.number).data

    def _row_of(self, classes: Tensor) -> Tensor:
        return torch.searchsorted(self.classes, classes.cpu())

    def _product(self, batch: Batch, tangents: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """``(n,)`` derivative of each loss along the tangents, and the classes."""
        return self._forward(batch, tangents) if self.forward_mode else self._twice_backward(batch, tangents)

    def _twice_backward(self, batch: Batch, tangents: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        tensors = list(self.coordinates.tensors.values())
        data = self._anew(batch)
        with torch.enable_grad(), twice_differentiable(self.context.module):
            losses, classes = self.losses_of(self.context.module, data)
            weights = torch.ones_like(losses.detach()).requires_grad_()
            slopes = None
            if losses.requires_grad:
                chosen = [tensors[index] for index in tangents]
                found = torch.autograd.grad(losses, chosen, weights, create_graph=True, allow_unused=True)
                pairs = [(g, v) for g, v in zip(found, tangents.values(), strict=True) if g is not None]
                pairs = [(g, v) for g, v in pairs if g.requires_grad]
                if pairs:
                    outputs, along = zip(*pairs, strict=True)
                    (slopes,) = torch.autograd.grad(outputs, weights, along, allow_unused=True)
        slopes = torch.zeros_like(losses) if slopes is None else slopes
        return slopes.detach().cpu().double(), classes

    def _forward(self, batch: Batch, tangents: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        data = self._anew(batch)
        module = self.context.module
        real = {plain_name(name): name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
        with torch.enable_grad(), _forward_mode():
            values = {}
            for index, (name, tensor) in enumerate(self.coordinates.tensors.items()):
                plain = tensor.detach()  # no graph is wanted
                dual = forward_ad.make_dual(plain, tangents[index]) if index in tangents else plain
                values[f"module.{real[name]}"] = dual
            losses, classes = torch.func.functional_call(
                _Losses(module, self.losses_of), values, (data,), tie_weights=True
            )
            slopes = forward_ad.unpack_dual(losses).tangent
        slopes = torch.zeros_like(losses) if slopes is None else slopes
        return slopes.detach().cpu().double(), classes

    def _backward(
        self, batch: Batch, pieces: Sequence[Tensor], moving: Sequence[Sequence[int]], by_class: Tensor, share: float
    ) -> None:
        """Add ``share`` of the derivatives of each class's losses along the moving layers."""
        tensors = list(self.coordinates.tensors.values())
        chosen = [index for layer in moving for index in layer]
        data = self._anew(batch)
        with torch.enable_grad():
            losses, classes = self.losses_of(self.context.module, data)
            for row, label in enumerate(self.classes.tolist()):
                total = losses[classes == label].sum()
                grads = torch.autograd.grad(
                    total, [tensors[i] for i in chosen], retain_graph=True, allow_unused=True, materialize_grads=True
                )
                dots = {i: float((g.double() * pieces[i].double()).sum()) for i, g in zip(chosen, grads, strict=True)}
                for number, layer in enumerate(moving):
                    by_class[row, number] += share * sum(dots[i] for i in layer)


@contextmanager
def _forward_mode() -> Iterator[None]:
    """Forward-mode products inside, through operations that have one, and not through ``torch.no_grad()``."""
    fast_path, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # the public ``mkldnn.flags`` warns; checked on torch 2.6.0 and 2.13.0
    try:
        with warnings.catch_warnings(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), _HiddenWithoutGrad():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, when it loads its formulas
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch._C._set_mkldnn_enabled(onednn)


class _HiddenWithoutGrad(TorchFunctionMode):
    """What the module hides from gradients, such as a teacher, it hides from forward-mode products too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        with forward_ad._set_fwd_grad_enabled(False):
            return func(*args, **(kwargs or {}))


class _Losses(nn.Module):
    """What ``functional_call`` can call."""

    def __init__(self, module: nn.Module, losses_of: ExampleLossFn) -> None:
        super().__init__()
        self.module = module
        self.losses_of = losses_of

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.losses_of(self.module, batch)
