from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from lightning_dynamics.panels import Film, encode
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


def test_a_film_is_encoded_once_for_all_loggers() -> None:
    film, other = (Film([np.full((8, 8, 3), value, np.uint8)]) for value in (10, 200))
    assert gif(film) is gif(film)
    assert gif(film) != gif(other)


def test_a_film_of_many_colours_keeps_rare_ones_and_white_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of the pixels makes the palette: no colour that is there, however rare, may be missing from it."""
    monkeypatch.setattr(encode, "_SAMPLE", 1000)
    ramp = np.repeat(np.arange(200, dtype=np.uint8), 3).reshape(1, 200, 3).repeat(50, axis=0)
    frame = np.concatenate([np.full((400, 200, 3), 255, np.uint8), ramp])
    frame[450 - 1, 199] = (250, 0, 0)
    seen = np.asarray(_open(gif(Film([frame]))).convert("RGB"))
    assert (seen[:400] == 255).all()
    np.testing.assert_array_equal(seen[449, 199], (250, 0, 0))
    assert np.abs(seen.astype(int) - frame).max() <= 3
