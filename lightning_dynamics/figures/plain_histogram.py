"""How values are distributed: histograms of one or several arrays, one over the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import FAINT, Canvas, house_style
from lightning_dynamics.figures.histogram import stairs
from lightning_dynamics.figures.legend import Entry, checked_colours, draw_legend, legend_height, legend_rows
from lightning_dynamics.figures.lettering import fit, shorten
from lightning_dynamics.figures.scale import check_limits, tick_values

_WIDTH, _HEIGHT = 960, 400
_BEYOND = 32  # Pixels above the plot, for the words on what lies beyond its ends.
_TAIL = 99.5
_FLOOR = 0.5  # Where a logarithmic axis starts: a bin of one example must be seen.


@house_style()
def histogram(
    values: Sequence[ArrayLike],
    *,
    names: Sequence[str],
    title: str,
    footer: str,
    x_title: str,
    y_title: str = "examples",
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    colours: Sequence[str] | None = None,
    logarithmic: bool = False,
) -> NDArray[np.uint8]:
    """Draw how often values fall into bins of equal width, as an outline with a light area for each array.

    All arrays share the bins. NaN is left out. Values beyond the ends of the axis, infinite ones too, are in no
    bin: a line above the plot says how many they are (all, and of each array in turn) and how far they reach.

    Args:
        values: ``K`` arrays of any length, each in one row.
        names: ``K`` names for the legend, which is there for more than one array.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what the values are.
        y_title: what is counted.
        bins: how many there are between the ends of the axis.
        limits: lower and upper end of the horizontal axis; by default round numbers around all values. Where
            a tail is long (the largest value is more than twice as far from the median as the 99.5th percentile
            is), the axis ends at that percentile instead; likewise below.
        colours: ``K`` colours such as ``"#0072b2"``.
        logarithmic: whether the counts are on a logarithmic scale.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the names and on whether there is an ``x_title``.

    Raises:
        ValueError: if values, names and colours do not fit together, there is no bin, or ``limits`` do not rise.
    """
    arrays = [np.asarray(array, dtype=np.float64) for array in values]
    count = len(arrays)
    palette = checked_colours(count, names, colours)
    if any(array.ndim != 1 for array in arrays):
        raise ValueError(f"each array of values has one dimension, got {[array.shape for array in arrays]}")
    if bins < 1:
        raise ValueError(f"there is at least one of the bins, got {bins}")
    arrays = [array[~np.isnan(array)] for array in arrays]
    low, high = _limits(arrays) if limits is None else check_limits(limits)
    edges = np.linspace(low, high, bins + 1)
    counts = np.stack([np.histogram(array, edges)[0] for array in arrays]).astype(np.float64)

    short = shorten(names)
    legend = legend_height(legend_rows(short, _WIDTH)) if count > 1 else 0
    heights, bounds, ticks = _heights(counts, logarithmic)
    canvas, plot = axes.start_chart(
        _WIDTH, _HEIGHT, (low, high), bounds, title=title, footer=footer, x_title=x_title, above=legend + _BEYOND
    )
    texts = axes.tick_texts([10**tick for tick in ticks] if logarithmic else ticks)
    axes.draw_y_axis(canvas, plot, ticks, texts, axes.NUMBERS)
    across = tick_values(low, high, 8)
    axes.draw_x_axis(canvas, plot, across, axes.tick_texts(across))
    axes.draw_x_title(canvas, plot, x_title)
    axes.draw_y_title(canvas, plot, f"{y_title} (logarithmic)" if y_title and logarithmic else y_title)
    for row, colour in zip(heights, palette, strict=True):
        outlines = _outlines(plot, edges, row)
        canvas.areas(outlines, color=f"{_hex(colour)}38")
    for row, colour in zip(heights, palette, strict=True):
        for outline in _outlines(plot, edges, row):
            x, y = zip(*outline, strict=True)
            canvas.line(x, y, color=colour, width=2.2, solid_joinstyle="miter")
    if not any(map(len, arrays)):
        axes.draw_nothing(canvas, plot)
    _name_what_is_beyond(canvas, plot, arrays)
    if count > 1:
        entries = [Entry(name, colour, "box") for name, colour in zip(short, palette, strict=True)]
        draw_legend(canvas, entries, plot.left, plot.bottom + _HEIGHT + _BEYOND + legend, _WIDTH)
    return canvas.pixels()


def _limits(arrays: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Round numbers around all values but long tails."""
    ends = []
    for array in arrays:
        known = array[np.isfinite(array)]
        if len(known):
            first, middle, last = np.percentile(known, (100 - _TAIL, 50, _TAIL))
            low, high = known.min(), known.max()
            # Nearly all values alike: the few others are what there is to see.
            low = first if middle - low > 2 * (middle - first) > 0 else low
            high = last if high - middle > 2 * (last - middle) > 0 else high
            ends += [low, high]
    return axes.round_limits(np.array(ends), zero=False) if ends else (0.0, 1.0)


