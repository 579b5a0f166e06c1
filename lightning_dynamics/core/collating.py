"""What a collate function does with its examples: keeps their order, sorts them, drops some, or merges them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, default_convert

from lightning_dynamics.core.batch_tree import LIST, Axes, at, example_axes, rows, tensors

Collate = Callable[[list[Any]], Any]

_IN_ORDER = (default_collate, default_convert)


def keeps_order(collate: Collate) -> bool:
    """Whether a collate function is known to give one row per example, in their order."""
    return collate in _IN_ORDER


def sizes_to_compare(count: int) -> list[int]:
    """Numbers of examples that tell an axis of examples from others, the largest first."""
    return sorted({count, max(1, count - 1), max(1, count // 2)}, reverse=True)


def row_order(collate: Collate, items: Sequence[Any], data: Any) -> tuple[int, ...] | None:
    """For each row of a collated batch the place of its example among ``items``; None if rows are no examples.

    Found out by collating the same examples backwards; where the rows do not follow, by collating each one alone and
    looking for its row.

    Args:
        collate: the function.
        items: the examples; they are copied, since some functions change them.
        data: what it made of them.
    """
    count = len(items)
    if keeps_order(collate) or count == 1:
        return tuple(range(count))

    def collated(places: Sequence[int]) -> Any:
        return collate([copy.deepcopy(items[place]) for place in places])

    kept = list(range(count))
    axes = _axes(collated, kept)
    if not axes:  # rows are not as many as examples: are some dropped?
        kept = [place for place in kept if _makes_a_row(collated, place)]
        axes = _axes(collated, kept) if 0 < len(kept) < count else {}
    if not axes:
        return None
    again, backwards = collated(kept), collated(kept[::-1])
    fixed = {path: axis for path, axis in axes.items() if _alike(at(again, path), at(data, path))}
    telling = {path: axis for path, axis in fixed.items() if len(kept) > 1}
    if not telling:
        return None
    turned = rows(data, telling, range(len(kept))[::-1])
    if all(_alike(at(turned, path), at(backwards, path)) for path in telling):
        return tuple(kept)
    return _matched(collated, kept, data, fixed)


def _axes(collated: Callable[[Sequence[int]], Any], kept: Sequence[int]) -> Axes:
    sizes = sizes_to_compare(len(kept))
    if len(sizes) < 2:
        return {}
    return example_axes([(collated(kept[:size]), size) for size in sizes])[0]


def _makes_a_row(collated: Callable[[Sequence[int]], Any], place: int) -> bool:
    try:
        alone = collated([place])
    except Exception:  # what is dropped leaves nothing to stack
        return False
    found = tensors(alone).values()
    return alone is not None and any(tensor.numel() for tensor in found)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    return type(a) is type(b) and (a == b if isinstance(a, str | int | float | bytes | bool | type(None)) else True)


def _matched(
    collated: Callable[[Sequence[int]], Any], kept: Sequence[int], data: Any, axes: Axes
) -> tuple[int, ...] | None:
    """Each row's example, by what the example looks like alone; equal examples may stand for each other."""
    found: dict[int, int] = {}
    for place in kept:
        try:
            alone = collated([place])
        except Exception:
            return None
        fits = torch.ones(len(kept), dtype=torch.bool)
        for path, axis in axes.items():
            if axis is LIST:
                one = at(alone, path)
                fits &= torch.tensor([_alike(row, one[0]) for row in at(data, path)])
            else:
                fits &= _rows_like(at(data, path), at(alone, path), int(str(axis)))
        row = next((row for row in torch.nonzero(fits)[:, 0].tolist() if row not in found), None)
        if row is None:
            return None
        found[row] = place
    return tuple(found[row] for row in range(len(kept)))


def _rows_like(whole: Tensor, alone: Tensor, axis: int) -> Tensor:
    """``(n,)``: which rows begin with the one example; padding beyond it is not looked at."""
    whole, one = whole.movedim(axis, 0), alone.movedim(axis, 0)[:1]
    for number in range(1, whole.ndim):
        length = min(whole.shape[number], one.shape[number])
        whole, one = whole.narrow(number, 0, length), one.narrow(number, 0, length)
    same = (whole == one) | ((whole != whole) & (one != one))
    return same.reshape(len(whole), -1).all(1).cpu()
