"""The mean loss of a module over examples, as a function of a flat vector of its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature.checks import check_loss
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import HessianOperator
from lightning_dynamics.analyses.curvature.second_derivatives import check_second_derivatives
from lightning_dynamics.core.objective import LossFn, loss
from lightning_dynamics.core.parameters import assign, flatten, plain_name, unflatten

State = Mapping[str, Tensor]
"""Values of parameters and buffers, by their plain names; what is missing stays as it is."""


class LossSurface:
    """L(θ) for the parameters chosen, with its gradient and the products of its Hessian.

    Make it, and use it, within ``isolated`` and ``in_double``: it moves the module's parameters.

    Args:
        module: in float64.
        loss_fn: ``loss_fn(module, batch)``, a mean over the batch's terms; None for ``training_step``.
        batches: all of them.
        parameters: name to parameter: the coordinates.
        keep_graphs: see :class:`~lightning_dynamics.curvature.operator.HessianOperator`.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: LossFn | None,
        batches: Minibatches,
        parameters: dict[str, nn.Parameter],
        keep_graphs: bool | None = None,
    ) -> None:
        """Remember where the module is: every start begins from there."""
        self._module, self._loss_fn, self._batches = module, loss_fn, batches
        self._parameters, self._keep_graphs = parameters, keep_graphs
        self._tensors = {plain_name(name): t for name, t in (*module.named_parameters(), *module.named_buffers())}
        self._origin = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._operator: HessianOperator | None = None
        self.size = sum(parameter.numel() for parameter in parameters.values())
        self.device = next(iter(parameters.values())).device
        self.products = 0
        """Hessian-vector products so far."""
        self.gradients = 0
        """Gradients so far."""

    @property
    def coordinates(self) -> Mapping[str, Tensor]:
        """The parameters chosen."""
        return self._parameters

    def begin(self, state: State) -> Tensor:
        """The module at a start; its coordinates ``(P,)``."""
        for name, tensor in self._tensors.items():
            tensor.data.copy_(state.get(name, self._origin[name]))
        self._operator = None
        return flatten(self._parameters)

    def at(self, point: Tensor) -> tuple[float, Tensor]:
        """Go there; L and ∂L/∂θ ``(P,)``.

        Raises:
            NotFinite: one of them is not.
        """
        assign(self._parameters, unflatten(point, self._parameters))
        # A new operator for each point: one that forgets its graphs does not get their memory's allowance back.
        self._operator = HessianOperator(
            self._module,
            self._loss_fn,
            self._batches,
            self._parameters,
            num_examples=sum(self._batches.examples),
            keep_graphs=self._keep_graphs,
        )
        self.gradients += 1
        return self._operator.loss, self._operator.gradient()

    def product(self, vector: Tensor) -> Tensor:
        """H v at the point last gone to.

        Raises:
            NotFinite: the product is not.
        """
        assert self._operator is not None
        self.products += 1
        return self._operator.matvec(vector)

    def check(self, parameters: str | Sequence[str]) -> None:
        """Refuse a loss without a gradient, which would look like a critical point everywhere, or without a Hessian.

        Args:
            parameters: the patterns that have chosen the parameters, for the error.

        Raises:
            ConfigurationError: the loss does not depend on the parameters, or its second derivatives cannot be right.
        """
        wanted = {id(parameter) for parameter in self._parameters.values()}
        for parameter in self._module.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
        with torch.enable_grad():
            check_loss(loss(self._module, self._batches.load(0), self._loss_fn), parameters)
        check_second_derivatives(self._module, self._loss_fn, self._batches, self._parameters)
