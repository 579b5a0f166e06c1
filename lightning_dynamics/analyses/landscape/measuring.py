"""One landscape: the points of a slice, shared out over the processes, and what is made of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.curvature.estimator import extreme_pairs
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import HessianOperator, NotFinite
from lightning_dynamics.analyses.curvature.quantities import non_convexity
from lightning_dynamics.analyses.landscape.estimator import barrier, project, sharpness
from lightning_dynamics.analyses.landscape.evaluation import Grid, described
from lightning_dynamics.analyses.landscape.evaluator import Evaluator
from lightning_dynamics.analyses.landscape.movable import Movable
from lightning_dynamics.analyses.landscape.placement import Placement
from lightning_dynamics.analyses.landscape.result import LandscapeResult
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.parameters import flatten, unflatten
from lightning_dynamics.core.progress import progress

_PRODUCTS = 60  # Hessian-vector products at most per point of a curvature map
_TOLERANCE = 1e-2  # of its eigenvalues: more than a colour shows


@dataclass(frozen=True, eq=False)
class Part:
    """What one process measured; the other points are zero, so that the sum over processes is everything.

    Args:
        placement: where.
        names: of the quantities.
        values: ``(points, Q)``: the grid, row by row; then, on a line between two points, its ends; then the
            trajectory's true weights; then their projections.
        sizes: how many points are of each of these four kinds.
        path: ``(T, 2)`` coordinates of the trajectory.
        distance: ``(T,)`` from the plane.
        steps: ``(T,)``.
        ratios: ``(Yc * Xc,)`` of the curvature map.
    """

    placement: Placement
    names: tuple[str, ...]
    values: Tensor
    sizes: tuple[int, int, int, int]
    path: Tensor
    distance: Tensor
    steps: Tensor
    ratios: Tensor


def measure(
    context: Context,
    where: Placement,
    evaluator: Evaluator,
    parameters: Mapping[str, nn.Parameter],
    *,
    snapshots: Sequence[Tensor],
    steps: Sequence[int],
    curvature_points: tuple[int, int] | None,
    loss_fn: Callable[[Any, Any], Tensor] | None,
) -> Part:
    """This process's points. Called isolated; the parameters stay where the last point was."""
    movable = Movable(parameters)
    start = movable.flat(where.origin)
    directions = [movable.flat(direction) for direction in where.directions]
    grid = Grid(movable, directions, where.xs, where.ys, start)
    ends = [0.0, 1.0] if where.has_ends else []
    path, distance = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    if snapshots and where.ys is not None:
        path, distance = project(
            snapshots, _flat(where.origin, parameters), [_flat(d, parameters) for d in where.directions]
        )
    # One at a time: all of them would not fit on an accelerator.
    true = [lambda s=s: movable.move(movable.flat(unflatten(s, parameters))) for s in snapshots[: len(path)]]
    places: list[Callable[[], None]] = [
        *grid.places(range(len(grid))),
        *(partial(grid.go, t) for t in ends),
        *true,
        *(partial(grid.go, x, y) for x, y in path.tolist()),
    ]
    values = torch.zeros(len(places), len(evaluator.names), dtype=torch.float64)
    numbers = context.ranks.shard(range(len(places)))
    values[list(numbers)] = evaluator.at([places[i] for i in numbers], description=context.description)
    ratios = torch.zeros(0, dtype=torch.float64)
    if curvature_points is not None:
        coarse = Grid(movable, directions, *coarser(where, curvature_points), start)
        ratios = torch.zeros(len(coarse), dtype=torch.float64)
        numbers = context.ranks.shard(range(len(coarse)))
        hessian = _Hessian(context, parameters, loss_fn)
        description = context.description and f"{context.description} (curvature)"
        for number in progress(numbers, total=len(numbers), description=description):
            coarse.places([number])[0]()
            evaluator.normalise()
            ratios[number] = hessian.non_convexity()
    sizes = (len(grid), len(ends), len(path), len(path))
    return Part(where, evaluator.names, values, sizes, path, distance, torch.tensor(list(steps)[: len(path)]), ratios)


