"""Searches for the intrinsic dimension -> panels: the curve of one, the comparison of several."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lightning_dynamics.panels import Panels, Picture, Scalar, Table
from lightning_dynamics.panels.values import Cell
from lightning_dynamics.studies.intrinsic_dimension.result import Crossing, IntrinsicDimension


def panels(found: IntrinsicDimension, name: str = "") -> Panels:
    """One search: performance against dimension, every training, the dimensions as numbers.

    Args:
        found: the search.
        name: of the network and task: in the title, and in the keys (``subspace/{name}/…``).
    """
    label = f"subspace/{name}" if name else "subspace"
    shown: dict[str, Picture | Table | Scalar] = {f"{label}/trainings": _trainings(found)}
    if len(found.dims):
        shown[f"{label}/performance"] = Picture(_curve(found, name), _footer(found))
    for kind, crossing in (("own", found.by_own_baseline), ("global", found.by_global_baseline)):
        if crossing is not None:
            shown[f"{label}/{_word(found)}_{kind}"] = Scalar(math.nan if crossing.dim is None else float(crossing.dim))
    return shown


def comparison(found: Mapping[str, IntrinsicDimension]) -> Panels:
    """Several networks or tasks side by side: which is harder than which, and by how much.

    Args:
        found: name to search. How many times harder is said against the first of them.
    """
    first = next(iter(found.values()))
    word = _word(first)
    rows: list[list[Cell]] = []
    for name, one in found.items():
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
                _times(by_global, first.by_global_baseline),
                _times(one.by_own_baseline, first.by_own_baseline),
            ]
        )
    times = f"times {next(iter(found))}"
    columns = ["task", "parameters", f"{word}, global", "interval", f"{word}, own", "its interval"]
    columns += ["own baseline", f"{times} (global)", f"{times} (own)"]
    caption = (
        f"{word}: smallest dimension tried from which on the mean over seeds reaches {_share(first)} "
        "of the baseline. Intervals: of single seeds, each in (largest that fails, smallest that suffices]. "
        + _footer(first)
    )
    shown: dict[str, Picture | Table] = {"subspace/comparison": Table(columns, rows, caption)}
    dims = sorted({dim for one in found.values() for dim in one.dims.tolist()})
    if dims:
        picture = _together(found, np.array(dims, dtype=np.float64))
        shown["subspace/performance"] = Picture(picture, _footer(first))
    return shown


def _curve(found: IntrinsicDimension, name: str) -> np.ndarray:
    from lightning_dynamics.figures import line_chart

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
        (f"{_word(found)} {kind} {crossing.dim}", float(crossing.dim))
        for kind, crossing in (("own", found.by_own_baseline), ("global", found.by_global_baseline))
        if crossing is not None and crossing.dim is not None
    ]
    return line_chart(
        found.dims.numpy(),
        series | lines,
        title=f"Performance in random subspaces{f': {name}' if name else ''}",
        footer=_footer(found),
        x_title=f"dimension of the subspace (of {found.size:,})",
        y_title=found.settings["metric"],
        log_x=True,
        marks=marks,
    )


def _together(found: Mapping[str, IntrinsicDimension], dims: np.ndarray) -> np.ndarray:
    from lightning_dynamics.figures import line_chart

    first = next(iter(found.values()))
    series = {}
    for name, one in found.items():
        if len(one.dims):
            # Straight lines between what was tried, also where only another search tried something.
            own = np.log(one.dims.double().numpy())
            relative = one.performance.mean(1).numpy() / one.own_baseline
            series[name] = np.interp(np.log(dims), own, relative, left=np.nan, right=np.nan)
    threshold = first.settings["threshold"]
    return line_chart(
        dims,
        series | {_share(first): np.full(len(dims), threshold)},
        title="Performance in random subspaces, relative to direct training",
        footer=_footer(first),
        x_title="dimension of the subspace",
        y_title=f"{first.settings['metric']} / that of direct training",
        log_x=True,
    )


def _trainings(found: IntrinsicDimension) -> Table:
    columns = ["dimension", "mean", *(f"seed {seed}" for seed in found.seeds)]
    rows = [
        [dim, sum(values) / len(values), *values]
        for dim, values in zip(found.dims.tolist(), found.performance.tolist(), strict=True)
    ]
    direct: list[str | float] = [f"direct ({found.size:,})", found.own_baseline, *found.direct.tolist()]
    return Table(columns, [[str(row[0]), *row[1:]] for row in rows] + [direct], _footer(found))


def _footer(found: IntrinsicDimension) -> str:
    settings = found.settings
    return (
        f"{settings['metric']} after {settings['max_epochs']} epochs; {settings['projection']} projections; seeds "
        f"{', '.join(map(str, found.seeds))}. A dimension is an upper bound: better training may need fewer."
    )


def _share(found: IntrinsicDimension) -> str:
    return f"{100 * found.settings['threshold']:g} %"


def _word(found: IntrinsicDimension) -> str:
    """d_int90 and the like."""
    return f"d_int{100 * found.settings['threshold']:g}"


def _dim(crossing: Crossing) -> int | str:
    return "not reached" if crossing.dim is None else crossing.dim


def _interval(crossing: Crossing) -> str:
    low, high = crossing.interval
    return f"({low}, {'∞' if math.isinf(high) else int(high)}]"


def _times(crossing: Crossing | None, first: Crossing | None) -> float | None:
    if crossing is None or first is None or crossing.dim is None or first.dim is None:
        return None
    return crossing.dim / first.dim
