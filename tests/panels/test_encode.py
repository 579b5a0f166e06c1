from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from lightning_dynamics.panels import Film
from lightning_dynamics.panels.encode import gif, png


def _open(data: bytes) -> Any:
    return Image.open(io.BytesIO(data))


def test_a_png_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(_open(png(image))), image)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_gif_keeps_frames_colours_and_time(count: int) -> None:
    frames = [np.full((8, 12, 3), (i * 40, 255 - i * 40, 7), np.uint8) for i in range(count)]
    film = _open(gif(Film(frames, fps=5)))
    durations = []
    for frame, expected in zip(ImageSequence.Iterator(film), frames, strict=True):
        durations.append(frame.info["duration"])
        np.testing.assert_array_equal(np.asarray(frame.convert("RGB")), expected)
    assert durations == [200] * (count - 1) + [1200]
    assert film.info["loop"] == 0


def test_a_film_that_stands_still_lasts_as_long() -> None:
    film = _open(gif(Film([np.zeros((8, 8, 3), np.uint8)] * 3, fps=4)))
    assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) == 1750
