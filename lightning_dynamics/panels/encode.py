"""Images as bytes: PNG for stills, GIF for films (Pillow; no video codec needed)."""

from __future__ import annotations

import io
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.panels.values import Film

_SAMPLE = 2**19  # pixels from which a film's palette is found
_GIFS: WeakKeyDictionary[Film, bytes] = WeakKeyDictionary()


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode one ``(H, W, 3)`` uint8 image."""
    from PIL import Image

    buffer = io.BytesIO()
    # Not `optimize=True`: 2 % smaller files take five times as long, and there is one for every picture.
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def gif(film: Film) -> bytes:
    """Encode a film as an endlessly looping GIF; the last frame is held for a second longer.

    A film is encoded once, however many loggers ask: the common palette of its frames takes a second or more.
    """
    if film not in _GIFS:
        _GIFS[film] = _encode(film)
    return _GIFS[film]


def _encode(film: Film) -> bytes:
    from PIL import Image

    palette = _palette(film)
    frames = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in film.frames]
    milliseconds = round(1000 / film.fps)
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[milliseconds] * (len(frames) - 1) + [milliseconds + 1000],
        loop=0,
    )
    return buffer.getvalue()


def _palette(film: Film) -> Any:
    """One palette for all frames: colours must not flicker from frame to frame.

    Found from a sample that holds every colour of the film, in proportion: as good as from all pixels, and several
    times faster.
    """
    from PIL import Image

    counts = np.zeros(1 << 24, dtype=np.int64)
    for frame in film.frames:
        red, green, blue = np.moveaxis(frame.astype(np.uint32), 2, 0)
        codes, number = np.unique(red << 16 | green << 8 | blue, return_counts=True)
        counts[codes] += number
    codes = np.flatnonzero(counts)
    pixels = np.repeat(codes, -(-counts[codes] * _SAMPLE // counts.sum()))  # rounded up: rare colours stay
    sample = np.stack([pixels >> 16, pixels >> 8 & 255, pixels & 255], axis=-1).astype(np.uint8)
    palette = Image.fromarray(sample[None]).quantize(256)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[(colours >= 248).all(1)] = 255  # Pillow's averages make white paper grey
    palette.putpalette(colours.flatten().tolist())
    return palette
