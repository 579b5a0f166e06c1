"""How a LossContributionResult looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lightning_dynamics.analyses.loss_contribution import pictures
from lightning_dynamics.analyses.loss_contribution.film import drawn, film, intervals
from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult, ratio
from lightning_dynamics.analyses.loss_contribution.synchrony import FEWEST_EVENTS
from lightning_dynamics.analyses.loss_contribution.wording import caption, shape_text
from lightning_dynamics.figures.result import Pictures, closing_panels, tables
from lightning_dynamics.figures.result import pictures as looks
from lightning_dynamics.panels import Film, Picture, Table
from lightning_dynamics.panels.values import Cell


@looks.register
def _pictures(result: LossContributionResult) -> Pictures:
    """Nothing before the first step."""
    if not len(result.steps):
        return {}
    shown: dict[str, Callable[[], Picture]] = {
        "cumulative": lambda: pictures.cumulative(result),
        "layers_over_time": lambda: pictures.layers_over_time(result),
        "shares": lambda: pictures.shares(result),
        "histogram": lambda: pictures.histogram(result),
    }
    if result.hurting_steps.sum() > 0:
        shown["hurting_steps"] = lambda: pictures.hurting_steps(result)
    shown["layers"] = lambda: pictures.layers(result)
    if result.contrast:
        shown["difference"] = lambda: pictures.difference(result)
    if drawn(result):
        shown["parameters"] = lambda: pictures.parameters(result)
    long_enough = len(result.steps) >= FEWEST_EVENTS
    if long_enough:
        shown["synchrony"] = lambda: pictures.synchrony_of_layers(result)
    if result.per_class and result.per_class_step is not None:
        shown["classes"] = lambda: pictures.classes_over_time(result)
        if long_enough:
            shown["class_synchrony"] = lambda: pictures.synchrony_of_classes(result)
    if result.per_class and result.per_class_layer is not None:
        shown["classes_by_layer"] = lambda: pictures.classes_by_layer(result)
    return shown


@tables.register
def _tables(result: LossContributionResult) -> dict[str, Table]:
    return {"values": values(result)} if len(result.steps) else {}


@closing_panels.register
def _closing_panels(
    last: LossContributionResult, results: Sequence[LossContributionResult]
) -> dict[str, Callable[[], Film]]:
    """The parameters over training; nothing for fewer than two intervals, or without elements."""
    shown = intervals(results)
    return {"film": lambda: film(shown, last)} if len(shown) >= 2 and drawn(last) else {}


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
