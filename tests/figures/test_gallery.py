"""Example images: every one is there, whole, in its place, and a marked one is seen."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.figures import Tile, gallery
from lightning_dynamics.figures.gallery import MARKED
from tests.figures.colours import TITLES, box, mask

RED, BLUE = (255, 0, 0), (0, 0, 255)


def tile(colour=RED, size=(8, 8), **more):
    return Tile(np.broadcast_to(np.uint8(colour), (*size, 3)), **more)


def draw(groups, **more):
    rows, columns = [f"row{i}" for i in range(len(groups))], [f"column{i}" for i in range(len(groups[0]))]
    return gallery(groups, **{"row_names": rows, "column_names": columns, **TITLES, **more})


def red(image):
    return mask(image, "#ff0000")


@pytest.mark.parametrize(
    "size, shown",
    [
        ((8, 8), (96, 96)),
        ((28, 28), (84, 84)),
        ((32, 32), (96, 96)),
        ((64, 64), (128, 128)),
        ((112, 60), (112, 60)),
        ((224, 224), (112, 112)),
        ((300, 600), (56, 112)),
        ((1, 5000), (1, 112)),
    ],
)
def test_images_get_about_a_hundred_pixels(size, shown):
    top, bottom, left, right = box(red(draw([[[tile(size=size)]]])))
    assert (bottom - top, right - left) == shown


def test_small_images_are_enlarged_pixel_by_pixel():
    pixels = np.random.default_rng(0).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    pixels[0, 0] = pixels[-1, -1] = RED
    image = draw([[[Tile(pixels)]]])
    top, bottom, left, right = box(red(image))
    np.testing.assert_array_equal(image[top:bottom:12, left:right:12], pixels)
    np.testing.assert_array_equal(image[top + 11 : bottom : 12, left + 11 : right : 12], pixels)


def test_tiles_are_in_their_rows_and_columns():
    image = draw([[[tile(), tile()], [tile(BLUE)]], [[tile(BLUE)], []]])
    first, other = red(image), mask(image, "#0000ff")
    assert first.sum() == other.sum() == 2 * 96 * 96
    top, bottom, left, right = box(first)
    assert (bottom - top, right - left) == (96, 2 * 96 + 20)
    assert box(other)[0] == top and other[:bottom, right + 40 :].sum() == 96 * 96  # Right of it, after a gap,
    assert box(other[bottom:])[2] == left  # and below it.


def test_a_marked_tile_has_a_frame():
    image = draw([[[tile(), tile(BLUE, marked=True)]]])
    frame = mask(image, MARKED)
    assert frame.sum() == 104**2 - 96**2
    assert box(frame) == tuple(np.array(box(mask(image, "#0000ff"))) + (-4, 4, -4, 4))
    assert not mask(draw([[[tile(), tile(BLUE)]]]), MARKED).any()


def test_the_lines_are_below_their_tile():
    plain, written = draw([[[tile(lines=("",))]]]), draw([[[tile(lines=("score 1.83 " * 40,))]]])
    changed = box((plain != written).any(axis=2))
    _, bottom, left, right = box(red(plain))
    assert bottom <= changed[0] <= bottom + 15 and left - 4 <= changed[2] and changed[3] <= right + 4


@pytest.mark.parametrize("rows, columns, most", [(1, 1, 1), (12, 3, 5)])
def test_size_depends_on_the_layout_alone(rows, columns, most):
    def sheet(colour, count, **more):
        groups = [[[tile(colour, lines=("a", "b"))] * count for _ in range(columns)] for _ in range(rows)]
        groups[0][0] = [tile(colour, lines=("a" * count, "b"), marked=count > 1)] * most
        return draw(groups, **more)

    images = [sheet(RED, 0), sheet(BLUE, most, title="x" * 500, footer="x " * 900), sheet(RED, 1, footer="")]
    assert len({image.shape for image in images}) == 1
    assert images[0].shape[0] < 2500 and images[0].shape[1] < 2100
    np.testing.assert_array_equal(images[0], sheet(RED, 0))


def test_no_tiles_and_long_names():
    nothing = draw([[[], []]], row_names=[""], column_names=["a", "b"])
    assert not red(nothing).any() and mask(nothing, "#666666").sum() > 50
    long = draw([[[tile()]]] * 2, row_names=["name of a class " * 9, "x" * 300], column_names=["long " * 90])
    assert box(red(long))[2] < 220
    assert draw([[[tile()]]], row_names=["short"]).shape == draw([[[tile(BLUE)]]], row_names=["sh🙂rt"]).shape


def test_complaints():
    with pytest.raises(ValueError, match="at least one row"):
        draw([[]])
    with pytest.raises(ValueError, match="row_names"):
        draw([[[tile()]]], row_names=["a", "b"])
    with pytest.raises(ValueError, match="column_names"):
        gallery([[[]], [[], []]], row_names=["a", "b"], column_names=["c"], **TITLES)
    for wrong in (np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            draw([[[Tile(wrong)]]])
