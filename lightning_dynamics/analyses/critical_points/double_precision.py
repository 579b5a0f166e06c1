"""A module in float64 for a while: critical points need more digits than float32 has."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.precision import default_dtype


@contextmanager
def in_double(module: nn.Module) -> Iterator[None]:
    """Every parameter, buffer and tensor attribute as a float64 copy inside; call it within ``isolated``.

    The module's own parameters are not touched: others stand in their places until isolation puts them back. (To
    convert them where they are would cost DDP its hooks: autograd makes new gradient accumulators for a new dtype.)

    Raises:
        ConfigurationError: a TorchScript module, whose tensors cannot be replaced.
    """
    copies: dict[int, Tensor] = {}

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
        for name, buffer in list(submodule._buffers.items()):
            if buffer is not None and _is_wanted(buffer):
                submodule._buffers[name] = converted(buffer)
        for name, value in list(vars(submodule).items()):
            if _is_wanted(value):
                vars(submodule)[name] = converted(value)
    with default_dtype(torch.float64):
        yield


def as_double(batch: Any) -> Any:
    """The batch in new containers, with its floating point tensors in float64."""
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, Mapping):
        changed = copy.copy(batch)
        for key in batch:
            changed[key] = as_double(batch[key])  # type: ignore[index]
        return changed
    if isinstance(batch, list | tuple):
        items = [as_double(item) for item in batch]
        # A named tuple takes its items one by one.
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch


def _is_wanted(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not nn.parameter.is_lazy(value)
