"""Which parameters move in the subspace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import select_parameters


def trained_parameters(
    module: nn.Module, patterns: str | Sequence[str], optimizers: Sequence[Optimizer]
) -> dict[str, nn.Parameter]:
    """The parameters that match, of those that an optimizer trains, by plain name.

    Raises:
        ConfigurationError: there are none, or some that cannot be a part of one real vector.
    """
    in_optimizers = {
        id(parameter) for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]
    }
    selected = select_parameters(module, patterns)
    chosen = {
        name: parameter
        for name, parameter in selected.items()
        if parameter.requires_grad and id(parameter) in in_optimizers
    }
    if not chosen:
        raise ConfigurationError(
            f"`parameters={patterns!r}` matches only parameters that no optimizer trains: {', '.join(selected)}; give "
            "those that `configure_optimizers` trains, e.g. `parameters='*'`"
        )
    for unfit, why in (
        (is_lazy, "belong to lazy modules, which have no shape yet: run the module once before, e.g. `module(inputs)`"),
        (torch.is_complex, "are complex, and a subspace is real: choose others, e.g. `parameters='head.*'`"),
    ):
        names = [name for name, parameter in chosen.items() if unfit(parameter)]
        if names:
            raise ConfigurationError(f"`parameters={patterns!r}`: {', '.join(names)} {why}")
    devices = {parameter.device for parameter in chosen.values()}
    if len(devices) > 1:
        raise ConfigurationError(
            f"`parameters` lie on several devices ({', '.join(map(str, devices))}); choose those on one device, e.g. "
            "`parameters='head.*'`"
        )
    return chosen
