"""The charts: what a reader could misread is tested on pixels."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from lightning_dynamics import figures as drawing
from lightning_dynamics.figures import heat_map, profile
from lightning_dynamics.figures.lettering import MAX_CHARACTERS, axis_labels, fit, shorten, wrap
from lightning_dynamics.figures.scale import MISSING, STRIPE, UNDER

HOSTILE = ["$x_1$", "a_b^{c}", "层.注意", "\\frac{1}", "line\nbreak\x00", "$", "\ud800", "x" * 90, "🙂", ""]


def draw(matrix, *, title="title", footer="footer", **more):
    matrix = np.asarray(matrix, dtype=float)
    x_labels = [f"layer{i}" for i in range(matrix.shape[1])]
    y_labels = [f"layer{i}" for i in range(matrix.shape[0])]
    return heat_map(matrix, x_labels=x_labels, y_labels=y_labels, title=title, footer=footer, **more)


def cells(matrix, **more):
    """The colour near the lower left corner of each cell; row 0 of the answer is the lowest."""
    matrix = np.asarray(matrix, dtype=float)
    # The cells are where the picture changes with the values; the colour bar does not.
    low = draw(np.full(matrix.shape, 0.3), **more).astype(int)
    high = draw(np.full(matrix.shape, 0.7), **more).astype(int)
    ys, xs = np.nonzero((low != high).any(axis=2))
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    image = draw(matrix, **more)[top:bottom, left:right]
    height, width = (bottom - top) // matrix.shape[0], (right - left) // matrix.shape[1]
    assert (bottom - top, right - left) == (height * matrix.shape[0], width * matrix.shape[1])
    return image[::-1][2::height, 3::width]


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (31, 20), (1, 40), (40, 1)])
def test_heat_map_is_rgb_bytes_of_a_bounded_size(shape):
    image = draw(np.random.default_rng(0).random(shape))
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert 300 < image.shape[0] < 1650 and 300 < image.shape[1] < 1650


def test_profile_is_rgb_bytes():
    image = profile([0.1, 0.5], labels=["a", "b"], title="t", footer="f", y_title="y")
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def test_size_depends_on_the_labels_alone():
    frames = [
        draw(np.zeros((9, 9)), title="", footer="", colorbar_label="CKA"),
        draw(np.full((9, 9), np.nan), title="step 1", footer="one line", colorbar_label="CKA"),
        draw(np.full((9, 9), -7.0), title="long " * 90, footer="long " * 300, colorbar_label="CKA"),
        draw(np.full((9, 9), 1e9), title="x" * 900, footer="x" * 3000, colorbar_label="CKA", blocks=[(1, 4)]),
    ]
    assert len({frame.shape for frame in frames}) == 1
    more = {"labels": list("abcd"), "y_title": "y", "series_names": ["one", "two"]}
    frames = [
        profile(np.full((2, 4), value), title=text, footer=text * 2, **more)
        for value, text in [(0.0, ""), (np.nan, "short"), (40.0, "long " * 200), (-40.0, "x" * 2000)]
    ]
    assert len({frame.shape for frame in frames}) == 1


def test_size_sets_the_map_and_thins_the_labels_out():
    small, large = draw(np.zeros((50, 50)), size=200), draw(np.zeros((50, 50)), size=1000)
    assert large.shape[0] - small.shape[0] > 700
    assert draw(np.zeros((1700, 3))).shape[0] < 2200
    with pytest.raises(ValueError, match="200"):
        draw(np.zeros((5, 5)), size=50)


def test_first_layer_is_at_the_bottom_left():
    matrix = np.full((4, 6), 0.5)
    matrix[0, 0], matrix[0, 5], matrix[3, 0] = 0.0, 0.25, 1.0
    colours = cells(matrix)
    magma = matplotlib.colormaps["magma"]
    for i, j in [(0, 0), (0, 5), (3, 0), (3, 5)]:
        assert tuple(colours[i, j]) == magma(matrix[i, j], bytes=True)[:3]
    flipped = cells(matrix, origin="upper")
    np.testing.assert_array_equal(flipped, colours[::-1])


def test_zero_negative_and_missing_look_different():
    matrix = np.full((13, 13), 0.5)
    matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[0, 3] = 0.0, -0.02, np.nan, -1e-9
    zero, negative, missing, rounding = map(tuple, cells(matrix)[0, :4])
    assert len({zero, negative, missing}) == 3
    assert negative == UNDER and missing in (MISSING, STRIPE)
    assert rounding == zero


def test_negative_and_missing_are_explained_beside_the_bar():
    def count(colour, value):
        matrix = np.full((13, 13), 0.5)
        matrix[0, 0] = value
        return (draw(matrix)[:, -160:] == np.array(colour)).all(axis=2).sum()

    assert count(UNDER, 0.5) > 500  # The scale is the same in every frame.
    assert count(STRIPE, np.nan) > count(STRIPE, 0.5) + 100


def test_colours_rise_on_a_fixed_scale():
    ramp = cells(np.linspace(0, 1, 13)[None, :].repeat(13, axis=0))[0].astype(int)
    assert len({tuple(colour) for colour in ramp}) == 13
    brightness = ramp @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) > 0).all()
    alone, among = np.full((13, 13), 0.4), np.linspace(-1, 2, 169).reshape(13, 13)
    among[5, 5] = 0.4
    assert tuple(cells(alone)[5, 5]) == tuple(cells(among)[5, 5])


def test_blocks_are_outlined_on_the_diagonal_only():
    plain, outlined = (draw(np.full((20, 20), 0.5), blocks=blocks) for blocks in ([], [(4, 9)]))
    ys, xs = np.nonzero((plain != outlined).any(axis=2))
    assert abs((ys.max() - ys.min()) - (xs.max() - xs.min())) <= 1
    inside = (plain == outlined).all(axis=2)[ys.min() + 8 : ys.max() - 8, xs.min() + 8 : xs.max() - 8]
    assert inside.all()
    np.testing.assert_array_equal(draw(np.zeros((3, 3)), blocks=[(7, 9), (2, 2)]), draw(np.zeros((3, 3))))


def test_hostile_names_are_written_literally():
    more = {"title": "$\\alpha", "footer": "$ _{", "x_title": "$", "y_title": "\\", "colorbar_label": "层$"}
    image = heat_map(np.full((10, 10), 0.5), x_labels=HOSTILE, y_labels=HOSTILE, **more)
    assert image.shape[2] == 3
    profile(np.zeros((10, 10)), labels=HOSTILE, series_names=HOSTILE, title="$", footer="$", y_title="$")


def test_same_input_gives_same_bytes_in_any_style():
    matrix = np.random.default_rng(1).normal(size=(6, 6))
    curve = {"labels": list("abcdef"), "title": "t", "footer": "f", "y_title": "y"}
    first, first_curve = draw(matrix), profile(matrix, **curve)
    style = {"font.size": 30, "lines.linewidth": 9, "lines.markeredgewidth": 5, "figure.facecolor": "red"}
    style |= {"axes.facecolor": "red", "figure.dpi": 31, "text.antialiased": False, "path.sketch": (9, 9, 9)}
    with matplotlib.rc_context(style):
        second, second_curve = draw(matrix), profile(matrix, **curve)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first_curve, second_curve)


def test_leaves_the_settings_and_random_numbers_alone():
    settings = dict(matplotlib.rcParams.copy())
    python, numpy = random.getstate(), np.random.get_state()
    draw(np.zeros((3, 3)))
    profile(np.zeros((2, 3)), labels=list("abc"), title="t", footer="f", y_title="y")
    with pytest.raises(ValueError, match="matrix is"):
        heat_map(np.zeros((2, 2)), x_labels=["a"], y_labels=["b"], title="", footer="")
    assert dict(matplotlib.rcParams.copy()) == settings
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy, strict=True))


def test_needs_no_pyplot_and_imports_matplotlib_late():
    # The panels alone, without the package around them: torchmetrics itself imports pyplot.
    script = f"""
