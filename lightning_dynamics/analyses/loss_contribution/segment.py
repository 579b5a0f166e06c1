"""One segment of the path, attributed on one probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.classes import ExampleLosses
from lightning_dynamics.analyses.loss_contribution.coordinates import Coordinates
from lightning_dynamics.analyses.loss_contribution.estimator import Rule, attribute
from lightning_dynamics.analyses.loss_contribution.probe_loss import Value


@dataclass(frozen=True, eq=False)
class Point:
    """Where the module is, or was.

    Args:
        coordinates: ``(P,)``.
        buffers: those that are no coordinates.
    """

    coordinates: Tensor
    buffers: Mapping[str, Tensor]

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
        moved: whether anything did.
        next: loss and gradient at the end.
        is_finite: whether everything on the way was; if not, but at both ends, all of the change is residual.
        by_example: this process's part of the weighted sum of :meth:`ExampleLosses.along` over the nodes, divided by
            all terms; None if not asked for.
    """

    contributions: Tensor
    loss_start: float
    loss_end: float
    residual: float
    buffers: float
    resolved: bool
    moved: bool
    next: Value
    by_example: Tensor | None
    is_finite: bool = True


def attribute_segment(
    start: Point,
    end: Point,
    coordinates: Coordinates,
    evaluate: Callable[[Sequence[bool]], Value],
    *,
    delta: Tensor,
    moved: Sequence[bool],
    known: Value | None,
    wanted: Sequence[bool],
    rule: Rule,
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
        delta: ``(P,)`` float64, from start to end.
        moved: the tensors that did.
        known: loss and gradient at the start, if they are known.
        wanted: the tensors that can contribute.
        rule: of integration.
        examples: if contributions are to be split by example and class, too.
    """
    slopes: list[Tensor] = []

    def loss_and_grad(point: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        coordinates.move(point["all"])
        if examples is not None:
            slopes.append(examples.along(delta))
            coordinates.move_buffers(start.buffers)
        value = evaluate(wanted)
        return value.loss, {"all": value.gradient}

    coordinates.move_buffers(start.buffers)
    if known is None or not known.serves(wanted):
        coordinates.move(start.coordinates)
        known = evaluate(wanted)
    if not any(moved) and start.has_buffers_of(end):
        nothing = torch.zeros_like(delta)
        by_example = None if examples is None else nothing.new_zeros(examples.width).cpu()
        return Segment(nothing, known.loss, known.loss, 0.0, 0.0, True, False, known, by_example)
    if examples is not None:
        coordinates.move(start.coordinates)
        slopes.append(examples.along(delta))
    found = attribute(
        loss_and_grad,
        {"all": start.coordinates},
        {"all": end.coordinates},
        rule=rule,
        at_start=(known.loss, {"all": known.gradient}),
    )
    by_example = None
    if slopes:
        weighted = [weight * slope for (_, weight), slope in zip(found.nodes, slopes, strict=True)]
        by_example = torch.stack(weighted).sum(0) / known.terms
    if found.gradient_end is None:  # no finite loss at one of the ends
        following = Value(math.nan, delta, tuple(wanted), known.terms)
    else:
        following = Value(found.loss_end, found.gradient_end["all"], tuple(wanted), known.terms)
    contributions, residual, jump = found.contributions["all"], found.residual, 0.0
    if not math.isfinite(residual) and math.isfinite(found.loss_start) and math.isfinite(found.loss_end):
        # Finite at both ends, but not on the way: nothing can be said of it, but where it led is known.
        contributions, residual = torch.zeros_like(delta), found.loss_end - found.loss_start
        by_example = None if by_example is None else torch.zeros_like(by_example)
    if not start.has_buffers_of(end) and math.isfinite(residual):
        coordinates.move(end.coordinates)
        coordinates.move_buffers(end.buffers)
        following = evaluate(wanted)
        jump = following.loss - found.loss_end
    return Segment(
        contributions,
        found.loss_start,
        following.loss,
        residual,
        jump,
        found.resolved or not found.is_finite,  # which is said in other words
        True,
        following,
        by_example,
        is_finite=found.is_finite,
    )
