"""Where searches begin: what a user may give, as named values of parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

from torch import Tensor, nn

from lightning_dynamics.analyses.critical_points.surface import State
from lightning_dynamics.core.checkpoints import at_checkpoint, short_names
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import plain_name, unflatten

Start = Tensor | Mapping[str, Tensor] | str | PathLike[str]
"""A flat vector of the parameters searched, values by name (a state dict), or the path of a Lightning checkpoint."""

HERE = "module"
"""Name of the start where the module is."""


def named_starts(
    starts: Mapping[str, Start] | Iterable[Start] | None,
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    argument: str = "starts",
) -> dict[str, State]:
    """Values by the start's name; no values at all for the module as it is.

    Args:
        starts: see :func:`~lightning_dynamics.critical_points.find`.
        module: as the user has it, not yet in double precision.
        parameters: the coordinates.
        argument: what to call it in complaints.

    Raises:
        ConfigurationError: no start, a vector of another length, an unknown name, a shape that does not fit, no
            readable checkpoint or one of another architecture.
    """
    if starts is None:
        return {HERE: {}}
    if isinstance(starts, Tensor | str | PathLike) or (
        isinstance(starts, Mapping) and any(plain_name(name) in parameters for name in starts)
    ):
        raise ConfigurationError(f"`{argument}` is one start where several are expected: put it into a list")
    if not isinstance(starts, Mapping):
        starts = _numbered(starts, argument)
    if not starts:
        raise ConfigurationError(f"`{argument}` is empty: leave it out to begin where the module is")
    return {str(name): _state(start, module, parameters, f"{argument}[{name!r}]") for name, start in starts.items()}


def checkpoint_states(paths: Sequence[str | PathLike[str]], module: nn.Module, argument: str) -> dict[str, State]:
    """Parameters and buffers of Lightning checkpoints, by short names.

    Raises:
        ConfigurationError: naming ``argument``: no readable checkpoint, or one of another architecture.
    """
    names = short_names([str(path) for path in paths])
    return {name: _at_checkpoint(module, path, argument) for name, path in zip(names, paths, strict=True)}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all floating point parameters and buffers."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {plain_name(name): tensor.detach().clone() for name, tensor in named if tensor.is_floating_point()}


def _numbered(starts: Any, argument: str) -> dict[str, Start]:
    try:
        listed = list(starts)
    except TypeError:
        raise ConfigurationError(
            f"`{argument}` must be a list of starts, or name to start; got a {type(starts).__name__}"
        ) from None
    paths = [str(start) for start in listed if isinstance(start, str | PathLike)]
    short = iter(short_names(paths))
    names = [next(short) if isinstance(s, str | PathLike) else f"start {i}" for i, s in enumerate(listed)]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"`{argument}` has the same start twice: {names}")
    return dict(zip(names, listed, strict=True))


def _state(start: Any, module: nn.Module, parameters: Mapping[str, Tensor], argument: str) -> State:
    if isinstance(start, str | PathLike):
        return _at_checkpoint(module, start, argument)
    if isinstance(start, Tensor):
        size = sum(parameter.numel() for parameter in parameters.values())
        if start.shape != (size,):
            raise ConfigurationError(
                f"`{argument}` must be a flat vector of the {size} parameters searched, got {tuple(start.shape)}"
            )
        return unflatten(start.detach().clone(), parameters)
    if not isinstance(start, Mapping):
        raise ConfigurationError(
            f"`{argument}` must be a flat tensor, a state dict or a checkpoint's path, got a {type(start).__name__}"
        )
    named: list[tuple[str, Tensor]] = [*module.named_parameters(remove_duplicate=False)]
    known = {plain_name(name): tensor for name, tensor in (*named, *module.named_buffers(remove_duplicate=False))}
    state = {plain_name(name): value.detach().clone() for name, value in start.items()}
    for name, value in state.items():
        if name not in known:
            raise ConfigurationError(f"`{argument}` has {name!r}, which is none of {', '.join(known)}")
        if value.shape != known[name].shape:
            raise ConfigurationError(
                f"`{argument}`: {name!r} must have the shape {tuple(known[name].shape)}, got {tuple(value.shape)}"
            )
    return state


def _at_checkpoint(module: nn.Module, path: str | PathLike[str], argument: str) -> dict[str, Tensor]:
    with at_checkpoint(module, path, argument=argument):
        return state_of(module)
