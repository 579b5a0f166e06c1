"""Lines on two axes lie where their own axis says."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import line_chart
from tests.figures.colours import TITLES, box, mask

X = np.linspace(-1, 2, 61)
LEFT, LEFT2, RIGHT = "#0072b2", "#009e73", "#d55e00"


def draw(series, x=X, **more):
    titles = {"x_title": "α", "y_title": "loss", "second_title": "accuracy", **TITLES}
    return line_chart(x, series, **{**titles, **more})


def line(image, colour, above=112):
    """Where a line is, below the legend and left of the right axis."""
    found = mask(image, colour)
    found[:above] = False
    found[:, 1126:] = False
    return found


def height(image, colour, **more):
    rows, _ = np.nonzero(line(image, colour, **more))
    return rows.mean()


def test_a_line_runs_where_its_values_are():
    rows, columns = np.nonzero(line(draw({"a": X}, limits=(-1, 2)), LEFT))
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
    low, high = (height(draw({"a": np.full(61, v)}, limits=(0, 1)), LEFT) for v in (0.0, 1.0))
    assert low - high == pytest.approx(480 - 28, abs=2)


def test_each_axis_has_its_own_scale():
    flat = np.full(61, 0.5)
    image = draw({"a": flat}, second={"b": flat}, limits=(0, 1), second_limits=(0, 2))
    left, right = height(image, LEFT), height(image, RIGHT)
    assert right - left == pytest.approx(0.25 * (480 - 28), abs=3)
    same = draw({"a": flat}, second={"b": flat * 2}, limits=(0, 1), second_limits=(0, 2))
    assert height(same, RIGHT) == pytest.approx(left, abs=2)
    assert mask(image, RIGHT)[:, 1126:].sum() > 100  # Numbers and title of the right axis.
    assert not mask(draw({"a": flat}), RIGHT).any()


def test_x_may_be_negative_and_unevenly_spaced():
    x = np.array([-4.0, -3.0, 0.0, 6.0])
    peak = line(draw({"a": [0, 1, 0, 0]}, x=x, limits=(0, 1)), LEFT)
    _, _, left, right = box(peak)
    top = np.flatnonzero(peak[np.flatnonzero(peak.any(axis=1))[0]]).mean()
    assert (top - left) / (right - left) == pytest.approx(0.1, abs=0.01)


def test_nan_is_a_gap_and_beyond_the_limits_is_marked():
    values = np.full(61, 0.5)
    values[20:40] = np.nan
    found = line(draw({"a": values}, limits=(0, 1)), LEFT).any(axis=0)
    _, _, left, right = box(line(draw({"a": values}, limits=(0, 1)), LEFT))
    assert not found[left + (right - left) * 20 // 60 : left + (right - left) * 39 // 60].any()
    lone = np.where(np.arange(61) == 30, 0.5, np.nan)
    assert line(draw({"a": lone}, limits=(0, 1)), LEFT).sum() > 10
    for more in ({"limits": (0, 1)}, {"limits": (0.1, 1), "log": True}):
        # What differs from a picture of nothing, whose words stand far below the upper edge.
        empty = draw({"a": np.full(61, np.nan)}, **more)
        outside = (draw({"a": np.full(61, np.inf)}, **more) != empty).any(axis=2)[:200]
        assert outside.sum() > 1000 and box(outside)[1] - box(outside)[0] < 20


def test_log_is_the_chart_of_the_logarithm():
    low, middle, high = (
        height(draw({"a": np.full(61, v)}, limits=(0.01, 100), log=True), LEFT) for v in (0.01, 1, 100)
    )
    assert middle == pytest.approx((low + high) / 2, abs=1)
    values = np.where(X < 0, 0.0, 1.0)
    rows, columns = np.nonzero(line(draw({"a": values}, log=True, limits=(0.1, 10)), LEFT))
    assert columns.min() > 164 + 300  # Nothing where the values are 0.
    for values in (10 ** np.linspace(-12, 30, 61), np.full(61, 3.0), np.full(61, np.nan), np.full(61, 1.001)):
        assert draw({"a": values}, log=True).shape == draw({"a": X}).shape


def test_dashes_and_colours_tell_lines_apart():
    flat = {"train": np.full(61, 0.2), "test": np.full(61, 0.8)}
    image = draw(flat, limits=(0, 1))
    solid, dashed = line(image, LEFT).any(axis=0)[170:1100], line(image, LEFT2).any(axis=0)[170:1100]
    assert solid.all() and 0.4 < dashed.mean() < 0.9
    twin = draw({"a": X}, second={"a": X})
    assert mask(twin[:110], LEFT).any() and mask(twin[:110], RIGHT).any()  # The legend names both.


def test_marks_are_lines_at_their_places_with_names_above():
    flat = {"a": np.full(61, 0.5)}
    plain = draw(flat, limits=(0, 1), marks=[("outside", 99.0)])
    image = draw(flat, limits=(0, 1), marks=[("outside", 99.0), ("end", 2.0), ("one", 1.0), ("other", 1.001)])
    changed = (image != plain).any(axis=2)
    columns = np.flatnonzero(changed[300:500].any(axis=0))
    assert columns.min() == pytest.approx(164 + 960 * 2 / 3, abs=2) and columns.max() == pytest.approx(1124, abs=2)
    assert box(changed)[3] <= 1124 + 4  # A name at the edge is moved inwards.
    names = changed[100:165]
    assert names[:30].any() and names[36:].any()  # In two rows: the two names do not touch.


def test_the_size_follows_from_the_names_and_the_same_bytes_come_twice():
    odd = np.random.default_rng(0).standard_t(1, size=61)
    frames = [odd, odd * 1e200, odd * 1e-200, odd * 0, odd * np.nan, odd * np.inf]
    shapes = {draw({"a": v}, second={"b": v}, title="x" * 300, log=log).shape for v in frames for log in (False, True)}
    assert len(shapes) == 1
    np.testing.assert_array_equal(draw({"a": odd}, marks=[("m", 0)]), draw({"a": odd}, marks=[("m", 0)]))
    assert (draw({"a": odd * np.nan}) == 0x66).all(axis=2)[200:-200, 300:-300].sum() > 50
    assert draw({}, second={"b": odd}).shape[1] > draw({"b": odd}).shape[1]
    draw({"a": [1.0]}, x=[3.0], second={"b": [2.0]})


def test_complaints():
    with pytest.raises(ValueError, match="'a'"):
        draw({"a": np.zeros(60)})
    with pytest.raises(ValueError, match="series is"):
        draw({"a": np.zeros((2, 61))})
    with pytest.raises(ValueError, match="rising"):
        draw({"a": X}, x=X[::-1])
    with pytest.raises(ValueError, match="no series"):
        draw({})
    for name in ("limits", "second_limits"):
        with pytest.raises(ValueError, match="limits"):
            draw({"a": X}, second={"b": X}, **{name: (1, 0)})
    with pytest.raises(ValueError, match="above 0"):
        draw({"a": X}, log=True, limits=(0, 1))
