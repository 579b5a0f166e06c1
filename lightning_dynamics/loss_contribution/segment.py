"""One segment of the path, attributed on one probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.loss_contribution.classes import ExampleLosses
from lightning_dynamics.loss_contribution.coordinates import Coordinates
from lightning_dynamics.loss_contribution.estimator import Rule, attribute
from lightning_dynamics.loss_contribution.probe_loss import Value


@dataclass(frozen=True, eq=False)
class Point:
    """Where the module is, or was.

    Args:
        coordinates: ``(P,)``.
        buffers: those that are no coordinates.
    """

    coordinates: Tensor
    buffers: Mapping[str, Tensor]

    def is_at(self, other: Point) -> bool:
        """Bit for bit; NaN is nowhere."""
        return torch.equal(self.coordinates, other.coordinates) and self.has_buffers_of(other)

    def has_buffers_of(self, other: Point) -> bool:
        """Whether the buffers are the same."""
        return all(torch.equal(value, other.buffers[name]) for name, value in self.buffers.items())


@dataclass(frozen=True, eq=False)
class Segment:
    """What a segment did to the loss on one probe.

    Args:
        contributions: ``(P,)`` float64.
        loss_start: at its start.
        loss_end: at its end.
        residual: loss change minus contributions minus ``buffers``.
        buffers: the loss change that buffers made which moved beside the parameters.
        resolved: whether the rule reached its tolerance.
        next: loss and gradient at the end.
        by_example: weighted sum of :meth:`ExampleLosses.along` over the nodes, this process's part; None if not
            asked for.
    """

    contributions: Tensor
    loss_start: float
    loss_end: float
    residual: float
    buffers: float
    resolved: bool
    next: Value
    by_example: Tensor | None

    @property
    def is_finite(self) -> bool:
        """Whether everything on the way was."""
        return math.isfinite(self.residual) and math.isfinite(self.loss_end)


def attributed(
    start: Point,
    end: Point,
    coordinates: Coordinates,
    evaluate: Callable[[Sequence[bool]], Value],
    *,
    known: Value | None,
    wanted: Sequence[bool],
    rule: Rule,
    tolerance: float,
    max_splits: int,
    examples: ExampleLosses | None,
) -> Segment:
    """Split the loss change from start to end; leaves the module anywhere.

    The parameters move first, with the buffers as they were at the start; then the buffers jump, and what that does
    to the loss is taken for itself.

    Args:
        start: of the segment.
        end: of the segment.
        coordinates: of the module.
        evaluate: loss and gradient where the module is.
        known: loss and gradient at the start, if they are known.
        wanted: the tensors that can contribute.
        rule: see :func:`~lightning_dynamics.loss_contribution.estimator.attribute`, as the next two.
        tolerance: likewise.
        max_splits: likewise.
        examples: if contributions are to be split by example and class, too.
    """
    delta = end.coordinates.double() - start.coordinates.double()
    slopes: list[Tensor] = []

    def loss_and_grad(point: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        coordinates.move(point["all"])
        if examples is not None:
            slopes.append(examples.along(delta))
        value = evaluate(wanted)
        return value.loss, {"all": value.gradient}

    coordinates.move_buffers(start.buffers)
    if known is None or not known.serves(wanted):
        coordinates.move(start.coordinates)
        known = evaluate(wanted)
    if start.is_at(end):
        nothing = torch.zeros_like(delta)
        by_example = None if examples is None else nothing.new_zeros(examples.width).cpu()
        return Segment(nothing, known.loss, known.loss, 0.0, 0.0, True, known, by_example)
    if examples is not None:
        coordinates.move(start.coordinates)
        slopes.append(examples.along(delta))
    found = attribute(
        loss_and_grad,
        {"all": start.coordinates},
        {"all": end.coordinates},
        rule=rule,
        tolerance=tolerance,
        max_splits=max_splits,
        at_start=(known.loss, {"all": known.gradient}),
    )
    by_example = None
    if slopes:
        by_example = torch.stack([weight * slope for (_, weight), slope in zip(found.nodes, slopes, strict=True)]).sum(0)
    if found.gradient_end is None:  # no finite loss at one of the ends
        following = Value(math.nan, delta, tuple(wanted))
    else:
        following = Value(found.loss_end, found.gradient_end["all"], tuple(wanted))
    jump = 0.0
    if not start.has_buffers_of(end) and found.is_finite:
        coordinates.move(end.coordinates)
        coordinates.move_buffers(end.buffers)
        following = evaluate(wanted)
        jump = following.loss - found.loss_end
    return Segment(
        found.contributions["all"],
        found.loss_start,
        following.loss,
        found.residual,
        jump,
        found.resolved,
        following,
        by_example,
    )
