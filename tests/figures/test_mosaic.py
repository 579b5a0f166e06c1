"""Frames of a film: every cell can be seen, tiles do not overlap, frames fit."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lightning_dynamics.figures import mosaic_frame
from lightning_dynamics.figures.diverging import NEGATIVE, POSITIVE
from lightning_dynamics.figures.packing import LABEL, pack
from lightning_dynamics.figures.scale import STRIPE
from tests.figures.colours import TITLES, box, greenish, mask, purplish

MLP = ((50, 112), (1, 100), (50, 100), (1, 50), (10, 50), (1, 10))
RESNET = (((16, 27),) + ((16, 144), (1, 16), (1, 16)) * 19 + ((10, 64), (1, 10)))[:61]
HUGE = ((300, 2000), (1500, 30), (1, 1))


def frame(tiles, bars=(-1.0, 1.0), **more):
    names = [f"layer{i}.weight" for i in range(len(tiles))]
    given = {"tile_names": names, "tile_limit": 1.0, "bars": bars, "bar_limits": (-1, 1), **TITLES, **more}
    return mosaic_frame(tiles, bar_names=[f"layer{i}" for i in range(len(given["bars"]))], **given)


def inside(image):
    """The cells of the only tile: what lies in its frame."""
    frame = mask(image, "#bbbbbb")
    rows, columns = np.flatnonzero(frame.sum(axis=1) > 60), np.flatnonzero(frame.sum(axis=0) > 60)
    return image[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]


@pytest.mark.parametrize("shapes", [MLP, RESNET, HUGE, ((1, 1),), ((1, 5000),)])
def test_tiles_stay_in_their_room_and_do_not_overlap(shapes):
    places, height = pack(tuple(shapes), (100,) * len(shapes), 1252, 700)
    taken = np.zeros((height, 1252), dtype=int)
    for (h, w), tile in zip(shapes, places, strict=True):
        h, w = -(-h // tile.pooled) * tile.down, -(-w // tile.pooled) * tile.across
        assert tile.top >= LABEL and tile.top + h <= height and tile.left + w <= 1252
        taken[tile.top - LABEL : tile.top + h, tile.left : tile.left + w] += 1
    assert taken.max() == 1
    assert height <= 700 or shapes is HUGE
    assert all(tile.pooled == 1 and tile.across >= 2 for tile in places) or shapes not in (MLP, RESNET)


def test_small_tiles_have_larger_cells_but_are_not_larger():
    places, _ = pack(RESNET, (100,) * len(RESNET), 1252, 700)
    vector, matrix = places[2], places[1]
    assert vector.across > matrix.across and vector.down >= 8
    assert vector.across * 16 < matrix.across * 144


def test_a_cell_is_green_below_zero_and_purple_above():
    tile = np.zeros((6, 8))
    tile[:3, :4], tile[3:, 4:] = -1.0, 1.0
    image = frame([tile], bars=[0.0])
    area = inside(image)
    h, w = area.shape[0] // 2 - 2, area.shape[1] // 2 - 2
    assert greenish(area[:h, :w]).all() and purplish(area[-h:, -w:]).all()
    assert (area[:h, -w:] > 240).all() and (area[-h:, :w] > 240).all()


def test_small_values_show_beside_large_ones():
    image = frame([np.full((6, 8), -0.02)], bars=[0.0])
    assert greenish(inside(image)).all()


def test_missing_cells_are_hatched():
    image = frame([np.full((20, 20), np.nan)], bars=[np.nan])
    assert mask(image, np.array(STRIPE) / 255).sum() > 1000
    assert not mask(image, NEGATIVE).any() and not mask(image, POSITIVE).any()


def test_bars_that_help_go_down():
    image = frame([np.zeros((4, 4))], bars=[-0.5, 0.5, np.nan])
    green, purple = box(mask(image, NEGATIVE)), box(mask(image, POSITIVE))
    assert purple[1] <= green[0] + 2 and green[3] < purple[2]
    assert green[1] - green[0] == pytest.approx(purple[1] - purple[0], abs=3)
    beyond = mask(frame([np.zeros((4, 4))], bars=[-9, 0.5]), NEGATIVE).sum(axis=1)
    beyond = beyond[beyond > 0]
    assert beyond[-4] < beyond[0] - 6  # A white head points down.


def test_frames_of_one_film_fit():
    x, y = np.arange(200), np.linspace(2, 0.1, 200)
    rng = np.random.default_rng(0)
    frames = [
        frame(
            [scale * rng.standard_t(2, size=shape) for shape in RESNET],
            bars=scale * rng.normal(size=20),
            title=str(scale) * 50,
            curve=(x, y, at),
        )
        for scale, at in ((0.0, 0), (np.nan, 99.5), (1e9, 5000))
    ]
    assert len({image.shape for image in frames}) == 1
    assert frames[0].shape[0] <= 1300 and 1100 <= frames[0].shape[1] <= 1500


def test_the_dot_is_on_the_curve():
    tiles, x, y = [np.zeros((9, 9))], np.arange(101), np.linspace(1, 0, 101)
    early, late = (frame(tiles, curve=(x, y, at), curve_title="loss").astype(int) for at in (10, 90))
    changed = box((early != late).any(axis=2))
    assert 200 < changed[3] - changed[2] < 330 and 80 < changed[1] - changed[0] <= 152
    frame(tiles, curve=([3], [np.nan], 3))


def test_the_same_bytes_twice_and_quickly():
    tiles = [np.random.default_rng(0).normal(size=shape) for shape in RESNET]
    first = frame(tiles)
    start = time.perf_counter()
    second = frame(tiles)
    assert time.perf_counter() - start < 3  # Usually 0.1 s; room for a busy machine.
    np.testing.assert_array_equal(first, second)


def test_complaints():
    with pytest.raises(ValueError, match="tiles"):
        frame([])
    with pytest.raises(ValueError, match="tiles"):
        frame([np.zeros(3)])
    with pytest.raises(ValueError, match="names"):
        frame([np.zeros((3, 3))], tile_names=["a", "b"])
    with pytest.raises(ValueError, match="limits"):
        frame([np.zeros((3, 3))], tile_limit=0.0)
    with pytest.raises(ValueError, match="curve"):
        frame([np.zeros((3, 3))], curve=([1, 2], [1.0], 1))
