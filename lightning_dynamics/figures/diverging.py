"""A scale on both sides of zero: its colours, and a colour bar that names what lies beyond its ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures.axes import NUMBERS, tick_texts
from lightning_dynamics.figures.canvas import FAINT, Canvas, text_width
from lightning_dynamics.figures.lettering import fit
from lightning_dynamics.figures.scale import MISSING, STRIPE, striped, tick_values

NEGATIVE = "#3a9a50"
"""Green of bars and areas for what is below zero: as in the colour map PRGn, and lighter than POSITIVE."""
POSITIVE = "#762a83"
"""Purple for what is above zero."""
DIVERGING = "PRGn_r"
"""Colour map from green (negative) over white to purple (positive)."""
_BAR = 28
_UNDEFINED = "undefined"


def symmetric_limit(values: NDArray[np.float64], percentile: float = 99.5) -> float:
    """Find a limit that almost all absolute values respect, rounded up to two digits; 1 if all are 0."""
    sizes = np.abs(values[np.isfinite(values)])
    limit = float(np.percentile(sizes, percentile)) if sizes.size else 0.0
    # Nearly all zeros: the few that are not decide.
    limit = limit or float(sizes.max(initial=0.0))
    if limit < 1e-300:
        return 1.0
    unit = 10.0 ** (np.floor(np.log10(limit)) - 1)
    return float(f"{np.ceil(limit / unit * (1 - 1e-12)) * unit:.2g}")


def quartered_limit(limit: float) -> float:
    """Round a limit up to 1, 2, 4 or 6 x 10ⁿ, of which a quarter (half the way on a root scale) is short."""
    unit = 10.0 ** np.floor(np.log10(limit) + 1e-12)
    return float(f"{next((m for m in (1, 2, 4, 6) if limit <= m * unit * (1 + 1e-9)), 10) * unit:.1g}")


class DivergingScale:
    """Colours for values on a fixed scale around zero.

    Args:
        low: value at the lower end.
        high: value at the upper end.
        cmap: name of a matplotlib colour map.
        label: what the values are.
        root: whether colours follow the square root of the size, which shows small values beside large ones;
            then ``low`` is ``-high``.
        span: the part of the colour map that is used, between 0 and 1.
    """

    foot = 2 * _BAR
    """Pixels below the upright bar, kept free for a swatch whether or not the picture needs it."""

    width = _BAR + 10 + NUMBERS + 46
    """Pixels that the upright bar takes with its texts."""

    def __init__(
        self,
        low: float,
        high: float,
        cmap: str = DIVERGING,
        label: str = "",
        *,
        root: bool = False,
        span: tuple[float, float] | None = None,
    ) -> None:
        """Look the colour map up."""
        from matplotlib import colormaps

        self.low, self.high, self.label, self._root = low, high, label, root
        # The outermost colours of a diverging map are nearly black: both ends would look alike.
        shares = np.linspace(*(span or ((0.08, 0.92) if cmap == DIVERGING else (0.0, 1.0))), 257)
        self._table = np.array(colormaps[cmap](shares, bytes=True)[:, :3], dtype=np.uint8)
        ticks = [-high / 4, 0.0, high / 4] if root else tick_values(low, high)
        self._ticks = [low, *(tick for tick in ticks if low < tick < high), high]

    def colours(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Turn values of any shape into ``(..., 3)`` uint8 colours; NaN gets the grey of missing cells."""
        share = self._share(values)
        known = np.clip(np.nan_to_num(share, nan=0.5, posinf=1.0, neginf=0.0), 0.0, 1.0)
        colours: NDArray[np.uint8] = self._table[np.round(known * (len(self._table) - 1)).astype(np.intp)]
        colours[np.isnan(share)] = MISSING
        return colours

    def draw(self, canvas: Canvas, left: int, bottom: int, height: int, values: NDArray[np.float64]) -> None:
        """Draw the bar upright beside a map of ``height`` pixels that shows ``values``."""
        foot = self.foot
        length = height - foot
        ramp = (np.arange(length)[::-1] + 0.5) / length
        self._draw_ramp(canvas, np.repeat(ramp[:, None], _BAR, axis=1), left, bottom + foot)
        for share, text in self._texts(values, 30 / length):
            y = bottom + foot + share * length
            canvas.lines([[(left + _BAR, y), (left + _BAR + 5, y)]], color=FAINT)
            text, px = fit(text, NUMBERS)
            canvas.text(left + _BAR + 10, y, text, px=px, color=FAINT)
        if np.isnan(values).any():
            self._draw_missing(canvas, left, bottom)
        if self.label:
            line, px = fit(self.label, length)
            x = left + self.width - 8
            canvas.text(x, bottom + foot + length / 2, line, px=px, ha="center", va="baseline", vertical=True)

    def draw_flat(self, canvas: Canvas, left: int, top: int, length: int, values: NDArray[np.float64]) -> None:
        """Draw the bar lying below ``top`` with its numbers under it and its label at the right: 52 pixels."""
        height = 20
        ramp = (np.arange(length) + 0.5) / length
        self._draw_ramp(canvas, np.repeat(ramp[None], height, axis=0), left, top - height)
        for share, text in self._texts(values, 70 / length):
            x = left + share * length
            canvas.lines([[(x, top - height), (x, top - height - 5)]], color=FAINT)
            px = 15.0
            canvas.text(x, top - height - 9 - px, text, px=px, ha="center", va="baseline", color=FAINT)
        x = left + length + 50
        if np.isnan(values).any():
            self._draw_missing(canvas, x, top - height - 4)
            x += _BAR + 10 + round(text_width(_UNDEFINED)) + 40
        if self.label:
            line, px = fit(self.label, canvas.width - x - 24)
            canvas.text(x, top - height / 2, line, px=px)

    def _share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Place on the scale, 0 to 1 and beyond."""
        if self._root:
            return np.asarray(0.5 + 0.5 * np.sign(values) * np.sqrt(np.abs(values) / self.high))
        return np.asarray((values - self.low) / (self.high - self.low))

    def _texts(self, values: NDArray[np.float64], gap: float) -> list[tuple[float, str]]:
        """Write the ticks at their shares of the scale; an end beyond which there are values says so.

        The two ends always have a number; the others only if they are ``gap`` away from them.
        """
        texts = self._write(self._ticks)
        slack = 1e-6 * (self.high - self.low)
        if np.any(values < self.low - slack):
            texts[0] = f"≤ {texts[0]}"
        if np.any(values > self.high + slack):
            texts[-1] = f"≥ {texts[-1]}"
        shares = [float(self._share(np.array(tick))) for tick in self._ticks]
        pairs = list(zip(shares, texts, strict=True))
        return [pairs[0], *((share, text) for share, text in pairs[1:-1] if gap <= share <= 1 - gap), pairs[-1]]

    def _write(self, ticks: Sequence[float]) -> list[str]:
        """Write the numbers beside the bar."""
        return tick_texts(ticks)

    def _draw_ramp(self, canvas: Canvas, shares: NDArray[np.float64], left: int, bottom: int) -> None:
        """Paint the colours of shares of the scale, with an outline because the middle is white."""
        pixels = self._table[np.round(shares * (len(self._table) - 1)).astype(np.intp)]
        canvas.boxes([(left - 1, bottom - 1, pixels.shape[1] + 2, pixels.shape[0] + 2)], color="#aaaaaa")
        canvas.image(pixels, left, bottom)

    @staticmethod
    def _draw_missing(canvas: Canvas, left: int, bottom: int) -> None:
        """Explain the hatched grey."""
        missing = np.full((_BAR, _BAR, 3), MISSING, dtype=np.uint8)
        missing[striped(_BAR, _BAR)] = STRIPE
        canvas.image(missing, left, bottom)
        canvas.text(left + _BAR + 10, bottom + _BAR / 2, _UNDEFINED, color=FAINT)
