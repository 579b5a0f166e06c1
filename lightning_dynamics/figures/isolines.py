"""Lines of equal height over a map, with their numbers in gaps of the lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures.canvas import Canvas, text_width
from lightning_dynamics.figures.relief import HeightScale
from lightning_dynamics.figures.trail import Box

_PX = 14.0
_PER_LEVEL = 2  # Lines of one level that get a number.
_APART = 70.0  # Pixels between numbers.
_CLEAR = 11.0  # Pixels between a number and anything else.


def draw_isolines(
    canvas: Canvas,
    heights: NDArray[np.float64],
    levels: Sequence[float],
    scale: HeightScale,
    frame: Box,
    avoid: NDArray[np.float64],
    boxes: Sequence[Box],
) -> None:
    """Draw a line wherever a map has one of the heights, darker or lighter than its ground.

    Args:
        canvas: the sheet.
        heights: ``(h, w)`` at places spread evenly over the frame, the lowest row first; NaN has no lines.
        levels: rising heights.
        scale: colours and numbers of heights.
        frame: where the map is.
        avoid: ``(N, 2)`` pixels that numbers do not cover.
        boxes: areas that numbers do not cover.
    """
    from contourpy import contour_generator

    left, bottom, right, top = frame
    rows, columns = heights.shape
    # Places are in the middle of equal parts of the frame.
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    generator = contour_generator(x, y, np.ma.masked_invalid(heights), name="serial", corner_mask=True)
    lines = [[np.asarray(line) for line in generator.lines(level)] for level in levels]
    texts = scale.texts(levels)
    taken = [*avoid[np.isfinite(avoid).all(axis=1)]]
    numbers: list[NDArray[np.float64]] = []
    for i, (level, text) in enumerate(zip(levels, texts, strict=True)):
        line_colour, text_colour = _contrast(scale.colours(np.array([level]))[0])
        crowd = [line for j, group in enumerate(lines) if abs(i - j) == 1 for line in group]
        obstacles = np.concatenate([np.reshape(taken, (-1, 2)), *crowd])
        longest = sorted(lines[i], key=lambda line: -len(line))
        for order, line in enumerate(longest):
            spot = None
            if order < _PER_LEVEL:
                spot = _spot(line, text_width(text, _PX), obstacles, numbers, boxes, frame)
            if spot is None:
                canvas.line(line[:, 0], line[:, 1], color=line_colour, width=1.3)
                continue
            centre, angle = spot
            numbers.append(centre)
            inside = np.hypot(*(line - centre).T) < text_width(text, _PX) / 2 + 4
            broken = np.where(inside[:, None], np.nan, line)
            canvas.line(broken[:, 0], broken[:, 1], color=line_colour, width=1.3)
            canvas.text(float(centre[0]), float(centre[1]), text, px=_PX, ha="center", color=text_colour, angle=angle)


def _spot(
    line: NDArray[np.float64],
    width: float,
    obstacles: NDArray[np.float64],
    numbers: Sequence[NDArray[np.float64]],
    boxes: Sequence[Box],
    frame: Box,
) -> tuple[NDArray[np.float64], float] | None:
    """Find the middle and the angle of a straight and lonely piece of a line; None if there is no room."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    if along[-1] < 3 * width + 40:
        return None
    half = width / 2 + 4
    middles = np.arange(half + 6, along[-1] - half - 6, 9.0)

    def at(places: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.interp(places, along, line[:, 0]), np.interp(places, along, line[:, 1])], axis=1)

    starts, centres, ends = at(middles - half), at(middles), at(middles + half)
    chords = ends - starts
    straight = np.hypot(*chords.T) / (2 * half)
    bow = np.hypot(*((starts + ends) / 2 - centres).T)
    left, bottom, right, top = frame
    room = np.minimum.reduce([centres[:, 0] - left, right - centres[:, 0], centres[:, 1] - bottom, top - centres[:, 1]])
    good = (straight > 0.93) & (bow < 4) & (room > half + 4)
    for box in boxes:
        inside = (centres > np.array(box[:2]) - half) & (centres < np.array(box[2:]) + half)
        good &= ~inside.all(axis=1)
    for number in numbers:
        good &= np.hypot(*(centres - number).T) > _APART
    best, most = -1, 0.0
    for i in np.flatnonzero(good):
        near = obstacles[np.abs(obstacles - centres[i]).max(axis=1) < 80] - centres[i]
        direction = chords[i] / np.hypot(*chords[i])
        # How far anything is from the text's middle line, which is as long as the text.
        ahead, aside = near @ direction, near @ np.array([-direction[1], direction[0]])
        clear = float(np.hypot(np.maximum(np.abs(ahead) - half, 0), aside).min(initial=40.0))
        flat = abs(float(direction[0]))
        worth = min(clear, 25.0) + 10 * flat
        if clear > _CLEAR and worth > most:
            best, most = int(i), worth
    if best < 0:
        return None
    angle = float(np.degrees(np.arctan2(chords[best, 1], chords[best, 0])))
    return centres[best], (angle + 90) % 180 - 90  # Never upside down.


def _contrast(colour: NDArray[np.uint8]) -> tuple[str, str]:
    """Colours of a line and of its number on a ground of this colour."""
    from matplotlib.colors import to_hex

    ground = colour / 255
    light = float(ground @ np.array([0.299, 0.587, 0.114])) > 0.42
    if light:
        return to_hex(ground * 0.62), to_hex(ground * 0.35)
    return to_hex(ground + (1 - ground) * 0.5), to_hex(ground + (1 - ground) * 0.8)
