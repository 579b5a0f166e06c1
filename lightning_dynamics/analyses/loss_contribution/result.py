"""What LossContributionCallback finds, from the first step up to one moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.result import AnalysisResult


def ratio(part: float, whole: float) -> float:
    """A part of a whole; NaN of nothing."""
    return part / whole if whole else math.nan


@dataclass(frozen=True, eq=False)
class LossContributionResult(AnalysisResult):
    """The loss change since the start of training, split over parameters; negative helps, positive hurts.

    All tensors are on the CPU, float64 unless said otherwise, all values in units of the loss. T is the number of
    rows kept of the series over training: one per event, until there are more than a fixed number; then neighbours
    are added up in pairs, so that every row still holds the whole of the change since the row before. Of
    ``callback.results``, all but the last have an empty ``parameter_totals`` and only the last row of each series.

    Args:
        epoch: from 0.
        step: training batches that had stepped.
        num_examples: of the probe.
        totals: parameter's name to its cumulative contribution, in the module's order.
        per_layer: layer's name to the sum over its parameters.
        layers: layer's name to the names of its parameters.
        shapes: parameter's name to its shape.
        channels: layer's name to ``(C,)``: cumulative per neuron or output channel, weights and bias together.
        latest_channels: the same, in the latest event alone.
        parameter_totals: parameter's name to the cumulative contribution of each of its elements, in its shape;
            empty with ``per_parameter=False``.
        initial_step: where the path begins.
        initial_loss: the probe's loss there.
        steps: ``(T,)`` int64, at the end of each row.
        losses: ``(T,)`` the probe's loss at the end of each row.
        per_step: ``(T, tensors)`` contributions in each row, columns in the order of ``totals``.
        residuals: ``(T,)`` true loss change minus the sum of all contributions, minus ``buffers``.
        buffers: ``(T,)`` loss change that moving buffers (running statistics) made, not the parameters.
        helping_share: ``(T,)`` share of the elements of all tensors of ``totals`` (with ``batchnorm="attributed"``
            running statistics among them) whose contribution is below 0, 0 to 1.
        hurting_share: ``(T,)`` the same above 0; the rest is exactly 0.
        events: ``(T,)`` int64, how many events each row adds up.
        total_residual: sum over events of the residual.
        total_buffers: sum over events of ``buffers``.
        absolute_residual: sum over events of ``|residual|``.
        absolute_change: sum over events of ``|loss change|``.
        unresolved: how many events missed the tolerance of the adaptive rule.
        undefined_events: how many events had a loss or gradient that is not finite.
        undefined_steps: the steps of the latest of those.
        tensor_helping: parameter's name to the share of its elements' contributions, over all events, below 0.
        tensor_hurting: the same above 0.
        flip_rate: parameter's name to how often an element's contribution has another sign than its last one.
        magnitude_edges: ``(B + 1,)`` rising, fixed: bins for the magnitude of single contributions (one element,
            one event).
        helping_counts: ``(B,)`` int64, contributions below 0 by magnitude, over all events.
        hurting_counts: ``(B,)`` int64, the same above 0.
        zero_count: contributions that are exactly 0.
        kurtosis: of the single contributions over all events; 3 for a normal distribution.
        top_helping: share of all help that the largest 1 % of the helping contributions give.
        top_hurting: the same for hurting.
        hurting_steps: ``(20,)`` int64, elements by the share of events in which they hurt, 0 to 1; empty with
            ``per_parameter=False``.
        mosaic: parameter's name to ``(h, w)`` float32: ``parameter_totals`` as a picture, neighbours added up where
            there are too many; empty with ``per_parameter=False``.
        per_class: class to its cumulative contribution; empty without ``per_class=True``, as in the next four.
        per_class_layer: ``(classes, layers)`` cumulative.
        per_class_step: ``(T, classes)``.
        per_example: ``(N,)`` cumulative contribution of each example of the probe.
        example_indices: ``(N,)`` int64, the data set's index of each.
        contrast: the same split for the second probe: ``data``, ``num_examples``, ``initial_loss``, ``totals``,
            ``per_layer``, ``losses``, ``residuals``, ``per_step``; empty if there is none.
        data: what the examples were taken from.
        rule: of integration.
        batchnorm: how normalisation is treated; empty if the module has none.
        loss_is: what the loss is a mean over, in words, where that is not the examples.
        every_n_train_steps: steps that one event spans.
    """

    totals: dict[str, float]
    per_layer: dict[str, float]
    layers: dict[str, list[str]]
    shapes: dict[str, list[int]]
    channels: dict[str, Tensor]
    parameter_totals: dict[str, Tensor]
    initial_step: int
    initial_loss: float
    steps: Tensor
    losses: Tensor
    per_step: Tensor
    residuals: Tensor
    buffers: Tensor
    helping_share: Tensor
    hurting_share: Tensor
    events: Tensor
    total_residual: float
    total_buffers: float
    absolute_residual: float
    absolute_change: float
    unresolved: int
    undefined_events: int
    undefined_steps: list[int]
    tensor_helping: dict[str, float]
    tensor_hurting: dict[str, float]
    flip_rate: dict[str, float]
    magnitude_edges: Tensor
    helping_counts: Tensor
    hurting_counts: Tensor
    zero_count: int
    kurtosis: float
    top_helping: float
    top_hurting: float
    hurting_steps: Tensor
    mosaic: dict[str, Tensor]
    latest_channels: dict[str, Tensor] = field(default_factory=dict)
    per_class: dict[str, float] = field(default_factory=dict)
    per_class_layer: Tensor | None = None
    per_class_step: Tensor | None = None
    per_example: Tensor | None = None
    example_indices: Tensor | None = None
    contrast: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    rule: str = ""
    batchnorm: str = ""
    loss_is: str = ""
    every_n_train_steps: int = 1

    @property
    def loss(self) -> float:
        """The probe's loss at the latest event at which it was finite."""
        return float(self.losses[-1]) if len(self.losses) else self.initial_loss

    @property
    def relative_residual(self) -> float:
        """Size of the sum of all residuals, over the size of the loss change so far; NaN before any."""
        change = self.loss - self.initial_loss
        return ratio(abs(self.total_residual), abs(change))

    @property
    def overall_helping_share(self) -> float:
        """Share of all contributions (one element, one event) so far that are below 0; NaN before any."""
        return self._overall_share(self.helping_counts)

    @property
    def overall_hurting_share(self) -> float:
        """The same above 0."""
        return self._overall_share(self.hurting_counts)

    def _overall_share(self, counts: Tensor) -> float:
        everything = int(self.helping_counts.sum() + self.hurting_counts.sum()) + self.zero_count
        return ratio(int(counts.sum()), everything)

    def scalars(self) -> dict[str, float]:
        """Loss, residual and totals by layer and class; before the first step, the loss alone."""
        numbers = {"loss": self.loss}
        contrast = self.contrast
        other = f"contrast/{contrast['data'].replace(' ', '_')}" if contrast else ""
        if contrast:
            losses = contrast["losses"]
            numbers[f"{other}/loss"] = float(losses[-1]) if len(losses) else contrast["initial_loss"]
        if len(self.steps):
            numbers["total"] = sum(self.totals.values())
            numbers["residual"] = float(self.residuals[-1])
            numbers["relative_residual"] = self.relative_residual
            numbers["mean_relative_residual"] = ratio(self.absolute_residual, self.absolute_change)
            numbers["helping_share"] = float(self.helping_share[-1])
            numbers["hurting_share"] = float(self.hurting_share[-1])
            if self.unresolved or self.rule.startswith("adaptive"):
                numbers["unresolved"] = float(self.unresolved)
            if self.undefined_events:
                numbers["undefined_events"] = float(self.undefined_events)
            if self.total_buffers:
                numbers["buffers"] = self.total_buffers
            numbers |= {f"layer/{name}": total for name, total in self.per_layer.items()}
            numbers |= {f"class/{name}": total for name, total in self.per_class.items()}
        if contrast and len(contrast["losses"]):
            numbers[f"{other}/total"] = sum(contrast["totals"].values())
            change = numbers[f"{other}/loss"] - contrast["initial_loss"]
            numbers[f"{other}/relative_residual"] = ratio(abs(float(contrast["residuals"].sum())), abs(change))
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def condensed(self) -> LossContributionResult:
        """What is kept of a result when the next one comes."""
        series = ("steps", "losses", "per_step", "residuals", "buffers", "helping_share", "hurting_share", "events")
        rows: dict[str, Any] = {name: getattr(self, name)[-1:] for name in series}
        per_class = None if self.per_class_step is None else self.per_class_step[-1:]
        return replace(self, **rows, parameter_totals={}, per_class_step=per_class, per_example=None, contrast={})

    def layer_steps(self) -> Tensor:
        """``(T, layers)``: contributions of each layer in each row."""
        columns = {name: number for number, name in enumerate(self.totals)}
        members = [[columns[name] for name in names] for names in self.layers.values()]
        return torch.stack([self.per_step[:, chosen].sum(1) for chosen in members], 1)
