"""Parameters as small pictures: nothing is lost, nothing is squashed, all of it stays within a budget."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_dynamics.analyses.loss_contribution.mosaic import BUDGET, MOST, cells, mosaic, plan

SHAPES = [
    *[(), (1,), (10,), (96,), (97,), (512,), (4609,), (100_003,)],
    *[(100, 784), (784, 100), (10, 50), (50, 10), (10, 10_000), (2, 99_999), (1, 77), (77, 1), (1000, 333)],
    *[(16, 1, 3, 3), (64, 3, 7, 7), (256, 128, 3, 3), (1, 8, 3, 3), (8, 1, 1, 1)],
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [1, 7, 100, MOST])
def test_cells_are_few_enough_and_add_up(shape, most):
    height, width = cells(shape, most)
    assert 1 <= height <= width and height * width <= most
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    picture = mosaic(tensor, (height, width))
    assert picture.shape == (height, width) and picture.dtype == torch.float32 and picture.is_contiguous()
    exact = tensor.double()
    assert picture.double().sum().item() == pytest.approx(exact.sum().item(), abs=1e-6 * exact.abs().sum().item())


def test_small_parameters_are_shown_whole():
    assert [cells(shape) for shape in [(), (10,), (10, 50), (50, 10), (16, 3, 3, 3)]] == [
        *[(1, 1), (1, 10), (10, 50), (10, 50), (16, 27)]
    ]
    matrix = torch.arange(12.0).view(3, 4)
    assert torch.equal(mosaic(matrix), matrix)
    assert torch.equal(mosaic(matrix.T.contiguous()), matrix), "wider than tall"
    vector = torch.arange(200.0)
    assert torch.equal(mosaic(vector), vector.view(4, 50)), "wrapped"


def test_large_parameters_keep_their_proportions():
    height, width = cells((1000, 2000))
    assert 1.8 < width / height < 2.2 and height * width > MOST / 2
    assert cells((10, 10_000))[0] == 10
    assert cells((50_257, 768))[0] > 20


@pytest.mark.parametrize(
    ("shape", "index", "cell"), [((100, 784), (99, 783), (33, 111)), ((784, 100), (783, 0), (0, 111))]
)
def test_an_element_lands_where_it_belongs(shape, index, cell):
    assert cells(shape) == (34, 112)
    tensor = torch.zeros(shape)
    tensor[index] = 1
    assert mosaic(tensor).nonzero().tolist() == [list(cell)]


def test_a_convolution_has_its_outputs_downwards():
    tensor = torch.zeros(16, 3, 3, 3)
    tensor[5, 1, 2, 0] = 1
    assert mosaic(tensor).nonzero().tolist() == [[5, 9 + 6]]


def test_neighbours_are_added_up():
    picture = mosaic(torch.arange(10.0), (1, 4))
    assert picture.tolist() == [[0 + 1 + 2, 3 + 4 + 5, 6 + 7 + 8, 9]]
    matrix = torch.arange(30.0).view(5, 6)
    blocks = [[matrix[i : i + 2, j : j + 3].sum().item() for j in (0, 3)] for i in (0, 2, 4)]
    assert mosaic(matrix, (3, 2)).tolist() == blocks


def test_sums_are_taken_in_float64():
    tensor = torch.full((4096, 1024), 1.0)
    tensor[0, 0] = 2.0**24
    assert mosaic(tensor, (1, 1)).item() == pytest.approx(2.0**24 + 4096 * 1024 - 1, rel=1e-7)
    half = torch.full((4096, 64), 1.0, dtype=torch.bfloat16)
    assert mosaic(half).sum() == 4096 * 64


def test_the_picture_is_a_copy():
    tensor = torch.ones(3, 4)
    picture = mosaic(tensor)
    tensor.zero_()
    assert picture.sum() == 12


def test_not_finite_elements_stay_in_their_cell():
    tensor = torch.zeros(10, 10)
    tensor[3, 3] = math.nan
    assert mosaic(tensor).isnan().sum() == 1


def test_no_elements():
    assert cells((0, 3)) == (0, 0)
    assert mosaic(torch.zeros(3, 0)).shape == (0, 0)


@pytest.mark.parametrize("count", [1, 10, 300, 3000])
def test_a_whole_network_stays_within_the_budget(count):
    shapes = {f"{i}": [(64, 64, 3, 3), (64,), (64, 64, 1, 1), ()][i % 4] for i in range(count)}
    planned = plan(shapes)
    assert list(planned) == list(shapes)
    assert sum(height * width for height, width in planned.values()) <= BUDGET
    assert all(height * width >= 1 for height, width in planned.values())


def test_small_parameters_leave_their_share_to_large_ones():
    planned = plan({"w": (300, 300), "b": (20,)}, budget=1000)
    assert planned["b"] == (1, 20) and 500 < math.prod(planned["w"]) <= 980
    assert plan({"w": (300, 300)}, budget=10**9)["w"] == cells((300, 300))
    assert plan({str(i): (3, 3) for i in range(5)}, budget=2) == {str(i): (1, 1) for i in range(5)}
    assert plan({}) == {}
