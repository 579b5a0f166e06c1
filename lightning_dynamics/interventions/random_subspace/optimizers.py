"""Replacing many parameters by one, in an optimizer that the user's module has made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynamics.core.lightning import ConfigurationError

_AS_ONE = "a single vector can have only one; put them into one group, or choose fewer, e.g. `parameters='*.weight'`"
_USE = "use another one in `configure_optimizers`, e.g. torch.optim.Adam"
# By name, which the classes of other libraries share: not every torch has all of them.
_REFUSED = {
    "LBFGS": "evaluates the loss at several points within one step, and the weights of a subspace move once per step",
    "SparseAdam": "takes sparse gradients alone, and that of θ_d is dense",
    "Muon": "makes the step of a matrix orthogonal, and θ_d is a vector",
}


def optimizer_of(parameters: Collection[Tensor], optimizers: Sequence[Optimizer]) -> Optimizer:
    """The only optimizer that trains these parameters, in groups with the same settings.

    Raises:
        ConfigurationError: there are several, or groups that differ, or it cannot train a vector in their place.
    """
    chosen = {id(parameter) for parameter in parameters}

    def trains(group: dict[str, Any]) -> bool:
        return any(id(parameter) in chosen for parameter in group["params"])

    found = [optimizer for optimizer in optimizers if any(map(trains, optimizer.param_groups))]
    if len(found) > 1:
        names = ", ".join(type(optimizer).__name__ for optimizer in found)
        raise ConfigurationError(
            f"`parameters` are trained by {len(found)} optimizers ({names}), and a subspace is trained by one; choose "
            "those of one optimizer, e.g. `parameters='head.*'`, and add a second RandomSubspaceCallback for the others"
        )
    optimizer = found[0]
    _check_kind(optimizer)
    first, *others = [group for group in optimizer.param_groups if trains(group)]
    for group in others:
        different = sorted(
            name
            for name in first.keys() | group.keys()
            if name not in ("params", "param_names", "name") and first.get(name) != group.get(name)
        )
        if different:
            raise ConfigurationError(
                f"`parameters` are in groups of {type(optimizer).__name__} with different {', '.join(different)}: "
                + _AS_ONE
            )
    return optimizer


def replace_parameters(vector: nn.Parameter, parameters: Collection[Tensor], optimizer: Optimizer) -> None:
    """Let the optimizer train ``vector`` instead of ``parameters``; its groups stay, because schedulers hold them.

    Raises:
        ConfigurationError: the optimizer begins with different states for different parameters, or goes on training
            them by an optimizer of its own.
    """
    chosen = {id(parameter) for parameter in parameters}
    is_in = False
    for group in optimizer.param_groups:
        kept = [place for place, parameter in enumerate(group["params"]) if id(parameter) not in chosen]
        joins = not is_in and len(kept) < len(group["params"])
        is_in |= joins
        group["params"] = [group["params"][place] for place in kept] + [vector] * joins
        if "param_names" in group:
            group["param_names"] = [group["param_names"][place] for place in kept] + ["subspace"] * joins
    for inner in vars(optimizer).values():
        if isinstance(inner, Optimizer) and any(
            id(parameter) in chosen for group in inner.param_groups for parameter in group["params"]
        ):
            raise ConfigurationError(
                f"{type(optimizer).__name__} trains the parameters by a {type(inner).__name__} of its own, which would "
                f"not know of θ_d; return the {type(inner).__name__} itself from `configure_optimizers`"
            )
    begun = [(parameter, optimizer.state.pop(parameter)) for parameter in parameters if parameter in optimizer.state]
    if begun:
        optimizer.state[vector] = {
            name: _as_of(vector, name, [(parameter, state[name]) for parameter, state in begun]) for name in begun[0][1]
        }


def _check_kind(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ConfigurationError(f"{type(optimizer).__name__} is no torch.optim.Optimizer; {_USE}")
    for cls in type(optimizer).__mro__:
        if cls.__name__ in _REFUSED:
            raise ConfigurationError(f"{type(optimizer).__name__} {_REFUSED[cls.__name__]}; {_USE}")


def _as_of(vector: nn.Parameter, name: str, values: Sequence[tuple[Tensor, Any]]) -> Any:
    """The initial state that all parameters share (Adagrad's sums), in the vector's shape."""
    value = values[0][1]
    if not isinstance(value, Tensor):
        return value
    flat = torch.cat([value.reshape(-1) for _, value in values])
    if not bool((flat == flat[0]).all()):
        raise ConfigurationError(f"the optimizer begins with a different {name!r} for each parameter: {_AS_ONE}")
    is_like_its_parameter = value.shape == values[0][0].shape and value.ndim > 0
    return torch.full_like(vector, float(flat[0])) if is_like_its_parameter else value.clone()
