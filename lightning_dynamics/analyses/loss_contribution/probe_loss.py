"""The loss on a probe as a function of a module's coordinates: its value and its gradient, over all processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.batchnorm import BatchNormMode, normalising
from lightning_dynamics.analyses.loss_contribution.coordinates import Coordinates
from lightning_dynamics.core.batchnorm import batchnorms
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.objective import LossFn, loss
from lightning_dynamics.core.probe import Probe


@dataclass(frozen=True, eq=False)
class Value:
    """The loss at a point, and its gradient.

    Args:
        loss: mean over the terms of the loss.
        gradient: ``(P,)`` float64; zero where it was not wanted.
        wanted: for which tensors it was.
        terms: of all minibatches of all processes.
    """

    loss: float
    gradient: Tensor
    wanted: tuple[bool, ...]
    terms: float

    def serves(self, wanted: Sequence[bool]) -> bool:
        """Whether the gradient is known for all of these."""
        return all(known or not needed for known, needed in zip(self.wanted, wanted, strict=True))


@dataclass(frozen=True)
class ProbeLoss:
    """Loss and gradient wherever the module is; call it inside :func:`differentiable`.

    Args:
        context: module, processes, random streams.
        probe: the examples; a minibatch's mean loss has the number of its terms as its weight.
        coordinates: of the module.
        loss_fn: ``loss_fn(module, batch)``; None for the module's ``training_step``.
    """

    context: Context
    probe: Probe
    coordinates: Coordinates
    loss_fn: LossFn | None

    def __call__(self, wanted: Sequence[bool]) -> Value:
        """Sums over all minibatches of all processes, accumulated in float64, then divided."""
        total = self.context.ranks.all_reduce(self.context.ranks.run_checked(lambda: self._own(wanted)))
        terms = float(total[-1])
        mean = total.div_(total[-1].clone())
        return Value(float(mean[-2]), mean[:-2], tuple(wanted), terms)

    def _own(self, wanted: Sequence[bool]) -> Tensor:
        """This process's sums ``(P + 2,)``, weighted by terms: the gradient, the loss, and the terms themselves."""
        tensors = list(self.coordinates.tensors.values())
        chosen = [tensor for tensor, is_wanted in zip(tensors, wanted, strict=True) if is_wanted]
        total = torch.zeros(sum(self.coordinates.sizes) + 2, dtype=torch.float64, device=self.coordinates.home)
        # Added in place, tensor by tensor: a flat copy of each gradient would cost small models a tenth of a pass.
        pieces = total[:-2].split(self.coordinates.sizes)
        sums = [
            piece.view_as(tensor) for piece, tensor, is_wanted in zip(pieces, tensors, wanted, strict=True) if is_wanted
        ]
        # Buffers that a forward pass moves (a running centre, an observer's range) begin every minibatch anew: the loss
        # is one function, whatever was computed before.
        buffers = self.coordinates.read_buffers()
        for batch in self.context.batches(self.probe):
            self.coordinates.move_buffers(buffers)
            terms = self.context.terms(batch, self.probe)
            if terms == 0:  # a mean over nothing: NaN, which counts nothing
                continue
            with torch.enable_grad():
                value = loss(self.context.module, batch.data, self.loss_fn)
            total[-1].add_(terms)
            total[-2].add_(value.detach(), alpha=terms)
            if not (chosen and value.requires_grad):
                continue
            found = torch.autograd.grad(value, chosen, allow_unused=True)
            for so_far, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    dense = gradient.to_dense() if gradient.is_sparse else gradient
                    so_far.add_(dense.to(total.device), alpha=terms)
        self.coordinates.move_buffers(buffers)
        return total


@contextmanager
def differentiable(
    context: Context, coordinates: Coordinates, batchnorm: BatchNormMode, wanted: Sequence[bool]
) -> Iterator[None]:
    """The module's wanted coordinates carry gradients inside, its normalisations do as ``batchnorm`` says."""
    statistics = [tensor for tensor in coordinates.tensors.values() if not isinstance(tensor, torch.nn.Parameter)]
    for tensor, is_wanted in zip(coordinates.tensors.values(), wanted, strict=True):
        tensor.requires_grad_(is_wanted)
    for layer in batchnorms(context.module):
        layer.training = False  # `batchnorm` says what they do, also where the rest of the module is in train mode
    try:
        with normalising(context.module, batchnorm):
            yield
    finally:
        for tensor in statistics:  # isolation puts back what parameters had
            tensor.requires_grad_(False)
