"""A slice at particular weights: where its axes lie, and which points of it are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.estimator import Direction
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.parameters import unflatten

Weights = Mapping[str, Tensor]
_BEYOND = 0.25  # of the extent of the points shown, on every side


@dataclass(frozen=True)
class SliceContext:
    """What a slice can use to place itself.

    Args:
        context: of the event, isolated.
        parameters: those that move, by name.
        weights: their values now.
        span: how far the slice reaches.
        resolution: points along each axis.
        seed: of the callback.
        loss_fn: of the callback; None for ``training_step``.
        memory: of the callback.
        steps: at which the trajectory's snapshots were taken, the weights as they are now last; empty without one.
        snapshots: ``(P,)`` each, float32 on the CPU.
    """

    context: Context
    parameters: Mapping[str, nn.Parameter]
    weights: Weights
    span: float
    resolution: tuple[int, int]
    seed: int
    loss_fn: LossFn | None
    memory: dict[str, Any]
    steps: Sequence[int] = ()
    snapshots: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Placement:
    """A plane or a line through the space of weights, and the coordinates of its points.

    Args:
        origin: the weights at (0, 0), by parameter name.
        directions: two, or one.
        xs: ``(X,)``.
        ys: ``(Y,)``; None for a line.
        about: what a result says of its directions: ``kind``; ``title`` of the slice; ``x`` and ``y``, titles of the
            axes; ``around_weights`` where the centre is the weights themselves and the axes are in units of them;
            ``orthogonal=False`` where the directions are not orthogonal by construction; ``own_plane`` where every
            event has a plane of its own.
        marks: named points ``[name, x, y]``.
        explained: share of a trajectory's variance along each direction.
        has_ends: whether the line goes from a point at 0 to a point at 1.
    """

    origin: Weights
    directions: tuple[Direction, ...]
    xs: Tensor
    ys: Tensor | None
    about: dict[str, Any]
    marks: list[Any] = field(default_factory=list)
    explained: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    has_ends: bool = False

    def on_cpu(self) -> Placement:
        """The same, to be sent to another process."""
        directions = tuple({name: tensor.cpu() for name, tensor in d.items()} for d in self.directions)
        return replace(self, origin={name: tensor.cpu() for name, tensor in self.origin.items()}, directions=directions)


def from_rank_zero(ranks: Ranks, place: Callable[[], Placement]) -> Placement:
    """Rank zero's placement, in every process.

    The last bits of a decomposition may differ between processes; the points that are shared out must not.
    """
    return ranks.broadcast_object(ranks.run_checked(lambda: None if ranks.rank else place().on_cpu()))


def around(
    weights: Weights, directions: Sequence[Direction], span: float, resolution: tuple[int, int], about: dict[str, Any]
) -> Placement:
    """``-span`` to ``span`` along each direction; with odd resolutions the weights themselves are a point."""
    about = about | {"around_weights": True}
    xs, *rest = (centred(span, points) for points in resolution[: len(directions)])
    return Placement(weights, tuple(directions), xs, rest[0] if rest else None, about, [["current weights", 0.0, 0.0]])


def relative(weights: Weights, flats: Sequence[Tensor]) -> tuple[Direction, ...]:
    """Flat directions at the weights' own norm: one unit moves as far as the weights are from zero."""
    length = estimator.norm(weights) or 1.0
    device = next(iter(weights.values())).device
    return tuple(unflatten(flat.to(device) * (length / flat.norm()), weights) for flat in flats)


def through_points(points: Mapping[str, Weights], span: float, resolution: tuple[int, int]) -> Placement:
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
        about["title"] = f"line through {' and '.join(names)}"
        marks = [[names[0], 0.0, 0.0], [names[1], 1.0, 0.0]]
        return Placement(origin, (direction,), xs, None, about, marks, has_ends=True)
    directions, places = estimator.plane_through(origin, *others)
    xs, ys = (stretch(places[:, axis], span, resolution[axis]) for axis in (0, 1))
    x = f"distance, {names[0]} towards {names[1]}"
    about = {"kind": "points", "x": x, "y": f"distance, orthogonal, towards {names[2]}", "points": names}
    about["title"] = f"plane through {' and '.join(names)}"
    marks = [[name, *place] for name, place in zip(names, places.tolist(), strict=True)]
    return Placement(origin, directions, xs, ys, about, marks)


def principal_plane(
    snapshots: Sequence[Tensor], steps: Sequence[int], weights: Weights, span: float, resolution: tuple[int, int]
) -> Placement:
    """The plane of a trajectory's two main directions, through the weights with which it ends, the last snapshot.

    Raises:
        ValueError: too few snapshots, or they span no plane.
    """
    found = estimator.principal_directions(snapshots)
    xs, ys = (stretch(found.coordinates[:, axis], span, resolution[axis]) for axis in (0, 1))
    titles = [f"principal component {k + 1} ({share:.1%} of variance)" for k, share in enumerate(found.explained)]
    about = {"kind": "pca", "x": titles[0], "y": titles[1], "snapshots": len(snapshots)}
    about |= {"title": "plane of the trajectory's main directions", "own_plane": True}
    marks = [[f"step {steps[0]}", *found.coordinates[0].tolist()], ["current weights", 0.0, 0.0]]
    like = next(iter(weights.values()))
    directions = tuple(unflatten(flat.to(like), weights) for flat in found.directions)
    return Placement(weights, directions, xs, ys, about, marks, found.explained)


def centred(span: float, points: int) -> Tensor:
    """Evenly from ``-span`` to ``span``, 0 exactly in the middle of an odd number."""
    return (2 * torch.arange(points, dtype=torch.float64) - (points - 1)) / (points - 1) * span


def stretch(places: Tensor, span: float, points: int) -> Tensor:
    """Evenly over the range of some places and a quarter of it beyond on each side, both times ``span``."""
    low, high = float(places.min()), float(places.max())
    half = (high - low) * (0.5 + _BEYOND) * span or math.ulp(1.0)
    return (low + high) / 2 + centred(half, points)
