"""Which plane or line through the space of weights is looked at, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.estimator import Direction, Normalization
from lightning_dynamics.core.parameters import unflatten

Weights = Mapping[str, Tensor]
_BEYOND = 0.25  # of the extent of the points shown, on every side


@dataclass(frozen=True)
class Slice:
    """A plane or a line.

    Args:
        origin: the weights at (0, 0), by parameter name.
        directions: two, or one.
        xs: ``(X,)``.
        ys: ``(Y,)``; None for a line.
        about: what a result says of its directions.
        marks: named points ``[name, x, y]``.
        explained: share of a trajectory's variance along each direction.
    """

    origin: Weights
    directions: tuple[Direction, ...]
    xs: Tensor
    ys: Tensor | None
    about: dict[str, Any]
    marks: list[Any] = field(default_factory=list)
    explained: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def on_cpu(self) -> Slice:
        """The same, to be handed to another process."""
        directions = tuple({name: tensor.cpu() for name, tensor in d.items()} for d in self.directions)
        return replace(self, origin={name: tensor.cpu() for name, tensor in self.origin.items()}, directions=directions)


def around(
    weights: Weights, directions: Sequence[Direction], span: float, resolution: tuple[int, int], about: dict[str, Any]
) -> Slice:
    """``-span`` to ``span`` along each direction; with odd resolutions the weights themselves are a point."""
    xs, *rest = (centred(span, points) for points in resolution[: len(directions)])
    return Slice(weights, tuple(directions), xs, rest[0] if rest else None, about, [["current weights", 0.0, 0.0]])


def random_slice(
    module: nn.Module,
    weights: Weights,
    *,
    span: float,
    resolution: tuple[int, int],
    normalize: Normalization,
    move_biases: bool,
    seed: int,
    is_line: bool = False,
    anchor: Weights | None = None,
) -> Slice:
    """Random directions from these weights; ``anchor``: other weights, whose filters' norms they get."""
    directions = estimator.random_directions(
        weights if anchor is None else anchor,
        count=1 if is_line else 2,
        seed=seed,
        normalize=normalize,
        move_biases=move_biases,
        output_dims=estimator.dims_of_outputs(module),
        unmoved=estimator.normalization_parameters(module),
    )
    unit = {"filter": "filter-normalised", "layer": "layer-normalised", "none": "not normalised"}[normalize]
    titles = [f"random direction {number}, {unit}" for number in (1, 2)]
    about = {"kind": "random", "x": titles[0], "y": titles[1], "normalize": normalize, "seed": seed}
    return around(weights, directions, span, resolution, about)


def relative(weights: Weights, flats: Sequence[Tensor]) -> tuple[Direction, ...]:
    """Flat directions at the weights' own norm: one unit moves as far as the weights are from zero."""
    length = estimator.norm(weights) or 1.0
    device = next(iter(weights.values())).device
    return tuple(unflatten(flat.to(device) * (length / flat.norm()), weights) for flat in flats)


def through_points(points: Mapping[str, Weights], span: float, resolution: tuple[int, int]) -> Slice:
    """The line through two named points, or the plane through three.

    Raises:
        ValueError: two are equal, or three on a line.
    """
    names, (origin, *others) = list(points), points.values()
    if len(others) == 1:
        direction = estimator.difference(others[0], origin)
        if not estimator.norm(direction):
            raise ValueError(f"the points {names[0]!r} and {names[1]!r} are equal: there is no line between them")
        xs = stretch(torch.tensor([0.0, 1.0]), span, resolution[0])
        about = {"kind": "points", "x": f"t: {names[0]} (0) to {names[1]} (1)", "points": names}
        return Slice(origin, (direction,), xs, None, about, [[names[0], 0.0, 0.0], [names[1], 1.0, 0.0]])
    directions, places = estimator.plane_through(origin, *others)
    xs, ys = (stretch(places[:, axis], span, resolution[axis]) for axis in (0, 1))
    x = f"distance, {names[0]} towards {names[1]}"
    about = {"kind": "points", "x": x, "y": f"distance, orthogonal, towards {names[2]}", "points": names}
    marks = [[name, *place] for name, place in zip(names, places.tolist(), strict=True)]
    return Slice(origin, directions, xs, ys, about, marks)


def principal_slice(
    snapshots: Sequence[Tensor], steps: Sequence[int], weights: Weights, span: float, resolution: tuple[int, int]
) -> Slice:
    """The plane of a trajectory's two main directions, through the weights with which it ends, the last snapshot.

    Raises:
        ValueError: too few snapshots, or they span no plane.
    """
    found = estimator.principal_directions(snapshots)
    xs, ys = (stretch(found.coordinates[:, axis], span, resolution[axis]) for axis in (0, 1))
    titles = [f"principal component {k + 1} ({share:.1%} of variance)" for k, share in enumerate(found.explained)]
    about = {"kind": "pca", "x": titles[0], "y": titles[1], "snapshots": len(snapshots)}
    marks = [[f"step {steps[0]}", *found.coordinates[0].tolist()], ["current weights", 0.0, 0.0]]
    like = next(iter(weights.values()))
    directions = tuple(unflatten(flat.to(like), weights) for flat in found.directions)
    return Slice(weights, directions, xs, ys, about, marks, found.explained)


def centred(span: float, points: int) -> Tensor:
    """Evenly from ``-span`` to ``span``, 0 exactly in the middle of an odd number."""
    return (2 * torch.arange(points, dtype=torch.float64) - (points - 1)) / (points - 1) * span


def stretch(places: Tensor, span: float, points: int) -> Tensor:
    """Evenly over the range of some places and a quarter of it beyond on each side, both times ``span``."""
    low, high = float(places.min()), float(places.max())
    half = (high - low) * (0.5 + _BEYOND) * span or math.ulp(1.0)
    return (low + high) / 2 + centred(half, points)
