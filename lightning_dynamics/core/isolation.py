"""Do no harm: what happens inside :func:`isolated` leaves training bit-identical."""

from __future__ import annotations

import operator
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_dynamics.core.precision import default_dtype, full_precision
from lightning_dynamics.core.random_state import Restore, generators_of, preserved_random_state, seed_all

Mode = Literal["eval", "train"]


@contextmanager
def isolated(
    module: nn.Module, *, mode: Mode = "eval", seed: int | None = None, grad: bool = False
) -> Iterator[list[Any]]:
    """Run anything on ``module`` and have it, and every random stream, back bit for bit, on exceptions too.

    Restored: parameters and buffers (values and storage), ``.grad``, ``requires_grad``, each submodule's
    training flag, hooks, everything the submodules hold as plain attributes (torchmetrics states, lists that a
    ``training_step`` appends to, generators of their own), autocast and grad mode, and the random number
    streams of torch (all devices in use), NumPy and Python. Not restored: what hides inside objects of other
    classes that the module holds.

    Inside, gradients are ``None``: an analysis takes its own with ``torch.autograd.grad``, never
    ``.backward()``, which would reach DDP's reducer. Nothing is computed in less than float32. Compiled submodules
    run uncompiled: hooks placed after compilation fire, and nothing is compiled a second time.

    Args:
        module: the bare module, not a strategy's wrapper.
        mode: training flag given to every submodule. ``module.train()`` is not called: users override it.
        seed: seeds torch, NumPy, Python and the module's own generators inside, so that an analysis repeats itself.
        grad: whether autograd is on inside.

    Yields:
        The generators that the submodules hold.

    Cost: one copy of parameters, buffers and tensor attributes, in memory and in time.
    """
    device_types = {"cpu"} | {tensor.device.type for tensor in module.parameters()} - {"meta"}
    streams = generators_of(*map(_plain_attributes, module.modules()))
    with ExitStack() as stack:
        stack.enter_context(preserved_random_state(*streams))
        stack.callback(_undo, _module_restores(module))
        stack.enter_context(_uncompiled())
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(full_precision())
        stack.enter_context(_new_tensors_as_wide_as(module))
        for device_type in device_types:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        for parameter in module.parameters():
            parameter.grad = None
        for submodule in module.modules():
            submodule.training = mode == "train"
        if seed is not None:
            seed_all(seed, *streams)
        yield streams


def _undo(restores: list[Restore]) -> None:
    """Last first; one that fails stops none of the others."""
    failure: Exception | None = None
    for restore in reversed(restores):
        try:
            restore()
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside parameters, buffers and submodules: its training flag among them."""
    registries = {"_parameters", "_buffers", "_modules"}
    return {name: value for name, value in vars(module).items() if name not in registries}


def _module_restores(module: nn.Module) -> list[Restore]:
    """What must be called, last first, to have the module back."""
    restores: list[Restore] = []
    for parameter in module.parameters():
        # The gradient itself goes out of reach while the analysis runs, so it need not be copied. It is put back
        # when the parameter has its shape and type again.
        restores.append(partial(setattr, parameter, "grad", parameter.grad))
        restores.append(partial(setattr, parameter, "requires_grad", parameter.requires_grad))
    for tensor in (*module.parameters(), *module.buffers()):
        restores.append(_keep_tensor(tensor))
    for submodule in module.modules():
        held = _plain_attributes(submodule)
        for value in held.values():
            if type(value) in _HOOKS and not value:  # every module has a dozen of them
                restores.append(value.clear)
            elif keep := _keep_contents(value):
                restores.append(keep)
        restores.append(partial(_put_back_attributes, submodule, held))
        # A TorchScript module keeps its flag and its registries out of Python's reach.
        restores.append(partial(setattr, submodule, "training", submodule.training))
        for registry in (submodule._parameters, submodule._buffers, submodule._modules):
            if isinstance(registry, dict):
                restores.append(_keep_items(registry))
    return restores


def _put_back_attributes(module: nn.Module, held: dict[str, Any]) -> None:
    for name in _plain_attributes(module).keys() - held.keys():
        del module.__dict__[name]
    module.__dict__.update(held)


# Proxies among them: a dead one cannot even be asked what it is.
_PLAIN = {int, float, bool, str, bytes, type(None), *weakref.ProxyTypes}
_HOOKS = {dict, OrderedDict}
_CONTAINERS = (dict, list, deque, set, tuple)
_LONGEST = 1000


def _keep_contents(value: Any, depth: int = 3) -> Restore | None:
    """How to undo changes made inside ``value`` itself; None for values that are not opened.

    A container of over 1,000 items gets the same items back, but the items are not opened: they are data.
    """
    if depth == 0 or type(value) in _PLAIN:
        return None
    if isinstance(value, Tensor):
        return _keep_tensor(value)
    if isinstance(value, np.ndarray):
        return partial(np.copyto, value, value.copy()) if value.flags.writeable else None
    if not isinstance(value, _CONTAINERS):
        return None
    items = [] if isinstance(value, tuple) else [_keep_items(value)]
    if 0 < len(value) <= _LONGEST:
        inner = (_keep_contents(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value))
        items.extend(keep for keep in inner if keep)
    return partial(_do_all, items) if len(items) > 1 else next(iter(items), None)


def _do_all(restores: list[Restore]) -> None:
    for restore in restores:
        restore()


def _keep_items(container: Any) -> Restore:
    return partial(_put_back_items, container, container.copy()) if container else container.clear


def _put_back_items(container: Any, items: Any) -> None:
    """Same items, same order. What did not change is not touched: some containers refuse to be filled."""
    now, before = [list(c.values() if isinstance(c, dict) else c) for c in (container, items)]
    if len(now) == len(before) and all(map(operator.is_, now, before)):
        if not isinstance(container, dict) or list(container) == list(items):
            return
    container.clear()
    if isinstance(container, dict):
        for key, value in items.items():
            container[key] = value
    elif isinstance(container, set):
        container.update(items)
    else:
        container.extend(items)


def _keep_tensor(tensor: Tensor) -> Restore:
    if tensor.is_meta or tensor.layout is not torch.strided or nn.parameter.is_lazy(tensor):
        return _nothing
    # An expanded tensor cannot be written in place, by us or by anyone.
    expanded = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    storage, saved = tensor.data, None if expanded else tensor.detach().clone()

    def restore() -> None:
        # Through ``.data``: the version counters of a live autograd graph must not move.
        if _memory(tensor) != _memory(storage):
            tensor.data = storage
        if saved is not None:
            tensor.data.copy_(saved)

    return restore


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _nothing() -> None:
    pass


@contextmanager
def _new_tensors_as_wide_as(module: nn.Module) -> Iterator[None]:
    """In double precision training, what a ``training_step`` makes without a dtype is float64."""
    before = torch.get_default_dtype()
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.dtype is not torch.float64 or before is torch.float64:
        yield
        return
    with default_dtype(torch.float64):
        yield


@contextmanager
def _uncompiled() -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing dynamo would take seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
