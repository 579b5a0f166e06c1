"""Which places of Not-so-Clevr a network has learned, on the canvas."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.data.not_so_clevr import CANVAS
from lightning_dynamics.figures.canvas import PAD, Canvas, house_style
from lightning_dynamics.figures.legend import ROW, Entry, draw_legend
from lightning_dynamics.figures.lettering import draw_title_and_footer, footer_height, title_height

_CELL = 9  # Pixels per place, one of them left white between neighbours.
_LEGEND = 330
# Okabe and Ito's blue and vermilion, full for what is right and pale for what is wrong.
_COLOURS = {
    (True, True): (0, 114, 178),
    (True, False): (191, 217, 235),
    (False, True): (213, 94, 0),
    (False, False): (246, 214, 190),
}
_PAPER = (250, 250, 250)


@house_style()
def position_map(
    centres: ArrayLike, for_training: ArrayLike, right: ArrayLike, *, title: str, footer: str
) -> NDArray[np.uint8]:
    """Draw every place as a cell of the canvas: training or test place by hue, learned or not by strength.

    Args:
        centres: ``(N, 2)`` whole pixels (x, y), y downwards.
        for_training: ``(N,)`` bool.
        right: ``(N,)`` bool, whether the network is right there.
        title: one line.
        footer: data, epoch, step and the like; wrapped, and set smaller when long.

    Returns:
        ``(H, W, 3)`` uint8, always of the same size.

    Raises:
        ValueError: the three do not fit together, or a centre is not on the canvas.
    """
    places = np.asarray(centres, dtype=np.intp)
    trained, learned = np.asarray(for_training, dtype=bool), np.asarray(right, dtype=bool)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places) == trained.size == learned.size:
        raise ValueError(f"{places.shape} centres, {trained.shape} for_training and {learned.shape} right do not fit")
    if places.size and (places.min() < 0 or places.max() >= CANVAS):
        raise ValueError(f"centres are pixels from 0 to {CANVAS - 1}, got {places.min()} to {places.max()}")
    cells = np.full((CANVAS, CANVAS, 3), _PAPER, dtype=np.uint8)
    entries = []
    for (train, good), colour in _COLOURS.items():
        chosen = (trained == train) & (learned == good)
        cells[places[chosen, 1], places[chosen, 0]] = colour
        name = f"{'train' if train else 'test'}, {'right' if good else 'wrong'}: {chosen.sum():,}"
        entries.append(Entry(name, "#{:02x}{:02x}{:02x}".format(*colour), "box"))
    pixels = cells.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
    gaps = np.arange(CANVAS * _CELL) % _CELL == 0
    pixels[gaps] = pixels[:, gaps] = _PAPER

    side = CANVAS * _CELL
    sheet = PAD + side + 2 * PAD + _LEGEND + PAD
    bottom = footer_height(sheet)
    canvas = Canvas(sheet, bottom + side + title_height())
    draw_title_and_footer(canvas, title, footer)
    canvas.boxes([(PAD - 1, bottom - 1, side + 2, side + 2)], color="#aaaaaa")
    canvas.image(pixels, PAD, bottom)
    left, top = PAD + side + 2 * PAD, bottom + side
    for row, entry in enumerate(entries):
        draw_legend(canvas, [entry], left, top - row * (ROW + 6), _LEGEND)
    for row, train in enumerate((True, False)):
        share = f"{100 * learned[trained == train].mean():.1f} %" if (trained == train).any() else "none"
        y = top - (len(entries) + 1 + row) * (ROW + 6)
        canvas.text(left, y, f"{'train' if train else 'test'} places right: {share}", bold=True)
    return canvas.pixels()
