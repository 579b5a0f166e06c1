"""Blocks of a similarity map, and stages of a network."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.cka import block_score, find_blocks
from lightning_dynamics.analyses.cka.structure import stages


def with_blocks(size: int, *blocks: tuple[int, int], inside: float = 0.95) -> Tensor:
    matrix = torch.full((size, size), 0.2, dtype=torch.float64)
    for start, stop in blocks:
        matrix[start:stop, start:stop] = inside
    return matrix.fill_diagonal_(1)


def best_by_brute_force(matrix: Tensor, threshold: float, min_length: int) -> int:
    """Most pairs that disjoint blocks can cover, by trying every set of intervals."""
    size = len(matrix)
    valid = [
        (a, b)
        for a in range(size)
        for b in range(a + min_length, size + 1)
        if all(matrix[i, j] >= threshold and matrix[j, i] >= threshold for i, j in combinations(range(a, b), 2))
    ]

    def best(begin: int) -> int:
        return max(
            ((b - a) * (b - a - 1) // 2 + best(b) for a, b in valid if a >= begin),
            default=0,
        )

    return best(0)


def test_identity_has_no_block():
    assert find_blocks(torch.eye(8)) == []
    assert block_score([], 8) == 0


def test_all_alike_is_one_block():
    assert find_blocks(torch.ones(8, 8)) == [(0, 8)]
    assert block_score([(0, 8)], 8) == 1


def test_two_blocks():
    matrix = with_blocks(10, (1, 4), (5, 10))
    assert find_blocks(matrix) == [(1, 4), (5, 10)]
    assert block_score([(1, 4), (5, 10)], 10) == pytest.approx((3 + 10) / 45)


def test_adjacent_blocks_stay_apart():
    assert find_blocks(with_blocks(8, (0, 4), (4, 8))) == [(0, 4), (4, 8)]


def test_two_layers_are_no_block_unless_asked():
    matrix = with_blocks(5, (1, 3))
    assert find_blocks(matrix) == []
    assert find_blocks(matrix, min_length=2) == [(1, 3)]


def test_threshold():
    matrix = with_blocks(6, (0, 4), inside=0.9)
    assert find_blocks(matrix) == [(0, 4)]  # at least, not more than
    assert find_blocks(matrix, threshold=0.91) == []


def test_similarity_must_hold_both_ways():
    matrix = with_blocks(5, (0, 4))
    matrix[3, 0] = 0.1
    assert find_blocks(matrix) == [(0, 3)]


def test_the_longest_run_is_not_always_in_the_best_choice():
    # Taking [3, 8), the longest, first would leave nothing: [0, 4) and [4, 8) cover 12 pairs, not 10.
    assert find_blocks(with_blocks(8, (0, 4), (3, 8))) == [(0, 3), (3, 8)]
    matrix = with_blocks(11, (0, 5), (3, 8), (6, 11))
    assert find_blocks(matrix) == [(0, 5), (6, 11)]
    # From left to right greedily, [0, 4) would cost the block of six that begins at 2: 6 + 6 < 1 + 15.
    matrix = with_blocks(8, (0, 4), (2, 8))
    assert find_blocks(matrix) == [(2, 8)]


def test_a_layer_without_similarity_parts_blocks():
    matrix = with_blocks(9, (0, 9))
    matrix[4] = matrix[:, 4] = torch.nan
    assert find_blocks(matrix) == [(0, 4), (5, 9)]
    assert find_blocks(torch.full((5, 5), torch.nan)) == []


@pytest.mark.parametrize("size", [0, 1, 2])
def test_tiny_maps(size):
    assert find_blocks(torch.ones(size, size)) == []
    assert block_score([], size) == 0


@pytest.mark.parametrize("min_length", [2, 3, 4])
def test_no_choice_covers_more(min_length):
    generator = torch.Generator().manual_seed(min_length)
    hard = 0
    for _ in range(250):
        size = int(torch.randint(3, 10, (), generator=generator))
        # Bands of similarity, so that long and overlapping runs are frequent.
        place = torch.rand(size, generator=generator).mul(2).cumsum(0)
        noise = 0.3 * torch.rand(size, size, generator=generator)
        matrix = (1.1 - 0.1 * (place[:, None] - place[None]).abs() - noise).double()
        matrix = torch.maximum(matrix, matrix.T)
        blocks = find_blocks(matrix, threshold=0.7, min_length=min_length)
        edges = [edge for block in blocks for edge in block]
        assert edges == sorted(edges)
        for a, b in blocks:
            assert b - a >= min_length
            assert all(matrix[i, j] >= 0.7 for i, j in combinations(range(a, b), 2))
        covered = sum((b - a) * (b - a - 1) // 2 for a, b in blocks)
        assert covered == best_by_brute_force(matrix, 0.7, min_length)
        hard += len(blocks) > 1
    assert hard > 10  # the maps were not trivial


def test_stages_are_the_first_parts_of_names_that_differ():
    names = ["model.stem", "model.layer1.0.conv", "model.layer1.1.conv", "model.layer2.0.conv", "model.head"]
    assert stages(names) == {
        "model.stem": [0],
        "model.layer1": [1, 2],
        "model.layer2": [3],
        "model.head": [4],
    }


def test_many_layers_on_one_level_are_cut_by_depth():
    assert stages([f"net.{i}" for i in range(10)]) == {
        "early": [0, 1, 2, 3],
        "middle": [4, 5, 6],
        "late": [7, 8, 9],
    }


@pytest.mark.parametrize("names", [["a"], ["a", "a:2"], ["a.b", "a.b:2"], ["x.a", "x", "x.b.c"], ["a", "b"]], ids=str)
def test_every_layer_is_in_one_stage(names):
    members = [index for stage in stages(names).values() for index in stage]
    assert sorted(members) == list(range(len(names)))
    assert all(stages(names).values())


def test_lone_layers_join_their_neighbours():
    """A plain ResNet-18: ten names on the top level, of which four are stages."""
    blocks = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1)]
    names = ["conv1", "bn1", "relu", "maxpool", *blocks, "avgpool", "fc"]
    assert stages(names) == {
        "conv1": [0, 1, 2, 3],
        "layer1": [4, 5],
        "layer2": [6, 7],
        "layer3": [8, 9],
        "layer4": [10, 11],
        "avgpool": [12, 13],
    }
