"""Axes of numbers: where a value lies on the sheet, round ticks, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.canvas import FAINT, PAD, TEXT_PX, Canvas, text_width
from lightning_dynamics.figures.lettering import draw_title_and_footer, fit, footer_height, title_height
from lightning_dynamics.figures.scale import tick_values

AXIS_TITLE = 38
"""Pixels that the title of an axis takes."""
NUMBERS = 90
"""Pixels reserved for the numbers of an axis whose limits follow from the values."""
TIME_WIDTH = 960
"""Length of every time axis, in pixels: charts of one training lie well below each other."""
GRID = "#e2e2e2"
ZERO = "#777777"
_BASELINE = "#999999"


@dataclass(frozen=True)
class Plot:
    """A rectangle on the sheet in which numbers have places.

    Args:
        left: of the rectangle, in pixels.
        bottom: of the rectangle, in pixels.
        width: in pixels.
        height: in pixels.
        x_limits: numbers at the left and right edge.
        y_limits: numbers at the lower and upper edge.
        edge: pixels between the ``y_limits`` and the edges: a curve that runs along a limit stays whole.
    """

    left: float
    bottom: float
    width: float
    height: float
    x_limits: tuple[float, float] = (0.0, 1.0)
    y_limits: tuple[float, float] = (0.0, 1.0)
    edge: float = 0.0

    def x(self, values: ArrayLike) -> NDArray[np.float64]:
        """Place of numbers along the horizontal axis, in pixels of the sheet."""
        low, high = self.x_limits
        return self.left + (np.asarray(values, dtype=np.float64) - low) / (high - low) * self.width

    def y(self, values: ArrayLike) -> NDArray[np.float64]:
        """Place of numbers along the vertical axis, in pixels of the sheet."""
        low, high = self.y_limits
        share = (np.asarray(values, dtype=np.float64) - low) / (high - low)
        return self.bottom + self.edge + share * (self.height - 2 * self.edge)


def start_chart(
    width: int,
    height: int,
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
    *,
    title: str,
    footer: str,
    x_title: str,
    above: int = 0,
    beside: int = 12,
    edge: float = 0.0,
) -> tuple[Canvas, Plot]:
    """Start a sheet around one plot of numbers: with title and footer, and room for both axes.

    Args:
        width: of the plot, in pixels.
        height: of the plot, in pixels.
        x_limits: numbers at the left and right edge.
        y_limits: numbers at the lower and upper edge.
        title: one line.
        footer: wrapped, and set smaller when long.
        x_title: what the horizontal axis is; room is kept for it unless it is empty.
        above: pixels between the plot and the title, such as for a legend.
        beside: pixels right of the plot.
        edge: see :class:`Plot`.
    """
    left = PAD + AXIS_TITLE + NUMBERS + 12
    sheet_width = left + width + beside + PAD
    bottom = footer_height(sheet_width) + x_axis_height(x_title)
    canvas = Canvas(sheet_width, bottom + height + above + title_height())
    draw_title_and_footer(canvas, title, footer)
    return canvas, Plot(left, bottom, width, height, x_limits, y_limits, edge)


def check_steps(x: ArrayLike) -> NDArray[np.float64]:
    """Return the positions along a time axis as floats; raise ValueError unless they are finite and rise."""
    steps = np.asarray(x, dtype=np.float64)
    if steps.ndim != 1 or not len(steps) or not np.isfinite(steps).all() or (np.diff(steps) <= 0).any():
        raise ValueError("x must be one or more rising finite numbers in one row")
    return steps


def as_rows(values: ArrayLike, columns: int, name: str) -> NDArray[np.float64]:
    """Return ``(K, columns)`` floats, one row for a plain list and none for an empty one, or raise ValueError."""
    rows = np.asarray(values, dtype=np.float64)
    if rows.size == 0 and (rows.ndim < 2 or len(rows) == 0):
        return np.empty((0, columns))
    rows = np.atleast_2d(rows)
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ValueError(f"{name} are {np.shape(values)}, but there are {columns} columns")
    return rows


def time_limits(steps: NDArray[np.float64]) -> tuple[float, float]:
    """Limits of a time axis on which every step is one point."""
    return (steps[0] - 1, steps[0] + 1) if len(steps) == 1 else (float(steps[0]), float(steps[-1]))


def time_ticks(steps: NDArray[np.float64], limits: tuple[float, float], most: int = 8) -> list[float]:
    """Round numbers for a time axis; whole numbers if the steps are counted in whole numbers."""
    if len(steps) == 1:
        return [float(steps[0])]
    ticks = tick_values(*limits, most)
    if (steps == np.round(steps)).all() and any(tick != round(tick) for tick in ticks):
        ticks = [float(tick) for tick in range(math.ceil(limits[0]), math.floor(limits[1]) + 1)]
    return ticks


def round_limits(values: NDArray[np.float64], *, zero: bool = True) -> tuple[float, float]:
    """Round numbers around the finite values; with ``zero``, around 0 too. Never a range of nothing."""
    from matplotlib.ticker import MaxNLocator

    known = values[np.isfinite(values)]
    if not known.size or not known.any():
        return -1.0, 1.0
    low, high = float(known.min()), float(known.max())
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - 0.5 * abs(low), high + 0.5 * abs(high)
    ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return float(max(t for t in ticks if t <= low + slack)), float(min(t for t in ticks if t >= high - slack))


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Write the numbers of one axis, all plain (``12,500``) or all with an exponent (``2.5e−7``)."""
    largest = max(map(abs, ticks), default=0.0)
    plain = 1e-3 <= largest < 1e7
    texts = []
    for tick in ticks:
        tick = 0.0 if abs(tick) < 1e-9 * largest else tick
        if plain or not tick:
            # Seven digits: more are rounding errors, or ticks too close to be told apart anyway.
            text = f"{float(f'{tick:.7g}'):,.10f}".rstrip("0").rstrip(".")
        else:
            mantissa, exponent = f"{tick:.3e}".split("e")
            text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        texts.append(text.replace("-", "−"))
    return texts


