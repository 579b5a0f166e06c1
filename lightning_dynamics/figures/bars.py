"""Bars on both sides of zero, one row per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import ZERO, as_rows, round_limits
from lightning_dynamics.figures.canvas import house_style
from lightning_dynamics.figures.diverging import NEGATIVE, POSITIVE
from lightning_dynamics.figures.legend import checked_colours
from lightning_dynamics.figures.rows import Rows, start_rows
from lightning_dynamics.figures.scale import check_limits


@house_style()
def bars(
    values: ArrayLike,
    *,
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    footer: str,
    x_title: str,
    colours: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Draw horizontal bars from zero, ``K`` below each other in one row per layer, row 0 on top.

    A single series without a colour is green below 0 and purple above. NaN has no bar. A bar that goes on
    beyond the limits ends in a white arrow head.

    Args:
        values: ``(K, L)`` or ``(L,)``: one row per series, one column per layer.
        labels: ``L`` names; long ones are shortened in the middle, staying distinct.
        names: ``K`` names for the legend, which is there for more than one series.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what the values are.
        colours: ``K`` colours such as ``"#0072b2"``.
        limits: lower and upper end of the axis; by default round numbers around all values and 0.

    Returns:
        ``(H, W, 3)`` uint8. H and W depend on the labels and names alone.

    Raises:
        ValueError: if values, labels, names and colours do not fit together, or ``limits`` do not rise.
    """
    rows = as_rows(values, len(labels), "values")
    count = len(rows)
    palette = checked_colours(count if rows.size else 0, names, colours)
    limits = round_limits(rows) if limits is None else check_limits(limits)
    signs = count == 1 and colours is None
    palette = [POSITIVE] if signs else palette

    sheet = start_rows(labels, names, palette, limits, title=title, footer=footer, x_title=x_title, least=3.0)
    canvas, plot = sheet.canvas, sheet.plot
    zero = float(np.clip(plot.x(0), plot.left, plot.left + plot.width))
    for row, uppers, colour in zip(rows, sheet.uppers, palette, strict=True):
        for part, shade in ((row < 0, NEGATIVE if signs else colour), (row > 0, colour)):
            _draw_bars(sheet, row, np.flatnonzero(part), uppers, zero, shade)
    canvas.lines([[(zero, plot.bottom), (zero, plot.bottom + plot.height)]], color=ZERO, width=1.5)
    return canvas.pixels()


def _draw_bars(
    sheet: Rows,
    row: NDArray[np.float64],
    at: NDArray[np.intp],
    uppers: NDArray[np.float64],
    zero: float,
    colour: str,
) -> None:
    """Draw the bars of one series and one sign, with arrow heads where they leave the plot."""
    plot, thick = sheet.plot, sheet.thick
    ends = np.clip(plot.x(row[at]), plot.left, plot.left + plot.width)
    boxes, heads = [], []
    slack = 1e-6 * (plot.x_limits[1] - plot.x_limits[0])
    for i, end, upper in zip(at, ends, uppers[at], strict=True):
        # A value that is not zero is at least a thread.
        length = max(abs(end - zero), 1.0) * (1 if row[i] > 0 else -1)
        boxes.append((min(zero, zero + length), upper - thick, abs(length), thick))
        if row[i] < plot.x_limits[0] - slack or row[i] > plot.x_limits[1] + slack:
            point, back = (end + 2, end + 12) if row[i] < 0 else (end - 2, end - 12)
            heads.append([(point, upper - thick / 2), (back, upper - 2), (back, upper - thick + 2)])
    sheet.canvas.boxes(boxes, color=colour)
    sheet.canvas.areas(heads, color="white")
