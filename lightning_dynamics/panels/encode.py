"""Images as bytes: PNG for stills, GIF for films (Pillow; no video codec needed)."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.panels.values import Film


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode one ``(H, W, 3)`` uint8 image."""
    from PIL import Image

    buffer = io.BytesIO()
    # Not `optimize=True`: 2 % smaller files take five times as long, and there is one for every picture.
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def gif(film: Film) -> bytes:
    """Encode a film as an endlessly looping GIF; the last frame is held for a second longer."""
    from PIL import Image

    # One palette for all frames: colours must not flicker from frame to frame.
    palette = Image.fromarray(np.concatenate(list(film.frames), axis=0)).quantize(256)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[(colours >= 248).all(1)] = 255  # Pillow's averages make white paper grey
    palette.putpalette(colours.flatten().tolist())
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
