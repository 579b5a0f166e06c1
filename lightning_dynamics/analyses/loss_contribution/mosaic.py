"""Parameters of any shape as small pictures: neighbours are added up where there are too many of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MOST = 48 * 96
"""Cells of one parameter's picture."""
BUDGET = 24_000
"""Cells of a network's picture."""
WIDEST = 120
"""Cells of a picture from left to right."""
_ROW = 96  # a longer vector is wrapped to several rows


def cells(shape: Sequence[int], most: int = MOST) -> tuple[int, int]:
    """Height and width of a parameter's picture.

    Its first dimension runs down and the rest of them to the right; the other way round if that would be taller than
    wide. A vector is one row, wrapped to several if it is long. What does not fit into ``most`` cells is shrunk by
    whole factors, as far as possible alike in both directions.

    Args:
        shape: of the parameter; ``()`` is a scalar.
        most: cells it may have, from 1 up.

    Returns:
        ``(h, w)``, ``h`` at most ``w``; ``(0, 0)`` for a parameter without elements.
    """
    rows, columns = _view(shape)
    if not columns:
        return 0, 0
    if rows == 1:
        return _wrapped(columns, most)
    shrink = math.sqrt(rows * columns / most)
    across = max(1, math.floor(shrink), math.ceil(columns / min(WIDEST, most)))
    width = math.ceil(columns / across)
    down = math.ceil(rows / max(1, most // width))
    return math.ceil(rows / down), width


def plan(shapes: Mapping[str, Sequence[int]], budget: int = BUDGET) -> dict[str, tuple[int, int]]:
    """Height and width of every parameter's picture, so that all of them stay within a budget.

    Small parameters are shown whole; what they leave is shared equally among the large ones. Every parameter has at
    least one cell, even if there are more of them than the budget has.

    Args:
        shapes: of the parameters, by name.
        budget: cells of all together.

    Returns:
        ``(h, w)`` by name, as from :func:`cells`.
    """
    low, high = 1, MOST  # the most cells one parameter may have: as many as the budget allows
    while low < high:
        middle = (low + high + 1) // 2
        if sum(math.prod(cells(shape, middle)) for shape in shapes.values()) <= budget:
            low = middle
        else:
            high = middle - 1
    return {name: cells(shape, low) for name, shape in shapes.items()}


def mosaic(tensor: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """A parameter's picture, whose cells add up to what its elements add up to.

    Args:
        tensor: any shape, any float dtype.
        size: ``(h, w)`` from :func:`cells` or :func:`plan`; by default ``cells(tensor.shape)``.

    Returns:
        ``(h, w)`` float32 on the tensor's device; sums are taken in float64. Cells behind the end of a wrapped
        vector are 0.
    """
    height, width = cells(tensor.shape) if size is None else size
    rows, columns = _view(tensor.shape)
    if not columns:
        return torch.zeros(height, width, dtype=torch.float32, device=tensor.device)
    if rows == 1:
        summed = _blocks(tensor.reshape(-1), math.ceil(columns / (height * width)), dim=0)
        summed = torch.nn.functional.pad(summed, (0, height * width - len(summed))).view(height, width)
    else:
        upright = tensor.reshape(len(tensor), -1)
        turned = len(upright) > rows
        down, right = math.ceil(rows / height), math.ceil(columns / width)
        summed = _blocks(upright, right if turned else down, dim=0)
        summed = _blocks(summed, down if turned else right, dim=1)
        summed = summed.T if turned else summed
    return summed.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _view(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a parameter looked at as a matrix, no taller than wide."""
    elements = math.prod(shape)
    if not elements:
        return 0, 0
    first = shape[0] if shape else 1
    return min(first, elements // first), max(first, elements // first)


def _wrapped(length: int, most: int) -> tuple[int, int]:
    """Height and width of a vector's picture: rows without a rest, if a few more of them make that possible."""
    block = math.ceil(length / most)
    while True:
        count = math.ceil(length / block)
        fewest = math.ceil(count / _ROW)
        height = next((rows for rows in range(fewest, 2 * fewest) if count % rows == 0), fewest)
        width = math.ceil(count / height)
        if height * width <= most:
            return height, width
        block += 1


def _blocks(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Sums over blocks of ``size`` neighbours along a dimension, in float64; the last may be smaller."""
    if size == 1:
        return tensor
    whole = tensor.shape[dim] // size
    parts = tensor.narrow(dim, 0, whole * size).unflatten(dim, (whole, size)).sum(dim + 1, dtype=torch.float64)
    rest = tensor.shape[dim] - whole * size
    if not rest:
        return parts
    return torch.cat([parts, tensor.narrow(dim, whole * size, rest).sum(dim, keepdim=True, dtype=torch.float64)], dim)
