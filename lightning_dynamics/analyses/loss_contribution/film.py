"""Learning as a film: what every parameter contributed, interval by interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult
from lightning_dynamics.analyses.loss_contribution.wording import basis, shape_text
from lightning_dynamics.figures import mosaic_frame
from lightning_dynamics.figures.diverging import quartered_limit, symmetric_limit
from lightning_dynamics.figures.names import without_common_prefix
from lightning_dynamics.panels import Film


class Interval(NamedTuple):
    """What happened between two results kept."""

    epoch: int
    start: int  # step
    stop: int  # step
    tiles: list[NDArray[np.float64]]
    layers: NDArray[np.float64]


def intervals(results: Sequence[LossContributionResult]) -> list[Interval]:
    """Differences between results that follow each other, the first one counted from the start of training.

    Results of other layers, or with other pictures of the parameters, than the last one's are left out.
    """
    last = results[-1] if results else None
    found: list[Interval] = []
    start = 0 if last is None else last.initial_step
    names = [] if last is None else drawn(last)
    tiles = [] if last is None else [np.zeros(last.mosaic[name].shape) for name in names]
    layers = np.zeros(0 if last is None else len(last.per_layer))
    for result in results:
        if last is None or result.step <= start or _layout(result) != _layout(last):
            continue
        tiles_now = [result.mosaic[name].double().numpy() for name in names]
        layers_now = np.array(list(result.per_layer.values()), dtype=np.float64)
        change = [now - before for now, before in zip(tiles_now, tiles, strict=True)]
        found.append(Interval(result.epoch, start, result.step, change, layers_now - layers))
        start, tiles, layers = result.step, tiles_now, layers_now
    return found


def film(shown: Sequence[Interval], last: LossContributionResult) -> Film:
    """One frame per interval, on the same scales.

    Scales reach as far as 99 % of all cells and 98 % of all bars of all frames: one bad step must not flatten the
    others. Bars that go on beyond end in an arrow head.
    """
    names = drawn(last)
    every_cell = np.concatenate([tile.ravel() for interval in shown for tile in interval.tiles])
    tile_limit = quartered_limit(symmetric_limit(every_cell, 99))
    changes = np.concatenate([interval.layers for interval in shown])
    reach = symmetric_limit(changes, 98)
    limits = bar_limits(np.clip(changes, -reach, reach))
    steps = np.concatenate([[last.initial_step], last.steps.double().numpy()])
    losses = np.concatenate([[last.initial_loss], last.losses.double().numpy()])
    frames = [
        mosaic_frame(
            interval.tiles,
            tile_names=without_common_prefix(names),
            tile_shapes=shapes(last, names),
            tile_title="contribution in the interval",
            tile_limit=tile_limit,
            bars=interval.layers,
            bar_names=without_common_prefix(list(last.per_layer)),
            bar_limits=limits,
            bars_title="contribution of each layer",
            title=f"Contributions from step {interval.start} to {interval.stop} · epoch {interval.epoch}",
            footer=f"in this interval; below 0 (green, down) helps; neighbours added up; {basis(last)}",
            curve=(steps, losses, float(interval.stop)),
            curve_title=f"loss on {last.data}",
        )
        for interval in shown
    ]
    what = f"contributions in each of {len(shown)} intervals, step {shown[0].start} to {shown[-1].stop}"
    return Film(frames, f"{what}; {basis(last)}")


def drawn(result: LossContributionResult) -> list[str]:
    """Parameters that have a picture: all with any elements."""
    return [name for name, tile in result.mosaic.items() if tile.numel()]


def shapes(result: LossContributionResult, names: list[str]) -> list[str]:
    """Shapes of parameters, to be written beside their pictures."""
    return [shape_text(result.shapes[name]) for name in names]


def bar_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Lower and upper end of an axis that holds 0 and all values, and some space where there are any."""
    known = values[np.isfinite(values)]
    low, high = min(0.0, known.min(initial=0.0)), max(0.0, known.max(initial=0.0))
    space = 0.05 * (high - low) or 1.0
    return float(low - space * (low < 0 or low == high)), float(high + space * (high > 0 or low == high))


def _layout(result: LossContributionResult) -> tuple[list[str], list[tuple[str, tuple[int, ...]]]]:
    """What must be the same for two results to be subtracted."""
    return list(result.per_layer), [(name, tuple(tile.shape)) for name, tile in result.mosaic.items()]