def draw_y_axis(canvas: Canvas, plot: Plot, ticks: Sequence[float], texts: Sequence[str], room: float = 0) -> None:
    """Draw a grid line and a number at every tick; all smaller if one is wider than ``room``."""
    places = plot.y(ticks)
    canvas.lines([[(plot.left, y), (plot.left + plot.width, y)] for y in places], color=GRID)
    px = min((fit(text, room)[1] for text in texts), default=TEXT_PX) if room else TEXT_PX
    for text, y in zip(texts, places, strict=True):
        canvas.text(plot.left - 10, y, text, px=px, ha="right", color=FAINT)


def draw_x_axis(canvas: Canvas, plot: Plot, ticks: Sequence[float], texts: Sequence[str], px: float = TEXT_PX) -> None:
    """Draw the line below the plot with a mark and a number at every tick."""
    draw_baseline(canvas, plot)
    places = plot.x(ticks)
    canvas.lines([[(x, plot.bottom), (x, plot.bottom - 5)] for x in places], color=FAINT)
    free = -math.inf
    for text, x in zip(texts, places, strict=True):
        half = text_width(text, px) / 2
        x = min(float(x), canvas.width - 6 - half)  # The last number must not leave the sheet.
        if x - half > free:
            canvas.text(x, plot.bottom - 10 - px, text, px=px, ha="center", va="baseline", color=FAINT)
            free = x + half + 0.5 * px


def draw_x_grid(canvas: Canvas, plot: Plot, ticks: Sequence[float]) -> None:
    """Draw a vertical grid line at every tick."""
    canvas.lines([[(x, plot.bottom), (x, plot.bottom + plot.height)] for x in plot.x(ticks)], color=GRID)


def draw_number_axes(canvas: Canvas, plot: Plot, x_title: str, y_title: str) -> None:
    """Both axes of a chart of points: round ticks, a grid, titles."""
    x_ticks, y_ticks = tick_values(*plot.x_limits), tick_values(*plot.y_limits)
    draw_x_grid(canvas, plot, x_ticks)
    draw_y_axis(canvas, plot, y_ticks, tick_texts(y_ticks), NUMBERS)
    draw_x_axis(canvas, plot, x_ticks, tick_texts(x_ticks))
    draw_x_title(canvas, plot, x_title)
    draw_y_title(canvas, plot, y_title)


def x_axis_height(title: str = "") -> int:
    """Pixels that :func:`draw_x_axis` and the axis title take."""
    return 14 + math.ceil(1.2 * TEXT_PX) + (AXIS_TITLE if title else 0)


def draw_baseline(canvas: Canvas, plot: Plot) -> None:
    """Draw the line along the lower edge of the plot."""
    line = [(plot.left, plot.bottom), (plot.left + plot.width, plot.bottom)]
    canvas.lines([line], color=_BASELINE, width=1.5)


def draw_nothing(canvas: Canvas, plot: Plot) -> None:
    """Say that there is nothing to show."""
    middle = plot.left + plot.width / 2, plot.bottom + plot.height / 2
    canvas.text(*middle, "no values", px=25, ha="center", color=FAINT)


def draw_x_title(canvas: Canvas, plot: Plot, title: str) -> None:
    """Write what the horizontal axis is, just above the footer."""
    if title:
        line, px = fit(title, plot.width)
        x, y = plot.left + plot.width / 2, footer_height(canvas.width) + 8
        canvas.text(x, y, line, px=px, ha="center", va="baseline")


def draw_y_title(canvas: Canvas, plot: Plot, title: str) -> None:
    """Write what the vertical axis is, at the left edge of the sheet."""
    if title:
        line, px = fit(title, plot.height)
        canvas.text(PAD + 16, plot.bottom + plot.height / 2, line, px=px, ha="center", va="baseline", vertical=True)
