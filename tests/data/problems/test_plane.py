"""The plane of two kinds of weights, and its still picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_dynamics import ConfigurationError
from lightning_dynamics.data.problems import DeepLinear
from lightning_dynamics.data.problems.picture import descents_map
from lightning_dynamics.data.problems.plane import AT_SADDLE, GONE, STILL_MOVING, Plane

POINTS = np.random.default_rng(0).normal(size=(30, 2))


@pytest.mark.parametrize("powers", [(1, 1), (2, 1), (1, 3), (2, 2)], ids=str)
def test_the_plane_is_the_network_with_equal_weights(powers):
    plane, problem = Plane(powers), DeepLinear.multiply_by_one(depth=sum(powers))
    weights = torch.from_numpy(plane.weights(POINTS))
    assert weights.shape == (30, sum(powers))
    assert np.allclose(plane.loss(POINTS), problem.loss_at(weights), rtol=1e-12)
    gradient = problem.gradient_at(weights).numpy()
    assert np.allclose(gradient, plane.weights(plane.gradient(POINTS)), rtol=1e-12)  # equal weights stay equal


@pytest.mark.parametrize(
    ("powers", "branches"),
    [((1, 1), [(1, 1), (-1, -1)]), ((2, 1), [(1, 1), (-1, 1)]), ((2, 2), [(1, 1), (1, -1), (-1, 1), (-1, -1)])],
    ids=["1 1", "2 1", "2 2"],
)
def test_solutions_and_ends(powers, branches):
    plane = Plane(powers)
    assert plane.branches == branches
    curves = plane.solutions(3.0)
    for number, (curve, signs) in enumerate(zip(curves, branches, strict=True)):
        assert plane.loss(curve).max() < 1e-25 and (np.sign(curve) == signs).all()
        assert np.abs(curve).max() <= 3 + 1e-9 and np.abs(curve).max(0) == pytest.approx([3, 3])
        assert (plane.ends(curve) == number).all()
    ends = plane.ends([[0.0, 0.0], [0.5, -0.5], [np.nan, 1.0], [2e6, 0.0], [np.inf, 1.0]])
    assert ends.tolist() == [AT_SADDLE, STILL_MOVING, GONE, GONE, GONE]
    assert len({plane.name(end) for end in (*range(len(branches)), AT_SADDLE, STILL_MOVING, GONE)}) == len(branches) + 3
    assert plane.name(1).startswith("solution, a ") and plane.ends(np.zeros((2, 3, 2))).shape == (2, 3)


@pytest.mark.parametrize("powers", [(0, 1), (1, 1.5), (1,)], ids=str)
def test_powers_that_are_none(powers):
    with pytest.raises(ConfigurationError, match="`powers=.* must be two whole numbers from 1 on"):
        Plane(powers)


def coloured(image, colour):
    """Pixels of nearly this colour, in the part where the curves are."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image[150:900].astype(int) - rgb).sum(-1) < 40).sum())


def test_the_picture_shows_descents_in_the_colour_of_their_end():
    words = {"title": "a title", "footer": "a footer"}
    straight = np.linspace([0.2, 0.3], [1.0, 1.0], 20)[None]
    to_first, to_second = descents_map(straight, **words), descents_map(-straight, **words)
    blue, orange = "#0072b2", "#d55e00"
    assert coloured(to_first, blue) > 100 and coloured(to_first, orange) == 0
    assert coloured(to_second, orange) > 100 and coloured(to_second, blue) == 0
    assert to_first.dtype == np.uint8 and to_first.shape[2] == 3
    assert np.array_equal(to_first, descents_map(straight, **words))
    lost = np.array([[[1.0, 2.0], [-50.0, 1e200], [np.nan, np.nan]]])
    assert coloured(descents_map(lost, **words), blue) == 0
    three = descents_map(straight, plane=Plane((2, 1)), **words)
    assert coloured(three, "#009e73") > 1000  # its solutions


@pytest.mark.parametrize("shape", [(3, 2), (0, 4, 2), (2, 4, 3)], ids=str)
def test_paths_that_are_none(shape):
    with pytest.raises(ValueError, match=r"paths must be \(N, T \+ 1, 2\)"):
        descents_map(np.zeros(shape), title="", footer="")
