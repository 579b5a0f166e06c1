"""The pictures of a LossContributionResult."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.curves import curves, known, layer_rates, overall_flip_rate
from lightning_dynamics.analyses.loss_contribution.film import bar_limits, drawn, shapes
from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult, ratio
from lightning_dynamics.analyses.loss_contribution.synchrony import DRAWS, synchrony
from lightning_dynamics.analyses.loss_contribution.wording import basis, caption, groups, moment, percent, rows
from lightning_dynamics.figures import (
    bars,
    heat_map,
    mosaic_frame,
    raster,
    shares_over_time,
    signed_histogram,
    time_map,
    time_series,
)
from lightning_dynamics.figures.diverging import DIVERGING, NEGATIVE, POSITIVE, quartered_limit, symmetric_limit
from lightning_dynamics.figures.names import without_common_prefix
from lightning_dynamics.panels import Picture

_STEPS = "training steps"
_SIGN = "below 0 (green) helps, above 0 (purple) hurts"
_SHOWN = 98.0  # per cent of the values over time within the scale: the first steps are far beyond the rest
_ZERO = "#d9d9d9"
_NEUTRAL = "#7f8fa6"


def _picture(result: LossContributionResult, image: NDArray[np.uint8], what: str) -> Picture:
    return Picture(image, caption(result, what))


def cumulative(result: LossContributionResult) -> Picture:
    """Lines of layers (of groups, if there are many) that add up to the loss change."""
    line = curves(result)
    members = groups(without_common_prefix(list(result.layers)))
    each = "layers" if len(members) == len(result.layers) else f"groups of the {len(result.layers)} layers"
    emphasis = {"loss change": line.loss_change, "sum of contributions": line.total}
    if line.buffers.any():
        emphasis["made by buffers"] = line.buffers
    marks = [step for step in result.undefined_steps if line.steps[0] <= step <= line.steps[-1]]
    image = time_series(
        line.steps,
        np.stack([line.layers[group].sum(0) for group in members.values()]),
        names=list(members),
        title=f"Loss change by layer · {moment(result)}",
        footer=f"cumulative; the {each} add up to the dashed line; below 0 helps; {basis(result)}",
        x_title=_STEPS,
        y_title="change of the loss",
        emphasis=np.stack(list(emphasis.values())),
        emphasis_names=list(emphasis),
        marks=marks,
        marks_name="not finite" if marks else "",
    )
    return _picture(result, image, "cumulative contribution of each layer to the loss change")


def layers_over_time(result: LossContributionResult) -> Picture:
    """Which layer learned when."""
    what = "contribution of each layer per event"
    return _over_time(result, layer_rates(result), list(result.layers), "When each layer learned", what)


def classes_over_time(result: LossContributionResult) -> Picture:
    """Which class was learned when."""
    what = "contribution to the loss of each class per event"
    return _over_time(result, _class_rates(result), list(result.per_class), "When each class was learned", what)


def _class_rates(result: LossContributionResult) -> Tensor:
    assert result.per_class_step is not None
    return result.per_class_step / result.events[:, None]


def _over_time(result: LossContributionResult, rates: Tensor, names: list[str], title: str, what: str) -> Picture:
    """Rates ``(T, K)`` of layers or classes as a map over training."""
    limit = symmetric_limit(rates.numpy(), _SHOWN)
    image = time_map(
        rates.T.numpy(),
        x=result.steps.numpy(),
        labels=without_common_prefix(names),
        title=f"{title} · {moment(result)}",
        footer=f"{what}{rows(result)}; {_SIGN}; {basis(result)}",
        x_title=_STEPS,
        colorbar_label="contribution per event",
        limits=(-limit, limit),
    )
    return _picture(result, image, what)


def shares(result: LossContributionResult) -> Picture:
    """Areas: how many elements help and hurt over training."""
    helping, hurting = known(result.helping_share), known(result.hurting_share)
    image = shares_over_time(
        result.steps.numpy(),
        np.stack([helping, np.clip(1 - helping - hurting, 0, None), hurting]),
        names=["helping", "exactly 0", "hurting"],
        colours=[NEGATIVE, _ZERO, POSITIVE],
        title=f"Elements that help and hurt · {moment(result)}",
        footer=f"share of the parameters' elements whose contribution is below, at and above 0; {basis(result)}",
        x_title=_STEPS,
        y_title="share of elements",
    )
    return _picture(result, image, "share of the parameters' elements that help and that hurt")


def histogram(result: LossContributionResult) -> Picture:
    """How large single contributions are, and how heavy their tails."""
    helping, hurting = result.helping_counts, result.hurting_counts
    all_counts = int(helping.sum() + hurting.sum()) + result.zero_count
    flips = overall_flip_rate(result)
    zeros = percent(ratio(result.zero_count, all_counts))
    top = percent(result.top_helping), percent(result.top_hurting)
    told = {
        f"kurtosis {_plain(result.kurtosis)} (normal: 3)": result.kurtosis,
        f"the largest 1 % give {top[0]} of the help and {top[1]} of the hurt": result.top_helping + result.top_hurting,
        f"{zeros} are exactly 0": 0.0,
        f"an element changes sign in {percent(flips)} of events": flips,
    }
    tails = "; ".join(text for text, number in told.items() if math.isfinite(number))
    image = signed_histogram(
        result.magnitude_edges.numpy(),
        helping.numpy(),
        hurting.numpy(),
        left_name="helping",
        right_name="hurting",
        title=f"Size of single contributions · {moment(result)}",
        footer=f"one element in one event; {tails}; {basis(result)}",
        x_title="contribution to the loss change",
        y_title="contributions",
    )
    return _picture(result, image, f"sizes of single contributions (one element in one event): {tails}")


def hurting_steps(result: LossContributionResult) -> Picture:
    """How often an element hurts."""
    counts = result.hurting_steps.double().numpy()
    ends = [round(100 * i / len(counts)) for i in range(len(counts) + 1)]
    image = bars(
        100 * counts / counts.sum(),
        labels=[f"{low}–{high} %" for low, high in zip(ends[:-1], ends[1:], strict=True)],
        names=["elements"],
        title=f"How often an element hurts · {moment(result)}",
        footer=f"elements by the share of events in which their contribution is above 0; {basis(result)}",
        x_title="elements, in % of all",
        colours=[_NEUTRAL],
    )
    return _picture(result, image, "elements by the share of events in which they hurt")


def layers(result: LossContributionResult) -> Picture:
    """Bars of layers; with a second probe, of both."""
    what = "contribution of each layer so far"
    on = _second(result)
    image = bars(
        np.stack(_by_layer(result)),
        labels=without_common_prefix(list(result.per_layer)),
        names=[result.data or "contribution", *([result.contrast["data"]] if on else [])],
        title=f"Contribution of each layer · {moment(result)}",
        footer=f"{what}{on}; {'below 0 helps' if on else _SIGN}; {basis(result)}",
        x_title="contribution to the loss change",
    )
    return _picture(result, image, what + on)


def difference(result: LossContributionResult) -> Picture:
    """Bars of layers: the second probe minus the first."""
    own, other = _by_layer(result)
    data = result.contrast["data"]
    what = f"contribution of each layer on {data} minus on {result.data}"
    image = bars(
        (other - own)[None],
        labels=without_common_prefix(list(result.per_layer)),
        names=[f"{data} minus {result.data}"],
        title=f"Difference between {data} and {result.data} · {moment(result)}",
        footer=f"{what}{_second(result)}; above 0: it helps {data} less; {basis(result)}",
        x_title="difference of contributions",
    )
    return _picture(result, image, what + _second(result))


def _by_layer(result: LossContributionResult) -> list[NDArray[np.float64]]:
    """Totals of the layers, per probe."""
    totals = [np.array(list(result.per_layer.values()))]
    if result.contrast:
        totals.append(np.array([result.contrast["per_layer"][name] for name in result.per_layer]))
    return totals


def _second(result: LossContributionResult) -> str:
    """What else is shown beside the probe."""
    other = result.contrast
    return f" ({other['num_examples']} examples of {other['data']} beside it)" if other else ""


def parameters(result: LossContributionResult) -> Picture:
    """Every parameter as a mosaic of its elements."""
    names = drawn(result)
    tiles = [result.mosaic[name].numpy() for name in names]
    totals = np.array(list(result.per_layer.values()))
    what = "cumulative contribution of each element, neighbours added up in large parameters"
    image = mosaic_frame(
        tiles,
        tile_names=without_common_prefix(names),
        tile_shapes=shapes(result, names),
        tile_title="contribution",
        tile_limit=quartered_limit(symmetric_limit(np.concatenate([tile.ravel() for tile in tiles]))),
        bars=totals,
        bar_names=without_common_prefix(list(result.per_layer)),
        bar_limits=bar_limits(totals),
        bars_title="contribution of each layer",
        title=f"Contribution of each element · {moment(result)}",
        footer=f"{what}; {_SIGN}; {basis(result)}",
    )
    return _picture(result, image, what)


def synchrony_of_layers(result: LossContributionResult) -> Picture:
    """Peaks of the layers' contributions, and whether they fall on the same events."""
    return _peaks(result, layer_rates(result), list(result.layers), "layer", "layers")


