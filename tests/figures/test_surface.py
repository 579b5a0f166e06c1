"""The landscape from a side: what is where, what hides what, and in which light."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import raycast, surface, surface_plot
from lightning_dynamics.figures.raycast import Terrain, View, look
from lightning_dynamics.figures.relief import HeightScale
from tests.figures.colours import TITLES, box, mask

XS, YS = np.linspace(-1, 1, 9), np.linspace(0, 1.5, 7)
MARK = "#ffb000"


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """A coarser surface is as much in its place and is drawn in a quarter of the time."""
    monkeypatch.setattr(raycast, "_FINER", 1)
    monkeypatch.setattr(raycast, "_SAMPLES", 500)
    monkeypatch.setattr(surface, "_FINE", 400)


def draw(values, **more):
    values = np.asarray(values, dtype=float)
    titles = {"x_title": "direction 1", "y_title": "direction 2", "z_title": "loss", **TITLES}
    return surface_plot(values, more.pop("xs", XS), more.pop("ys", YS), **{**titles, **more})


def terrain(heights, **more):
    heights = np.asarray(heights, dtype=float)
    colours = np.zeros((*heights.shape, 3), dtype=np.uint8)
    colours[..., 0] = np.linspace(100, 200, heights.shape[1])[None]
    colours[..., 1] = np.linspace(100, 200, heights.shape[0])[:, None]
    return Terrain((1.0, 0.5), heights, colours, more.get("excess", np.full(heights.shape, -1.0)), 1.0)


def where(image, *, bright):
    ys, xs = np.nonzero(image[..., 3] > 0)
    order = np.argsort(bright[ys, xs])[-50:]
    return ys[order].mean(), xs[order].mean()


def test_the_ground_lies_where_the_view_says():
    view = View(30.0, -60.0, 200.0, 300.0, 250.0)
    image, depth = look(terrain(np.zeros((60, 80))), view, (0, 0, 600, 500))
    corners = view(np.array([(x, y, 0.0) for x in (-1, 1) for y in (-0.5, 0.5)]))
    top, bottom, left, right = box(image[..., 3] > 128)
    assert (left, right) == pytest.approx((corners[:, 0].min(), corners[:, 0].max()), abs=2)
    assert (500 - bottom, 500 - top) == pytest.approx((corners[:, 1].min(), corners[:, 1].max()), abs=2)
    # Red rises with x and green with y: the right corners have the right colours.
    red, green = image[..., 0].astype(int), image[..., 1].astype(int)
    assert where(image, bright=red - green)[1] > where(image, bright=green - red)[1]
    for x, y in ((0.7, 0.3), (-0.7, 0.3), (0.7, -0.3), (-0.4, -0.2)):
        column, row = view(np.array([x, y, 0.0]))
        pixel = image[round(500 - row), round(column)].astype(float)
        shade = pixel[0] / (150 + 50 * x)
        assert pixel[1] == pytest.approx((150 + 100 * y) * shade, abs=4)
    assert np.isinf(depth[0, 0]) and np.isfinite(depth[250, 300])


@pytest.mark.parametrize("azimuth", [-60.0, 30.0, 120.0, 0.0, 90.0, -90.0])
def test_a_wall_hides_what_is_behind_it(azimuth):
    view = View(20.0, azimuth, 200.0, 300.0, 200.0)
    heights = np.zeros((101, 101))
    heights[48:53, 48:53] = 0.6
    _, flat = look(terrain(0 * heights), view, (0, 0, 600, 500))
    _, depth = look(terrain(heights), view, (0, 0, 600, 500))
    behind = np.append(0.25 * view.ahead, 0.0)
    before = np.append(-0.25 * view.ahead, 0.0)
    for place, hidden in ((behind, True), (before, False)):
        column, row = (int(v) for v in view(place))
        assert flat[row, column] == pytest.approx(place[:2] @ view.ahead, abs=0.03)
        assert (depth[row, column] < flat[row, column] - 0.1) == hidden


def test_light_comes_from_the_left():
    x = np.linspace(-1, 1, 200)[None].repeat(100, axis=0)
    ridge = np.where(x < 0, x + 1, 1 - x) * 0.4
    even = Terrain((1.0, 0.5), ridge, np.full((100, 200, 3), 160, dtype=np.uint8), ridge * 0 - 1, 1.0)
    view = View(50.0, -90.0, 200.0, 300.0, 200.0)  # x runs to the right.
    image, _ = look(even, view, (0, 0, 600, 500))
    left, right = (image[500 - int(view(np.array([at, 0.0, 0.2]))[1]), 300 + int(200 * at), 0] for at in (-0.5, 0.5))
    assert int(left) > int(right) + 25


def test_what_is_gone_lets_one_see_through():
    heights = np.full((80, 80), 0.0)
    excess = np.full((80, 80), -1.0)
    excess[30:50, 30:50] = 1.0
    view = View(60.0, -60.0, 200.0, 300.0, 250.0)
    image, depth = look(terrain(heights, excess=excess), view, (0, 0, 600, 500))
    middle = view(np.zeros(3)).astype(int)
    assert image[500 - middle[1], middle[0], 3] == 0 and np.isinf(depth[middle[1], middle[0]])
    assert (image[..., 3] > 0).sum() > 0.8 * (look(terrain(heights), view, (0, 0, 600, 500))[0][..., 3] > 0).sum()


def spot(values, x, y, **more):
    """Row and column of the pixel of a place on the surface."""
    return np.argwhere(mask(draw(values, marks=[("", x, y)], **more), MARK)).mean(axis=0)


def test_a_peak_is_at_its_place():
    view = {"limits": (0, 1), "elevation": 80, "azimuth": -90}
    flat = draw(np.zeros((7, 9)), **view).astype(int)
    for row, column in ((0, 0), (0, 8), (5, 2)):
        values = np.zeros((7, 9))
        values[row, column] = 1.0
        changed = (draw(values, **view) - flat)[:, :950].sum(axis=2)
        y, x = np.unravel_index(np.convolve(changed.ravel(), np.ones(9), "same").argmax(), changed.shape)
        ground = spot(np.zeros((7, 9)), XS[column], YS[row], **view)
        assert abs(x - ground[1]) < 30 and -80 < ground[0] - y < 150, (row, column)


def test_a_path_lies_on_the_surface_and_is_faint_behind_a_hill():
    bowl = (XS[None] ** 2 + (YS[:, None] - 0.75) ** 2) * 2
    drawn = draw(bowl, path=[(-0.6, 0.75), (0.6, 0.75)])
    ends = [spot(bowl, x, 0.75) for x in (-0.6, 0.6)]
    middle = spot(bowl, 0.0, 0.75)
    assert middle[0] - np.mean(ends, axis=0)[0] > 20  # Down into the valley, not straight through the air.
    rim = mask(drawn, "#1b2733")
    for row, column in (*ends, middle):
        assert rim[int(row) - 9 : int(row) + 10, int(column) - 9 : int(column) + 10].any()
    hill = np.zeros((7, 9))
    hill[1:3] = 1.0
    more = {"limits": (0, 1), "elevation": 15, "azimuth": -90, "path": [(x, 1.2) for x in np.linspace(-0.5, 0.5, 15)]}
    seen, hidden = (mask(draw(values, **more), "#1b2733")[110:].sum() for values in (0 * hill, hill))
    assert hidden < 0.5 * seen


def test_path_values_lift_the_path():
    flat, path = np.zeros((7, 9)), [(0, 0.7), (0.5, 0.7)]
    plain, on_it, zero, lifted = (
        draw(flat, limits=(0, 1), path=path, path_values=values) if values != "none" else draw(flat, limits=(0, 1))
        for values in ("none", None, [0, 0], [0.5, 0.5])
    )
    np.testing.assert_array_equal(on_it, zero)
    low, high = (box((image != plain).any(axis=2)[110:-100, :900])[0] for image in (zero, lifted))
    assert high < low - 60


def test_above_the_cap_there_is_a_lid_and_the_legend_says_so():
    values = (XS[None] ** 2 + (YS[:, None] - 0.75) ** 2) * 4
    cut, whole = draw(values, limits=(0, 1)), draw(values, limits=(0, 9))
    assert (cut[70:105, 20:400] < 100).any() and not (whole[70:105, 20:400] < 100).any()
    top_colour = draw(np.full((7, 9), 5.0), limits=(0, 1), cmap="viridis")[70:105, 20:70]
    assert (
        mask(top_colour, np.array(HeightScale(0, 1, "viridis", "", log=False).colours(np.ones(()))) / 255).sum() > 200
    )


def test_holes_are_hatched():
    values = np.full((7, 9), 0.5)
    whole = draw(values)
    values[3, 4] = np.inf
    holed = draw(values)
    changed = (whole != holed).any(axis=2)
    changed[:, 950:] = False
    assert changed.sum() > 1500
    assert (np.ptp(holed.astype(int), axis=2) < 12)[changed].mean() > 0.9  # Grey.
    assert holed[changed].std() > 10  # With stripes.
    assert not (np.ptp(whole.astype(int), axis=2) < 12)[changed].any()
    assert (draw(values * np.nan) == 0x66).all(axis=2)[300:-300, 300:-500].sum() > 50


def test_log_is_the_surface_of_the_logarithm():
    values = 10 ** np.random.default_rng(0).uniform(-1, 2, size=(7, 9))
    log = draw(values, log=True, limits=(0.1, 100)).astype(int)
    linear = draw(np.log10(values), limits=(-1, 2)).astype(int)
    # Lines of equal height and numbers differ; the colours of the ground do not.
    assert (abs(log - linear).max(axis=2) < 3)[150:600, 300:800].mean() > 0.85
    assert (log != linear)[:, :250].any() and (log != linear)[:, 1010:].any()


def test_the_size_is_always_the_same_and_the_same_bytes_come_twice():
    odd = np.random.default_rng(0).standard_t(1, size=(7, 9))
    frames = [draw(odd * 1e200), draw(0 * odd, title="x" * 300), draw(odd * np.nan, log=True)]
    frames += [draw(10 ** np.linspace(-12, 30, 63).reshape(7, 9), log=True), draw(1 + 1e-12 * odd)]
    frames += [draw(odd[:2, :2], xs=[0, 1], ys=[0, 1e-9], path=[(0, 0)], marks=[("far", 9, 9)], elevation=5, azimuth=0)]
    assert len({frame.shape for frame in frames}) == 1
    more = {"path": [(0, 0.5), (0.5, 1)], "marks": [("a", 0, 0.5)]}
    np.testing.assert_array_equal(draw(odd, **more), draw(odd, **more))


def test_complaints():
    flat = np.zeros((7, 9))
    with pytest.raises(ValueError, match="7 ys .* 9 xs"):
        draw(flat.T)
    with pytest.raises(ValueError, match="ys must be"):
        draw(flat, ys=YS[::-1])
    with pytest.raises(ValueError, match="limits"):
        draw(flat, limits=(1, 0))
    with pytest.raises(ValueError, match="above 0"):
        draw(flat, log=True, limits=(-1, 1))
    with pytest.raises(ValueError, match="elevation"):
        draw(flat, elevation=90)
    with pytest.raises(ValueError, match="path is"):
        draw(flat, path=[1.0, 2.0])
    with pytest.raises(ValueError, match="path_values"):
        draw(flat, path=[(0, 0)], path_values=[1, 2])
