"""What a collate function does with its examples: keeps their order, sorts them, drops some, or merges them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import combinations, count, islice
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import default_collate, default_convert

from lightning_dynamics.core.batch_tree import Axes, Axis, Path, at, example_axes, tensors, walk
from lightning_dynamics.core.batch_tree import items as items_of
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

    Found out by collating some of the examples exchanged for others: which rows change? Where rows do not follow their
    examples, by collating each example alone and looking for its row.

    Args:
        collate: the function. Global random streams and its generators are moved: the caller preserves them.
        items: the examples; they are copied, since some functions change them.
        data: what it made of them.
    """
    if keeps_order(collate) or len(items) == 1:
        return tuple(range(len(items)))

    def collated(places: Sequence[int]) -> Any:
        return collate([copy.deepcopy(items[place]) for place in places])

    def same_draws(places: Sequence[int]) -> Any:
        seed_all(0, collate)
        return collated(places)

    kept = list(range(len(items)))
    axes = _axes(collated, kept)
    if not axes:  # rows are not as many as examples: are some dropped?
        kept = [place for place in kept if _makes_a_row(collated, place)]
        axes = _axes(collated, kept) if 0 < len(kept) < len(items) else {}
    if not axes:
        return None
    longest = max(kept, key=lambda place: _length(items[place]))
    if len(kept) == 1 or _keeps_rows(same_draws, kept, axes, standing_in=longest):
        return tuple(kept)
    again = collated(kept)
    telling = {path: axis for path, axis in axes.items() if _alike(at(again, path), at(data, path))}
    return _matched(collated, kept, data, telling) if telling else None


def _keeps_rows(same_draws: Callable[[Sequence[int]], Any], kept: Sequence[int], axes: Axes, standing_in: int) -> bool:
    """Whether row i is made of example i and of no other, random numbers aside.

    Some of the examples are replaced by one of them, from the same seed: a row must stay as it was while its own
    example stays, and change when that does. Of any two examples, each is replaced once while the other stays.

    Args:
        same_draws: collates examples from one seed.
        kept: the examples.
        axes: of the examples.
        standing_in: for others; the longest, so that padding stays as it is.
    """
    trials = next(m for m in count(2) if comb(m, m // 2) >= len(kept))
    marks = list(islice(combinations(range(trials), trials // 2), len(kept)))
    before = same_draws(kept)
    changed: set[int] = set()
    for trial in range(trials):
        goes = [trial in mark for mark in marks]
        after = same_draws([standing_in if gone else place for gone, place in zip(goes, kept, strict=True)])
        for row, gone in enumerate(goes):
            if all(_alike(_row(before, path, axis, row), _row(after, path, axis, row)) for path, axis in axes.items()):
                continue
            if not gone:
                return False
            changed.add(row)
    unchanged = [place for row, place in enumerate(kept) if row not in changed]
    return all(_wholly_alike(same_draws([place]), same_draws([standing_in])) for place in unchanged)


def _length(item: Any) -> int:
    """How many numbers, or letters, there are in an example."""
    length = 0
    for _, node in walk(item):
        if isinstance(node, Tensor):
            length += node.numel()
        elif isinstance(node, np.ndarray):
            length += node.size
        elif isinstance(node, str | list):
            length += len(node)
    return length


def _row(data: Any, path: Path, axis: Axis, row: int) -> Any:
    node = at(data, path)
    if isinstance(axis, int):
        return node.select(axis, row) if row < node.shape[axis] else None
    return node[row] if row < len(node) else None


def _axes(collated: Callable[[Sequence[int]], Any], kept: Sequence[int]) -> Axes:
    """Where the examples lie; found with examples from both ends, since lengths may grow with the examples."""
    if len(kept) == 1:
        parts = [[*kept, *kept], list(kept)]
    else:
        sizes = sizes_to_compare(len(kept))
        parts = [list(kept), *(list(part) for size in sizes[1:] for part in (kept[:size], kept[-size:]))]
    try:
        return example_axes([(collated(part), len(part)) for part in parts])[0]
    except Exception:  # all of one part are dropped, say
        return {}


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
    leaves = {path: node for path, node in nodes.items() if items_of(node) is None}
    return nodes.keys() == others.keys() and all(_known_alike(node, others[path]) for path, node in leaves.items())


def _known_alike(a: Any, b: Any) -> bool:
    if isinstance(a, PackedSequence):
        return isinstance(b, PackedSequence) and _alike(a.data, b.data) and _alike(a.batch_sizes, b.batch_sizes)
    return isinstance(a, _COMPARED) and _alike(a, b)


_COMPARED = (Tensor, np.ndarray, str, int, float, bytes, bool, type(None))


def _rows_like(whole: Tensor, alone: Tensor, axis: int) -> Tensor:
    """``(n,)``: which rows begin with the one example; padding beyond it is not looked at."""
    whole, one = whole.movedim(axis, 0), alone.movedim(axis, 0)[:1]
    for number in range(1, whole.ndim):
        length = min(whole.shape[number], one.shape[number])
        whole, one = whole.narrow(number, 0, length), one.narrow(number, 0, length)
    same = (whole == one) | ((whole != whole) & (one != one))
    return same.reshape(len(whole), -1).all(1).cpu()
