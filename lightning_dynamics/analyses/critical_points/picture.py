"""The picture of Dauphin et al. 2014: index against loss, and what each point is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.axes import Plot, draw_nothing, draw_number_axes, round_limits, start_chart
from lightning_dynamics.figures.canvas import FAINT, Canvas, house_style

_WIDTH, _HEIGHT, _LEGEND, _EDGE = 860, 520, 36, 16
_STARTS = "start of a search"
# Told apart by shape and by colour: Okabe and Ito's.
_MARKS: dict[str, dict[str, Any]] = {
    "critical": {"color": "#0072b2", "marker": "o", "markersize": 15, "markerfacecolor": "#0072b2"},
    "gradient-flat": {"color": "#d55e00", "marker": "^", "markersize": 16, "markerfacecolor": "white"},
    "unfinished": {"color": FAINT, "marker": "x", "markersize": 13, "markerfacecolor": "none"},
    _STARTS: {"color": "#bbbbbb", "marker": "s", "markersize": 9, "markerfacecolor": "#dddddd"},
}


@house_style()
def index_against_loss(
    loss: ArrayLike,
    index: ArrayLike,
    status: Sequence[str],
    *,
    errors: ArrayLike | None = None,
    start_loss: ArrayLike | None = None,
    start_index: ArrayLike | None = None,
    title: str,
    footer: str,
) -> NDArray[np.uint8]:
    """Draw points by their status, with the starts that led to them where those are known.

    Args:
        loss: ``(S,)``; a point with a NaN is left out.
        index: ``(S,)`` between 0 and 1.
        status: S of ``"critical"``, ``"gradient-flat"``, ``"unfinished"``.
        errors: ``(S,)`` standard errors of the index, drawn where they are above 0.
        start_loss: ``(S,)`` of the starts.
        start_index: ``(S,)`` of the starts; NaN draws none.
        title: one line.
        footer: wrapped.

    Returns:
        ``(H, W, 3)`` uint8 of one size.

    Raises:
        ValueError: unequal lengths or an unknown status.
    """
    ends = np.stack([np.asarray(loss, dtype=np.float64), np.asarray(index, dtype=np.float64)])
    begins = np.full_like(ends, np.nan)
    if start_loss is not None and start_index is not None:
        begins[:] = np.stack([np.asarray(start_loss, dtype=np.float64), np.asarray(start_index, dtype=np.float64)])
    if ends.shape != (2, len(status)) or not set(status) <= set(_MARKS) - {_STARTS}:
        raise ValueError(f"{ends.shape[1]} points and {len(status)} of status {sorted(set(status))}")
    begins[:, ~np.isfinite(begins).all(0)] = np.nan
    shown: NDArray[np.bool_] = np.all(np.isfinite(ends), axis=0)
    everything = np.concatenate([ends[:, shown], begins], axis=1)
    x_limits = _widened(round_limits(everything[0], zero=False))
    top = np.nanmax(everything[1], initial=0.0)
    canvas, plot = start_chart(
        _WIDTH,
        _HEIGHT,
        x_limits,
        round_limits(np.array([0.0, max(top, 1e-2)])),
        title=title,
        footer=footer,
        x_title="loss",
        above=_LEGEND,
        beside=30,
        edge=_EDGE,
    )
    draw_number_axes(canvas, plot, "loss", "index: share of negative eigenvalues")
    if not shown.any():
        draw_nothing(canvas, plot)
    places = [np.stack([plot.x(part[0]), plot.y(part[1])]) for part in (ends, begins)]
    paths = [[tuple(places[1][:, i]), tuple(places[0][:, i])] for i in np.flatnonzero(shown & ~np.isnan(begins[0]))]
    if paths:
        canvas.lines(paths, color="#cccccc", width=1.2)
        canvas.line(*places[1], linestyle="none", **_MARKS[_STARTS])
    if errors is not None:
        _draw_errors(canvas, plot, ends, np.asarray(errors, dtype=np.float64))
    for word in ("unfinished", "gradient-flat", "critical"):
        chosen = shown & (np.array(status) == word)
        canvas.line(*places[0][:, chosen], linestyle="none", **_style(word))
    _draw_legend(canvas, plot, status, shown, bool(paths))
    return canvas.pixels()


def _style(word: str) -> dict[str, Any]:
    return {"markeredgewidth": 2.0} | _MARKS[word]


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    """Room for marks that lie on the edge."""
    room = 0.03 * (limits[1] - limits[0])
    return limits[0] - room, limits[1] + room


def _draw_errors(canvas: Canvas, plot: Plot, ends: NDArray[np.float64], errors: NDArray[np.float64]) -> None:
    known = np.isfinite(ends).all(0) & (errors > 0)
    x, low, high = plot.x(ends[0]), plot.y(np.maximum(ends[1] - errors, 0)), plot.y(ends[1] + errors)
    top = plot.bottom + plot.height
    canvas.lines([[(x[i], low[i]), (x[i], min(high[i], top))] for i in np.flatnonzero(known)], color=FAINT, width=1.5)


def _draw_legend(canvas: Canvas, plot: Plot, status: Sequence[str], shown: NDArray[np.bool_], starts: bool) -> None:
    """One row above the plot, with how many there are of each; marks lie over each other."""
    y, entries = plot.bottom + plot.height + 0.5 * _LEGEND + 4, list(_MARKS)[: 4 if starts else 3]
    for column, word in enumerate(entries):
        x = plot.left + 10 + column * plot.width / len(_MARKS)
        count = sum(one == word and is_shown for one, is_shown in zip(status, shown, strict=True))
        canvas.line([x], [y], linestyle="none", **_style(word))
        canvas.text(x + 18, y, word if word == _STARTS else f"{word} ({count})")