def synchrony_of_classes(result: LossContributionResult) -> Picture:
    """The same of classes."""
    return _peaks(result, _class_rates(result), list(result.per_class), "class", "classes")


def _peaks(result: LossContributionResult, rates: Tensor, names: list[str], one: str, many: str) -> Picture:
    test = synchrony(rates)
    what = f"a tick: the {one} helps more than just before and after, and more than in 9 of 10 nearby events"
    if math.isfinite(test.p_value):
        found = (
            f"{test.statistic:.0f} pairs of {many} peak together, by chance {test.null_mean:.0f} ± {test.null_std:.0f}"
            f", {probability(test.p_value)}"
        )
        what += "; shaded: 95 of 100 events by chance"
    else:
        found = f"fewer than two {many} have peaks"
    image = raster(
        result.steps.numpy(),
        test.peaks.T.numpy(),
        labels=without_common_prefix(names),
        counts_name=f"{many} that peak",
        band=(0.0, test.band) if math.isfinite(test.band) else None,
        title=f"Moments of learning by {one} · {moment(result)}",
        footer=f"{found}; {what}{rows(result)}; {basis(result)}",
        x_title=_STEPS,
    )
    return _picture(result, image, f"moments of learning by {one}: {found}")


def classes_by_layer(result: LossContributionResult) -> Picture:
    """Which layer learned which class."""
    assert result.per_class_layer is not None
    matrix = known(result.per_class_layer)
    limit = symmetric_limit(matrix, 100)
    what = "contribution of each layer to the loss of each class"
    image = heat_map(
        matrix,
        x_labels=without_common_prefix(list(result.layers)),
        y_labels=list(result.per_class),
        title=f"Which layer learned which class · {moment(result)}",
        footer=f"{what}; {_SIGN}; {basis(result)}",
        x_title="layer",
        y_title="class",
        limits=(-limit, limit),
        cmap=DIVERGING,
        origin="upper",
        colorbar_label="contribution",
    )
    return _picture(result, image, what)


def probability(p_value: float) -> str:
    """A p-value as it is written; the smallest one that the draws allow is an upper limit."""
    return f"p {'≤' if p_value <= 1 / (1 + DRAWS) else '='} {p_value:.2g}"


def _plain(number: float) -> str:
    if not math.isfinite(number):
        return "not defined"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
