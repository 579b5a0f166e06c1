"""Events of many layers over training time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import INK, PAD, Canvas, house_style
from lightning_dynamics.figures.lettering import (
    axis_labels,
    draw_title_and_footer,
    draw_y_labels,
    fit,
    footer_height,
    title_height,
)
from lightning_dynamics.figures.scale import tick_values
from lightning_dynamics.figures.timemap import row_height

_STRIP = 130
_GAP = 48  # Between the rows and the strip; holds what the strip counts.
_EVENT = (34, 34, 34)
_COUNT = (0, 114, 178)
_BAND = (253, 221, 168)
_BAND_EDGE = "#d55e00"
_SHADE = (244, 244, 244)


@house_style()
def raster(
    x: ArrayLike,
    events: ArrayLike,
    *,
    labels: Sequence[str],
    counts_name: str,
    band: tuple[float, float] | None = None,
    title: str,
    footer: str,
    x_title: str,
) -> NDArray[np.uint8]:
    """Draw a tick for every event, one row per layer, row 0 on top; below, how many rows have one at each time.

    Args:
        x: ``(T,)`` rising numbers such as training steps.
        events: ``(L, T)`` bool.
        labels: ``L`` names; long ones are shortened in the middle, staying distinct.
        counts_name: what the strip below counts.
        band: lower and upper end of the counts that are to be expected, shaded in the strip.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``x`` is.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the labels alone.

    Raises:
        ValueError: if ``x``, events and labels do not fit together, or the events are not booleans.
    """
    steps, happened = axes.check_steps(x), np.asarray(events)
    if happened.dtype != np.bool_:
        raise ValueError(f"events are booleans, got {happened.dtype}")
    if happened.shape != (len(labels), len(steps)) or not len(labels):
        raise ValueError(f"events are {happened.shape}, but there are {len(labels)} labels and {len(steps)} columns")

    pitch = row_height(len(labels))
    height = round(pitch * len(labels))
    axis = axis_labels(labels, pitch)
    left = PAD + max(axis.extent, axes.AXIS_TITLE + 60) + 12
    sheet_width = left + axes.TIME_WIDTH + 30 + PAD
    bottom = footer_height(sheet_width) + axes.x_axis_height(x_title)
    canvas = Canvas(sheet_width, bottom + _STRIP + _GAP + height + title_height())
    # Half a step of room at both ends: the first and the last tick are as wide as the others.
    room = (steps[-1] - steps[0]) / (2 * (len(steps) - 1)) if len(steps) > 1 else 1.0
    limits = float(steps[0] - room), float(steps[-1] + room)
    counts = happened.sum(axis=0)
    top = axes.round_limits(np.array([0.0, *counts, *(band or ()), 1.0]))[1]
    strip = axes.Plot(left, bottom, axes.TIME_WIDTH, _STRIP, limits, (0.0, top))

    draw_title_and_footer(canvas, title, footer)
    wide = int(np.clip(0.6 * axes.TIME_WIDTH / len(steps), 2, 9))
    starts = np.clip(np.round(strip.x(steps) - left - wide / 2), 0, axes.TIME_WIDTH - wide).astype(int)
    canvas.boxes([(left - 1, bottom + _STRIP + _GAP - 1, axes.TIME_WIDTH + 2, height + 2)], color="#aaaaaa")
    canvas.image(_rows(happened, starts, wide, height), left, bottom + _STRIP + _GAP)
    draw_y_labels(canvas, axis, left, bottom + _STRIP + _GAP + height, -pitch)

    ticks = [tick for tick in tick_values(0.0, top, 4) if tick == round(tick)]
    axes.draw_y_axis(canvas, strip, ticks, axes.tick_texts(ticks))
    canvas.image(_strip(counts, starts, wide, top, band), left, bottom)
    if band is not None:  # The bars may cover the shade, but not the ends of the range.
        ends = [float(y) for y in strip.y(band) if bottom < y <= bottom + _STRIP]
        canvas.lines([[(left, y), (left + axes.TIME_WIDTH, y)] for y in ends], color=_BAND_EDGE, width=1.5)
    line, px = fit(counts_name, axes.TIME_WIDTH)
    canvas.text(left, bottom + _STRIP + 18, line, px=px, color=INK)
    ticks = [tick for tick in axes.time_ticks(steps, limits) if limits[0] <= tick <= limits[1]]
    axes.draw_x_axis(canvas, strip, ticks, axes.tick_texts(ticks))
    axes.draw_x_title(canvas, strip, x_title)
    return canvas.pixels()


def _rows(happened: NDArray[np.bool_], starts: NDArray[np.intp], wide: int, height: int) -> NDArray[np.uint8]:
    """Paint the ticks: ``(height, width, 3)``, every second row on a light ground."""
    hit = np.zeros((len(happened), axes.TIME_WIDTH), dtype=bool)
    for shift in range(wide):
        rows, columns = np.nonzero(happened)
        hit[rows, starts[columns] + shift] = True
    row_of_pixel = np.arange(height) * len(happened) // height
    image = np.full((height, axes.TIME_WIDTH, 3), 255, dtype=np.uint8)
    image[row_of_pixel % 2 == 0] = _SHADE
    ticks = hit[row_of_pixel]
    if height >= 4 * len(happened):
        ticks[np.flatnonzero(np.diff(row_of_pixel, append=-1))] = False  # Rows do not touch.
        ticks[np.flatnonzero(np.diff(row_of_pixel, prepend=-1))] = False
    image[ticks] = _EVENT
    return image


def _strip(
    counts: NDArray[np.intp],
    starts: NDArray[np.intp],
    wide: int,
    top: float,
    band: tuple[float, float] | None,
) -> NDArray[np.uint8]:
    """Paint thin bars, one per time: ``(height, width, 3)``; where they share a pixel, the highest shows."""
    tallest = np.zeros(axes.TIME_WIDTH)
    for shift in range(wide):
        np.maximum.at(tallest, starts + shift, counts)
    heights = (np.arange(_STRIP)[::-1, None] + 0.5) / _STRIP * top
    image = np.full((_STRIP, axes.TIME_WIDTH, 3), 255, dtype=np.uint8)
    if band is not None:
        image[((heights >= band[0]) & (heights <= band[1]))[:, 0]] = _BAND
    image[heights < tallest] = _COUNT
    return image
