"""Charts over training time: lines, maps, shares and events lie where their numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import raster, shares_over_time, time_map, time_series
from lightning_dynamics.figures.axes import TIME_WIDTH, round_limits, tick_texts, time_ticks
from lightning_dynamics.figures.canvas import INK
from lightning_dynamics.figures.diverging import NEGATIVE, POSITIVE, symmetric_limit
from lightning_dynamics.figures.sampling import pixel_means, time_edges
from lightning_dynamics.figures.scale import MISSING, STRIPE
from tests.figures.colours import TITLES, box, greenish, mask, purplish

BLUE, RED = "#0072b2", "#cc0000"


def series(values, x=None, names=None, **more):
    values = np.atleast_2d(np.asarray(values, dtype=float))
    x = np.arange(1, values.shape[1] + 1) if x is None else x
    names = [f"layer{i}" for i in range(len(values))] if names is None else names
    return time_series(x, values, names=names, **{"x_title": "step", "y_title": "y", **TITLES, **more})


def colour_map(values, x=None, **more):
    values = np.asarray(values, dtype=float)
    x = np.arange(1, values.shape[1] + 1) if x is None else x
    labels = [f"layer{i}" for i in range(len(values))]
    return time_map(values, x=x, labels=labels, **{"x_title": "step", "colorbar_label": "loss", **TITLES, **more})


def cells(values, **more):
    """The map alone: where a picture of green differs from one of purple, left of the colour bar."""
    shape = np.shape(values)
    fixed = {**more, "limits": (-1.0, 1.0)}
    low, high = (colour_map(np.full(shape, value), **fixed).astype(int) for value in (-0.5, 0.5))
    top, bottom, left, right = box((low != high).any(axis=2))
    return colour_map(values, **more)[top:bottom, left:right]


def shares(values, **more):
    values = np.asarray(values, dtype=float)
    names, colours = ["helps", "zero", "hurts"], [NEGATIVE, "#dddddd", POSITIVE]
    x = np.arange(1, values.shape[1] + 1)
    titles = {"x_title": "step", "y_title": "share", **TITLES, **more}
    return shares_over_time(x, values, names=names, colours=colours, **titles)


def events(happened, **more):
    happened = np.asarray(happened)
    labels = [f"layer{i}" for i in range(len(happened))]
    x = np.arange(1, happened.shape[1] + 1)
    return raster(x, happened, labels=labels, **{"counts_name": "peaks", "x_title": "step", **TITLES, **more})


@pytest.mark.parametrize("steps", [1, 2, 40, 2000])
@pytest.mark.parametrize("layers", [1, 6, 61])
def test_sizes_depend_on_the_labels_alone(layers, steps):
    rng = np.random.default_rng(0)
    heavy = rng.standard_t(2, size=(layers, steps)) * 1e-7
    holes = np.where(rng.random(heavy.shape) < 0.3, np.nan, 1e5 * heavy)
    odd = [heavy, holes, np.zeros_like(heavy), np.full_like(heavy, np.nan), np.full_like(heavy, np.inf)]
    for draw in (series, colour_map):
        sizes = {draw(values, title="long " * 90).shape for values in odd} | {draw(np.ones((layers, 3))).shape}
        assert len(sizes) == 1
    assert events(heavy > 0).shape == events(np.zeros((layers, 7), dtype=bool), footer="x" * 2000).shape


def test_the_same_bytes_twice():
    values = np.random.default_rng(0).normal(size=(13, 50))
    thirds = np.full((3, 4), 1 / 3)
    for draw, argument in ((series, values), (colour_map, values), (shares, thirds), (events, values > 1)):
        np.testing.assert_array_equal(draw(argument), draw(argument))


def test_a_line_runs_where_its_values_are():
    rising = mask(series([0.0, 0.5, 1.0], limits=(0, 1)), BLUE)
    rising[:200] &= False  # The legend.
    rows, columns = np.nonzero(rising)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
    gap = mask(series([1.0, 1.0, np.nan, 1.0, 1.0], limits=(0, 2)), BLUE)[200:]
    whole = mask(series(np.ones(5), limits=(0, 2)), BLUE)[200:]
    middle = box(whole)[2] + (box(whole)[3] - box(whole)[2]) // 2
    assert whole[:, middle - 100 : middle + 100].any() and not gap[:, middle - 200 : middle + 200].any()


def test_one_step_and_lonely_values_are_dots():
    assert mask(series([1.0]), BLUE)[108:].sum() > 15
    lonely = np.full(2000, np.nan)
    lonely[700] = 1.0
    assert mask(series(lonely), BLUE)[108:].sum() > 15
    assert not mask(series(np.full(2000, np.nan)), BLUE)[108:].any()


@pytest.mark.parametrize("second", [2.0, 3.0], ids=["running together", "apart"])
def test_the_first_emphasis_is_broad_and_the_second_is_dashed(second):
    names = ["a", "b"]
    image = series(np.ones((6, 9)), limits=(0, 4), emphasis=[np.full(9, 2.0), np.full(9, second)], emphasis_names=names)
    broad, dashed = (mask(image, colour)[190:].sum() for colour in ("#b4b4b4", INK))
    assert broad > 4 * TIME_WIDTH
    assert TIME_WIDTH < dashed < 3 * TIME_WIDTH


def test_marks_are_at_their_places_and_in_the_legend():
    image = series(np.zeros(101), x=np.arange(101), marks=[25, 1e9], marks_name="undefined")
    red = mask(image, RED)
    assert red[:140].any()  # The legend.
    _, _, left, right = box(mask(image, BLUE)[150:])
    _, _, mark, end = box(red[150:])
    assert end - mark <= 4 and abs(mark - (left + 0.25 * (right - left))) < 6
    assert not mask(series(np.zeros(101)), RED).any()


def test_values_beyond_the_limits_are_said():
    nothing = series(np.full(50, np.nan), limits=(0, 1)).astype(int)
    top, bottom = (box((series(np.full(50, value), limits=(0, 1)) != nothing).any(axis=2)) for value in (5.0, -np.inf))
    assert top[3] - top[2] == pytest.approx(TIME_WIDTH, abs=20) and 8 <= top[1] - top[0] <= 16
    assert bottom[0] - top[0] > 400


def test_a_band_is_behind_the_lines():
    image = series(np.zeros(20), band=(-1.0, np.full(20, 2.0)))
    band = mask(image, "#e6ebf1")
    assert band.sum() > 100 * TIME_WIDTH
    assert mask(image, BLUE)[150:].sum() >= mask(series(np.zeros(20)), BLUE)[150:].sum() - 30
    assert not mask(series(np.zeros(3), band=(np.nan, np.nan)), "#e6ebf1").any()


def test_many_lines_are_named_at_their_ends():
    few, many = series(np.ones((12, 5))), series(np.arange(65.0).reshape(13, 5))
    assert many.shape[1] > few.shape[1] + 60
    assert (many[:, 1130:-24] < 128).any()
    huge = series(np.random.default_rng(0).normal(size=(300, 5)))
    assert huge.shape[0] < 900


def test_negative_is_green_and_positive_purple_on_the_map():
    area = cells([[-1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, np.nan, -1.0, -0.1]])
    height, width = area.shape[0] // 3, TIME_WIDTH // 4
    at = area[height // 2 :: height, width // 2 :: width]
    assert greenish(at[0, :2]).all() and purplish(at[0, 2:]).all()
    assert (at[1] > 240).all()
    assert purplish(at[2, 0]) and greenish(at[2, 2]) and tuple(at[2, 1]) in (MISSING, STRIPE)
    flipped = cells([[-1.0], [1.0]], origin="lower")
    assert purplish(flipped[20, 400]) and greenish(flipped[-20, 400])


def test_columns_of_the_map_are_true_to_scale():
    area = cells([[-1.0, 1.0, -1.0]], x=[1, 3, 4])  # From 0 to 1, to 3, to 4.
    green = greenish(area[50])
    assert green[: TIME_WIDTH // 4 - 2].all() and green[3 * TIME_WIDTH // 4 + 2 :].all()
    assert purplish(area[50])[TIME_WIDTH // 4 + 2 : 3 * TIME_WIDTH // 4 - 2].all()


def test_a_pixel_shows_the_mean_of_its_columns():
    values = np.tile([[3.0, -1.0]], 1000)
    np.testing.assert_allclose(pixel_means(values, time_edges(np.arange(1, 2001.0)), 500), 1.0)
    values[:, 600] = np.nan
    means = pixel_means(values, time_edges(np.arange(1, 2001.0)), 500)
    assert np.isnan(means).sum() == 1 and np.isnan(means[0, 150])
    assert greenish(cells(-np.ones((2, 3000)))).all()


def test_the_colour_bar_says_what_lies_beyond():
    def bar(value):
        values = np.full((4, 9), 0.5)
        values[0, 0] = value
        return colour_map(values, limits=(-1, 1))[:, -170:]

    assert (bar(0.5) == bar(-1.0)).all()
    assert not (bar(0.5) == bar(3.0)).all() and not (bar(3.0) == bar(-3.0)).all()


def test_a_limit_that_nearly_all_values_respect():
    assert symmetric_limit(np.array([0.0123, -0.0371, np.nan])) == pytest.approx(0.037)
    assert symmetric_limit(np.zeros(3)) == 1 and symmetric_limit(np.full(3, np.nan)) == 1
    assert symmetric_limit(np.array([2.0, -2.0])) == 2
    assert symmetric_limit(np.array([0.0] * 1000 + [3.0])) == 3


def test_shares_are_as_high_as_they_are():
    image = shares(np.array([[0.6, 0.6], [0.1, 0.1], [0.3, 0.3]]))
    column = image[106:, 600]
    heights = [mask(column[:, None], colour).sum() for colour in (NEGATIVE, "#dddddd", POSITIVE)]
    assert heights == pytest.approx([240, 40, 120], abs=4)
    rows = [np.flatnonzero(mask(column[:, None], colour)).mean() for colour in (POSITIVE, "#dddddd", NEGATIVE)]
    assert rows == sorted(rows)


def test_steps_without_shares_are_hatched():
    values = np.full((3, 4), 1 / 3)
    values[:, 0] = 0
    values[1, 3] = np.nan
    image = shares(values)
    assert mask(image, np.array(STRIPE) / 255).sum() > 5000
    assert image.shape == shares(np.full((3, 4), 1 / 3)).shape == shares(np.full((3, 1), np.nan)).shape
    many = np.full((3, 3000), 1 / 3)
    many[:, 1500] = np.nan
    assert mask(shares(many), np.array(STRIPE) / 255).sum() > 300  # One step of thousands is still seen.
    with pytest.raises(ValueError, match="add up"):
        shares(np.full((3, 2), 0.5))
    with pytest.raises(ValueError, match="names"):
        shares(np.full((2, 2), 0.5))


def test_every_event_is_a_tick_in_its_row():
    happened = np.zeros((5, 40), dtype=bool)
    happened[0, 0] = happened[3, 20] = True
    new = (events(happened, band=(0, 2)) != events(happened & False, band=(0, 2))).any(axis=2)
    ticks = new & mask(events(happened, band=(0, 2)), INK)
    rows = np.flatnonzero(ticks.any(axis=1))
    assert rows.min() < 90 and np.diff(rows).max() > 100  # Row 0 on top, rows 1 and 2 empty.
    first, second = box(ticks[: rows.min() + 40]), box(ticks[rows.min() + 80 :])
    assert second[2] - first[2] == pytest.approx(20 / 40 * TIME_WIDTH, abs=3)


def test_the_strip_counts_the_rows():
    happened = np.zeros((8, 30), dtype=bool)
    happened[:4, 10] = happened[:2, 20] = True
    blue = mask(events(happened), BLUE)
    high, low = blue[:, :600].any(axis=1).sum(), blue[:, 600:].any(axis=1).sum()
    assert high == pytest.approx(2 * low, abs=2)
    assert mask(events(happened, band=(1, 3)), "#fddda8").sum() > 20 * TIME_WIDTH
    assert not mask(events(happened), "#fddda8").any()


def test_complaints():
    with pytest.raises(ValueError, match="rising"):
        series(np.zeros(3), x=[1, 3, 2])
    with pytest.raises(ValueError, match="columns"):
        series(np.zeros(3), x=[1, 2])
    with pytest.raises(ValueError, match="names"):
        series(np.zeros(3), names=["a", "b"])
    with pytest.raises(ValueError, match="emphasis"):
        series(np.zeros(3), emphasis=[np.zeros(3)])
    with pytest.raises(ValueError, match="limits"):
        series(np.zeros(3), limits=(1, 0))
    with pytest.raises(ValueError, match="labels"):
        time_map(np.zeros((2, 3)), x=[1, 2, 3], labels=["a"], x_title="", colorbar_label="", **TITLES)
    with pytest.raises(ValueError, match="origin"):
        colour_map(np.zeros((2, 3)), origin="left")
    with pytest.raises(ValueError, match="booleans"):
        events(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="labels"):
        raster([1, 2], np.zeros((2, 3), dtype=bool), labels=["a", "b"], counts_name="", x_title="", **TITLES)


def test_numbers_of_an_axis():
    assert tick_texts([0, 2500, 10000]) == ["0", "2,500", "10,000"]
    assert tick_texts([-0.05, 0.0, 0.1 + 0.2]) == ["−0.05", "0", "0.3"]
    assert tick_texts([-2.5e-7, 0, 5e-7]) == ["−2.5e−7", "0", "5e−7"]
    assert round_limits(np.array([0.3, 0.94, np.nan])) == (0.0, 1.0)
    assert round_limits(np.array([])) == (-1.0, 1.0)
    low, high = round_limits(np.array([5.0]), zero=False)
    assert low < 5 < high
    assert time_ticks(np.array([1.0, 2.0]), (1.0, 2.0)) == [1.0, 2.0]
