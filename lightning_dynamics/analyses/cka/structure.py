"""Block structure of a similarity map: where runs of layers are all alike.

[N21] (Nguyen, Raghu, Kornblith, ICLR 2021) show blocks and judge them by eye; the definition below is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_dynamics.figures.names import common_parts

THRESHOLD = 0.9
MIN_LENGTH = 3


def find_blocks(matrix: Tensor, *, threshold: float = THRESHOLD, min_length: int = MIN_LENGTH) -> list[tuple[int, int]]:
    """Blocks of a square similarity map.

    A block is a run of at least ``min_length`` consecutive layers whose every pairwise similarity is at least
    ``threshold``. Of all sets of disjoint blocks, the one that covers the most pairs of layers is returned
    (found exactly, by dynamic programming over the last layer).

    Args:
        matrix: ``(L, L)``; NaN is similar to nothing.
        threshold: similarity within a block.
        min_length: layers in a block.

    Returns:
        Half-open ``(start, stop)`` extents, in order.
    """
    alike = (torch.minimum(matrix, matrix.T) >= threshold).tolist()
    size = len(alike)
    earliest = 0  # the first layer of the longest run of mutually alike layers that ends here
    covered = [0] * (size + 1)  # pairs covered by the best blocks among the first k layers
    start_of: list[int | None] = [None] * (size + 1)
    for stop in range(1, size + 1):
        last = stop - 1
        while earliest < last and not all(alike[k][last] for k in range(earliest, last)):
            earliest += 1
        covered[stop] = covered[last]
        for start in range(earliest, stop - min_length + 1):
            pairs = covered[start] + (stop - start) * (stop - start - 1) // 2
            if pairs > covered[stop]:
                covered[stop], start_of[stop] = pairs, start
    blocks: list[tuple[int, int]] = []
    stop = size
    while stop > 0:
        begin = start_of[stop]
        if begin is not None:
            blocks.append((begin, stop))
        stop = stop - 1 if begin is None else begin
    return blocks[::-1]


def block_score(blocks: list[tuple[int, int]], num_layers: int) -> float:
    """Share of all pairs of layers that lie within one block: 0 without blocks, 1 for a single one."""
    pairs = num_layers * (num_layers - 1) // 2
    return sum((b - a) * (b - a - 1) // 2 for a, b in blocks) / pairs if pairs else 0.0


def stages(names: list[str], *, limit: int = 8) -> dict[str, list[int]]:
    """Layers grouped by stage: by the first part of their names that differs between them.

    With more than ``limit`` groups, neighbours of one layer each become one, named after the first. Networks that
    then have one group, or still more than ``limit``, are cut into three by depth instead.
    """
    depth = common_parts(names)
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(".".join(name.split(".")[: depth + 1]), []).append(index)
    if len(groups) > limit:
        joined: dict[str, list[int]] = {}
        single = ""  # the run of single layers that the next one joins
        for name, members in groups.items():
            single = "" if len(members) > 1 else single or name
            joined.setdefault(single or name, []).extend(members)
        groups = joined
    if 1 < len(groups) <= limit:
        return groups
    thirds = torch.arange(len(names)).tensor_split(3)
    return {name: part.tolist() for name, part in zip(("early", "middle", "late"), thirds, strict=True) if len(part)}
