"""The landscape from above: what is where, in which colour, and that nothing covers anything."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from lightning_dynamics.figures import contour_map
from lightning_dynamics.figures.relief import HeightScale, log_ticks, relief, value_texts
from lightning_dynamics.figures.scale import MISSING, STRIPE
from lightning_dynamics.figures.trail import place_names
from tests.figures.colours import TITLES, box, mask

XS, YS = np.linspace(-1, 1, 7), np.linspace(0, 1.5, 5)
RIM = "#1b2733"


def draw(values, xs=None, ys=None, **more):
    values = np.asarray(values, dtype=float)
    xs = XS if xs is None else xs
    ys = YS if ys is None else ys
    titles = {"x_title": "direction 1", "y_title": "direction 2", "colorbar_label": "loss", **TITLES}
    return contour_map(values, xs, ys, **{**titles, **more})


def grid(**cells):
    values = np.zeros((5, 7))
    for place, value in cells.items():
        values[int(place[1]), int(place[2])] = value
    return values


def field(xs=XS, ys=YS, path=None):
    """The edges of the map: where two flat landscapes differ, left of the colour bar."""
    return _field(tuple(xs), tuple(ys), path is not None)


@lru_cache
def _field(xs, ys, path):
    more = {"limits": (0, 1), "levels": 0, "xs": xs, "ys": ys, "path": [] if path else None}
    low, high = (draw(np.full((len(ys), len(xs)), value), **more).astype(int) for value in (0.2, 0.8))
    return box((low != high).any(axis=2))


def crop(values, **more):
    top, bottom, left, right = field(**{name: more[name] for name in ("xs", "ys", "path") if name in more})
    return draw(values, **more)[top:bottom, left:right]


@pytest.mark.parametrize("row, column", [(0, 0), (0, 6), (4, 0), (4, 6), (1, 4)])
def test_row_0_is_below_and_column_0_on_the_left(row, column):
    values = np.zeros((5, 7))
    values[row, column] = 1.0
    image = crop(values, limits=(0, 1), levels=0).astype(int)
    bright = image.sum(axis=2)[2:-2, 2:-2]
    y, x = np.unravel_index(bright.argmax(), bright.shape)
    height, width = bright.shape
    assert x / width == pytest.approx(column / 6, abs=0.03)
    assert 1 - y / height == pytest.approx(row / 4, abs=0.03)


def test_coordinates_are_true_to_scale():
    xs = np.array([0.0, 0.1, 0.2, 2.0])
    values = np.zeros((3, 4))
    values[:, 1] = 1.0
    area = crop(values, xs=xs, ys=np.array([0.0, 1.0, 1.5]), limits=(0, 1), levels=0).astype(int)
    assert area[50].sum(axis=1).argmax() / area.shape[1] == pytest.approx(0.1 / 2, abs=0.01)
    top, bottom, left, right = field(xs=xs, ys=np.array([0.0, 1.0, 1.5]))
    assert (right - left) / (bottom - top) == pytest.approx(2 / 1.5, rel=0.01)
    top, bottom, left, right = field(xs=np.array([0.0, 100.0]))
    assert (right - left) / (bottom - top) == pytest.approx(2.5, rel=0.02)


def test_grid_points_have_the_colour_of_their_values():
    values = np.random.default_rng(0).random((5, 7))
    scale = HeightScale(0, 1, "viridis", "", log=False)
    area = crop(values, limits=(0, 1), levels=0, cmap="viridis")
    height, width = area.shape[:2]
    for i in (1, 2, 3):
        for j in range(1, 6):
            at = area[round((1 - i / 4) * height), round(j / 6 * width)].astype(int)
            assert abs(at - scale.colours(np.array(values[i, j]))).max() < 25, (i, j)


def test_the_surface_never_leaves_the_range_of_a_cell():
    rng = np.random.default_rng(0)
    ys, xs = np.cumsum(rng.random(8) + 0.05), np.cumsum(rng.random(6) + 0.05)
    values = np.exp(3 * rng.normal(size=(8, 6)))
    land = relief(values, xs, ys, None, log=False)
    fine, _ = land.at(np.linspace(xs[0], xs[-1], 301), np.linspace(ys[0], ys[-1], 401))
    rows = np.clip(np.searchsorted(ys, np.linspace(ys[0], ys[-1], 401), side="right") - 1, 0, 6)
    columns = np.clip(np.searchsorted(xs, np.linspace(xs[0], xs[-1], 301), side="right") - 1, 0, 4)
    corners = np.stack([values[rows + i][:, columns + j] for i in (0, 1) for j in (0, 1)])
    assert (fine >= corners.min(axis=0) - 1e-9).all() and (fine <= corners.max(axis=0) + 1e-9).all()
    on_grid, _ = land.at(xs, ys)
    np.testing.assert_allclose(on_grid, values)


def test_a_bowl_stays_a_bowl_between_the_points():
    xs = np.linspace(-2, 2, 9)
    land = relief(xs[None] ** 2 + xs[:, None] ** 2, xs, xs, None, log=False)
    fine = np.linspace(-2, 2, 101)
    away = np.abs(land.at(fine, fine)[0] - (fine[None] ** 2 + fine[:, None] ** 2))
    assert away.max() < 0.05  # A linear interpolation is wrong by 2 · (0.5 / 2)² = 0.125.


def test_what_is_not_finite_is_hatched_and_the_rest_is_not():
    for hole in (np.nan, np.inf, -np.inf):
        area = crop(grid(_43=hole), limits=(-1, 1), levels=0)[2:]
        found = mask(area, np.array(STRIPE) / 255) | mask(area, np.array(MISSING) / 255)
        top, bottom, left, right = box(found)
        height, width = found.shape
        assert top == 0 and bottom / height == pytest.approx(1 / 8, abs=0.01)
        assert left / width == pytest.approx(2.5 / 6, abs=0.01) and right / width == pytest.approx(3.5 / 6, abs=0.01)
        assert found[top:bottom, left:right].all()
    assert not mask(crop(grid(), limits=(-1, 1)), np.array(STRIPE) / 255).any()


def test_above_the_limit_is_the_top_colour_and_the_bar_says_so():
    bars = [draw(np.full((5, 7), value), limits=(0, 1))[:, -150:] for value in (0.5, 1.0, 5.0)]
    np.testing.assert_array_equal(bars[0], bars[1])
    assert (bars[0] != bars[2]).any()
    scale = HeightScale(0, 1, "viridis", "", log=False)
    area = crop(np.full((5, 7), 5.0), limits=(0, 1), cmap="viridis")
    assert mask(area[3:-3, 3:-3], scale.colours(np.array(1.0)) / 255).all()


def test_log_is_the_map_of_the_logarithm_with_the_values_at_the_bar():
    values = 10 ** np.random.default_rng(0).uniform(-1, 2, size=(5, 7))
    log = draw(values, log=True, limits=(0.1, 100), levels=0)
    linear = draw(np.log10(values), limits=(-1, 2), levels=0)
    left, right = field()[2:]
    assert abs(log[:, left:right].astype(int) - linear[:, left:right]).max() <= 1
    assert (log[:, right + 20 :] != linear[:, right + 20 :]).any()
    scale = HeightScale(-1, 2, "viridis", "", log=True)
    assert [text for _, text in scale._texts(np.log10(values), 0.05)] == ["0.1", "1", "10", "100"]
    np.testing.assert_array_equal(
        draw(grid(_23=0.0) + grid(_11=5.0), log=True), draw(np.where(grid(_11=5.0) > 0, 5.0, np.nan), log=True)
    )


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.1, 100, [0.1, 1, 10, 100]),
        (1e-12, 1e30, [1e-10, 1, 1e10, 1e20, 1e30]),
        (1, 12, [1, 2, 5, 10]),
        (1.01, 1.09, [1.02, 1.04, 1.06, 1.08]),
    ],
)
def test_round_numbers_on_a_log_scale(low, high, expected):
    assert log_ticks(low, high, 6) == pytest.approx(expected)


def test_numbers_are_short_and_distinct():
    assert value_texts([0.312641, 1, 2.5, 10.41234]) == ["0.313", "1", "2.5", "10.4"]
    assert value_texts([1.2341, 1.2342]) == ["1.2341", "1.2342"]
    assert value_texts([1e-12, 0.1, 1, 1e30], log=True) == ["1e−12", "0.1", "1", "1e30"]
    assert len(set(value_texts([1 + 1e-9 * i for i in range(4)]))) == 4


def test_isolines_run_where_the_height_is():
    values = np.tile(np.linspace(0, 1, 7), (5, 1))
    plain, lined = (crop(values, limits=(0, 1), levels=levels) for levels in (0, [0.25]))
    changed = (plain != lined).any(axis=2)
    column = changed.sum(axis=0).argmax()
    assert column / changed.shape[1] == pytest.approx(0.25, abs=0.005)
    assert changed[:, column].sum() < changed.shape[0] - 15 and changed[:, column].mean() > 0.8
    assert not (draw(values, levels=[7.0]) != draw(values, levels=0)).any()


def test_the_path_runs_where_its_points_are():
    top, bottom, left, right = field(path=[])
    height, width = bottom - top, right - left

    def found(path):
        image = draw(np.full((5, 7), 0.5), limits=(0, 1), levels=0, path=path)
        return mask(image[top:bottom, left:right], RIM)

    rows, columns = np.nonzero(found([(-0.5, 0.25), (0.5, 0.25)]))
    assert rows.mean() / height == pytest.approx(1 - 0.25 / 1.5, abs=0.01)
    assert columns.min() / width == pytest.approx(0.25, abs=0.02)
    assert columns.max() / width == pytest.approx(0.75, abs=0.02)
    gap = found([(-0.5, 0.25), (-0.25, 0.25), (np.nan, 0.25), (0.25, 0.25), (0.5, 0.25)])
    assert not gap[:, round(0.42 * width) : round(0.58 * width)].any()


def test_the_start_is_hollow_and_the_end_is_filled():
    def colours(path):
        top, bottom, left, right = field(path=[])
        image = draw(np.full((5, 7), 0.5), limits=(0, 1), levels=0, path=path)[top:bottom, left:right]
        height, width = image.shape[:2]
        return [tuple(image[round(height * 0.5), round(width * share)]) for share in (0.25, 0.75)]

    there, back = colours([(-0.5, 0.75), (0.5, 0.75)]), colours([(0.5, 0.75), (-0.5, 0.75)])
    assert there == back[::-1] and there[0] == (255, 255, 255) and there[1] != there[0]


def test_names_of_marks_stay_inside_and_apart():
    rng = np.random.default_rng(0)
    frame = 100.0, 50.0, 760.0, 700.0
    places = np.array([*rng.uniform((100, 50), (760, 700), size=(6, 2)), (100, 50), (760, 700), (760, 50), (758, 60)])
    found = [label for _, label in place_names([f"checkpoint {i}" for i in range(10)], places, frame, np.empty((0, 2)))]
    for i, (left, bottom, right, top) in enumerate(found):
        assert frame[0] <= left < right <= frame[2] and frame[1] <= bottom < top <= frame[3]
        for other in found[:i]:
            assert left >= other[2] or right <= other[0] or bottom >= other[3] or top <= other[1]
        inside = (places > (left, bottom)).all(axis=1) & (places < (right, top)).all(axis=1)
        assert not inside.any()
    text, label = place_names(["x" * 500], np.array([[400.0, 400.0]]), frame, np.empty((0, 2)))[0]
    assert text.endswith("…") and label[2] - label[0] < 400


def test_marks_change_the_map_alone_and_one_outside_is_at_the_edge():
    top, bottom, left, right = field()
    flat = np.full((5, 7), 0.5)
    plain = draw(flat, limits=(0, 1))
    for mark in (("a long name of a place", 0.9, 1.4), ("b", -1.0, 0.0), ("outside", 50.0, -3.0)):
        changed = (draw(flat, limits=(0, 1), marks=[mark]) != plain).any(axis=2)
        found = box(changed)
        assert found[0] >= top - 9 and found[1] <= bottom + 9 and found[2] >= left - 9 and found[3] <= right + 9
    assert found[1] > bottom - 12 and found[3] > right - 12  # The last: in the lower right corner.


def test_the_size_follows_from_everything_but_the_values():
    rng = np.random.default_rng(0)
    odd = rng.standard_t(1, size=(5, 7))
    odd = [odd, odd * 1e200, odd * 1e-200, 0 * odd, 0 * odd + 3, odd * np.nan, np.where(odd > 0, odd, np.nan)]
    odd += [10 ** np.linspace(-12, 30, 35).reshape(5, 7), 1 + 1e-12 * odd[0], np.full((5, 7), 1e308) * np.sign(odd[0])]
    sizes = {draw(values, log=bool(i % 3), title="x" * 300).shape for i, values in enumerate(odd)}
    assert len(sizes) == 1
    assert draw(odd[0], footer="x " * 900, limits=(0, 1e-9), levels=40).shape in sizes
    for shape in ((2, 2), (2, 9)):
        draw(rng.random(shape), np.arange(shape[1]), np.arange(shape[0]) * 1e-9)


def test_nothing_says_so_and_the_same_bytes_come_twice():
    assert (draw(np.full((5, 7), np.nan)) == 0x66).all(axis=2)[250:-250, 300:-500].sum() > 50
    values = np.random.default_rng(0).random((5, 7))
    more = {"path": [(0, 0.5), (0.5, 1)], "path_name": "SGD", "marks": [("a", 0, 0.5), ("b", 0.1, 0.5)]}
    np.testing.assert_array_equal(draw(values, **more), draw(values, **more))


def test_complaints():
    flat = np.zeros((5, 7))
    for values in (flat.T, flat[0], flat[:, :6]):
        with pytest.raises(ValueError, match="5 ys .* 7 xs"):
            draw(values)
    for name, places in (("xs", XS[::-1]), ("ys", np.zeros(5)), ("xs", XS * np.nan), ("xs", [0.0]), ("ys", [[0, 1]])):
        with pytest.raises(ValueError, match=f"{name} must be"):
            draw(flat, **{name: places})
    for limits in ((1, 0), (0, np.nan), (1, 1)):
        with pytest.raises(ValueError, match="limits"):
            draw(flat, limits=limits)
    with pytest.raises(ValueError, match="above 0"):
        draw(flat, log=True, limits=(0, 1))
    with pytest.raises(ValueError, match="path is"):
        draw(flat, path=np.zeros((2, 4)))
