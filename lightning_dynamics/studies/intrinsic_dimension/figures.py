"""How a search for the intrinsic dimension looks, and a comparison of several."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.figures import line_chart
from lightning_dynamics.figures.result import Pictures, pictures, tables
from lightning_dynamics.panels import Picture, Table
from lightning_dynamics.panels.values import Cell
from lightning_dynamics.studies.intrinsic_dimension.comparison import IntrinsicDimensionComparison
from lightning_dynamics.studies.intrinsic_dimension.result import Crossing, IntrinsicDimension


@pictures.register
def _pictures(found: IntrinsicDimension) -> Pictures:
    return {"performance": lambda: Picture(_curve(found), _footer(found))} if len(found.dims) else {}


@tables.register
def _tables(found: IntrinsicDimension) -> dict[str, Table]:
    """Every training."""
    columns = ["dimension", "mean", *(f"seed {seed}" for seed in found.seeds)]
    rows: list[list[Cell]] = [
        [str(dim), sum(values) / len(values), *values]
        for dim, values in zip(found.dims.tolist(), found.performance.tolist(), strict=True)
    ]
    rows.append([f"direct ({found.size:,})", found.own_baseline, *found.direct.tolist()])
    return {"trainings": Table(columns, rows, _footer(found))}


@pictures.register
def _pictures_of_comparison(comparison: IntrinsicDimensionComparison) -> Pictures:
    dims = sorted({dim for one in comparison.searches.values() for dim in one.dims.tolist()})
    if not dims:
        return {}
    return {"performance": lambda: Picture(_curves(comparison, np.array(dims, np.float64)), _footer(comparison.first))}


@tables.register
def _tables_of_comparison(comparison: IntrinsicDimensionComparison) -> dict[str, Table]:
    rows: list[list[Cell]] = []
    for name, one in comparison.searches.items():
        by_global = one.by_global_baseline
        rows.append(
            [
                name,
                one.size,
                None if by_global is None else _dim(by_global),
                None if by_global is None else _interval(by_global),
                _dim(one.by_own_baseline),
                _interval(one.by_own_baseline),
                one.own_baseline,
                *comparison.ratios(name),
            ]
        )
    first = comparison.first
    times = f"times {next(iter(comparison.searches))}"
    columns = ["task", "parameters", f"{first.symbol}, global", "interval", f"{first.symbol}, own", "its interval"]
    columns += ["own baseline", f"{times} (global)", f"{times} (own)"]
    caption = (
        f"{first.symbol}: smallest dimension tried from which on the mean over seeds reaches {_share(first)} "
        "of the baseline. Intervals: of single seeds, each in (largest that fails, smallest that suffices]. "
        + _footer(first)
    )
    return {"comparison": Table(columns, rows, caption)}


def _curve(found: IntrinsicDimension) -> NDArray[np.uint8]:
    """Performance against dimension, of all seeds."""
    performance = found.performance.numpy()
    series = {f"mean of {len(found.seeds)} seeds": performance.mean(1)}
    if len(found.seeds) > 1:
        series |= {"best seed": performance.max(1), "worst seed": performance.min(1)}
    share = _share(found)
    levels = {f"{share} of its own baseline": found.by_own_baseline}
    if found.by_global_baseline is not None:
        levels[f"{share} of the global baseline"] = found.by_global_baseline
    lines = {text: np.full(len(found.dims), crossing.target) for text, crossing in levels.items()}
    marks = [
        (f"{found.symbol} {kind} {crossing.dim}", float(crossing.dim))
        for kind, crossing in (("own", found.by_own_baseline), ("global", found.by_global_baseline))
        if crossing is not None and crossing.dim is not None
    ]
    return line_chart(
        found.dims.numpy(),
        series | lines,
        title=f"Performance in random subspaces{f': {found.name}' if found.name else ''}",
        footer=_footer(found),
        x_title=f"dimension of the subspace (of {found.size:,})",
        y_title=found.settings["metric"],
        log_x=True,
        marks=marks,
    )


def _curves(comparison: IntrinsicDimensionComparison, dims: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Mean performance of each search, relative to its direct training."""
    series = {}
    for name, one in comparison.searches.items():
        if len(one.dims):
            # Straight lines between what was tried, also where only another search tried something.
            own = np.log(one.dims.double().numpy())
            relative = one.performance.mean(1).numpy() / one.own_baseline
            series[name] = np.interp(np.log(dims), own, relative, left=np.nan, right=np.nan)
    first = comparison.first
    return line_chart(
        dims,
        series | {_share(first): np.full(len(dims), first.settings["threshold"])},
        title="Performance in random subspaces, relative to direct training",
        footer=_footer(first),
        x_title="dimension of the subspace",
        y_title=f"{first.settings['metric']} / that of direct training",
        log_x=True,
    )


def _footer(found: IntrinsicDimension) -> str:
    settings = found.settings
    return (
        f"{settings['metric']} after {settings['max_epochs']} epochs; {settings['projection']} projections; seeds "
        f"{', '.join(map(str, found.seeds))}. A dimension is an upper bound: better training may need fewer."
    )


def _share(found: IntrinsicDimension) -> str:
    return f"{100 * found.settings['threshold']:g} %"


def _dim(crossing: Crossing) -> int | str:
    return "not reached" if crossing.dim is None else crossing.dim


def _interval(crossing: Crossing) -> str:
    low, high = crossing.interval
    return f"({low}, {'∞' if math.isinf(high) else int(high)}]"
