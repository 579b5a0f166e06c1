"""Bars and histograms: green below zero, purple above, as long as the numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import bars, signed_histogram
from lightning_dynamics.figures.diverging import NEGATIVE, POSITIVE
from tests.figures.colours import TITLES, box, mask


def rows(values, **more):
    values = np.atleast_2d(np.asarray(values, dtype=float))
    labels = [f"layer{i}" for i in range(values.shape[1])]
    names = [f"split{i}" for i in range(len(values))]
    return bars(values, labels=labels, names=names, **{"x_title": "loss", **TITLES, **more})


def histogram(left, right, edges=None, **more):
    edges = np.logspace(-9, 0, len(left) + 1) if edges is None else edges
    names = {"left_name": "helps", "right_name": "hurts", "x_title": "size", "y_title": "number"}
    return signed_histogram(edges, left, right, **{**names, **TITLES, **more})


def test_bars_have_the_colour_of_their_sign_and_their_length():
    image = rows([-2.0, 1.0, 0.0, np.nan], limits=(-2, 2))
    green, purple = box(mask(image, NEGATIVE)), box(mask(image, POSITIVE))
    assert green[3] - green[2] == pytest.approx(2 * (purple[3] - purple[2]), abs=3)
    assert green[1] <= purple[0]  # Row 0 on top.
    assert abs(green[3] - purple[2]) <= 2  # From zero to both sides.
    assert mask(rows([0.0, np.nan]), NEGATIVE).sum() == mask(rows([0.0, np.nan]), POSITIVE).sum() == 0


def test_several_series_have_colours_and_a_legend():
    image = rows([[1.0, 2.0], [np.nan, 1.0], [-1.0, -1.0]], colours=["#ff0000", "#00ff00", "#0000ff"])
    red, green, blue = (mask(image, colour) for colour in ("#ff0000", "#00ff00", "#0000ff"))
    assert all(found[:110].any() for found in (red, green, blue))
    assert red[120:].sum() > 1.8 * green[120:].sum() and blue[120:].any()
    assert box(blue[120:])[3] <= box(red[120:])[2] + 2


@pytest.mark.parametrize("layers", [1, 6, 61, 150, 400])
def test_size_of_the_bars_depends_on_the_labels_alone(layers):
    odd = np.random.default_rng(0).standard_t(1.5, size=(3, layers))
    for count in (1, 3):
        images = [rows(odd[:count]), rows(0 * odd[:count]), rows(np.nan * odd[:count]), rows(np.inf * odd[:count])]
        assert len({image.shape for image in images}) == 1
        assert images[0].shape[0] < 2100 and images[0].shape[1] < 1300
        np.testing.assert_array_equal(images[0], rows(odd[:count]))


def test_a_bar_beyond_the_limits_is_marked():
    at, beyond = rows([-1.0, 0.5], limits=(-1, 1)), rows([-7.0, 0.5], limits=(-1, 1))
    assert 20 < mask(at, NEGATIVE).sum() - mask(beyond, NEGATIVE).sum() < 400


def test_the_histogram_is_mirrored_around_zero():
    left, right = np.zeros(9), np.zeros(9)
    left[4], left[8], right[8] = 100, 50, 100
    image = histogram(left, right)[120:]
    green, purple = mask(image, NEGATIVE), mask(image, POSITIVE)
    middle = image.shape[1] / 2
    assert box(green)[3] < box(purple)[2]
    assert box(purple)[2] > middle + 300  # The largest sizes are farthest out,
    columns = green.sum(axis=0)
    far, near = columns[box(green)[2] + 5], columns[box(green)[3] - 5]
    assert near == pytest.approx(2 * far, rel=0.05)  # counts are linear.


def test_the_range_is_trimmed_to_what_holds_anything():
    left = np.zeros(100)
    left[40:45] = 7
    wide, trimmed = histogram(left, left), histogram(left[40:45], left[40:45], np.logspace(-9, 0, 101)[40:46])
    np.testing.assert_array_equal(wide[120:], trimmed[120:])
    assert box(mask(wide[120:], POSITIVE))[3] - box(mask(wide[120:], NEGATIVE))[2] > 900


def test_a_histogram_of_nothing_says_so():
    nothing = histogram(np.zeros(9), np.zeros(9))
    assert not mask(nothing, NEGATIVE).any() and not mask(nothing, POSITIVE).any()
    assert mask(nothing, "#666666").sum() > 50
    one = np.eye(9)[3]
    shapes = {nothing.shape, histogram(one, 0 * one).shape, histogram(one * 1e12, one, title="x" * 500).shape}
    assert len(shapes) == 1
    np.testing.assert_array_equal(histogram(one, one), histogram(one, one))


def test_complaints():
    with pytest.raises(ValueError, match="names"):
        bars([[1.0]], labels=["a"], names=[], x_title="", **TITLES)
    with pytest.raises(ValueError, match="columns"):
        bars([[1.0]], labels=["a", "b"], names=["x"], x_title="", **TITLES)
    with pytest.raises(ValueError, match="limits"):
        rows([1.0], limits=(0, 0))
    with pytest.raises(ValueError, match="bins"):
        histogram(np.zeros(3), np.zeros(3), edges=[1, 2])
    with pytest.raises(ValueError, match="right"):
        histogram(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="rising"):
        histogram(np.zeros(2), np.zeros(2), edges=[0, 1, 2])
    with pytest.raises(ValueError, match="negative"):
        histogram([-1, 0], [0, 0])
