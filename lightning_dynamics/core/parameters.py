"""Parameters: their names, a choice of them, one flat view, moving them and putting them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lightning_dynamics.core.lightning import ConfigurationError


def plain_name(name: str) -> str:
    """A parameter's or module's name without what ``torch.compile`` puts into it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def select_parameters(
    module: nn.Module, patterns: str | Sequence[str] = "*", *, argument: str = "parameters"
) -> dict[str, nn.Parameter]:
    """Parameters whose name matches one of the globs, in the module's order, tied ones once.

    Raises:
        ConfigurationError: no pattern, or one that matches nothing, naming ``argument``.
    """
    named = {plain_name(name): parameter for name, parameter in module.named_parameters()}
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    if not wanted:
        raise ConfigurationError(f"`{argument}` is empty: give at least one pattern, e.g. '*'")
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ConfigurationError(
                f"`{argument}={pattern!r}` matches no parameter; there are: {', '.join(named) or 'none'}"
            )
    return {
        name: parameter for name, parameter in named.items() if any(fnmatchcase(name, pattern) for pattern in wanted)
    }


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """One ``(P,)`` copy of all the tensors, in their order."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of a ``(P,)`` tensor in the shapes of ``like``, without a copy."""
    pieces = flat.split([tensor.numel() for tensor in like.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(like.items(), pieces, strict=True)}


@torch.no_grad()
def copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values as they are now."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def assign(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write values into parameters in place; storage and identity stay."""
    for name, parameter in parameters.items():
        parameter.data.copy_(values[name])


@contextmanager
def moved(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Parameters at other values inside; their very bits back afterwards, not old ± difference."""
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        assign(parameters, values)
        yield
    finally:
        assign(parameters, saved)
