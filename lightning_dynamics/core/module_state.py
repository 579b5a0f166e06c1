"""Everything that a module holds, and how to have it back: what :func:`isolated` restores."""

from __future__ import annotations

import weakref
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.restore import (
    BUILTIN,
    Restore,
    put_back_bytes,
    put_back_slot,
    restore_of_items,
    restore_of_tensor,
    slot_value,
    slots_of,
)

# Proxies among them: a dead one cannot even be asked what it is.
_PLAIN = {int, float, complex, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size}
_PLAIN |= {FunctionType, BuiltinFunctionType, ModuleType, *weakref.ProxyTypes}
_REGISTRIES = {"_parameters", "_buffers", "_modules"}
_HOOKS = {dict, OrderedDict}
_CONTAINERS = (dict, list, deque, set, tuple)
_LONGEST = 1000
_MOST = 10_000  # values opened beneath the attributes of each submodule

_OPEN_OF_TORCH = ("torch.nn.", "torch.distributions.")
_CLOSED = tuple(
    f"{package}."
    for package in (
        *("lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities", "torch"),
        *("wandb", "mlflow", "tensorboard", "tensorboardX", "comet_ml", "neptune", "clearml", "aim.sdk"),
        *("asyncio", "concurrent", "multiprocessing", "queue", "socket", "subprocess", "threading", "_thread"),
        *("ctypes", "enum", "importlib", "inspect", "io", "_io", "logging", "weakref"),
    )
)
"""Where classes come from that lead out of the module, as do those derived from them: Trainers, loggers, threads."""


def require_materialized(module: nn.Module) -> None:
    """Refuse modules whose parameters have no shape yet.

    Their first batch draws the weights. In an analysis before that, it would draw others: not those that are trained.

    Raises:
        ConfigurationError: naming the lazy submodules.
    """
    lazy = [
        name or type(submodule).__name__
        for name, submodule in module.named_modules()
        if any(map(nn.parameter.is_lazy, (*submodule._parameters.values(), *submodule._buffers.values())))
    ]
    if lazy:
        raise ConfigurationError(
            f"{type(module).__name__} has lazy modules without weights ({', '.join(lazy[:3])}"
            f"{', …' if len(lazy) > 3 else ''}): run the module once before training (`module(batch)`)"
        )


def plain_attributes(module: nn.Module) -> dict[nn.Module, dict[str, Any]]:
    """What each submodule holds beside parameters, buffers and submodules: its training flag among them."""
    return {
        submodule: {name: value for name, value in vars(submodule).items() if name not in _REGISTRIES}
        for submodule in module.modules()
    }


def restores_of(
    attributes: Mapping[nn.Module, dict[str, Any]], parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor]
) -> list[Restore]:
    """What must be called, last first, to have a module back, and what it holds.

    Args:
        attributes: of it, from :func:`plain_attributes`.
        parameters: of it.
        buffers: of it.
    """
    search = _Search()
    for parameter in parameters:
        search.keep_parameter(parameter)
    for buffer in buffers:
        search.keep_tensor(buffer)
    for submodule, held in attributes.items():
        search.keep_submodule(submodule, held)
        search.follow()
    return search.restores


