"""Points: each is seen at its place, in its colour, and in no order."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import scatter
from tests.figures.colours import TITLES, box

LIMITS = {"x_limits": (0, 1), "y_limits": (0, 1)}


def draw(x, y, colour, **more):
    titles = {"x_title": "variability", "y_title": "confidence", "colour_label": "correctness", **TITLES}
    return scatter(x, y, colour=colour, **{**titles, **more})


def changed(x, y, colour=None, **more):
    """Where the points are: what differs from the picture of one in the lower left corner."""
    colour = np.full(len(x), 0.5) if colour is None else colour
    empty = draw([0.0], [0.0], [0.5], **{**LIMITS, **more}).astype(int)
    image = draw([*x, 0.0], [*y, 0.0], [*colour, 0.5], **{**LIMITS, **more}).astype(int)
    return (image != empty).any(axis=2)


def test_points_are_at_their_places():
    corners = box(changed([0.0, 1.0], [1.0, 1.0]))
    top, left, right = corners[1] - 5.5, corners[2] + 5.5, corners[3] - 5.5
    assert right - left == pytest.approx(860, abs=2)
    middle = box(changed([0.5], [0.5]))
    assert (middle[2] + middle[3]) / 2 == pytest.approx((left + right) / 2, abs=2)
    assert (middle[0] + middle[1]) / 2 == pytest.approx(top + 320, abs=2)
    assert middle[1] - middle[0] == middle[3] - middle[2] == 11


def test_colours_follow_the_values_and_the_mean_where_points_overlap():
    def colour(*values):
        found = box(changed([0.5], [0.53]))
        image = draw(0 * np.array(values) + 0.5, 0 * np.array(values) + 0.53, values, **LIMITS).astype(int)
        return image[(found[0] + found[1]) // 2, (found[2] + found[3]) // 2]

    low, high = colour(0.0), colour(1.0)
    assert low[2] > low[0] + 40 and high[0] > high[2] + 40
    np.testing.assert_array_equal(colour(0.0, 1.0), colour(0.5, 0.5))
    np.testing.assert_array_equal(colour(1.0), colour(7.0))
    assert colour(0.5, 0.5).sum() < colour(0.5).sum()  # More points are denser.


def test_the_order_makes_no_difference_and_the_same_bytes_come_twice():
    x, y, colour = np.random.default_rng(0).random((3, 20000))
    image = draw(x, y, colour)
    np.testing.assert_array_equal(image, draw(x, y, colour))
    other = draw(x[::-1], y[::-1], colour[::-1]).astype(int)
    assert abs(image.astype(int) - other).max() <= 2  # Sums in another order round differently.


def test_a_single_point_among_very_many_is_seen():
    rng = np.random.default_rng(0)
    crowd = 0.8 + 0.01 * rng.random((2, 100000))
    colour = np.ones(100001)
    image = draw(np.append(crowd[0], 0.2), np.append(crowd[1], 0.3), colour, **LIMITS).astype(int)
    without = draw(np.append(crowd[0], 0.8), np.append(crowd[1], 0.8), colour, **LIMITS).astype(int)
    assert abs(image - without)[300:, :600].max() > 60


def test_a_point_with_nan_is_left_out_and_one_beyond_the_limits_is_marked():
    holes = draw([0.5, np.nan, 0.1, 0.9], [0.5, 0.5, np.nan, 0.9], [0.5, 0.5, 0.5, np.nan], **LIMITS)
    np.testing.assert_array_equal(holes, draw([0.5], [0.5], [0.5], **LIMITS))
    right = box(changed([7.0, np.inf], [0.5, 0.51]))
    assert right[1] - right[0] < 30 and right[3] - right[2] < 15
    assert right[2] > box(changed([0.95], [0.5]))[3]
    for x, y in ((-3.0, 0.5), (0.5, 3.0), (0.5, -np.inf), (-1.0, 3.0)):
        assert changed([x], [y]).any()


def test_the_size_depends_on_the_titles_alone():
    odd = np.random.default_rng(0).standard_t(1.5, size=(3, 300))
    points = [odd, odd * 1e200, odd * 1e-200, 0 * odd, 0 * odd + 3, np.nan * odd, np.inf * odd, odd[:, :0], odd[:, :1]]
    images = [draw(*values) for values in points] + [draw(*odd, title="x" * 500, footer="x " * 900, **LIMITS)]
    assert len({image.shape for image in images}) == 1
    assert draw(*odd, colour_limits=(-1, 5), colour_label="").shape == images[0].shape


def test_nothing_says_so():
    grey = (draw([], [], []) == 0x66).all(axis=2)
    assert grey[200:-200, 300:-500].sum() > 50
    np.testing.assert_array_equal(draw([], [], []), draw([np.nan], [1.0], [0.0]))


def test_complaints():
    with pytest.raises(ValueError, match="same length"):
        draw([1.0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="same length"):
        draw([[1.0]], [[1.0]], [[1.0]])
    for name in ("x_limits", "y_limits", "colour_limits"):
        with pytest.raises(ValueError, match="limits"):
            draw([1.0], [1.0], [1.0], **{name: (1, 0)})
