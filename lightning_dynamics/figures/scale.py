"""The fixed scale of a chart: its limits, its round numbers, and a colour bar that explains every colour."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures.canvas import FAINT, Canvas, text_width
from lightning_dynamics.figures.lettering import fit

UNDER = (139, 180, 214)
"""Colour of values below the lower limit: a cool light blue that magma does not hold."""
MISSING = (238, 238, 238)
"""Ground of cells without a value (NaN), with stripes of :data:`STRIPE`."""
STRIPE = (178, 178, 178)
_BAR = 28
_GAP = 14
_UNDEFINED = "undefined"


def check_limits(limits: tuple[float, float]) -> tuple[float, float]:
    """Return the limits as floats; raise ValueError unless they are finite and rise."""
    low, high = map(float, limits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"limits must be two rising finite numbers, got {limits}")
    return low, high


def tick_values(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between the limits."""
    from matplotlib.ticker import MaxNLocator

    slack = 1e-9 * (high - low)
    values = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(v) for v in values if low - slack <= v <= high + slack]


def number(value: float) -> str:
    """Write a tick in few characters."""
    text = f"{round(value, 12):.4g}"
    return "0" if text == "-0" else text.replace("-", "−")


def striped(height: int, width: int, period: int = 10) -> NDArray[np.bool_]:
    """Mark the diagonal stripes of an area without values."""
    y, x = np.ogrid[:height, :width]
    return np.asarray((x + y) % period < max(1, period // 4))


class ColourScale:
    """Colours for values on a fixed scale, and the bar that explains them.

    Args:
        low: value at the lower end.
        high: value at the upper end.
        cmap: name of a matplotlib colour map.
        label: what the values are.
    """

    def __init__(self, low: float, high: float, cmap: str, label: str) -> None:
        """Look the colour map up."""
        from matplotlib import colormaps

        self.low, self.high, self.label = low, high, label
        self._cmap = colormaps[cmap]
        self._ticks = tick_values(low, high)
        self._beyond = f"≥ {number(high)}"
        texts = [*map(number, self._ticks), self._beyond]
        self._numbers_width = math.ceil(max(text_width(text) for text in texts))
        self._foot_width = math.ceil(max(text_width(text) for text in (f"< {number(low)}", _UNDEFINED)))

    @property
    def width(self) -> int:
        """Pixels that the bar takes with its texts."""
        beside = self._numbers_width + (40 if self.label else 0)
        return _BAR + 10 + max(beside, self._foot_width)

    def colours(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Turn values of any shape into ``(..., 3)`` uint8 colours."""
        share = (values - self.low) / (self.high - self.low)
        known = np.clip(np.nan_to_num(share, nan=0.0), 0.0, 1.0)
        colours: NDArray[np.uint8] = np.array(self._cmap(known, bytes=True)[..., :3], dtype=np.uint8)
        colours[share < -1e-6] = UNDER  # Rounding alone does not make a zero negative.
        colours[np.isnan(share)] = MISSING
        return colours

    def draw(self, canvas: Canvas, left: int, bottom: int, height: int, values: NDArray[np.float64]) -> None:
        """Draw the bar beside a map of ``height`` pixels that shows ``values``."""
        text_x = left + _BAR + 10
        # Two swatches at the foot keep their place whether or not this frame needs them.
        foot = 2 * (_BAR + _GAP)
        length = height - foot
        ramp = np.linspace(self.high, self.low, length)[:, None].repeat(_BAR, axis=1)
        canvas.image(self.colours(ramp), left, bottom + foot)
        for tick in self._ticks:
            y = bottom + foot + (tick - self.low) / (self.high - self.low) * length
            topmost = tick >= self.high - 1e-9 * (self.high - self.low)
            above = bool(np.any(values > self.high + 1e-6 * (self.high - self.low)))
            text = self._beyond if topmost and above else number(tick)
            canvas.lines([[(left + _BAR, y), (left + _BAR + 5, y)]], color=FAINT)
            canvas.text(text_x, y, text, color=FAINT)

        if self.low >= 0 or np.any(values < self.low - 1e-6 * (self.high - self.low)):
            under = np.full((_BAR, _BAR, 3), UNDER, dtype=np.uint8)
            canvas.image(under, left, bottom + _BAR + _GAP)
            canvas.text(text_x, bottom + _BAR + _GAP + _BAR / 2, f"< {number(self.low)}", color=FAINT)
        if np.isnan(values).any():
            missing = np.full((_BAR, _BAR, 3), MISSING, dtype=np.uint8)
            missing[striped(_BAR, _BAR)] = STRIPE
            canvas.image(missing, left, bottom)
            canvas.text(text_x, bottom + _BAR / 2, _UNDEFINED, color=FAINT)
        if self.label:
            line, px = fit(self.label, length)
            x = text_x + self._numbers_width + 34
            canvas.text(x, bottom + foot + length / 2, line, px=px, ha="center", va="baseline", vertical=True)
