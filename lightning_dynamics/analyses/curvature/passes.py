"""Passes of a loss, forward and backward, tried before they are relied on.

PyTorch differentiates what a graph holds, and is silent about what it does not hold. The numbers are plausible, and
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from lightning_dynamics.core.lightning import ConfigurationError


def unchanging(compute: Callable[[], Tensor]) -> Tensor:
    """The loss of one minibatch, computed twice.

    Args:
        compute: the loss, with its graph, on the same data and from the same random streams each time.

    Raises:
        ConfigurationError: the two differ.
    """
    first = float(compute().detach())
    value = compute()
    second = float(value.detach())
    # On accelerators, the terms of a sum come in any order.
    allowed = 0.0 if value.device.type == "cpu" else 64 * torch.finfo(value.dtype).eps * abs(first)
    alike = first == second or abs(first - second) <= allowed or (math.isnan(first) and math.isnan(second))
    if not alike:
        raise ConfigurationError(
            f"the loss is no function of the weights: on one minibatch it is {first:.9g}, and computed once more "
            f"{second:.9g}. Either something random draws from a generator that cannot be seeded (make it an attribute "
            "of the module, or draw from torch's own), or something is carried from call to call (a hidden state, a "
            "counter, statistics that the loss depends on): begin it anew in every call"
        )
    return value


def gradient(value: Tensor, tensors: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """∂loss/∂tensor, for the first time; None for tensors without influence.

    Args:
        value: the loss, with its graph.
        tensors: to differentiate by.
        create_graph: whether the gradient has a graph, too.

    Raises:
        ConfigurationError: a backward fails, or hides parameters.
    """
    hiding = next((name for name in own_functions(value) if "Checkpoint" in name), None)
    if hiding is not None:
        # Where no parameter lies before it, autograd does not even complain.
        raise ConfigurationError(
            f"the loss passes `{hiding}`, re-entrant activation checkpointing, which hides the parameters inside from "
            "`torch.autograd.grad`: call `torch.utils.checkpoint.checkpoint(…, use_reentrant=False)`"
        )
    with _told("the gradient of the loss cannot be computed", "replace the operation"):
        return list(torch.autograd.grad(value, tensors, create_graph=create_graph, allow_unused=True))


def derivative(outputs: Sequence[Tensor], tensors: Sequence[Tensor], along: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of ⟨gradient, vector⟩, for the first time; its graph is kept.

    Args:
        outputs: the gradient, with its graph.
        tensors: to differentiate by.
        along: the vector, of the shapes of ``outputs``.

    Raises:
        ConfigurationError: an operation has no second derivative.
    """
    advice = "leave out the parameters whose gradient passes the operation, by narrower patterns in `parameters`"
    with _told("second derivatives of the loss cannot be computed", advice):
        return list(torch.autograd.grad(outputs, tensors, along, retain_graph=True, allow_unused=True))


@contextmanager
def _told(what: str, advice: str) -> Iterator[None]:
    """Errors of autograd inside become ones of the configuration."""
    try:
        yield
    except (torch.OutOfMemoryError, ConfigurationError):
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{what}: {error}; {advice}") from error


def own_functions(value: Tensor) -> list[str]:
    """Names of the ``torch.autograd.Function`` classes, and of extensions in C++, that a graph holds, each once."""
    names: dict[str, None] = {}
    for node in nodes([value]):
        if isinstance(node, BackwardCFunction):
            names[type(node).__name__.removesuffix("Backward")] = None
        elif "CppNode" in node.name():
            names[node.name()] = None
    names.pop("BackwardHookFunction", None)  # torch's own: it hands on what it gets
    return list(names)


def nodes(outputs: Iterable[Tensor | None]) -> set[Any]:
    """Of the graph behind tensors."""
    waiting = [tensor.grad_fn for tensor in outputs if tensor is not None and tensor.grad_fn is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions if following is not None)
    return seen
