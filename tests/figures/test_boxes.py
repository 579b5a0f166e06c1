"""Box plots: boxes, whiskers and dots are where the percentiles say."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import box_plot
from lightning_dynamics.figures.boxes import tint
from lightning_dynamics.figures.canvas import INK
from tests.figures.colours import TITLES, box, mask

BLUE = "#0000ff"


def draw(values, **more):
    labels = [f"class{i}" for i in range(len(values[0]))]
    names = [f"series{i}" for i in range(len(values))]
    return box_plot(values, **{"labels": labels, "names": names, "x_title": "score", **TITLES, **more})


def ends(found):
    return box(found)[2:]


def plot_ends(limits=(0, 100)):
    """Left and right end of the plot, in pixels: where a box from limit to limit ends."""
    return ends(mask(draw([[np.repeat(limits, 50)]], limits=limits, colours=[BLUE]), tint(BLUE, 0.38)))


def bluish(image):
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (blue > red + 40) & (blue > green + 40)


def test_box_median_and_whiskers_are_at_the_percentiles():
    values = np.repeat([10.0, 30.0, 50.0, 70.0, 90.0], [10, 30, 20, 30, 10])  # Nothing lies beyond the whiskers.
    image = draw([[values]], limits=(0, 100), colours=[BLUE])[70:-130]
    left, right = plot_ends()

    def place(value):
        return left + value / 100 * (right - left)

    assert ends(mask(image, tint(BLUE, 0.38))) == pytest.approx((place(30), place(70)), abs=3)
    assert ends(bluish(image)) == pytest.approx((place(10), place(90)), abs=3)
    inside = image[:, round(place(35)) : round(place(65))]
    assert ends(mask(inside, INK)) == pytest.approx((place(50) - place(35),) * 2, abs=3)


def test_at_most_twenty_dots_on_each_side_and_the_most_extreme_is_one():
    few = np.concatenate([np.full(95, 10.0), [20.0, 30.0, 40.0, 50.0]])
    alone = draw([[np.full(99, 10.0)]], limits=(0, 60)).astype(int)
    changed = (draw([[few]], limits=(0, 60)).astype(int) != alone).any(axis=2)
    left, right = plot_ends((0, 60))
    starts = np.flatnonzero(np.diff(changed.any(axis=0).astype(int)) == 1)
    at = (starts + 3.5 - left) / (right - left) * 60
    assert at[-4:] == pytest.approx([20, 30, 40, 50], abs=0.5)

    many = np.concatenate([np.full(10000, 10.0), np.linspace(20, 50, 400)])
    changed = (draw([[many]], limits=(0, 60)).astype(int) != alone).any(axis=2)
    starts = np.flatnonzero(np.diff(changed.any(axis=0).astype(int)) == 1)
    assert 5 < len(starts) <= 21
    assert (box(changed)[3] - 2.5 - left) / (right - left) * 60 == pytest.approx(50, abs=0.5)


def test_what_is_not_finite_is_left_out_and_nothing_is_no_box():
    values = np.arange(30.0)
    holes = np.concatenate([values, [np.nan, np.inf, -np.inf]])
    np.testing.assert_array_equal(draw([[values, []]]), draw([[holes, [np.nan]]]))
    nothing = draw([[[], [np.nan]]], colours=[BLUE])
    assert not mask(nothing, BLUE).any() and not mask(nothing, tint(BLUE, 0.38)).any()
    assert mask(draw([[[3.0]]], colours=[BLUE]), INK)[80:-160, 200:-100].sum() > 10  # The median of one value.


def test_values_beyond_the_limits_are_triangles_and_a_long_tail_does_not_squeeze_the_boxes():
    inside, beyond = ([[np.append(np.arange(99.0), end)]] for end in (99.0, 5000.0))
    changed = draw(inside, limits=(0, 100)).astype(int) != draw(beyond, limits=(0, 100)).astype(int)
    assert plot_ends()[1] - 40 < ends(changed.any(axis=2))[0]
    wide, narrow = (ends(mask(draw(v, colours=[BLUE]), tint(BLUE, 0.38))) for v in (inside, beyond))
    assert narrow[1] - narrow[0] > 0.4 * (wide[1] - wide[0])
    outside = draw([[[7.0, 8.0, 9.0]]], limits=(0, 6), colours=[BLUE])
    assert not mask(outside, tint(BLUE, 0.38)).any() and bluish(outside).any()


def test_several_series_have_places_colours_and_a_legend():
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    image = draw([[np.arange(50.0) + k] * 2 for k in range(3)], colours=colours)
    legend = [mask(image[:112], colour) for colour in colours]
    assert all(found.any() for found in legend)
    first, second, third = (mask(image[115:], tint(colour, 0.38)) for colour in colours)
    assert box(first)[0] < box(second)[0] < box(third)[0]
    assert ends(first)[0] < ends(second)[0] < ends(third)[0]


@pytest.mark.parametrize("labels", [1, 40])
def test_size_depends_on_the_labels_and_names_alone(labels):
    rng = np.random.default_rng(0)
    for count in (1, 3):
        odd = [[rng.standard_t(1.5, size=20) for _ in range(labels)] for _ in range(count)]
        none: list = [[[]] * labels] * count
        huge = [[array * 1e250 for array in row] for row in odd]
        tiny = [[-1e-12 * abs(array) for array in row] for row in odd]
        images = [draw(odd), draw(none, title="x" * 500, footer="x " * 900), draw(huge), draw(tiny)]
        assert len({image.shape for image in images}) == 1
        assert images[0].shape[0] < 2400 and images[0].shape[1] < 1300
        np.testing.assert_array_equal(images[0], draw(odd))


def test_complaints():
    with pytest.raises(ValueError, match="names"):
        draw([[[1.0]]], names=[])
    with pytest.raises(ValueError, match="colours"):
        draw([[[1.0]]], colours=["red", "blue"])
    with pytest.raises(ValueError, match="labels"):
        draw([[[1.0]]], labels=["a", "b"])
    with pytest.raises(ValueError, match="labels"):
        draw([[]])
    with pytest.raises(ValueError, match="one dimension"):
        draw([[[[1.0]]]])
    with pytest.raises(ValueError, match="limits"):
        draw([[[1.0]]], limits=(1, 0))
