"""The Hessian of any module's loss on batches in memory, for functions that need no Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_dynamics.analyses.curvature.checks import check_function, check_parameters
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import HessianOperator
from lightning_dynamics.analyses.curvature.second_derivatives import check_second_derivatives
from lightning_dynamics.core.isolation import Mode, isolated
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.parameters import select_parameters, unflatten
from lightning_dynamics.core.quiet import logging_disabled

Direction = dict[str, Tensor]
"""Parameter name to a tensor of its shape."""


@contextmanager
def local_operator(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    parameters: str | Sequence[str],
    mode: Mode,
    seed: int,
    weights: Sequence[float] | None,
    keep_graphs: bool | None,
) -> Iterator[tuple[HessianOperator, dict[str, nn.Parameter]]]:
    """The operator and the parameters it is for; the module is left bit for bit as it was.

    Args:
        module: in float32 or float64.
        loss_fn: ``(module, batch) -> scalar``, a mean over the batch's terms.
        batches: see :mod:`lightning_dynamics.curvature`.
        parameters: globs: the coordinates.
        mode: ``"eval"`` or ``"train"``.
        seed: of whatever is random in the module.
        weights: terms of each batch's mean; by default its examples.
        keep_graphs: see :class:`HessianOperator`.

    Raises:
        ConfigurationError: no such parameters, no batches, no function; second derivatives that cannot be right.
    """
    check_function(loss_fn, mode)
    chosen = select_parameters(module, parameters)
    check_parameters(chosen)
    with isolated(module, mode=mode, seed=seed) as streams, logging_disabled(module):
        held = Minibatches.from_batches(batches, weights=weights, seed=seed, streams=streams)
        operator = HessianOperator(module, loss_fn, held, chosen, keep_graphs=keep_graphs)
        check_second_derivatives(module, loss_fn, held, chosen)
        try:
            yield operator, chosen
        finally:
            operator.clear_cache()


def direction(flat: Tensor, like: Mapping[str, nn.Parameter]) -> Direction:
    """A ``(P,)`` vector by parameter, in the parameters' shapes and dtypes."""
    return {name: piece.to(like[name], copy=True) for name, piece in unflatten(flat, like).items()}
