"""The Hessian of a mean loss over examples, as an operator on flat vectors, over all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature.graphs import graph_bytes, twice_differentiable
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.core.distributed import CollectiveFailure, Ranks
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, loss
from lightning_dynamics.core.parameters import unflatten

T = TypeVar("T")
Gather = Callable[[Callable[[], Tensor]], Tensor]

_DONE, _PRODUCT, _GRADIENT = range(3)  # what rank zero orders

KEPT_GRAPHS = 2**30
"""Bytes of graphs that an operator keeps unless it is told otherwise."""


class NotFinite(ValueError):
    """The loss, its gradient or a product of its Hessian is NaN or infinite: there is no curvature to speak of."""


class HessianOperator:
    """H = ∂²L/∂θ² of the mean loss L over the minibatches of all processes, for the parameters chosen.

    The loss of a minibatch is a mean over its terms (examples, tokens that count): it has their number as its weight,
    so that L is the mean over all terms.

    Make it within :func:`~lightning_dynamics.core.isolation.isolated`, use it there, and let go of it there: it sets
    ``requires_grad`` (to True for the parameters chosen, to False for all others), and it belongs to the point where
    the parameters are: after moving them, make another one (or call :meth:`clear_cache`).

    A product is a double backward pass per minibatch: the gradient with its graph, then the gradient of ⟨gradient,
    vector⟩. Where the graph is kept, only the second of them, which about halves the cost. Forward-over-reverse mode
    (``torch.func``) was never faster, and much slower for an MLP: ``benchmarks/curvature.py``, figures in
    ``docs/curvature.md``.

    Sums over minibatches are taken in float64, and divided once. With whole-number weights and float32 parameters they
    are exact but in rare cases, and so the same however the minibatches are spread over processes.

    Args:
        module: isolated.
        loss_fn: ``loss_fn(module, batch)``, a mean over the batch's terms; None for ``training_step``.
        batches: this process's :class:`Minibatches`, possibly none; any other iterable is held in memory, and weighted
            by examples.
        parameters: name to parameter: the coordinates, in this order.
        gather: runs this process's work and returns the sum of what it returned in all of them, e.g.
            ``lambda work: ranks.all_reduce(ranks.run_checked(work))``; by default there is one process.
        num_examples: over all processes, for captions; by default this process's. Nothing is divided by it.
        keep_graphs: True keeps the gradient's graph of every minibatch, False of none; None of as many as fit into
            1 GiB, as measured.
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: LossFn | None,
        batches: Minibatches | Iterable[Any],
        parameters: dict[str, nn.Parameter],
        *,
        gather: Gather | None = None,
        num_examples: int | None = None,
        keep_graphs: bool | None = None,
    ) -> None:
        """Choose the coordinates."""
        self._module, self._loss_fn, self._parameters = module, loss_fn, parameters
        self._batches = batches if isinstance(batches, Minibatches) else Minibatches.from_batches(batches)
        self._gather: Gather = gather or (lambda work: work())
        if keep_graphs not in (None, True, False):
            raise ConfigurationError(f"`keep_graphs` must be True, False or None, got {keep_graphs!r}")
        tensors = list(parameters.values())
        self.size = sum(tensor.numel() for tensor in tensors)
        self.device = tensors[0].device
        self.dtype = torch.float64 if any(tensor.dtype is torch.float64 for tensor in tensors) else torch.float32
        self.products = 0
        self._driver: Ranks | None = None
        self._free = {None: KEPT_GRAPHS, True: math.inf, False: 0}[keep_graphs]
        self._graphs: dict[int, tuple[Tensor, list[Tensor | None]]] = {}
        self._losses: dict[int, Tensor] = {}
        self._first: tuple[float, Tensor] | None = None
        self._is_settled = False
        self.num_examples = sum(self._batches.examples) if num_examples is None else num_examples
        chosen = {id(tensor) for tensor in tensors}
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in chosen)

    @property
    def loss(self) -> float:
        """L."""
        return self._value_and_gradient()[0]

    def gradient(self) -> Tensor:
        """∂L/∂θ ``(P,)``.

        Raises:
            NotFinite: the loss or the gradient is not; in every process.
        """
        return self._value_and_gradient()[1].clone()

    def matvec(self, flat: Tensor) -> Tensor:
        """H v: ``(P,)`` to ``(P,)``, in this operator's dtype and on its device.

        Raises:
            NotFinite: the loss or the product is not; in every process.
        """
        flat = flat.detach().to(self.device, self.dtype)
        if self._driver is not None:
            self._broadcast_order(self._driver, _PRODUCT)
            flat = self._driver.broadcast(flat, owner=0)
        vector = unflatten(flat, self._parameters)
        directions = [piece.to(self._parameters[name]) for name, piece in vector.items()]
        self.products += 1
        return self._summed(directions)[1]

    def run_on_rank_zero(self, ranks: Ranks, algorithm: Callable[[], T]) -> T:
        """What ``algorithm`` returns, the same in every process; it may use this operator's products and gradients.

        It runs on rank zero alone. The others compute their part of every product that it asks for, and decide nothing:
        if each ran the algorithm itself, a difference in the last bit could let one stop while another waits for it.

        Args:
            ranks: whose ``all_reduce(run_checked(work))`` is this operator's ``gather``.
            algorithm: must let :class:`NotFinite` through; returns tensors on the CPU and plain values.

        Raises:
            NotFinite: in every process.
            CollectiveFailure: ``algorithm`` failed, or a process did; in every process.
        """
        if ranks.size == 1:
            return algorithm()
        ranks.run_checked(lambda: None)  # a process that has failed before this exchanges nothing more
        found: T | None = None
        failure: Exception | None = None
        if ranks.rank == 0:
            self._driver = ranks
            try:
                found = algorithm()
            except (CollectiveFailure, NotFinite):  # known to all: they were raised in all
                raise
            except Exception as error:
                failure = error
            finally:
                self._driver = None
            self._broadcast_order(ranks, _DONE)
        else:
            while (order := self._broadcast_order(ranks, _DONE)) != _DONE:
                if order == _PRODUCT:
                    flat = torch.empty(self.size, dtype=self.dtype, device=self.device)
                    self.matvec(ranks.broadcast(flat, owner=0))
                else:
                    self._value_and_gradient()

        def agree() -> None:
            if failure is not None:
                raise failure

        ranks.run_checked(agree)
        return ranks.broadcast_object(found)

    def _broadcast_order(self, ranks: Ranks, order: int) -> int:
        """Rank zero's order, in every process."""
        return int(ranks.broadcast(torch.tensor([float(order)]), owner=0))

    def clear_cache(self) -> None:
        """Let go of the graphs, the loss and the gradient: the parameters have moved."""
        self._graphs, self._losses, self._first = {}, {}, None
        self._is_settled = False

    def _value_and_gradient(self) -> tuple[float, Tensor]:
        if self._first is None:
            if self._driver is not None:
                self._broadcast_order(self._driver, _GRADIENT)
            self._first = self._summed(None)
        return self._first

    def _summed(self, directions: list[Tensor] | None) -> tuple[float, Tensor]:
        """The loss, and the gradient or its derivative along ``directions``: sums over everything, then divided."""
        total = self._gather(lambda: self._own(directions))
        if float(total[-1]) == 0:
            raise NotFinite("no minibatch has a term that counts in the loss: every target is left out of it")
        if not bool(total.isfinite().all()):
            raise NotFinite(
                self._complaint(total, "the gradient" if directions is None else "a product of its Hessian")
            )
        mean = total.div_(total[-1].clone())
        return float(mean[-2]), mean[:-2].to(self.dtype)

    def _own(self, directions: list[Tensor] | None) -> Tensor:
        """This process's sums ``(P + 2,)`` float64, weighted by terms; then the loss, and the terms themselves."""
        self._settle()
        tensors = list(self._parameters.values())
        total = torch.zeros(self.size + 2, dtype=torch.float64, device=self.device)
        pieces = unflatten(total[:-2], self._parameters).values()
        with torch.enable_grad(), twice_differentiable(self._module):
            for place in range(len(self._batches)):
                terms = self._batches.terms(place)
                if terms == 0:  # a mean over nothing: NaN, which counts nothing
                    continue
                value, found = self._gradient_of(place)
                total[-1].add_(terms)
                total[-2].add_(value.to(total.device), alpha=terms)
                if directions is not None:
                    pairs = [
                        (g, v) for g, v in zip(found, directions, strict=True) if g is not None and g.requires_grad
                    ]
                    if not pairs:  # piecewise linear: no curvature
                        continue
                    outputs, along = zip(*pairs, strict=True)
                    found = list(
                        torch.autograd.grad(
                            outputs, tensors, along, retain_graph=place in self._graphs, allow_unused=True
                        )
                    )
                for piece, part in zip(pieces, found, strict=True):
                    if part is not None:
                        dense = part.detach().to_dense() if part.is_sparse else part.detach()
                        piece.add_(dense.to(total.device), alpha=terms)
        return total

    def _settle(self) -> None:
        """Let embeddings with ``max_norm`` shorten their rows before a graph needs them, all minibatches' at once."""
        writes = any(getattr(layer, "max_norm", None) is not None for layer in self._module.modules())
        if writes and not self._is_settled:
            with torch.no_grad():
                for place in range(len(self._batches)):
                    loss(self._module, self._batches.load(place), self._loss_fn)
        self._is_settled = True

    def _gradient_of(self, place: int) -> tuple[Tensor, list[Tensor | None]]:
        """Loss and gradient of one minibatch, with the gradient's graph, which may be kept."""
        if place in self._graphs:
            return self._graphs[place]
        value = loss(self._module, self._batches.load(place), self._loss_fn)
        self._losses[place] = value.detach()
        found: list[Tensor | None] = [None] * len(self._parameters)
        if value.requires_grad:
            tensors = list(self._parameters.values())
            found = list(torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True))
        kept = value.detach(), found
        if self._free > 0:
            graph = [part for part in found if part is not None]
            needed = 0 if math.isinf(self._free) else graph_bytes(graph, self._parameters.values())
            # The first that does not fit is the last that was measured.
            self._free = self._free - needed if needed <= self._free else 0
            if self._free > 0:
                self._graphs[place] = kept
        return kept

    def _complaint(self, total: Tensor, what: str) -> str:
        for place, value in self._losses.items():
            if not bool(value.isfinite()):
                return f"the loss is {float(value)} on minibatch {self._batches.numbers[place]}"
        if not bool(total[-2].isfinite()):
            return f"the loss is {float(total[-2])} on a minibatch of another process"
        return (
            f"the loss is finite, but {what} is not: its formula has no derivative at this point (a square root or a "
            "norm at 0, for example)"
        )
