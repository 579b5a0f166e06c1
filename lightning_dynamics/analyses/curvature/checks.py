"""What is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.arguments import check
from lightning_dynamics.core.checks import check_count
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError

_TOO_NARROW = (torch.float16, torch.bfloat16)


def check_search(k: Any, tolerance: Any, max_iterations: Any, size: int | None = None) -> None:
    """Refuse what the search for eigenvalues cannot work with; ``size``: the number of parameters, if known."""
    check_count("k", k)
    check_count("max_iterations", max_iterations)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise ConfigurationError(f"`tolerance` must be a number from 0 to below 1, got {tolerance!r}")
    if max_iterations < k:
        raise ConfigurationError(f"`max_iterations={max_iterations}` is too few for `k={k}`: give at least `k`")
    if size is not None and k > size:
        raise ConfigurationError(
            f"`k={k}`, but the Hessian has only {size} eigenvalues: one for each parameter selected"
        )


def check_parameters(parameters: dict[str, nn.Parameter]) -> None:
    """Of a kind that has curvature which can be measured.

    Raises:
        ConfigurationError: complex, whole numbers, or in half precision.
    """
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise ConfigurationError(
                f"`parameters` selects {name!r}, which is {str(parameter.dtype).removeprefix('torch.')}: curvature is "
                "that of real parameters; leave it out by a narrower pattern"
            )
        if parameter.dtype in _TOO_NARROW:
            raise ConfigurationError(
                f"{name!r} is in half precision, in which second derivatives drown in rounding: train with "
                "Trainer(precision='bf16-mixed' or '16-mixed'), which keeps parameters in float32"
            )
        if nn.parameter.is_lazy(parameter):
            raise ConfigurationError(f"{name!r} has no shape yet: run the module once before")


def check_function(loss_fn: Any, mode: Any) -> None:
    """Refuse what a function without a Trainer cannot work with."""
    check({"mode": mode})
    if not callable(loss_fn):
        raise ConfigurationError(f"`loss_fn` must be a function (module, batch) -> scalar, got {loss_fn!r}")


def check_loss(value: Tensor, parameters: str | Sequence[str]) -> None:
    """Refuse a loss without a gradient: it would look flat everywhere.

    Args:
        value: of the loss, computed with gradients enabled.
        parameters: the patterns that select the parameters.
    """
    if not value.requires_grad:
        raise ConfigurationError(
            f"the loss does not depend on the parameters that `parameters={parameters!r}` selects: `loss_fn` (or "
            "`training_step`) must return it with its graph, neither detached nor under `torch.no_grad()`"
        )


def check_batchnorm(context: Context, mode: str) -> None:
    """Refuse SyncBatchNorm in train mode: it exchanges statistics, and processes run different minibatches."""
    layers = context.module.modules()
    if mode == "train" and context.ranks.size > 1 and any(isinstance(layer, nn.SyncBatchNorm) for layer in layers):
        raise ConfigurationError(
            "with `mode='train'`, SyncBatchNorm waits for the other processes, which are at different minibatches: "
            "use `mode='eval'`"
        )


def described(parameters: str | Sequence[str]) -> str:
    """The patterns in words, for a caption."""
    patterns = parameters if isinstance(parameters, str) else ", ".join(parameters)
    return "all parameters" if patterns == "*" else f"parameters {patterns}"


def identity_of(parameters: str | Sequence[str], loss_fn: Any) -> dict[str, Any]:
    """What tells two callbacks apart whose losses or parameters differ: plain values, the same in every process."""
    return {
        "parameters": parameters if isinstance(parameters, str) else list(parameters),
        "loss_fn": loss_fn if isinstance(loss_fn, str | None) else getattr(loss_fn, "__name__", ""),
    }
