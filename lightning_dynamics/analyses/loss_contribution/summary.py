"""From the sums so far to a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.accumulator import (
    BUFFERS,
    EVENTS,
    HELPING,
    HURTING,
    LOSS,
    RESIDUAL,
    STEP,
    Accumulator,
)
from lightning_dynamics.analyses.loss_contribution.coordinates import layers_of
from lightning_dynamics.analyses.loss_contribution.mosaic import mosaic, plan
from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult
from lightning_dynamics.core.context import Context


def summarize(
    sums: Sequence[Accumulator],
    memory: Mapping[str, Any],
    context: Context,
    *,
    rule: str,
    batchnorm: str,
    every_n_train_steps: int,
) -> LossContributionResult:
    """The result as of now.

    Args:
        sums: over the path, on the probe and on the second one.
        memory: of the callback.
        context: the event.
        rule: of integration, in a word.
        batchnorm: how normalisation is treated; empty if the module has none.
        every_n_train_steps: steps that an event spans.
    """
    main = sums[0]
    names = list(main.shapes)
    layers = layers_of(names)
    rows = main.series.rows()
    columns = rows.T.contiguous()
    events = columns[EVENTS].clamp(min=1)
    totals = main.named(main.state["totals"])
    edges, helping, hurting, zeros = main.histogram()
    top_helping, top_hurting = main.top_shares()
    elements = main.element_totals()
    cells = plan(main.shapes) if elements else {}
    classes = memory.get("classes")
    first = HURTING + 1  # the columns of the tensors
    return LossContributionResult(
        epoch=context.moment.epoch,
        step=context.moment.step,
        num_examples=len(context.probe),
        totals=totals,
        per_layer=_per_layer(totals, layers),
        layers=layers,
        shapes={name: list(shape) for name, shape in main.shapes.items()},
        channels={unit: kept.clone() for unit, kept in main.state["channels"].items()},
        latest_channels={unit: kept.clone() for unit, kept in main.state["latest_channels"].items()},
        parameter_totals=elements,
        initial_step=memory["initial_step"],
        initial_loss=memory["initial_losses"][0],
        steps=columns[STEP].long(),
        losses=columns[LOSS].clone(),
        per_step=rows[:, first : first + len(names)].clone(),
        residuals=columns[RESIDUAL].clone(),
        buffers=columns[BUFFERS].clone(),
        helping_share=columns[HELPING] / events,
        hurting_share=columns[HURTING] / events,
        events=columns[EVENTS].long(),
        total_residual=float(columns[RESIDUAL].sum()),
        total_buffers=float(columns[BUFFERS].sum()),
        absolute_residual=main.state["absolute_residual"],
        absolute_change=main.state["absolute_change"],
        unresolved=main.state["unresolved"],
        undefined_events=memory["undefined_events"],
        undefined_steps=list(memory["undefined_steps"]),
        tensor_helping=main.shares(0),
        tensor_hurting=main.shares(1),
        flip_rate=main.flip_rate(),
        magnitude_edges=edges,
        helping_counts=helping,
        hurting_counts=hurting,
        zero_count=zeros,
        kurtosis=main.kurtosis(),
        top_helping=top_helping,
        top_hurting=top_hurting,
        hurting_steps=main.hurting_steps(),
        mosaic={name: mosaic(values, cells[name]) for name, values in elements.items()},
        per_class={} if classes is None else _by_class(classes, main.state["classes"]),
        per_class_layer=None if classes is None else memory["class_layers"].clone(),
        per_class_step=None if classes is None else rows[:, first + len(names) :].clone(),
        per_example=None if classes is None else memory["examples_totals"].clone(),
        example_indices=None if classes is None else torch.tensor([i for b in context.probe.batches for i in b]),
        contrast=_contrast(sums[1], memory, context, layers) if len(sums) > 1 else {},
        data=context.probe.name,
        rule=rule,
        batchnorm=batchnorm,
        loss_is=context.loss_is,
        every_n_train_steps=every_n_train_steps,
    )


def _per_layer(totals: Mapping[str, float], layers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    return {layer: sum(totals[name] for name in members) for layer, members in layers.items()}


def _by_class(classes: Tensor, totals: Tensor) -> dict[str, float]:
    return dict(zip(map(str, classes.tolist()), totals.tolist(), strict=True))


def _contrast(
    own: Accumulator, memory: Mapping[str, Any], context: Context, layers: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The second probe's side of the same path."""
    assert context.second_probe is not None
    rows = own.series.rows()
    totals = own.named(own.state["totals"])
    return {
        "data": context.second_probe.name,
        "num_examples": len(context.second_probe),
        "initial_loss": memory["initial_losses"][1],
        "totals": totals,
        "per_layer": _per_layer(totals, layers),
        "losses": rows[:, LOSS].clone(),
        "residuals": rows[:, RESIDUAL].clone(),
        "per_step": rows[:, HURTING + 1 : HURTING + 1 + len(totals)].clone(),
    }
