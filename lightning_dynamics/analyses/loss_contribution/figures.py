"""How a LossContributionResult looks."""

from __future__ import annotations

import math

from lightning_dynamics.analyses.loss_contribution import pictures
from lightning_dynamics.analyses.loss_contribution.course import layer_rates, ratio
from lightning_dynamics.analyses.loss_contribution.film import drawn, film
from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult
from lightning_dynamics.analyses.loss_contribution.synchrony import FEWEST_EVENTS
from lightning_dynamics.analyses.loss_contribution.wording import caption, shape_text
from lightning_dynamics.panels import Panels, Table
from lightning_dynamics.panels.values import Cell, Panel

__all__ = ["film", "panels", "scalars"]


def panels(result: LossContributionResult, label: str) -> Panels:
    """The pictures and the table of one event, under keys ``{label}/…``; nothing before the first step."""
    if not len(result.steps):
        return {}
    shown: dict[str, Panel] = {
        "cumulative": pictures.cumulative(result),
        "layers_over_time": pictures.over_time(
            result,
            layer_rates(result),
            list(result.layers),
            "When each layer learned",
            "contribution of each layer per event",
        ),
        "shares": pictures.shares(result),
        "histogram": pictures.histogram(result),
    }
    if result.hurting_steps.sum() > 0:
        shown["hurting_steps"] = pictures.hurting_steps(result)
    shown |= pictures.layers(result)
    if drawn(result):
        shown["parameters"] = pictures.parameters(result)
    if len(result.steps) >= FEWEST_EVENTS:
        shown["synchrony"] = pictures.moments(result, layer_rates(result), list(result.layers), "layer", "layers")
    if result.per_class:
        shown |= pictures.classes(result)
    shown["values"] = values(result)
    return {f"{label}/{name}": panel for name, panel in shown.items()}


def scalars(result: LossContributionResult) -> dict[str, float]:
    """The event's numbers, by key without label; before the first step, the loss alone."""
    numbers = {"loss": result.loss}
    contrast = result.contrast
    other = f"contrast/{contrast['data'].replace(' ', '_')}" if contrast else ""
    if contrast:
        losses = contrast["losses"]
        numbers[f"{other}/loss"] = float(losses[-1]) if len(losses) else contrast["initial_loss"]
    if len(result.steps):
        numbers["total"] = sum(result.totals.values())
        numbers["residual"] = float(result.residuals[-1])
        numbers["relative_residual"] = result.relative_residual
        numbers["mean_relative_residual"] = ratio(result.absolute_residual, result.absolute_change)
        numbers["helping_share"] = float(result.helping_share[-1])
        numbers["hurting_share"] = float(result.hurting_share[-1])
        if result.unresolved or result.rule.startswith("adaptive"):
            numbers["unresolved"] = float(result.unresolved)
        if result.undefined_events:
            numbers["undefined_events"] = float(result.undefined_events)
        if result.total_buffers:
            numbers["buffers"] = result.total_buffers
        numbers |= {f"layer/{name}": total for name, total in result.per_layer.items()}
        numbers |= {f"class/{name}": total for name, total in result.per_class.items()}
    if contrast and len(contrast["losses"]):
        numbers[f"{other}/total"] = sum(contrast["totals"].values())
        change = numbers[f"{other}/loss"] - contrast["initial_loss"]
        numbers[f"{other}/relative_residual"] = ratio(abs(float(contrast["residuals"].sum())), abs(change))
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def values(result: LossContributionResult) -> Table:
    """One row per parameter, in the module's order.

    ``share`` is the part of the sum of all contributions: the column adds up to 1, and a parameter that worked
    against the others is below 0.
    """
    layer_of = {name: layer for layer, names in result.layers.items() for name in names}
    everything = sum(result.totals.values())
    rows: list[list[Cell]] = []
    for name, total in result.totals.items():
        shape = result.shapes[name]
        numbers = [
            total,
            ratio(total, everything),
            ratio(total, math.prod(shape)),
            result.tensor_helping.get(name, math.nan),
            result.tensor_hurting.get(name, math.nan),
            result.flip_rate.get(name, math.nan),
        ]
        row: list[Cell] = [name, layer_of.get(name, ""), shape_text(shape)]
        rows.append(row + [value if math.isfinite(value) else None for value in numbers])
    columns = ["parameter", "layer", "shape", "total", "share", "mean per element", "helping", "hurting", "flip rate"]
    what = (
        "contribution of each parameter to the loss change (below 0: it helped); share: of the sum of all; helping and "
        "hurting: share of its elements' contributions below and above 0; flip rate: how often those change sign"
    )
    return Table(columns, rows, caption(result, what))
