"""The six kinds of panel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scalar:
    """One number. NaN means "not defined here" and is not plotted."""

    value: float


@dataclass(frozen=True, eq=False)
class Picture:
    """A still image.

    Args:
        image: ``(H, W, 3)`` uint8. Floats are refused: W&B would cast 0.5 to a black pixel.
        caption: what it shows, on which data, at which epoch and step.
    """

    image: NDArray[np.uint8]
    caption: str = ""

    def __post_init__(self) -> None:
        """Refuse anything but uint8 RGB."""
        _check_rgb(self.image)


@dataclass(frozen=True, eq=False)
class Film:
    """A sequence of images of one size, shown as an animation.

    Args:
        frames: each ``(H, W, 3)`` uint8.
        caption: as for :class:`Picture`.
        fps: frames per second.
    """

    frames: Sequence[NDArray[np.uint8]]
    caption: str = ""
    fps: float = 4.0

    def __post_init__(self) -> None:
        """Refuse an empty film and frames of different sizes."""
        if not self.frames:
            raise ValueError("a Film needs at least one frame")
        for frame in self.frames:
            _check_rgb(frame)
        if len({frame.shape for frame in self.frames}) > 1:
            raise ValueError("all frames of a Film must have the same size")
        if not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}")


Cell: TypeAlias = str | int | float | bool | Picture | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns. Cells are plain values, or pictures shown as thumbnails; NaN is empty (null)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        """Refuse ragged rows."""
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row of a Table needs {len(self.columns)} cells: {list(self.columns)}")


@dataclass(frozen=True)
class Page:
    """A self-contained HTML document (no network), shown in a frame of its own."""

    html: str
    caption: str = ""
    height: int = 480


@dataclass(frozen=True, eq=False)
class Download:
    """Files to take away and compute with, e.g. a table too long to be looked at; they are shown as links.

    Args:
        files: file name to content. Names are plain ones, which every operating system can hold.
        caption: what is in them, on which data, at which epoch and step.
    """

    files: Mapping[str, bytes]
    caption: str = ""

    def __post_init__(self) -> None:
        """Refuse an empty download, text for bytes, and names that are a path or that some system cannot hold."""
        if not self.files:
            raise ValueError("a Download needs at least one file")
        for name, content in self.files.items():
            # No "." at either end: "..", files that are hidden, and what Windows cuts off.
            if not _FILE_NAME.fullmatch(name) or name.strip(". ") != name or len(name.encode()) > _LONGEST_NAME:
                raise ValueError(f"not a plain file name: {name!r}")
            if not isinstance(content, bytes):
                raise ValueError(f"the content of {name!r} must be bytes, got {type(content).__name__}")
        if len({name.casefold() for name in self.files}) < len(self.files):
            raise ValueError(f"file names must differ in more than upper and lower case: {sorted(self.files)}")


Panel: TypeAlias = Scalar | Picture | Film | Table | Page | Download
Panels: TypeAlias = Mapping[str, Panel]

_FILE_NAME = re.compile(r"""[^\\/:*?"<>|\x00-\x1f\x7f]+""")
_LONGEST_NAME = 200  # bytes; the systems' limit is 255, and writers put something before or behind it


def _check_rgb(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is (H, W, 3) uint8, got {image.shape} {image.dtype}")
