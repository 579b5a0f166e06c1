"""Lines over any numbers, with a second axis on the right: loss and accuracy along one way, together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import FAINT, PAD, Canvas, house_style, text_width
from lightning_dynamics.figures.legend import Entry, draw_legend, legend_height, legend_rows
from lightning_dynamics.figures.lettering import fit, shorten, wrap
from lightning_dynamics.figures.relief import as_heights, log_ticks, value_texts
from lightning_dynamics.figures.scale import check_limits, tick_values
from lightning_dynamics.figures.series import draw_line

_HEIGHT = 480
_EDGE = 14
_NAMES = 26  # Pixels for each row of names of vertical marks.
_NAME_ROWS = 2
_NAME_PX = 15.0
# A family of colours for each axis: blue and green on the left, orange and purple on the right.
_LEFT, _RIGHT = ("#0072b2", "#009e73", "#56b4e9", "#222222"), ("#d55e00", "#a3478c", "#e69f00", "#8c6d46")
_KINDS: tuple[tuple[Any, Any], ...] = (("line", "-"), ("dashed", (0, (3.2, 1.6))), ("dotted", (0, (1, 1))))


@house_style()
def line_chart(
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    title: str,
    footer: str,
    x_title: str,
    y_title: str,
    second: Mapping[str, ArrayLike] | None = None,
    second_title: str = "",
    limits: tuple[float, float] | None = None,
    second_limits: tuple[float, float] | None = None,
    log: bool = False,
    log_x: bool = False,
    marks: Sequence[tuple[str, float]] = (),
) -> NDArray[np.uint8]:
    """Draw lines on a left and, if there are any, on a right axis, as the 1-D losses of Li et al. (2018).

    The lines of each axis have colours of their own and the axis's numbers the colour of its first line. On each
    axis the first line is solid, the second dashed and the third dotted, so that the same quantity of training
    and test data looks alike on both. NaN leaves a gap; a value beyond the limits is an open triangle at the edge.

    Args:
        x: ``(X,)`` rising numbers.
        series: names and ``(X,)`` values of lines on the left axis.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``x`` is.
        y_title: what the values on the left axis are.
        second: names and ``(X,)`` values of lines on the right axis.
        second_title: what the values on the right axis are.
        limits: lower and upper end of the left axis; by default round numbers around all its values.
        second_limits: lower and upper end of the right axis; by default round numbers around all its values.
        log: whether the left axis is logarithmic; values of 0 or less are then gaps.
        log_x: whether the horizontal axis is logarithmic.
        marks: names and places along ``x`` of vertical lines; one that is not within ``x`` is left out.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the names, on whether there is a right axis and on whether there
        are marks.

    Raises:
        ValueError: if a line is not as long as ``x``, ``x`` does not rise, there is no line, or limits do not rise
            or, with ``log``, are not above 0; likewise ``x`` with ``log_x``.
    """
    places, others = axes.check_steps(x), dict(second or {})
    if log_x:
        if places[0] <= 0:
            raise ValueError(f"on a logarithmic axis x is above 0, got {places[0]:g}")
        places = np.log10(places)
        marks = [(name, math.log10(place)) for name, place in marks if place > 0]
    if not series and not others:
        raise ValueError("there is no series to draw")
    lines = _rows(series, len(places))
    right_lines = _rows(others, len(places))
    ends = check_limits(limits) if limits is not None else None
    if log and ends is not None and ends[0] <= 0:
        raise ValueError(f"on a logarithmic axis the limits are above 0, got {limits}")
    if log:
        # What is beyond the limits stays beyond them: infinity is a triangle at the edge.
        lines = np.where(lines == np.inf, np.inf, as_heights(lines, log=True))
        ends = (math.log10(ends[0]), math.log10(ends[1])) if ends else _log_limits(lines)
    ends = ends or axes.round_limits(lines, zero=False)
    right_ends = (
        check_limits(second_limits) if second_limits is not None else axes.round_limits(right_lines, zero=False)
    )

    names = shorten([*series, *others])
    styled = [*zip(_LEFT * len(lines), _KINDS * len(lines), strict=False)][: len(lines)]
    styled += [*zip(_RIGHT * len(right_lines), _KINDS * len(right_lines), strict=False)][: len(right_lines)]
    sides = [""] * len(lines) + [" (right axis)"] * len(right_lines) if len(lines) else [""] * len(right_lines)
    entries = [Entry(n + side, c, kind) for n, side, (c, (kind, _)) in zip(names, sides, styled, strict=True)]
    legend = legend_height(legend_rows([entry.text for entry in entries], axes.TIME_WIDTH))
    above = legend + (_NAME_ROWS * _NAMES if marks else 0)
    beside = 12 + axes.NUMBERS + axes.AXIS_TITLE if others else 30
    canvas, plot = axes.start_chart(
        axes.TIME_WIDTH,
        _HEIGHT,
        axes.time_limits(places),
        ends,
        title=title,
        footer=footer,
        x_title=x_title,
        above=above,
        beside=beside,
        edge=_EDGE,
    )
    ticks = [math.log10(tick) for tick in log_ticks(10 ** ends[0], 10 ** ends[1], 8)] if log else tick_values(*ends)
    texts = value_texts([10**tick for tick in ticks], log=True) if log else axes.tick_texts(ticks)
    axes.draw_y_axis(canvas, plot, ticks if len(lines) else [], texts if len(lines) else [], axes.NUMBERS)
    if log_x:
        values = log_ticks(10 ** plot.x_limits[0], 10 ** plot.x_limits[1], 10)
        axes.draw_x_axis(canvas, plot, [math.log10(value) for value in values], value_texts(values, log=True))
    else:
        ticks = axes.time_ticks(places, plot.x_limits)
        axes.draw_x_axis(canvas, plot, ticks, axes.tick_texts(ticks))
    axes.draw_x_title(canvas, plot, x_title)
    axes.draw_y_title(canvas, plot, y_title)
    _draw_marks(canvas, plot, marks)

    right = axes.Plot(plot.left, plot.bottom, plot.width, plot.height, plot.x_limits, right_ends, _EDGE)
    if others:
        _draw_right_axis(canvas, right, second_title, grid=not len(lines))
    for row, (line, (colour, (_, dashes))) in enumerate(zip([*lines, *right_lines], styled, strict=True)):
        on = plot if row < len(lines) else right
        draw_line(canvas, on, places, line, colour, 2.4, linestyle=dashes, dash_capstyle="butt")
    if not np.isfinite(np.concatenate([lines.ravel(), right_lines.ravel()])).any():
        axes.draw_nothing(canvas, plot)
    draw_legend(canvas, entries, plot.left, plot.bottom + _HEIGHT + above, axes.TIME_WIDTH)
    return canvas.pixels()


def _rows(series: Mapping[str, ArrayLike], columns: int) -> NDArray[np.float64]:
    """Put lines below each other; raise ValueError unless each has ``columns`` values."""
    rows = [
        axes.as_rows(np.atleast_1d(np.asarray(line)), columns, f"values of {name!r}") for name, line in series.items()
    ]
    if any(len(row) != 1 for row in rows):
        raise ValueError(f"every series is ({columns},), got {[np.shape(line) for line in series.values()]}")
    return np.concatenate(rows) if rows else np.empty((0, columns))


def _log_limits(lines: NDArray[np.float64]) -> tuple[float, float]:
    """Logarithms of round numbers (1, 2 or 5 times a power of ten) around all values."""
    known = lines[np.isfinite(lines)]
    if not known.size:
        return -1.0, 1.0
    low, high = float(known.min()), float(known.max())
    steps = [power + part for power in range(math.floor(low) - 1, math.ceil(high) + 2) for part in _PARTS]
    below, above = [s for s in steps if s <= low + 1e-9], [s for s in steps if s >= high - 1e-9]
    start, stop = below[-1], above[0]
    return (start, stop) if start < stop else (below[-2], above[1])


_PARTS = (0.0, math.log10(2), math.log10(5))


def _draw_right_axis(canvas: Canvas, plot: axes.Plot, title: str, *, grid: bool) -> None:
    """Draw marks, numbers and a title right of the plot; a grid only if the left axis has none."""
    end = plot.left + plot.width
    ticks = tick_values(*plot.y_limits)
    if grid:
        axes.draw_y_axis(canvas, plot, ticks, [""] * len(ticks))
    canvas.lines([[(end, y), (end + 6, y)] for y in plot.y(ticks)], color=_RIGHT[0])
    for text, y in zip(axes.tick_texts(ticks), plot.y(ticks), strict=True):
        text, px = fit(text, axes.NUMBERS - 6)
        canvas.text(end + 12, y, text, px=px, color=_RIGHT[0])
    if title:
        line, px = fit(title, plot.height)
        x, y = canvas.width - PAD - 6, plot.bottom + plot.height / 2
        canvas.text(x, y, line, px=px, ha="center", va="baseline", vertical=True, color=_RIGHT[0])


def _draw_marks(canvas: Canvas, plot: axes.Plot, marks: Sequence[tuple[str, float]]) -> None:
    """Draw vertical lines with their names above, in two rows so that neighbours do not touch."""
    left, right, top = plot.left, plot.left + plot.width, plot.bottom + plot.height
    free = [-math.inf] * _NAME_ROWS
    for name, place in sorted(marks, key=lambda mark: mark[1]):
        x = float(plot.x(place))
        if not left - 0.5 <= x <= right + 0.5:
            continue
        line = (wrap(name, plot.width / 3, 1, _NAME_PX) or [""])[0]
        half = text_width(line, _NAME_PX) / 2
        centre = min(max(x, left + half), right - half)
        row = next((i for i, end in enumerate(free) if centre - half > end), None)
        height = 6 if row is None else 4 + row * _NAMES
        canvas.line([x, x], [plot.bottom, top + height], color=FAINT, width=1.4, linestyle=(0, (4, 3)))
        if row is not None:  # Three that lie together: the last ones have lines alone.
            canvas.text(centre, top + height + 10, line, px=_NAME_PX, ha="center", color=FAINT)
            free[row] = centre + half + 8
