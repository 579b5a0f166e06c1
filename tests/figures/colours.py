"""Looking at the colours of a picture."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb

TITLES = {"title": "title", "footer": "footer"}


def mask(image, colour):
    """Where exactly this colour is."""
    return (image == np.round(255 * np.array(to_rgb(colour)))).all(axis=2)


def box(found):
    """Top, bottom, left and right of what is true (half-open)."""
    ys, xs = np.nonzero(found)
    return ys.min(), ys.max() + 1, xs.min(), xs.max() + 1


def greenish(pixels):
    red, green, blue = np.moveaxis(np.asarray(pixels).astype(int), -1, 0)
    return (green > red + 8) & (green > blue + 8)


def purplish(pixels):
    red, green, blue = np.moveaxis(np.asarray(pixels).astype(int), -1, 0)
    return (red > green + 8) & (blue > green + 8)