import random, sys, types
package = types.ModuleType("lightning_dynamics")
package.__path__ = [{str(Path(drawing.__file__).parents[1])!r}]
sys.modules["lightning_dynamics"] = package
import numpy as np
from lightning_dynamics.figures import heat_map, profile
assert "matplotlib" not in sys.modules
python, numpy = random.getstate(), np.random.get_state()[1].tolist()
heat_map(np.eye(3), x_labels="abc", y_labels="abc", title="t", footer="f")
profile(np.eye(3), labels="abc", title="t", footer="f", y_title="y")
assert not {{"matplotlib.pyplot", "torch", "lightning", "pytorch_lightning"}} & set(sys.modules)
assert random.getstate() == python and np.random.get_state()[1].tolist() == numpy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_a_curve_has_gaps_and_marks_what_is_outside():
    def colours(values):
        image = profile(values, labels=list("abcd"), title="", footer="", y_title="")
        return (image == np.array([0x00, 0x72, 0xB2])).all(axis=2)

    whole, gap = colours([0.5, 0.5, 0.5, 0.5]), colours([0.5, np.nan, 0.5, 0.5])
    assert gap.sum() < whole.sum() - 200
    edge, beyond = colours([0.5, 0.5, 0.5, 0.0]), colours([0.5, 0.5, 0.5, -0.3])
    assert (edge != beyond).any()


