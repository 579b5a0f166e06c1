"""Named points of the space of weights: where training began, where it is, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.slices import Weights, through_points
from lightning_dynamics.core.checkpoints import at_checkpoint, short_names
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import flatten, unflatten

INITIALIZATION, CURRENT = "initialization", "current"


class Points:
    """Two points that make a line, or three that make a plane.

    Args:
        named: ``"initialization"``, ``"current"`` and checkpoints' paths.
        memory: the analysis's own; where training began is kept there, on the CPU.
    """

    def __init__(self, named: Sequence[str], memory: dict[str, Any]) -> None:
        """Nothing is read yet."""
        self._named, self._memory = named, memory

    def remember(self, now: Weights) -> None:
        """These are the weights with which training began, unless others are known."""
        if INITIALIZATION in self._named and INITIALIZATION not in self._memory:
            self._memory[INITIALIZATION] = flatten(now).cpu()

    def weights(self, parameters: Mapping[str, nn.Parameter], module: nn.Module) -> dict[str, Weights]:
        """Of every point, by its short name.

        Raises:
            ConfigurationError: no readable checkpoint, or one of another architecture.
        """
        labels = short_names(self._named)
        return {label: self._weights(name, parameters, module) for label, name in zip(labels, self._named, strict=True)}

    def check(self, points: Mapping[str, Weights], span: float, resolution: tuple[int, int]) -> None:
        """Refuse what no training will mend.

        Raises:
            ConfigurationError: checkpoints that are equal, or three on one line.
        """
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
                through_points(points, span, resolution)
            except ValueError as error:
                raise ConfigurationError(f"`points`: {error}") from error

    def _weights(self, name: str, parameters: Mapping[str, nn.Parameter], module: nn.Module) -> Weights:
        if name == INITIALIZATION and INITIALIZATION in self._memory:
            flat = self._memory[INITIALIZATION]
            return {key: t.to(parameters[key]) for key, t in unflatten(flat, parameters).items()}
        if name in (INITIALIZATION, CURRENT):
            return copied(parameters)
        with at_checkpoint(module, name, argument="points"):
            return copied(parameters)


def copied(parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """The values as they are now."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}
