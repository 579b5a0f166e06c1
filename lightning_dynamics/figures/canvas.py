"""A white sheet measured in pixels, on which text, lines and images are placed by hand.

Layout by hand instead of a layout engine: with a hundred labels it is many times faster, and the size of the
image cannot depend on the data. The origin is the bottom left corner.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Point: TypeAlias = tuple[float, float]

INK = "#222222"
"""Colour of titles and labels."""
FAINT = "#666666"
"""Colour of the footer and of numbers beside a scale."""
TITLE_PX = 25.0
TEXT_PX = 19.0
PAD = 24
"""White margin around everything, in pixels."""

_DPI = 64  # A power of two, so that pixels / dpi * dpi is exact.
_POINTS_PER_PX = 72 / _DPI

# The groups of settings that a user's style sheet may hold and that change what is drawn here.
_STYLED = {"agg", "figure", "font", "image", "lines", "markers", "patch", "path", "text"}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever style the user has chosen; also a decorator.

    Silences complaints about letters that the font lacks: a layer may be named in any script.
    """
    import matplotlib

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*[Gg]lyph.*", category=UserWarning)
        warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)
        defaults = matplotlib.rcParamsDefault
        with matplotlib.rc_context({key: defaults[key] for key in defaults if key.split(".")[0] in _STYLED}):
            yield


class Canvas:
    """A white image of ``width`` x ``height`` pixels to draw on, within :func:`house_style`.

    Args:
        width: in pixels.
        height: in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        """Start with an empty white sheet."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.transforms import IdentityTransform

        self.width, self.height = width, height
        inches = width / _DPI, height / _DPI
        self._figure = Figure(figsize=inches, dpi=_DPI, facecolor="white", edgecolor="white")
        self._agg = FigureCanvasAgg(self._figure)
        self._pixels = IdentityTransform()
        self._strokes: list[Callable[[Any], None]] = [self._figure.patch.draw]

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        px: float = TEXT_PX,
        ha: Literal["left", "center", "right"] = "left",
        va: Literal["baseline", "center"] = "center",
        color: str = INK,
        bold: bool = False,
        vertical: bool = False,
        angle: float = 0.0,
    ) -> None:
        """Write ``text`` literally (no mathtext, no TeX) in letters ``px`` high.

        ``ha`` and ``va`` are relative to the direction of the text; vertical text reads from bottom to top.
        ``angle`` turns text that is not vertical, in degrees against the clock.
        """
        from matplotlib.text import Text

        self._add(
            Text(
                x,
                y,
                text,
                fontproperties=_font(px, bold),
                color=color,
                horizontalalignment=ha,
                verticalalignment="center_baseline" if va == "center" else va,
                rotation=90 if vertical else angle,
                rotation_mode="anchor",
                parse_math=False,
                usetex=False,
            )
        )

    def image(self, pixels: NDArray[np.uint8], left: int, bottom: int) -> None:
        """Place ``(h, w, 3)`` or, with opacity, ``(h, w, 4)`` uint8 pixels, first row on top, unscaled."""
        rgba = np.full((*pixels.shape[:2], 4), 255, dtype=np.uint8)
        rgba[:, :, : pixels.shape[2]] = pixels[::-1]  # Agg counts rows from below.

        def paint(renderer: Any) -> None:
            renderer.draw_image(renderer.new_gc(), left, bottom, rgba)

        self._strokes.append(paint)

    def line(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        color: str,
        width: float = 1.0,
        clip: tuple[float, float, float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Draw one line through the points; NaN leaves a gap.

        ``clip`` (left, bottom, right, top) hides what is outside. ``kwargs`` go to ``Line2D``.
        """
        from matplotlib.lines import Line2D
        from matplotlib.transforms import Bbox

        style: dict[str, Any] = {"linestyle": "-", "marker": "None", "fillstyle": "full", "antialiased": True}
        style |= {"solid_capstyle": "round", "solid_joinstyle": "round"}
        width *= _POINTS_PER_PX
        if "markersize" in kwargs:
            kwargs["markersize"] *= _POINTS_PER_PX
        if clip is not None:
            left, bottom, right, top = clip
            style |= {"clip_box": Bbox([[left, bottom], [right, top]]), "clip_on": True}
        self._add(Line2D(x, y, color=color, linewidth=width, **style | kwargs))

    def lines(self, segments: Sequence[Sequence[Point]], *, color: str, width: float = 1.0) -> None:
        """Draw many separate lines of one colour."""
        from matplotlib.collections import LineCollection

        width *= _POINTS_PER_PX
        self._add(LineCollection(segments, colors=color, linewidths=width, capstyle="butt"))

    def boxes(self, boxes: Sequence[tuple[float, float, float, float]], *, color: str) -> None:
        """Fill many rectangles ``(left, bottom, width, height)`` with one colour."""
        self.areas([[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in boxes], color=color)

    def areas(self, outlines: Sequence[Sequence[Point]], *, color: str) -> None:
        """Fill many polygons with one colour."""
        from matplotlib.collections import PolyCollection

        self._add(PolyCollection(outlines, facecolors=color, edgecolors="none", linewidths=0))

    def box(self, corner: Point, width: float, height: float, *, color: str, line: float = 1.0) -> None:
        """Outline a rectangle whose bottom left corner is given."""
        from matplotlib.patches import Rectangle

        style: dict[str, Any] = {"fill": False, "linestyle": "-", "joinstyle": "miter", "antialiased": True}
        line *= _POINTS_PER_PX
        self._add(Rectangle(corner, width, height, edgecolor=color, linewidth=line, **style))

    def pixels(self) -> NDArray[np.uint8]:
        """Render: ``(height, width, 3)`` uint8."""
        renderer = self._agg.get_renderer()
        renderer.clear()
        for stroke in self._strokes:
            stroke(renderer)
        return np.asarray(renderer.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()

    def _add(self, artist: Any) -> None:
        """Take an artist whose coordinates are pixels."""
        artist.set_figure(self._figure)
        artist.set_transform(self._pixels)
        self._strokes.append(artist.draw)


@lru_cache(maxsize=8192)
def text_width(text: str, px: float = TEXT_PX, bold: bool = False) -> float:
    """Width of one line of text, in pixels."""
    width, _, _ = _ruler().get_text_width_height_descent(text, _font(px, bold), ismath=False)
    return float(width)


@lru_cache(maxsize=1)
def _ruler() -> Any:
    """Build a renderer that only ever measures."""
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, _DPI)


@lru_cache(maxsize=256)
def _font(px: float, bold: bool) -> Any:
    """Take the font file that ships with matplotlib: the same letters on every machine."""
    import matplotlib
    from matplotlib.font_manager import FontProperties

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    return FontProperties(fname=str(path), size=px * _POINTS_PER_PX)
