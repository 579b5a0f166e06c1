"""Lines and planes through named points: where training began, where it is, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.placement import (
    Placement,
    SliceContext,
    Weights,
    from_rank_zero,
    through_points,
)
from lightning_dynamics.analyses.landscape.slices import Slice
from lightning_dynamics.core.checkpoints import at_checkpoint, short_names
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import copied, flatten, unflatten
from lightning_dynamics.core.schedule import Due, Schedule

INITIALIZATION, CURRENT = "initialization", "current"


@dataclass(frozen=True, init=False)
class Through(Slice):
    """The line through two points, or the plane through three (Garipov et al. 2018; Goodfellow et al. 2015).

    Args:
        names: ``"initialization"``, ``"current"`` and paths of Lightning checkpoints.
        points: the same as a list, which is what YAML can say.

    Raises:
        ConfigurationError: not two or three different points.
    """

    points: tuple[str, ...]

    def __init__(self, *names: str | PathLike[str], points: Sequence[str | PathLike[str]] = ()) -> None:
        """Check the points' number."""
        if isinstance(points, str) or not isinstance(points, Sequence):
            raise ConfigurationError(f"`points` must be a list of two or three points, got {points!r}")
        found = tuple(map(str, (*names, *points)))
        if len(found) not in (2, 3):
            raise ConfigurationError(
                "`points` must be two (a line) or three (a plane) of 'initialization', 'current' and checkpoints' "
                f"paths; got {list(found)}"
            )
        if len(set(found)) < len(found):
            raise ConfigurationError(f"`points`: one of {list(found)} is there twice; give different ones")
        object.__setattr__(self, "points", found)

    @property
    def is_line(self) -> bool:  # type: ignore[override]
        """Whether there are two points."""
        return len(self.points) == 2

    @property
    def remembers(self) -> Due | None:  # type: ignore[override]
        """When training begins, if that is one of the points."""
        return Schedule(None, None, at_start=True, at_end=False) if INITIALIZATION in self.points else None

    def remember(self, weights: Weights, memory: dict[str, Any]) -> None:
        """Keep the weights with which training began, unless others are known."""
        if INITIALIZATION in self.points and INITIALIZATION not in memory:
            memory[INITIALIZATION] = flatten(weights).cpu()

    def check(self, at: SliceContext) -> None:
        """Refuse checkpoints that are missing, of another architecture, equal, or on one line."""
        points = self._weights(at)
        fixed = {name: weights for name, weights in points.items() if name not in (INITIALIZATION, CURRENT)}
        names = list(fixed)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                if not estimator.norm(estimator.difference(fixed[first], fixed[second])):
                    raise ConfigurationError(
                        f"`points`: {first!r} and {second!r} are equal: give different checkpoints"
                    )
        if len(fixed) == len(points):
            try:
                through_points(points, at.span, at.resolution)
            except ValueError as error:
                raise ConfigurationError(f"`points`: {error}") from error

    def place(self, at: SliceContext) -> Placement:
        """The line or plane through the points as they are now."""
        return from_rank_zero(at.context.ranks, lambda: through_points(self._weights(at), at.span, at.resolution))

    def _weights(self, at: SliceContext) -> dict[str, Weights]:
        labels = short_names(self.points)
        return {label: self._weights_of(name, at) for label, name in zip(labels, self.points, strict=True)}

    def _weights_of(self, name: str, at: SliceContext) -> Weights:
        if name == INITIALIZATION and INITIALIZATION in at.memory:
            flat = at.memory[INITIALIZATION]
            return {key: t.to(at.parameters[key]) for key, t in unflatten(flat, at.parameters).items()}
        if name in (INITIALIZATION, CURRENT):
            return copied(at.parameters)
        with at_checkpoint(at.context.module, name, argument="points"):
            return copied(at.parameters)