def coarser(where: Placement, points: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The range of a plane with fewer points."""
    assert where.ys is not None
    xs, ys = (
        torch.linspace(float(along[0]), float(along[-1]), count, dtype=torch.float64)
        for along, count in zip((where.xs, where.ys), points, strict=True)
    )
    return xs, ys


def result_of(
    part: Part, context: Context, settings: dict[str, Any], curvature_points: tuple[int, int] | None
) -> LandscapeResult:
    """All processes' points -> the result, the same in each."""
    where = part.placement
    # The last bits of a projection may depend on the process.
    path, distance = context.ranks.broadcast_object((part.path, part.distance))
    grid, ends, true, shadow = context.ranks.all_reduce(part.values).split(part.sizes)
    ratios = context.ranks.all_reduce(part.ratios)
    shape = (len(where.xs),) if where.ys is None else (len(where.ys), len(where.xs))
    named = {name: column.reshape(shape) for name, column in zip(part.names, grid.T, strict=True)}
    loss = named.pop("loss")
    height = sharp = float("nan")
    if len(ends):
        ts = torch.cat([where.xs, torch.tensor([0.0, 1.0], dtype=torch.float64)])
        height = barrier(ts, torch.cat([loss, ends[:, 0]]))
    if where.about.get("around_weights"):
        up = torch.zeros(1, dtype=torch.float64) if where.ys is None else where.ys
        sharp = sharpness(where.xs, up, loss.reshape(len(up), -1), settings["radius"])
    xs, ys = coarser(where, curvature_points) if curvature_points else (torch.zeros(0), torch.zeros(0))
    return LandscapeResult(
        epoch=context.moment.epoch,
        step=context.moment.step,
        num_examples=len(context.probe),
        xs=where.xs,
        ys=torch.zeros(0, dtype=torch.float64) if where.ys is None else where.ys,
        loss=loss,
        accuracy=named.pop("accuracy", None),
        others=named,
        directions=where.about | described(where.directions),
        settings=settings,
        marks=where.marks,
        trajectory=path,
        trajectory_steps=part.steps,
        trajectory_loss=true[:, 0],
        trajectory_slice_loss=shadow[:, 0],
        residual_distance=distance,
        explained_variance=where.explained,
        sharpness=sharp,
        barrier=height,
        non_convexity=ratios.reshape(len(ys), len(xs)),
        curvature_xs=xs,
        curvature_ys=ys,
    )


def _flat(direction: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
    """In the order of the snapshots, on the CPU; zero where a parameter does not move."""
    return flatten({name: direction.get(name, torch.zeros_like(p)).cpu() for name, p in parameters.items()})


class _Hessian:
    """The Hessian of the mean loss over all examples, wherever the weights are."""

    def __init__(
        self,
        context: Context,
        parameters: Mapping[str, nn.Parameter],
        loss_fn: Callable[[Any, Any], Tensor] | None,
    ) -> None:
        self._module, self._loss_fn, self._parameters = context.module, loss_fn, dict(parameters)
        self._batches = Minibatches.from_context(replace(context, ranks=Ranks()))  # all of it, in every process

    def non_convexity(self) -> float:
        """|λmin / λmax| here; NaN where the loss has no finite Hessian."""
        operator = HessianOperator(self._module, self._loss_fn, self._batches, self._parameters)
        try:
            with torch.no_grad():
                found = extreme_pairs(
                    operator.matvec,
                    operator.size,
                    tolerance=_TOLERANCE,
                    max_iterations=min(_PRODUCTS, operator.size),
                    dtype=operator.dtype,
                    device=operator.device,
                )
        except NotFinite:
            return float("nan")
        finally:
            operator.clear_cache()
        return non_convexity(float(found.smallest[0]), float(found.largest[0]))
