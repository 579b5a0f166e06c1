"""What a LandscapeCallback can be asked for, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any

from lightning_dynamics.analyses.landscape.slices import Slice
from lightning_dynamics.analyses.landscape.through import Through
from lightning_dynamics.core.lightning import ConfigurationError


def check_numbers(span: Any, radius: Any, weight_decay: Any) -> None:
    """Refuse values that cannot work.

    Raises:
        ConfigurationError: naming the argument.
    """
    for name, value in (("span", span), ("radius", radius)):
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ConfigurationError(
                f"`{name}` must be a positive number: without width there is nothing to see; got {value!r}"
            )
    if not (isinstance(weight_decay, int | float) and math.isfinite(weight_decay) and weight_decay >= 0):
        raise ConfigurationError(f"`weight_decay` must be a number from 0 up, got {weight_decay!r}")


def pair(resolution: Any, argument: str) -> tuple[int, int]:
    """Points along each axis.

    Raises:
        ConfigurationError: fewer than two, or no number.
    """
    both = (
        tuple(resolution) if isinstance(resolution, Sequence) and not isinstance(resolution, str) else (resolution,) * 2
    )
    if len(both) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 2 for n in both):
        raise ConfigurationError(f"`{argument}` must be at least 2 points along each axis, got {resolution!r}")
    return both


def slice_of(given: Slice | str | Sequence[str | PathLike[str]]) -> Slice:
    """A slice given as itself, by its word, or as a list of points.

    Raises:
        ConfigurationError: an unknown word, or points that cannot work.
    """
    if isinstance(given, Slice):
        return given
    known = {word: cls for cls in _kinds(Slice) for word in cls.words}
    if isinstance(given, str):
        if given in known:
            return known[given]()
        raise ConfigurationError(
            f"`slice` must be one of {', '.join(map(repr, known))}, a list of two or three points, or a value such as "
            f"`landscape.RandomPlane()`; got {given!r}"
        )
    if isinstance(given, Sequence):
        return Through(*given)
    raise ConfigurationError(f"`slice` must be a word, a list of points or a slice; got {given!r}")


def _kinds(base: Any) -> list[Any]:
    return [kind for cls in base.__subclasses__() for kind in (cls, *_kinds(cls))]
