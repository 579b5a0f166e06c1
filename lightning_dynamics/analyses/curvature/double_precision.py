"""A module in float64 for a while: critical points, and some checks, need more digits than float32 has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.core.batch_tree import replaced, tensors
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.precision import default_dtype


@contextmanager
def in_double(module: nn.Module) -> Iterator[None]:
    """Every parameter, buffer and tensor attribute as a float64 copy inside; the module's own are put back afterwards.

    The module's own tensors are not touched: others stand in their places. (To convert parameters where they are would
    cost DDP its hooks: autograd makes new gradient accumulators for a new dtype.)

    Raises:
        ConfigurationError: a TorchScript module, whose tensors cannot be replaced.
    """
    copies: dict[int, Tensor] = {}
    with ExitStack() as undo:
        _convert(module, copies, undo)
        undo.enter_context(default_dtype(torch.float64))
        yield


def _convert(module: nn.Module, copies: dict[int, Tensor], undo: ExitStack) -> None:
    """Copies in place of all tensors; one that several places hold is copied once."""

    def converted(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            value = tensor.detach().to(torch.float64, copy=True)
            copies[id(tensor)] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
        return copies[id(tensor)]

    for submodule in module.modules():
        if isinstance(submodule, torch.jit.ScriptModule):
            raise ConfigurationError(
                f"{type(module).__name__} holds a TorchScript module, which cannot be copied in float64: build it "
                "without `torch.jit.script`"
            )
        for name, parameter in list(submodule._parameters.items()):
            if parameter is not None and _is_wanted(parameter):
                setattr(submodule, name, converted(parameter))  # recurrent layers keep a list of theirs up to date
                undo.callback(setattr, submodule, name, parameter)
        for name, buffer in list(submodule._buffers.items()):
            if buffer is not None and _is_wanted(buffer):
                submodule._buffers[name] = converted(buffer)
                undo.callback(submodule._buffers.__setitem__, name, buffer)
        for name, value in list(vars(submodule).items()):
            if _is_wanted(value):
                vars(submodule)[name] = converted(value)
                undo.callback(vars(submodule).__setitem__, name, value)


def as_double(batch: Any) -> Any:
    """The batch with its floating point tensors in float64; the one given is not changed."""
    return replaced(batch, {path: tensor.double() for path, tensor in tensors(batch).items() if _is_wanted(tensor)})


def _is_wanted(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not nn.parameter.is_lazy(value)
