"""Curves over training time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import FAINT, INK, Canvas, house_style, text_width
from lightning_dynamics.figures.legend import (
    Entry,
    capped,
    draw_legend,
    legend_height,
    legend_rows,
    more_text,
    series_colours,
)
from lightning_dynamics.figures.lettering import shorten
from lightning_dynamics.figures.scale import check_limits, tick_values

_HEIGHT = 460
_EDGE = 14
_LEGEND_ROWS = 6
_LEGEND_ROWS_OF_MANY = 4  # Where the ends of the lines have names, too.
_NAMED_AT_THE_END = 12  # Up to so many lines the legend alone tells them apart.
_END_LABELS = 10
_END_PX = 15.0
_DOTS_UP_TO = 40
_MARK = "#cc0000"
_BAND = "#e6ebf1"
_BROAD = "#b4b4b4"
_KINDS: tuple[Any, ...] = (("solid", "-"), ("dashed", (0, (2.2, 1.6))), ("dotted", (0, (1, 1))))


@house_style()
def time_series(
    x: ArrayLike,
    series: ArrayLike,
    *,
    names: Sequence[str],
    title: str,
    footer: str,
    x_title: str,
    y_title: str,
    emphasis: ArrayLike = (),
    emphasis_names: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    marks: ArrayLike = (),
    marks_name: str = "",
    band: tuple[ArrayLike, ArrayLike] | None = None,
) -> NDArray[np.uint8]:
    """Draw curves over training time, a few of them emphasised.

    NaN leaves a gap; a value beyond the limits is an open triangle at the edge. More than twelve series are
    also named at their right ends, those that end farthest from 0; the legend has at most
    six rows, and four where the ends have names.

    Args:
        x: ``(T,)`` rising numbers such as training steps.
        series: ``(K, T)``, thin lines in colours of their own.
        names: ``K`` names for the legend; long ones are shortened in the middle, staying distinct.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what ``x`` is.
        y_title: what the values are.
        emphasis: ``(E, T)``: the first a broad grey line behind all others, the second a dark dashed one on top
            (both are seen where they run together), further ones dotted.
        emphasis_names: ``E`` names for the legend.
        limits: lower and upper end of the vertical axis; by default round numbers around all values and 0.
        marks: places along ``x`` that get a red tick at the lower edge.
        marks_name: what the ticks are, for the legend.
        band: lower and upper end, numbers or ``(T,)``, of a range shaded behind the lines.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the names alone.

    Raises:
        ValueError: if ``x``, the series and the names do not fit together, or ``limits`` do not rise.
    """
    steps = axes.check_steps(x)
    thin, thick = axes.as_rows(series, len(steps), "series"), axes.as_rows(emphasis, len(steps), "emphasis")
    if len(names) != len(thin) or len(emphasis_names) != len(thick):
        raise ValueError(
            f"there are {len(thin)} series and {len(thick)} for emphasis, "
            f"but {len(names)} names and {len(emphasis_names)} emphasis_names"
        )
    shaded = None if band is None else [np.broadcast_to(np.asarray(end, dtype=float), steps.shape) for end in band]
    everything = np.concatenate([part.ravel() for part in (thin, thick, *(shaded or ()))])
    low, high = axes.round_limits(everything) if limits is None else check_limits(limits)

    short = shorten([*emphasis_names, *names])
    bold, short = short[: len(thick)], short[len(thick) :]
    many = len(thin) > _NAMED_AT_THE_END
    beside = 34 + math.ceil(max(text_width(name, _END_PX) for name in short)) if many else 0
    colours = series_colours(len(thin), ink=not len(thick))
    final = np.array([_last(line) for line in thin])
    entries = [Entry(name, INK if i else _BROAD, _KINDS[min(i, 2)][0]) for i, name in enumerate(bold)]
    entries += [Entry(marks_name, _MARK, "tick")] if marks_name else []
    lines = [Entry(name, colour) for name, colour in zip(short, colours, strict=True)]
    rows = _LEGEND_ROWS_OF_MANY if many else _LEGEND_ROWS
    together = legend_rows([entry.text for entry in entries + lines], axes.TIME_WIDTH)
    if together > rows:
        texts = [entry.text for entry in entries] + short
        weights = [math.inf] * len(entries) + [abs(value) for value in final]
        kept = capped(texts, weights, axes.TIME_WIDTH, rows)
        shown = [(entries + lines)[i] for i in kept]
        entries = [*shown, Entry(more_text(len(texts) - len(kept)), kind="none")]
    else:
        entries += lines
    legend = legend_height(min(together, rows))

    room: dict[str, Any] = {"above": legend, "beside": max(beside, 12), "edge": _EDGE, "x_title": x_title}
    canvas, plot = axes.start_chart(
        axes.TIME_WIDTH, _HEIGHT, axes.time_limits(steps), (low, high), title=title, footer=footer, **room
    )
    left, bottom = plot.left, plot.bottom

    if shaded is not None:
        _draw_band(canvas, plot, steps, shaded[0], shaded[1])
    ticks = tick_values(low, high)
    axes.draw_y_axis(canvas, plot, ticks, axes.tick_texts(ticks), axes.NUMBERS)
    if low < 0 < high:
        canvas.lines(
            [[(left, float(plot.y(0))), (left + axes.TIME_WIDTH, float(plot.y(0)))]], color=axes.ZERO, width=1.5
        )
    ticks = axes.time_ticks(steps, plot.x_limits)
    axes.draw_x_axis(canvas, plot, ticks, axes.tick_texts(ticks))
    axes.draw_x_title(canvas, plot, x_title)
    axes.draw_y_title(canvas, plot, y_title)

    if len(thick):
        draw_line(canvas, plot, steps, thick[0], _BROAD, 9.0)
    width = 2.2 if len(thin) <= 7 else 1.6
    for line, colour in zip(thin, colours, strict=True):
        draw_line(canvas, plot, steps, line, colour, width)
    for i, line in enumerate(thick[1:], 1):
        draw_line(canvas, plot, steps, line, INK, 3.0, linestyle=_KINDS[min(i, 2)][1], dash_capstyle="butt")
    places = plot.x(np.ravel(np.asarray(marks, dtype=np.float64)))
    places = np.unique(np.round(places[(places >= left - 0.5) & (places <= left + axes.TIME_WIDTH + 0.5)]))
    canvas.lines([[(place, bottom), (place, bottom + 14)] for place in places], color=_MARK, width=2)
    if many:
        _name_the_ends(canvas, plot, final, short, colours)
    draw_legend(canvas, entries, left, bottom + _HEIGHT + legend, axes.TIME_WIDTH)
    return canvas.pixels()


def _last(line: NDArray[np.float64]) -> float:
    """Last value of a line that is one; 0 if there is none."""
    known = line[np.isfinite(line)]
    return float(known[-1]) if len(known) else 0.0


def draw_line(
    canvas: Canvas,
    plot: axes.Plot,
    steps: NDArray[np.float64],
    line: NDArray[np.float64],
    colour: str,
    width: float,
    triangles: bool = True,
    **style: Any,
) -> None:
    """Draw one line of a chart, a dot for every point that has no neighbours, and triangles for what is outside."""
    x, y = plot.x(steps), np.clip(plot.y(line), -1e4, 1e5)  # Infinity lies far outside, too.
    lower, upper = plot.bottom, plot.bottom + plot.height
    clip = (plot.left - 6, lower, plot.left + plot.width + 6, upper)
    canvas.line(x, y, color=colour, width=width, clip=clip, **style)
    known = np.concatenate([[False], np.isfinite(y), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]
    dotted = known[1:-1] if len(steps) <= _DOTS_UP_TO else alone
    if dotted.any():
        canvas.line(x[dotted], y[dotted], color=colour, linestyle="none", marker="o", markersize=width + 4.5, clip=clip)
    if not triangles:
        return
    slack = 1e-6 * (plot.y_limits[1] - plot.y_limits[0])
    for outside, shape, place in (
        (line < plot.y_limits[0] - slack, "v", lower + 7),
        (line > plot.y_limits[1] + slack, "^", upper - 7),
    ):
        # One triangle for every 14 pixels tells where; more would cover each other.
        at = x[outside][np.unique(x[outside] // 14, return_index=True)[1]]
        shapes: dict[str, Any] = {"linestyle": "none", "marker": shape, "markersize": 10, "markerfacecolor": "white"}
        canvas.line(at, np.full(len(at), place), color=colour, **shapes)


def _draw_band(
    canvas: Canvas, plot: axes.Plot, steps: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> None:
    """Shade the range between two lines wherever both are numbers."""
    x = plot.x(steps) if len(steps) > 1 else np.array([plot.left, plot.left + plot.width])
    below, above = (np.clip(plot.y(end), plot.bottom, plot.bottom + plot.height) for end in (low, high))
    if len(steps) == 1:
        below, above = below.repeat(2), above.repeat(2)
    known = np.isfinite(below) & np.isfinite(above)
    for run in np.split(np.arange(len(x)), np.flatnonzero(np.diff(known)) + 1):
        if known[run[0]] and len(run) > 1:
            there = list(zip(x[run], below[run], strict=True))
            back = list(zip(x[run][::-1], above[run][::-1], strict=True))
            canvas.areas([there + back], color=_BAND)


def _name_the_ends(
    canvas: Canvas, plot: axes.Plot, final: NDArray[np.float64], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Write the names of the lines that end farthest from 0 beside their ends, moved apart."""
    chosen = [int(i) for i in np.argsort(-np.abs(final), kind="stable")[:_END_LABELS] if final[i]]
    chosen.sort(key=lambda i: (final[i], -i))
    ends = np.clip(plot.y(final), plot.bottom, plot.bottom + plot.height)
    pitch = 1.25 * _END_PX
    low, high = plot.bottom + pitch / 2, plot.bottom + plot.height - pitch / 2
    right = plot.left + plot.width
    for i, y in zip(chosen, _apart([float(ends[i]) for i in chosen], pitch, low, high), strict=True):
        canvas.line([right + 3, right + 11, right + 22], [ends[i], y, y], color=colours[i], width=2)
        canvas.text(right + 27, y, names[i], px=_END_PX, color=INK if final[i] else FAINT)


def _apart(places: Sequence[float], pitch: float, low: float, high: float) -> list[float]:
    """Move rising places apart to at least ``pitch``, each group staying around its middle, within limits."""
    groups: list[list[float]] = []  # Of each group the wished-for places.

    def start(group: Sequence[float]) -> float:
        first = float(np.mean(group)) - pitch * (len(group) - 1) / 2
        return min(max(first, low), high - pitch * (len(group) - 1))

    for place in places:
        groups.append([place])
        while len(groups) > 1 and start(groups[-2]) + pitch * len(groups[-2]) > start(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [start(group) + pitch * i for group in groups for i in range(len(group))]
