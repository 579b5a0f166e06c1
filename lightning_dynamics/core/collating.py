"""What a collate function does with its examples: keeps their order, sorts them, drops some, or merges them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, default_convert

from lightning_dynamics.core.batch_tree import Axes, Axis, Path, at, example_axes, rows, tensors, walk
from lightning_dynamics.core.random_state import seed_all

Collate = Callable[[list[Any]], Any]

_IN_ORDER = (default_collate, default_convert)


def keeps_order(collate: Collate) -> bool:
    """Whether a collate function is known to give one row per example, in their order."""
    return collate in _IN_ORDER


def sizes_to_compare(count: int) -> list[int]:
    """Numbers of examples that tell an axis of examples from others, the largest first."""
    return sorted({count, max(1, count - 1), max(1, count // 2)}, reverse=True)


def row_order(collate: Collate, items: Sequence[Any], data: Any) -> tuple[int, ...] | None:
    """For each row of a collated batch the place of its example among ``items``; None if nobody can tell.

    Found out by collating the same examples backwards; where the rows do not follow, by collating each one alone and
    looking for its row; where the function draws random numbers, or rows look alike, by exchanging examples.

    Args:
        collate: the function. Global random streams and its generators are moved: the caller preserves them.
        items: the examples; they are copied, since some functions change them.
        data: what it made of them.
    """
    count = len(items)
    if keeps_order(collate) or count == 1:
        return tuple(range(count))

    def collated(places: Sequence[int]) -> Any:
        return collate([copy.deepcopy(items[place]) for place in places])

    def same_draws(places: Sequence[int]) -> Any:
        seed_all(0, collate)
        return collated(places)

    kept = list(range(count))
    axes = _axes(collated, kept)
    if not axes:  # rows are not as many as examples: are some dropped?
        kept = [place for place in kept if _makes_a_row(collated, place)]
        axes = _axes(collated, kept) if 0 < len(kept) < count else {}
    if not axes:
        return None
    again, backwards = collated(kept), collated(kept[::-1])
    telling = {path: axis for path, axis in axes.items() if _alike(at(again, path), at(data, path))}
    if telling:
        order = _told(collated, kept, data, backwards, telling)
        if order is not None:
            return order
    return tuple(kept) if _each_row_is_its_own(same_draws, kept, axes) else None


def _told(
    collated: Callable[[Sequence[int]], Any], kept: list[int], data: Any, backwards: Any, telling: Axes
) -> tuple[int, ...] | None:
    """The order, from tensors that are the same each time; None if they do not tell."""
    turned = rows(data, telling, range(len(kept))[::-1])
    if all(_alike(at(turned, path), at(backwards, path)) for path in telling):
        # All rows look alike, say: then the examples are, or what tells them apart was not looked at.
        is_mirrored = all(_alike(at(turned, path), at(data, path)) for path in telling)
        if not is_mirrored or _covers(telling, data):
            return tuple(kept)
        return None
    return _matched(collated, kept, data, telling)


def _covers(telling: Axes, data: Any) -> bool:
    """Whether there is no tensor beside those that tell."""
    return all(any(path[: len(own)] == own for own in telling) for path in tensors(data))


def _each_row_is_its_own(same_draws: Callable[[Sequence[int]], Any], kept: Sequence[int], axes: Axes) -> bool:
    """Whether row i is made of example i alone, the random numbers aside.

    Half of the examples are replaced by one of them, from the same seed: a row stays as it was if and only if its own
    example has stayed. The halves are such that any two examples are parted.
    """
    alone = {place: same_draws([place]) for place in kept}
    lengths = {place: sum(tensor.numel() for tensor in tensors(one).values()) for place, one in alone.items()}
    standing_in = max(kept, key=lambda place: lengths[place])  # the longest: padding stays as it is
    before = same_draws(kept)
    changed = {row for row, place in enumerate(kept) if _wholly_alike(alone[place], alone[standing_in])}
    for bit in range(max(1, (len(kept) - 1).bit_length())):
        for half in (0, 1):
            goes = [row >> bit & 1 == half for row in range(len(kept))]
            after = same_draws([standing_in if gone else place for gone, place in zip(goes, kept, strict=True)])
            for row, gone in enumerate(goes):
                stays = all(
                    _alike(_row(before, path, axis, row), _row(after, path, axis, row)) for path, axis in axes.items()
                )
                if not gone and not stays:
                    return False
                changed |= {row} if not stays else set()
    return len(changed) == len(kept)


def _row(data: Any, path: Path, axis: Axis, row: int) -> Any:
    node = at(data, path)
    if isinstance(axis, int):
        return node.select(axis, row) if row < node.shape[axis] else None
    return node[row] if row < len(node) else None


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
    alone, fitting = {}, {}
    for place in kept:
        try:
            alone[place] = collated([place])
        except Exception:
            return None
        fits = torch.ones(len(kept), dtype=torch.bool)
        for path, axis in axes.items():
            node, one = at(data, path), at(alone[place], path)
            if isinstance(axis, int):
                fits &= _rows_like(node, one, axis)
            else:
                fits &= torch.tensor([_alike(row, one[0]) for row in node])
        fitting[place] = set(torch.nonzero(fits)[:, 0].tolist())
    found: dict[int, int] = {}
    while fitting:  # the beginning of a longer example fits in several rows: first those that fit in one
        place = min(fitting, key=lambda place: len(fitting[place]))
        free = fitting.pop(place)
        if not free:
            return None
        same = [other for other, own in fitting.items() if own == free]
        if len(free) > 1 and not (
            len(same) + 1 == len(free) and all(_wholly_alike(alone[place], alone[other]) for other in same)
        ):
            return None
        found[min(free)] = place
        fitting = {other: own - {min(free)} for other, own in fitting.items()}
    return tuple(found[row] for row in range(len(kept)))


def _wholly_alike(a: Any, b: Any) -> bool:
    """Whether two batches of one example are the same, so that it does not matter which is which."""
    nodes, others = dict(walk(a)), dict(walk(b))
    return nodes.keys() == others.keys() and all(
        _alike(node, others[path]) for path, node in nodes.items() if isinstance(node, Tensor | str | int | float)
    )


def _rows_like(whole: Tensor, alone: Tensor, axis: int) -> Tensor:
    """``(n,)``: which rows begin with the one example; padding beyond it is not looked at."""
    whole, one = whole.movedim(axis, 0), alone.movedim(axis, 0)[:1]
    for number in range(1, whole.ndim):
        length = min(whole.shape[number], one.shape[number])
        whole, one = whole.narrow(number, 0, length), one.narrow(number, 0, length)
    same = (whole == one) | ((whole != whole) & (one != one))
    return same.reshape(len(whole), -1).all(1).cpu()
