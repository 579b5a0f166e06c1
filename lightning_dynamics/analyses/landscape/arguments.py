"""What a LandscapeCallback can be asked for, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

from lightning_dynamics.analyses.landscape.estimator import Normalization
from lightning_dynamics.core.lightning import ConfigurationError

Directions = Literal["random", "random_line", "points", "pca", "hessian", "gradient"]
DIRECTIONS: tuple[str, ...] = get_args(Directions)


def checked_points(directions: str, points: Any) -> list[str]:
    """The points' names; none unless the slice goes through points.

    Raises:
        ConfigurationError: unknown ``directions``; ``points`` missing, too many, or twice the same.
    """
    if directions not in DIRECTIONS:
        raise ConfigurationError(f"`directions` must be one of {', '.join(DIRECTIONS)}; got {directions!r}")
    if directions != "points":
        if points is not None:
            raise ConfigurationError(f"`points` are for `directions='points'`, not for {directions!r}")
        return []
    if isinstance(points, str) or not isinstance(points, Sequence) or len(points) not in (2, 3):
        raise ConfigurationError(
            f"`points` must be two (a line) or three (a plane) of 'initialization', 'current' and checkpoints' paths; "
            f"got {points!r}"
        )
    names = list(map(str, points))
    if len(set(names)) < len(names):
        raise ConfigurationError(f"`points`: the same one twice in {names}; a line or plane needs different ones")
    return names


def check_numbers(normalize: str, span: Any, radius: Any, weight_decay: Any) -> None:
    """Refuse values that cannot work.

    Raises:
        ConfigurationError: naming the argument.
    """
    if normalize not in get_args(Normalization):
        raise ConfigurationError(f"`normalize` must be 'filter', 'layer' or 'none'; got {normalize!r}")
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
