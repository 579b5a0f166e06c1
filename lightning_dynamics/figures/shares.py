"""Shares of a whole over training time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import INK, PAD, Canvas, house_style
from lightning_dynamics.figures.legend import Entry, draw_legend, legend_height, legend_rows
from lightning_dynamics.figures.lettering import draw_title_and_footer, footer_height, shorten, title_height
from lightning_dynamics.figures.sampling import paint_missing, pixel_means

_HEIGHT = 400
_FINER = 4  # Edges of the areas are smooth: each pixel has so many parts.


@house_style()
def shares_over_time(
    x: ArrayLike,
    shares: ArrayLike,
    *,
    names: Sequence[str],
    colours: Sequence[str],
    title: str,
    footer: str,
    x_title: str,
    y_title: str,
) -> NDArray[np.uint8]:
    """Draw shares that add up to 1 as areas above each other, the first at the bottom.

    A step with a NaN is hatched grey, as is one whose shares are all 0. A dashed line marks one half.

    Args:
        x: ``(T,)`` rising numbers such as training steps.
        shares: ``(K, T)``, not negative, adding up to 1 in every column.
        names: ``K`` names; the legend adds the last value in percent.
        colours: ``K`` colours such as ``"#3a9a50"``.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``x`` is.
        y_title: what the shares are of.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the names alone.

    Raises:
        ValueError: if the arguments do not fit together, or a column of shares does not add up to 1.
    """
    from matplotlib.colors import to_rgb

    steps = axes.check_steps(x)
    parts = axes.as_rows(shares, len(steps), "shares").copy()
    if not len(parts) == len(names) == len(colours) or not len(parts):
        raise ValueError(f"there are {len(parts)} shares, but {len(names)} names and {len(colours)} colours")
    total = parts.sum(axis=0)
    known = np.isfinite(total) & (total != 0)
    if (parts[:, known] < -1e-6).any() or (np.abs(total[known] - 1) > 1e-3).any():
        raise ValueError("shares must not be negative and must add up to 1 in every column")
    parts[:, ~known] = np.nan

    left = PAD + axes.AXIS_TITLE + axes.NUMBERS + 12
    short = shorten(names)
    legend = legend_height(legend_rows([f"{name} 100.0 %" for name in short], axes.TIME_WIDTH))
    sheet_width = left + axes.TIME_WIDTH + 12 + PAD
    bottom = footer_height(sheet_width) + axes.x_axis_height(x_title)
    canvas = Canvas(sheet_width, bottom + _HEIGHT + legend + title_height())
    plot = axes.Plot(left, bottom, axes.TIME_WIDTH, _HEIGHT, axes.time_limits(steps))

    draw_title_and_footer(canvas, title, footer)
    palette = np.array([to_rgb(colour) for colour in colours])
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    axes.draw_y_axis(canvas, plot, ticks, [f"{100 * tick:.0f} %" for tick in ticks], axes.NUMBERS)
    # The areas cover the grid lines, which would look like shares; marks outside remain.
    canvas.image(_areas(steps, parts, palette), left, bottom)
    half = float(plot.y(0.5))
    dashes: tuple[int, tuple[int, int]] = (0, (6, 4))
    canvas.line([left, left + axes.TIME_WIDTH], [half, half], color="white", width=2)
    canvas.line([left, left + axes.TIME_WIDTH], [half, half], color=INK, width=1.5, linestyle=dashes)
    marks = [float(plot.y(tick)) for tick in ticks]
    canvas.lines([[(left - 5, y), (left, y)] for y in marks], color="#999999")
    places = axes.time_ticks(steps, plot.x_limits)
    axes.draw_x_axis(canvas, plot, places, axes.tick_texts(places))
    axes.draw_x_title(canvas, plot, x_title)
    axes.draw_y_title(canvas, plot, y_title)
    texts = [
        f"{name} {100 * last:.1f} %" if known[-1] else name for name, last in zip(short, parts[:, -1], strict=True)
    ]
    entries = [Entry(text, colour, "box") for text, colour in zip(texts, colours, strict=True)]
    draw_legend(canvas, entries, left, bottom + _HEIGHT + legend, axes.TIME_WIDTH)
    return canvas.pixels()


def _areas(steps: NDArray[np.float64], parts: NDArray[np.float64], palette: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Paint the areas: ``(height, width, 3)``."""
    if len(steps) == 1:
        columns = parts.repeat(axes.TIME_WIDTH, axis=1)
    elif len(steps) <= axes.TIME_WIDTH:
        # Straight from step to step; NaN at either end makes all between them NaN.
        at = np.linspace(steps[0], steps[-1], axes.TIME_WIDTH)
        columns = np.stack([np.interp(at, steps, part) for part in parts])
    else:
        halves = (steps[1:] + steps[:-1]) / 2  # Each step stands for the time that is nearest to it.
        columns = pixel_means(parts, np.concatenate([steps[:1], halves, steps[-1:]]), axes.TIME_WIDTH)
    missing = np.isnan(columns).any(axis=0)
    tops = np.cumsum(np.nan_to_num(columns), axis=0)
    heights = (np.arange(_HEIGHT * _FINER) + 0.5) / (_HEIGHT * _FINER)
    # The share that a height belongs to: as many as end below it.
    index = (heights[None, :, None] > tops[:-1, None, :]).sum(axis=0)
    colours = np.round(255 * palette).astype(np.float32)[index]
    image = colours.reshape(_HEIGHT, _FINER, axes.TIME_WIDTH, 3).mean(axis=1).round().astype(np.uint8)[::-1].copy()
    paint_missing(image, np.broadcast_to(missing, (_HEIGHT, axes.TIME_WIDTH)).copy())
    return image
