from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from lightning_dynamics.nn import AddCoordinates
from lightning_dynamics.nn.coordinates import _kept_grid
from tests.nn import reference

SIZES = [(4, 4), (3, 7), (8, 2), (1, 5), (6, 1), (1, 1)]


@pytest.mark.parametrize("radius", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_channels_are_x_y_and_r_of_every_pixel(size: tuple[int, int], radius: bool) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    out = AddCoordinates(radius)(x)
    assert torch.equal(out[:, :3], x)
    for example in out:
        torch.testing.assert_close(example[3:], reference.coordinates(*size, radius), rtol=0, atol=1e-15)


def test_the_axes_are_not_swapped_as_in_the_authors_code() -> None:
    """Their x on a map of 3 rows and 9 columns ends at 2 * 8 / (3 - 1) - 1 = 7, their y at 2 * 2 / 8 - 1 = -0.5."""
    x, y = AddCoordinates()(torch.zeros(1, 0, 3, 9))[0]
    assert x[:, 0].eq(-1).all() and x[:, -1].eq(1).all() and (x[0] == x).all()
    assert y[0].eq(-1).all() and y[-1].eq(1).all() and (y[:, :1] == y).all()
    assert x[0].diff().allclose(torch.tensor(0.25)) and y[:, 0].diff().allclose(torch.tensor(1.0))


def test_the_halves_mirror_each_other_to_the_bit() -> None:
    grid = AddCoordinates(radius=True)(torch.zeros(1, 0, 49, 51))[0]
    assert torch.equal(grid[0], -grid[0].flip(1)) and torch.equal(grid[1], -grid[1].flip(0))
    assert torch.equal(grid[2], grid[2].flip(0, 1)) and grid[2, 24, 25] == 0
    assert grid[2, 0, 0] == torch.tensor(2.0).sqrt()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtype_follows_the_input_and_is_rounded_once(dtype: torch.dtype) -> None:
    out = AddCoordinates(radius=True)(torch.zeros(2, 1, 5, 11, dtype=dtype))
    assert out.dtype == dtype
    # float64 -> float32 -> half may round twice: at most one unit in the last place of half precision.
    exact = reference.coordinates(5, 11, True)
    torch.testing.assert_close(out[0, 1:].double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-16)


def test_one_example_without_a_batch() -> None:
    x = torch.randn(3, 4, 6)
    layer = AddCoordinates(radius=True)
    assert torch.equal(layer(x), layer(x[None])[0])


def test_channels_last_stays() -> None:
    layer = AddCoordinates(radius=True)
    x = torch.randn(2, 5, 4, 6)
    last = x.to(memory_format=torch.channels_last)
    out = layer(last)
    assert out.is_contiguous(memory_format=torch.channels_last) and torch.equal(out, layer(x))
    assert layer(x).is_contiguous()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_many_at_once(order: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 6).to(memory_format=order)
    layer = AddCoordinates(radius=True)
    assert torch.equal(torch.vmap(layer)(x), layer(x))
    together = torch.vmap(layer)(torch.stack([x, 2 * x], 4).movedim(4, 0))
    assert torch.equal(together, torch.stack([layer(x), layer(2 * x)]))


def test_gradients_pass_through() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(AddCoordinates(radius=True), x)


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.zeros(1, 2, 3, 4, 5)], ids=["2d", "5d"])
def test_other_dimensions_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(N, C, H, W\) or \(C, H, W\)"):
        AddCoordinates()(x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str)
def test_whole_numbers_cannot_hold_coordinates(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="floating point"):
        AddCoordinates()(torch.zeros(1, 1, 2, 2, dtype=dtype))


def test_grids_are_kept_but_not_without_end() -> None:
    _kept_grid.cache_clear()
    layer = AddCoordinates()
    layer(torch.zeros(1, 1, 5, 6))
    layer(torch.zeros(7, 2, 5, 6))
    AddCoordinates()(torch.zeros(5, 6)[None])
    assert (_kept_grid.cache_info().misses, _kept_grid.cache_info().hits) == (1, 2)
    for side in range(1, 100):
        layer(torch.zeros(1, 1, side, 2))
    assert _kept_grid.cache_info().currsize <= 16


def test_a_grid_kept_from_inference_mode_can_be_trained_with() -> None:
    _kept_grid.cache_clear()
    model = nn.Sequential(AddCoordinates(), nn.Conv2d(3, 2, 1))
    x = torch.randn(2, 1, 3, 4)
    with torch.inference_mode():
        inside = model(x)
    model(x).sum().backward()
    assert model[1].weight.grad is not None and torch.equal(model(x), inside)


def test_fake_tensors_leave_no_grid_behind() -> None:
    from torch._subclasses import FakeTensorMode

    _kept_grid.cache_clear()
    layer = AddCoordinates()
    layer(torch.zeros(1, 1, 3, 3))
    with FakeTensorMode() as mode:
        assert layer(mode.from_tensor(torch.zeros(1, 1, 3, 3))).shape == (1, 3, 3, 3)
        assert layer(torch.zeros(1, 1, 2, 5)).shape == (1, 3, 2, 5)
    assert _kept_grid.cache_info().currsize == 1
    assert type(layer(torch.zeros(1, 1, 2, 5))) is torch.Tensor


def test_the_grid_is_no_state() -> None:
    layer = AddCoordinates(radius=True)
    x = torch.zeros(1, 1, 4, 4)
    before = layer(x)
    assert not layer.state_dict() and not list(layer.buffers()) and vars(layer).keys() == vars(AddCoordinates()).keys()
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    for other in (copy.deepcopy(layer), torch.load(saved, weights_only=False)):
        assert torch.equal(other(x), before)


def test_what_comes_out_may_be_written_into() -> None:
    layer = AddCoordinates()
    layer(torch.zeros(0, 4, 5)).mul_(0)
    layer(torch.zeros(1, 0, 4, 5)).mul_(0)
    assert layer(torch.zeros(1, 0, 4, 5))[0, 0, 0, 0] == -1
