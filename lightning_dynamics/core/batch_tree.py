"""What a batch is made of: tensors at paths, in whatever containers and batch objects they lie.

A path is a tuple of keys: ``(1,)`` is the second item, ``("labels",)`` an entry or an attribute, ``()`` the batch.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Path = tuple[Any, ...]

_PLAIN = (str, bytes, int, float, complex, bool, type(None), np.ndarray, np.generic, Enum, type, torch.device)
_DEEPEST = 6
_LONGEST = 10_000  # items of a container; a longer one is data


class _ListAxis:
    """The axis of a list that holds one item per example."""

    def __repr__(self) -> str:
        return "list"


LIST = _ListAxis()
Axis = int | _ListAxis
Axes = Mapping[Path, Axis]


def items(node: Any) -> dict[Any, Any] | None:
    """A container's or batch object's items by key; None for tensors, plain values, and what is not opened."""
    if isinstance(node, Tensor | PackedSequence | nn.Module) or isinstance(node, _PLAIN):
        return None
    if isinstance(node, Mapping):
        return {key: node[key] for key in node}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return dict(enumerate(node)) if len(node) <= _LONGEST else None
    if dataclasses.is_dataclass(node):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    if _is_keyed(node):
        keys = node.keys() if callable(node.keys) else node.keys
        return {key: node[key] for key in keys}  # also of one that can be called, as torch_geometric's can
    if hasattr(node, "__dict__") and not callable(node) and not isinstance(node, set | frozenset):
        return {name: value for name, value in vars(node).items() if not name.startswith("_")}
    return None


def _is_keyed(node: Any) -> bool:
    """Whether it is an object with keys that is no Mapping, as torch_geometric's batches are."""
    return all(hasattr(node, name) for name in ("keys", "__getitem__", "__setitem__"))


def walk(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every node with its path, containers before what they hold."""
    yield path, node
    held = items(node) if len(path) < _DEEPEST else None
    for key, value in (held or {}).items():
        yield from walk(value, (*path, key))


def tensors(batch: Any) -> dict[Path, Tensor]:
    """The tensors of a batch by path, in its order."""
    return {path: node for path, node in walk(batch) if isinstance(node, Tensor)}


def at(batch: Any, path: Path) -> Any:
    """What lies at a path.

    Raises:
        KeyError: nothing does.
    """
    for key in path:
        held = items(batch)
        if held is None or key not in held:
            raise KeyError(path)
        batch = held[key]
    return batch


def replaced(batch: Any, values: Mapping[Path, Any]) -> Any:
    """The batch with other values at these paths; containers on the way are copied, nothing else is."""
    if () in values:
        return values[()]
    below: dict[Any, dict[Path, Any]] = {}
    for path, value in values.items():
        below.setdefault(path[0], {})[path[1:]] = value
    held = items(batch)
    if not below or held is None:
        return batch
    return _with_items(batch, {key: replaced(held[key], inner) for key, inner in below.items()})


def _with_items(node: Any, changed: Mapping[Any, Any]) -> Any:
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return node._replace(**changed)  # type: ignore[attr-defined]
    if isinstance(node, list | tuple):
        return type(node)([changed.get(key, value) for key, value in enumerate(node)])
    copied = copy.copy(node)
    if isinstance(node, Mapping) or (_is_keyed(node) and not dataclasses.is_dataclass(node)):
        for key, value in changed.items():
            copied[key] = value
        return copied
    for key, value in changed.items():
        object.__setattr__(copied, key, value)
    return copied


def example_axes(batches: Sequence[tuple[Any, int]]) -> tuple[dict[Path, Axis], list[Path]]:
    """Along which axis of each tensor the examples lie: the one whose length is their number, in every batch.

    Args:
        batches: of the same kind, with the number of examples in each; two different numbers at least.

    Returns:
        The axes by path, of tensors and of lists with one item per example; paths of the tensors that have none, or
        more than one that could be it.
    """
    sizes = [size for _, size in batches]
    nodes = [dict(walk(batch)) for batch, _ in batches]
    axes: dict[Path, Axis] = {}
    without: list[Path] = []
    for path, node in nodes[-1].items():
        if any(path[:length] in axes for length in range(len(path))):
            continue
        same = [own.get(path) for own in nodes]
        if isinstance(node, Tensor):
            shapes = [tuple(one.shape) if isinstance(one, Tensor) else () for one in same]
            axis = moving_axis(shapes, sizes)
            if axis is None:
                without.append(path)
            else:
                axes[path] = axis
        elif len(set(sizes)) > 1 and [_list_length(one) for one in same] == sizes:
            axes[path] = LIST
    return axes, without


def _list_length(node: Any) -> int:
    """Of a list or tuple whose items can stand for examples, as those of a named tuple cannot; −1 of other nodes."""
    return len(node) if isinstance(node, list | tuple) and not hasattr(node, "_fields") else -1


def moving_axis(shapes: Sequence[Sequence[int]], sizes: Sequence[int]) -> int | None:
    """The one axis whose lengths are the ``sizes``; None if there is none, or more than one."""
    if len({len(shape) for shape in shapes}) != 1 or len(set(sizes)) < 2:
        return None
    found = [
        axis
        for axis in range(len(shapes[0]))
        if all(shape[axis] == size for shape, size in zip(shapes, sizes, strict=True))
    ]
    return found[0] if len(found) == 1 else None


def rows(batch: Any, axes: Axes, chosen: Sequence[int]) -> Any:
    """Some examples of a batch, in this order; what has no axis stays as it is."""
    values: dict[Path, Any] = {}
    for path, axis in axes.items():
        node = at(batch, path)
        if isinstance(axis, int):
            values[path] = node.index_select(axis, torch.tensor(list(chosen), device=node.device))
        else:
            values[path] = type(node)([node[row] for row in chosen])
    return replaced(batch, values)


def worded(path: Path) -> str:
    """A path in words: ``item 2`` (counted from 0), ``'labels'``, ``batch.y``."""
    if not path:
        return "the batch"
    return ".".join(f"item {key}" if isinstance(key, int) else f"'{key}'" for key in path)
