"""Histograms of values: heights are counts, and what is cut off is counted, too."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import histogram
from lightning_dynamics.figures.plain_histogram import _count, _limits, _number
from tests.figures.colours import TITLES, box, mask

BLUE, RED = "#0000ff", "#ff0000"


def draw(values, **more):
    names = [f"series{i}" for i in range(len(values))]
    return histogram(values, **{"names": names, "x_title": "score", **TITLES, **more})


def outline(image, colour=BLUE):
    return mask(image[100:], colour)


def test_bars_are_as_high_as_their_counts_and_where_their_values_are():
    image = draw([[0.5] * 10 + [3.5] * 5], limits=(0, 4), bins=4, colours=[BLUE])
    found = outline(image)
    top, bottom, left, right = box(found)
    assert right - left == pytest.approx(960, abs=4)
    found, quarter = found[:, left:right], (right - left) // 4
    first, last = found[:, : quarter - 4], found[:, -quarter + 6 :]
    assert not found[:, quarter + 4 : 3 * quarter - 4].any()  # An empty bin has no outline.
    high, low = bottom - box(first)[0], bottom - box(last)[0]
    assert high == pytest.approx(2 * low, abs=4)


def test_a_logarithmic_axis_shows_a_single_example():
    values = [[0.5] * 10000 + [3.5]]
    linear, logarithmic = (draw(values, limits=(0, 4), bins=4, colours=[BLUE], logarithmic=log) for log in (0, 1))
    heights = [np.ptp(np.flatnonzero(outline(image)[:, -320:].any(axis=1))) for image in (linear, logarithmic)]
    assert heights[0] < 4 and 15 < heights[1] < 60
    assert linear.shape == logarithmic.shape


def test_what_is_beyond_the_axis_is_counted():
    # Above the plot, in the halves of the sheet.
    def words(*values, **more):
        image = draw(values, limits=(0, 1), **more)
        strip = mask(image[60:95, 164:], "#666666")
        half = strip.shape[1] // 2
        return strip[:, :half].sum(), strip[:, half:].sum()

    assert words([0.0, 0.5, 1.0, np.nan]) == (0, 0)
    left, right = words([0.5, 7.0])
    assert left == 0 and right > 50
    left, right = words([0.5, -np.inf])
    assert left > 50 and right == 0
    assert _count([np.zeros(1200)]) == "1,200" and _count([np.zeros(12), np.zeros(0)]) == "12 (12 + 0)"
    assert [_number(v) for v in (10.8731, -np.inf, 1e-9)] == ["10.87", "−∞", "1e−9"]


def test_a_long_tail_ends_early_and_a_short_one_does_not():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=5000)
    low, high = _limits([normal])
    assert low <= normal.min() and high >= normal.max()
    assert _limits([np.append(normal, 1000.0)])[1] < 10 and _limits([np.append(normal, -1e9)])[0] > -10
    assert _limits([normal, normal[:50] + 20])[1] > 20  # A small array beside a large one is no tail.
    assert _limits([np.append(np.zeros(5000), 3.0)])[1] >= 3  # Nearly all alike: nothing else to see.
    assert _limits([np.array([np.inf])]) == (0, 1)


def test_several_arrays_have_colours_and_a_legend():
    image = draw([[1.0, 1.0, 2.0], [2.0, 3.0]], colours=[RED, BLUE])
    assert mask(image[:100], RED).any() and mask(image[:100], BLUE).any()
    assert box(outline(image, RED))[2] < box(outline(image, BLUE))[2]
    names = {"names": ["a" * 40, "b" * 40, "c" * 40, "d" * 40]}
    assert draw([[1.0]] * 4, **names).shape[0] > draw([[1.0]] * 4).shape[0]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_size_depends_on_the_names_alone(count, logarithmic):
    odd = np.random.default_rng(0).standard_t(1.5, size=(count, 300))
    more = {"logarithmic": logarithmic}
    values = [odd, odd * 1e300, odd * 1e-300, 0 * odd, 0 * odd + 3, np.nan * odd, np.inf * abs(odd), odd[:, :0]]
    images = [draw(array, **more) for array in values] + [draw(odd, title="x" * 500, footer="x " * 900, **more)]
    assert len({image.shape for image in images}) == 1
    np.testing.assert_array_equal(images[0], draw(odd, **more))


def test_nothing_says_so():
    nothing = draw([[np.nan], []], colours=[RED, BLUE])
    assert not outline(nothing).any() and not outline(nothing, RED).any()
    assert mask(nothing[150:-200, 300:-300], "#666666").sum() > 50


def test_complaints():
    with pytest.raises(ValueError, match="names"):
        draw([[1.0]], names=["a", "b"])
    with pytest.raises(ValueError, match="colours"):
        draw([[1.0]], colours=[RED, BLUE])
    with pytest.raises(ValueError, match="names"):
        draw([])
    with pytest.raises(ValueError, match="one dimension"):
        draw([1.0])
    with pytest.raises(ValueError, match="bins"):
        draw([[1.0]], bins=0)
    with pytest.raises(ValueError, match="limits"):
        draw([[1.0]], limits=(1, 1))