@pytest.mark.parametrize(
    "names",
    [
        [f"encoder.layers.encoder_layer_{i}.self_attention.out_proj" for i in range(120)],
        [f"model.blocks.{i}.attention.output.dense.{end}" for i in range(30) for end in ("a", "b")],
        ["a" * 40 + str(i) + "b" * 40 for i in range(20)],
        ["conv1", "x" * 28, "x" * 29, "x" * 30],
    ],
)
def test_short_names_stay_distinct(names):
    short = shorten(names)
    assert len(set(short)) == len(set(names))
    assert max(map(len, short)) <= MAX_CHARACTERS
    assert all(s == n for s, n in zip(short, names, strict=True) if len(n) <= MAX_CHARACTERS)


def test_a_name_is_cut_at_its_dots():
    name = "encoder.layers.residual_tower.attention"
    assert shorten([name, "encoder.layers.residual_tower.mlp"])[0] == "encoder.layers…attention"
    assert shorten([name, name]) == [shorten([name])[0]] * 2


@pytest.mark.parametrize("count, shown", [(12, 12), (100, 100), (150, 150), (151, 76), (400, 134)])
def test_labels_are_thinned_out_beyond_150(count, shown):
    labels = axis_labels([f"layer{i}" for i in range(count)], pitch=max(3.0, 1650 // count))
    assert len(labels.at) == len(labels.texts) == shown
    assert labels.px * 1.17 <= np.diff(labels.at).min() * max(3.0, 1650 // count)  # Lines do not overlap.
    assert labels.px >= 8


def test_text_is_wrapped_then_cut_with_an_ellipsis():
    assert wrap("a few words", 1000, 2, 19) == ["a few words"]
    assert wrap("", 100, 2, 19) == []
    lines = wrap("one two three " * 9, 200, 3, 19)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert "".join(wrap("x" * 50, 100, 99, 19)) == "x" * 50
    assert fit("short", 500)[1] == 19 and fit("rather long text", 130)[1] < 19


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, float("nan")), (0.0, 0.0)])
def test_complains_about_limits(limits):
    with pytest.raises(ValueError, match="limits"):
        draw(np.zeros((2, 2)), limits=limits)


def test_complains_about_shapes():
    with pytest.raises(ValueError, match="columns"):
        profile(np.zeros((2, 3)), labels=["a"], title="", footer="", y_title="")
    with pytest.raises(ValueError, match="series_names"):
        profile(np.zeros((2, 1)), labels=["a"], title="", footer="", y_title="", series_names=["one"])
    with pytest.raises(ValueError, match="origin"):
        draw(np.zeros((2, 2)), origin="left")


def test_a_hundred_layers_are_quick():
    matrix = np.random.default_rng(0).random((100, 100))
    draw(matrix)
    start = time.perf_counter()
    draw(matrix)
    assert time.perf_counter() - start < 3  # Usually 0.3 s; room for a busy machine.