class _Search:
    """Goes through all that is held, the nearest first; each thing once, however often it is held."""

    def __init__(self) -> None:
        self.restores: list[Restore] = []
        self._seen: dict[int, Any] = {}  # with the things, so that no id is given to another one meanwhile
        self._queue: deque[Any] = deque()
        self._left = _MOST

    def follow(self) -> None:
        """Keep what the last submodule holds, and what that holds, until the search gives up."""
        while self._queue and self._left:
            self._left -= 1
            self._keep(self._queue.popleft())
        self._queue.clear()
        self._left = _MOST

    def _is_new(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen[id(value)] = value
        return True

    def keep_parameter(self, parameter: nn.Parameter) -> None:
        """Its values, gradient and flag."""
        # The gradient itself goes out of reach while the analysis runs, so it need not be copied. It is put back
        # when the parameter has its shape and type again.
        if id(parameter) not in self._seen:
            self.restores.append(partial(setattr, parameter, "grad", parameter.grad))
            self.restores.append(partial(setattr, parameter, "requires_grad", parameter.requires_grad))
            self.keep_tensor(parameter)

    def keep_tensor(self, tensor: Tensor) -> None:
        """Its values."""
        if self._is_new(tensor) and (keep := restore_of_tensor(tensor)):
            self.restores.append(keep)

    def keep_submodule(self, module: nn.Module, held: dict[str, Any]) -> None:
        """One module without those below it; what it holds is put into the queue."""
        if not self._is_new(module):
            return
        for value in held.values():
            kind = type(value)
            if kind in _HOOKS and not value:  # every module has a dozen of them
                self.restores.append(value.clear)
            elif kind not in _PLAIN and (kind is not tuple or not _PLAIN.issuperset(map(type, value))):
                self._queue.append(value)
                self._left += 1
        self.restores.append(partial(_put_back_module, module, type(module), held))
        # A TorchScript module keeps its flag and its registries out of Python's reach.
        self.restores.append(partial(setattr, module, "training", module.training))
        for registry in (module._parameters, module._buffers, module._modules):
            if isinstance(registry, dict):
                self.restores.append(restore_of_items(registry))

    def _keep(self, value: Any) -> None:
        """Changes made inside ``value``; what it holds is put into the queue."""
        if isinstance(value, _CONTAINERS):
            self._keep_container(value)
        elif isinstance(value, Tensor):
            self.keep_parameter(value) if isinstance(value, nn.Parameter) else self.keep_tensor(value)
        elif isinstance(value, nn.Module):
            self._hand_on((*value.parameters(), *value.buffers()))
            for submodule, held in plain_attributes(value).items():
                self.keep_submodule(submodule, held)
        elif not self._is_new(value):
            return
        elif isinstance(value, np.ndarray):
            if value.flags.writeable:
                self.restores.append(partial(np.copyto, value, value.copy()))
        elif isinstance(value, bytearray | array):
            self.restores.append(partial(put_back_bytes, value, value[:]))
        elif isinstance(value, MethodType):
            self._hand_on((value.__self__,))
        elif _is_opened(type(value)):
            if isinstance(value, partial):
                self._hand_on((value.func, *value.args, *value.keywords.values()))
            self._keep_attributes(value)

    def _keep_container(self, container: Any) -> None:
        """A container of over 1,000 items gets the same items back, but the items are not opened: they are data."""
        if type(container) is not tuple:
            if not self._is_new(container):
                return
            if not isinstance(container, tuple):
                self.restores.append(restore_of_items(container))
            if type(container) not in BUILTIN:
                self._keep_attributes(container)
        if len(container) <= _LONGEST:
            self._hand_on(container.values() if isinstance(container, dict) else container)

    def _keep_attributes(self, value: Any) -> None:
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict:
            self.restores.append(restore_of_items(attributes))
            self._hand_on(attributes.values())
        for slot in slots_of(type(value)):
            held = slot_value(slot, value)
            self.restores.append(partial(put_back_slot, slot, value, held))
            self._hand_on((held,))

    def _hand_on(self, values: Iterable[Any]) -> None:
        self._queue.extend([value for value in values if type(value) not in _PLAIN])


def _is_opened(kind: type) -> bool:
    """Whether objects of this class are the user's own state, not machinery around the training."""
    for cls in kind.__mro__[:-1]:
        place = f"{cls.__module__}."
        if place.startswith(_CLOSED) and not place.startswith(_OPEN_OF_TORCH):
            return False
    return not issubclass(kind, type)


def _put_back_module(module: nn.Module, kind: type, held: dict[str, Any]) -> None:
    if type(module) is not kind:  # a lazy module becomes another one
        module.__class__ = kind
    attributes = vars(module)
    for name in attributes.keys() - held.keys() - _REGISTRIES:
        del attributes[name]
    attributes.update(held)
