"""A histogram of signed values over the logarithm of their size."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures import axes
from lightning_dynamics.figures.canvas import INK, TEXT_PX, house_style, text_width
from lightning_dynamics.figures.diverging import NEGATIVE, POSITIVE
from lightning_dynamics.figures.legend import ROW, Entry, draw_legend
from lightning_dynamics.figures.scale import tick_values

_WIDTH, _HEIGHT = 960, 420
_MIDDLE = 36  # Pixels between the two halves, where zero is.


@house_style()
def signed_histogram(
    edges: ArrayLike,
    left: ArrayLike,
    right: ArrayLike,
    *,
    left_name: str,
    right_name: str,
    title: str,
    footer: str,
    x_title: str,
    y_title: str,
) -> NDArray[np.uint8]:
    """Draw counts of negative values (green, to the left) and of positive ones (purple, to the right).

    Sizes are on a logarithmic scale that grows from zero in the middle outwards, and are trimmed to the bins
    that hold anything. Counts are on a linear scale, so that equal areas are equal numbers. A thin line repeats
    each half on the other side: where a bar does not reach the line, the other sign is more frequent.

    Args:
        edges: ``(B + 1,)`` rising positive sizes.
        left: ``(B,)`` counts of negative values by size.
        right: ``(B,)`` counts of positive values by size.
        left_name: what the negative values are; the legend adds how many there are.
        right_name: what the positive values are.
        title: one line.
        footer: data, number of examples, step and the like; wrapped, and set smaller when long.
        x_title: what the values are.
        y_title: what is counted.

    Returns:
        ``(H, W, 3)`` uint8, always of the same size for the same titles of the axes.

    Raises:
        ValueError: if edges do not rise from above 0, or do not fit the counts, or a count is negative or NaN.
    """
    sizes = np.asarray(edges, dtype=np.float64)
    halves = np.stack([np.ravel(np.asarray(half, dtype=np.float64)) for half in _same_length(left, right)])
    if sizes.shape != (halves.shape[1] + 1,) or len(sizes) < 2:
        raise ValueError(f"edges are {sizes.shape}, but there are {halves.shape[1]} bins (one less than edges)")
    if not np.isfinite(sizes).all() or sizes[0] <= 0 or (np.diff(sizes) <= 0).any():
        raise ValueError("edges must be rising positive finite numbers")
    if not np.isfinite(halves).all() or (halves < 0).any():
        raise ValueError("counts must be finite and not negative")

    totals = halves.sum(axis=1)
    filled = np.flatnonzero(halves.any(axis=0))
    if len(filled):
        halves = halves[:, filled[0] : filled[-1] + 1]
        sizes = sizes[filled[0] : filled[-1] + 2]
    legend = ROW + 12
    limits = (0.0, axes.round_limits(halves)[1])
    across = (0.0, float(_WIDTH))
    canvas, plot = axes.start_chart(
        _WIDTH, _HEIGHT, across, limits, title=title, footer=footer, x_title=x_title, above=legend
    )
    start, bottom = plot.left, plot.bottom

    ticks = tick_values(*limits) if len(filled) else []
    axes.draw_y_axis(canvas, plot, ticks, axes.tick_texts(ticks), axes.NUMBERS)
    # From zero outwards: the place of each edge, in pixels from the middle.
    reach = (_WIDTH - _MIDDLE) / 2
    share = (np.log(sizes) - np.log(sizes[0])) / (np.log(sizes[-1]) - np.log(sizes[0]))
    outwards = _MIDDLE / 2 + share * reach
    middle = start + _WIDTH / 2
    if len(filled):
        for sign, counts, other, colour in ((-1, *halves, NEGATIVE), (1, *halves[::-1], POSITIVE)):
            places = middle + sign * outwards
            tops = plot.y(counts)
            outline = [(places[0], bottom), *stairs(places, tops), (places[-1], bottom)]
            canvas.areas([outline], color=colour)
            x, y = zip(*stairs(places, plot.y(other)), strict=True)
            canvas.line(x, y, color=INK, width=1.3, solid_joinstyle="miter")
        entries = [Entry(f"{left_name}: {_count(totals[0])}", NEGATIVE, "box")]
        entries += [Entry(f"{right_name}: {_count(totals[1])}", POSITIVE, "box")]
        entries += [Entry("the other side, mirrored", INK, "line")]
        draw_legend(canvas, entries, start, bottom + _HEIGHT + legend, canvas.width)
        canvas.lines([[(middle, bottom), (middle, bottom + _HEIGHT)]], color=axes.ZERO)
    else:
        axes.draw_nothing(canvas, plot)
    at, texts = _powers(sizes, outwards) if len(filled) else ([], [])
    places_of_ticks = [_WIDTH / 2 - place for place in at[::-1]] + [_WIDTH / 2] + [_WIDTH / 2 + p for p in at]
    axes.draw_x_axis(canvas, plot, places_of_ticks, [f"−{text}" for text in texts[::-1]] + ["0"] + texts)
    axes.draw_x_title(canvas, plot, f"{x_title} (logarithmic in size, 0 in the middle)" if x_title else "")
    axes.draw_y_title(canvas, plot, f"{y_title} (linear)" if y_title else "")
    return canvas.pixels()


def _same_length(left: ArrayLike, right: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    if np.size(left) != np.size(right):
        raise ValueError(f"there are {np.size(left)} counts on the left, but {np.size(right)} on the right")
    return left, right


def stairs(places: NDArray[np.float64], tops: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Corners of the upper edge of bars of these heights between the places (one more than bars)."""
    x, y = np.repeat(places, 2)[1:-1], np.repeat(tops, 2)
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def _powers(sizes: NDArray[np.float64], places: NDArray[np.float64]) -> tuple[list[float], list[str]]:
    """Find powers of ten with room for their numbers, or the two ends where there are fewer than two."""
    low, high = np.log10(sizes[0]), np.log10(sizes[-1])
    exponents = np.arange(np.ceil(low - 1e-9), np.floor(high + 1e-9) + 1)
    texts = [f"1e{int(exponent)}".replace("-", "−") for exponent in exponents]
    wished = exponents
    if len(exponents) < 2:
        wished = np.array([low, high])
        texts = [f"{10**end:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−") for end in wished]
    at = np.interp(wished, np.log10(sizes), places)
    room = text_width("−1e−00", TEXT_PX) + 16
    step = max(1, int(np.ceil(room / (at[1] - at[0]))))
    # The one at the far end stays; one that would touch the zero in the middle goes.
    kept = [i for i in range(len(at) - 1, -1, -step) if at[i] >= room / 2 + 14][::-1]
    return [float(at[i]) for i in kept], [texts[i] for i in kept]


def _count(total: float) -> str:
    """Write a number of things in few characters."""
    if total < 1e6 and total == round(total):
        return f"{total:,.0f}"
    return f"{total / 1e6:.4g} million" if 1e6 <= total < 1e9 else f"{total:.4g}"
