"""How single things are put back as they were: a container's items, a tensor, an object's slots."""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from types import MemberDescriptorType
from typing import Any

import torch
from torch import Tensor, nn

Restore = Callable[[], None]

BUILTIN = {dict, OrderedDict, list, deque, set, tuple}


_UNSET = object()


def slots_of(kind: type) -> list[Any]:
    """Descriptors of all ``__slots__`` of a class."""
    return [
        member
        for cls in kind.__mro__
        if "__slots__" in vars(cls)
        for member in vars(cls).values()
        if type(member) is MemberDescriptorType
    ]


def slot_value(slot: Any, value: Any) -> Any:
    """What is in a slot of an object, or a mark that it is empty."""
    try:
        return slot.__get__(value)
    except AttributeError:
        return _UNSET


def put_back_slot(slot: Any, value: Any, held: Any) -> None:
    """The inverse of :func:`slot_value`, past any ``__setattr__`` of the object's own."""
    if (now := slot_value(slot, value)) is held:
        return
    if now is not _UNSET:
        slot.__delete__(value)
    if held is not _UNSET:
        slot.__set__(value, held)


def put_back_bytes(container: Any, items: Any) -> None:
    """The same items into a ``bytearray`` or ``array``."""
    if container != items:
        container[:] = items


def restore_of_items(container: Any) -> Restore:
    """How a dict, list, deque or set gets the same items, in the same order, past any methods of its own."""
    kind = type(container)
    if kind not in BUILTIN:
        return partial(_put_back_items, container, _plain_copy(container))
    return partial(_put_back_items, container, container.copy()) if container else container.clear


def _base(container: Any) -> Any:
    """The class of Python's own whose methods a container has beneath those that it may override."""
    return next(base for base in (OrderedDict, dict, list, deque, set) if isinstance(container, base))


def _plain_copy(container: Any) -> Any:
    """Of a class of its own, which may copy in its own way, or not at all."""
    base = _base(container)
    if base is OrderedDict:  # whose order is not that of the dict beneath
        return OrderedDict((key, dict.__getitem__(container, key)) for key in OrderedDict.__iter__(container))
    return dict.copy(container) if base is dict else list(base.__iter__(container))


def _put_back_items(container: Any, items: Any) -> None:
    """Same items, same order. What did not change is not touched: some containers refuse to be filled."""
    keyed = isinstance(items, dict)
    base = _base(container)
    now, before = [list(c.values() if keyed else c) for c in (_plain_copy(container), items)]
    if len(now) == len(before) and all(map(operator.is_, now, before)):
        if not keyed or list(base.__iter__(container)) == list(items):
            return
    base.clear(container)
    if keyed:
        for key, value in items.items():
            base.__setitem__(container, key, value)
    elif base is set:
        set.update(container, items)
    else:
        base.extend(container, items)


def restore_of_tensor(tensor: Tensor) -> Restore | None:
    """How a tensor gets its storage, values and version back; None where there is nothing to put back."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # kept from inside a transform: nothing can write to it
        return None
    if tensor.is_meta or tensor.layout is not torch.strided:
        return None
    if nn.parameter.is_lazy(tensor):
        return partial(_put_back_lazy, tensor, type(tensor), tensor.data)
    # An expanded tensor cannot be written in place, by us or by anyone.
    expanded = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    storage, saved = tensor.data, None if expanded else tensor.detach().clone()
    version = None if tensor.is_inference() else tensor._version

    def restore() -> None:
        # Through ``.data``: the version counters of a live autograd graph must not move.
        if _memory(tensor) != _memory(storage):
            tensor.data = storage
        if saved is not None:
            tensor.data.copy_(saved)
        if version is not None and tensor._version != version:
            _put_back_version(tensor, version)

    return restore


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _put_back_version(tensor: Tensor, version: int) -> None:
    """It has the values again that graphs of training saved, so they may be walked back."""
    put: Any = torch._C._autograd._unsafe_set_version_counter
    try:
        put((tensor,), (version,))
    except TypeError:  # older torch takes one at a time
        put(tensor, version)


def _put_back_lazy(tensor: Tensor, kind: type, empty: Tensor) -> None:
    if type(tensor) is not kind:
        tensor.data = empty
        tensor.__class__ = kind
