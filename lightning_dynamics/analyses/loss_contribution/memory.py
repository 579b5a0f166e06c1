"""What the callback remembers between events: where the path is, and the sums over it so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.accumulator import Accumulator
from lightning_dynamics.analyses.loss_contribution.coordinates import Coordinates, channels_of, layers_of
from lightning_dynamics.analyses.loss_contribution.probe_loss import Value
from lightning_dynamics.analyses.loss_contribution.segment import Point, Segment
from lightning_dynamics.core.context import Context

_MOST_UNDEFINED = 100  # steps remembered

Memory = dict[str, Any]
"""Tensors and plain values; goes into checkpoints."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one event measured.

    Args:
        coordinates: of the module.
        end: where it is.
        values: loss and gradient there, per probe.
        segments: what the way from the last event did, per probe; empty if the path begins here.
        classes: of the examples, this process's part, when first seen; see ``ExampleLosses.own_classes``.
    """

    coordinates: Coordinates
    end: Point
    values: list[Value]
    segments: list[Segment]
    classes: Tensor | None = None

    @property
    def is_finite(self) -> bool:
        """Whether the parameters, losses and gradients are finite where it ends."""
        return bool(self.end.coordinates.sum().isfinite()) and all(
            math.isfinite(value.loss) and bool(value.gradient.sum().isfinite()) for value in self.values
        )


def start_of(memory: Memory, coordinates: Coordinates) -> Point | None:
    """Where the last event left off; None if the path has not begun."""
    if "point" not in memory:
        return None
    buffers = {name: memory["buffers"][name].to(buffer) for name, buffer in coordinates.buffers.items()}
    return Point(memory["point"].to(coordinates.home), buffers)


def begin(memory: Memory, part: Part, context: Context, examples: Sequence[Any]) -> None:
    """Fill an empty memory; classes come with the first event that knows them.

    Args:
        memory: updated in place.
        part: of the first event.
        context: likewise.
        examples: per probe, the data set indices of its minibatches.
    """
    if not memory:
        memory |= {
            "names": list(part.coordinates.tensors),
            "examples": list(examples),
            "accumulators": [{} for _ in examples],
            "undefined_events": 0,
            "undefined_steps": [],
            "initial_step": context.moment.step,
            "initial_losses": [value.loss for value in part.values],
        }
    if part.classes is not None and "classes" not in memory:
        labels = context.ranks.all_reduce(part.classes) - 1
        classes = labels.unique()
        layers = layers_of(list(part.coordinates.tensors))
        memory |= {
            "classes": classes,
            "class_layers": torch.zeros(len(classes), len(layers), dtype=torch.float64),
            "examples_totals": torch.zeros(len(labels), dtype=torch.float64),
        }


def accumulators(memory: Memory, coordinates: Coordinates, context: Context, *, elements: bool) -> list[Accumulator]:
    """One per probe, on the state in the memory; only the first keeps every element, if asked to, and classes."""
    shapes = {name: tensor.shape for name, tensor in coordinates.tensors.items()}
    channels = channels_of(context.module, shapes)
    classes = len(memory.get("classes", ()))
    return [
        Accumulator(state, shapes, channels, elements=elements and number == 0, classes=classes if number == 0 else 0)
        for number, state in enumerate(memory["accumulators"])
    ]


def add(memory: Memory, part: Part, context: Context, sums: Sequence[Accumulator]) -> bool:
    """Add an event to the sums; returns whether the path goes on from where it ended.

    From a point that is not finite there is no way on: the next event takes the whole way from the last good one.
    """
    step, finite = context.moment.step, part.is_finite
    if not finite or not all(segment.is_finite for segment in part.segments):
        memory["undefined_events"] += 1
        memory["undefined_steps"] = [*memory["undefined_steps"], step][-_MOST_UNDEFINED:]
    for number, (own, segment) in enumerate(zip(sums, part.segments if finite else [], strict=False)):
        if not segment.moved:
            continue
        by_class = None
        if number == 0 and segment.by_example is not None:
            by_class = _add_examples(memory, context.ranks.all_reduce(segment.by_example), len(context.probe))
        own.add(
            segment.contributions,
            step=step,
            loss_start=segment.loss_start,
            loss_end=segment.loss_end,
            residual=segment.residual,
            buffers=segment.buffers,
            resolved=segment.resolved,
            classes=by_class,
        )
    if finite:
        if not part.segments:
            memory |= {"initial_step": step, "initial_losses": [value.loss for value in part.values]}
        memory["point"], memory["buffers"] = part.end.coordinates, dict(part.end.buffers)
    return finite


def _add_examples(memory: Memory, found: Tensor, count: int) -> Tensor:
    """By example, and by class and layer; returns the sums by class."""
    by_example, by_class = found[:count], found[count:].view_as(memory["class_layers"])
    memory["examples_totals"] += by_example
    memory["class_layers"] += by_class
    return by_class.sum(1)