def _heights(
    counts: NDArray[np.float64], logarithmic: bool
) -> tuple[NDArray[np.float64], tuple[float, float], list[float]]:
    """Give counts as numbers on the vertical axis (NaN for none), its limits and its ticks."""
    counts = np.where(counts > 0, counts, np.nan)
    largest = float(np.nanmax(counts)) if np.isfinite(counts).any() else 0.0
    if not logarithmic:
        limits = (0.0, axes.round_limits(np.array([largest]))[1])
        return counts, limits, [tick for tick in tick_values(*limits) if tick == round(tick)]
    top = max(1.5 * largest, 15.0)
    steps = (1, 2, 5) if top < 150 else (1,)
    ticks = [step * 10.0**power for power in range(int(math.log10(top)) + 1) for step in steps]
    limits = (math.log10(_FLOOR), math.log10(top))
    return np.log10(counts), limits, [math.log10(tick) for tick in ticks if tick <= top]


def _outlines(
    plot: axes.Plot, edges: NDArray[np.float64], heights: NDArray[np.float64]
) -> list[list[tuple[float, float]]]:
    """Outline each run of bins that hold anything, from the lower edge of the plot and back."""
    places, tops = plot.x(edges), plot.y(heights)
    filled = np.flatnonzero(np.isfinite(tops))
    outlines = []
    for run in np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1):
        if len(run):
            corners = stairs(places[run[0] : run[-1] + 2], tops[run])
            outlines.append([(corners[0][0], plot.bottom), *corners, (corners[-1][0], plot.bottom)])
    return outlines


def _name_what_is_beyond(canvas: Canvas, plot: axes.Plot, arrays: Sequence[NDArray[np.float64]]) -> None:
    """Say above the ends of the plot how many values are not in it."""
    low, high = plot.x_limits
    y, right, room = plot.bottom + plot.height + 16, plot.left + plot.width, plot.width / 2 - 40
    under, over = [array[array < low] for array in arrays], [array[array > high] for array in arrays]
    if any(map(len, under)):
        text = f"{_count(under)} below {_number(low)}, down to {_number(np.concatenate(under).min())}"
        line, px = fit(text, room)
        canvas.text(plot.left, y, "←", color=FAINT)
        canvas.text(plot.left + 26, y, line, px=px, color=FAINT)
    if any(map(len, over)):
        text = f"{_count(over)} above {_number(high)}, up to {_number(np.concatenate(over).max())}"
        line, px = fit(text, room)
        canvas.text(right, y, "→", ha="right", color=FAINT)
        canvas.text(right - 26, y, line, px=px, ha="right", color=FAINT)


def _count(arrays: Sequence[NDArray[np.float64]]) -> str:
    """Count the values: all together, then those of each array."""
    parts = [f"{len(array):,}" for array in arrays]
    return parts[0] if len(parts) == 1 else f"{sum(map(len, arrays)):,} ({' + '.join(parts)})"


def _number(value: float) -> str:
    """Write one number with four digits."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return axes.tick_texts([float(f"{value:.4g}")])[0]


def _hex(colour: str) -> str:
    """Write a colour as ``#rrggbb``, to which an opacity can be added."""
    from matplotlib.colors import to_hex

    return str(to_hex(colour))
