"""Batch normalisation along a path of parameters: whose statistics, and do they take part?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from lightning_dynamics.core.batchnorm import batchnorms, use_batch_statistics

BatchNormMode = Literal["batch", "frozen", "attributed"]
BATCHNORM_MODES: tuple[str, ...] = get_args(BatchNormMode)


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running means and variances of all batch normalisations below, by buffer name, each once."""
    found: dict[str, Tensor] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            prefix = f"{name}." if name else ""
            for statistic in ("running_mean", "running_var"):
                found[f"{prefix}{statistic}"] = getattr(layer, statistic)
    return found


def without_influence(module: nn.Module, mode: BatchNormMode) -> set[str]:
    """Names of the buffers that cannot change the loss in this mode."""
    counts = {
        f"{name}.num_batches_tracked" if name else "num_batches_tracked"
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
    }
    return counts | set(running_statistics(module)) if mode == "batch" else counts


@contextmanager
def normalising(module: nn.Module, mode: BatchNormMode) -> Iterator[None]:
    """Normalise by this mode inside; call it within ``isolated``, which puts flags and statistics back.

    ``"batch"``: by the statistics of the minibatch, as the official code of Loss Change Allocation does, over
    minibatches that never change. ``"frozen"`` and ``"attributed"``: by the running statistics, as the deployed
    network does; with ``"attributed"`` the gradient with respect to them is defined, too.
    """
    layers = batchnorms(module)
    with ExitStack() as stack:
        if mode == "batch":
            for layer in layers:
                # Batch statistics without touching the running ones, as if there were none.
                layer.track_running_stats = False
                use_batch_statistics(layer)
        elif mode == "attributed" and layers:
            stack.enter_context(_DifferentiableStatistics())
        yield


class _DifferentiableStatistics(TorchFunctionMode):
    """Batch normalisation by running statistics, written out: torch's own has no gradient for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the one function, whoever calls it."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.batch_norm:
            return _batch_norm(func, *args, **kwargs)
        if func is torch.batch_norm:
            return _torch_batch_norm(func, *args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    original: Any,
    input: Tensor,  # torch's own name, which callers may use
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return original(input, running_mean, running_var, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (input.ndim - 2))
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    return input * scale.view(shape) + shift.view(shape)


def _torch_batch_norm(
    original: Any,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    if training or running_mean is None:
        return original(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    return _batch_norm(None, input, running_mean, running_var, weight, bias, eps=eps)
