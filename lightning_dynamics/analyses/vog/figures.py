"""How a VoGResult looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_dynamics.analyses.vog import pictures
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.analyses.vog.windows import ALL, FEWEST_EVENTS
from lightning_dynamics.analyses.vog.wording import basis, caption, class_name, moment
from lightning_dynamics.figures.pages import SCATTER_HEIGHT, scatter_page
from lightning_dynamics.figures.result import Pictures, closing_panels, tables
from lightning_dynamics.figures.result import pictures as looks
from lightning_dynamics.panels import Download, Page, Panel, Picture, Table
from lightning_dynamics.panels.values import Cell

MOST_POINTS = 5000
"""Points of the page."""
MOST_ROWS = 1000
"""Rows of the table; the files hold all examples."""


@looks.register
def _pictures(result: VoGResult) -> Pictures:
    """Nothing before the second event. A window's examples are drawn at its own events: later they do not change."""
    windows = _windows(result)
    if not windows:
        return {}
    drawn: dict[str, Callable[[], Picture]] = {}
    if "images" in result.shown:
        current = [window for window in windows if result.windows[window]["last_step"] == result.step]
        drawn |= {f"examples/{window}": partial(pictures.examples, result, window) for window in current}
    normalized = [window for window in windows if result.class_normalized[window].isfinite().any()]
    if normalized and result.predictions.max() >= 0 and result.labels.max() >= 0:
        drawn["error_by_percentile"] = lambda: pictures.error_rates(result, normalized)
    drawn["histogram"] = lambda: pictures.histogram_of(result, windows)
    if result.classes.max() >= 0 and any(result.scores[window].isfinite().any() for window in windows):
        drawn["classes"] = lambda: pictures.classes(result, windows)
    if result.confidence.isfinite().any():
        drawn["data_map"] = lambda: pictures.data_map(result)
    return drawn


@tables.register
def _tables(result: VoGResult) -> dict[str, Table]:
    return {"values": values(result)} if _windows(result) else {}


@closing_panels.register
def _closing_panels(last: VoGResult, results: Sequence[VoGResult]) -> dict[str, Callable[[], Panel]]:
    """A page to explore, and all scores of all examples, to filter a data set with."""
    if not len(last.indices):
        return {}
    shown: dict[str, Callable[[], Panel]] = {"map": lambda: explore(last)} if _informative(last) else {}
    return shown | {"scores": lambda: scores(last)}


def scores(result: VoGResult) -> Download:
    """Every score of every example."""
    files = {"vog_scores.csv": result.csv(), "vog_scores.npz": result.npz()}
    return Download(files, caption(result, "all scores, one row per example, by data set index"))


def explore(result: VoGResult) -> Page:
    """The data map to explore: any two scores against each other."""
    columns: dict[str, list[float | int | str | None]] = {
        "index": result.indices.tolist(),
        "label": [class_name(result, one) for one in result.labels.tolist()],
        "prediction": [class_name(result, one) for one in result.predictions.tolist()],
    }
    names = _informative(result)
    columns |= {name: result.score(name).tolist() for name in names}
    mapped = ("variability", "confidence", "correctness")
    x, y, colour = mapped if all(name in names for name in mapped) else (names[0], names[-1], names[0])
    rows = {int(index): row for row, index in enumerate(result.indices.tolist())}
    images = {
        rows[int(index)]: image.numpy()
        for index, image in zip(result.shown.get("indices", ()), result.shown.get("images", ()), strict=False)
    }
    html = scatter_page(
        columns,
        x=x,
        y=y,
        colour=colour,
        axes=names,
        group="label" if result.labels.max() >= 0 else "prediction",
        images=dict(list(images.items())[:MOST_POINTS]),
        title=f"Difficulty of examples · {moment(result)}",
        footer=basis(result),
        max_points=MOST_POINTS,
    )
    return Page(html, caption(result, "difficulty of examples"), SCATTER_HEIGHT)


def values(result: VoGResult) -> Table:
    """The hardest and the easiest examples by normalised VoG, with all their scores."""
    by, what = result.class_normalized[ALL], "examples by normalised VoG, hardest first"
    if not by.isfinite().any():
        by, what = result.scores[ALL], "examples by VoG, hardest first"
    order = by.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)
    known = order[by[order].isfinite()]
    if len(known) > MOST_ROWS:
        order = torch.cat([known[: MOST_ROWS // 2], known[-MOST_ROWS // 2 :]])
        what += f", the {MOST_ROWS // 2} hardest and the {MOST_ROWS // 2} easiest (the files hold all)"
    elif len(order) > MOST_ROWS:
        order = order[:MOST_ROWS]
        what += f", the first {MOST_ROWS} (the files hold all)"
    names = _informative(result)
    columns: list[Tensor] = [result.score(name)[order] for name in names]
    classes = {"label": result.labels, "prediction": result.predictions}
    classes = {name: one for name, one in classes.items() if bool((one >= 0).any())}
    seen = _seen(result)
    rows: list[list[Cell]] = []
    for row, *numbers in zip(order.tolist(), *(column.tolist() for column in columns), strict=True):
        index = int(result.indices[row])
        cells: list[Cell] = [index, *([seen.get(index)] if seen else [])]
        cells += [class_name(result, int(one[row])) for one in classes.values()]
        rows.append(cells + [number if math.isfinite(number) else None for number in numbers])
    kind = ["image" if "images" in result.shown else "text"] if seen else []
    return Table(["index", *kind, *classes, *names], rows, caption(result, what))


def _windows(result: VoGResult) -> list[str]:
    """Those with enough events for a score; none if the result holds no examples any more."""
    if not len(result.indices):
        return []
    return [window for window, told in result.windows.items() if told["events"] >= FEWEST_EVENTS]


def _seen(result: VoGResult) -> dict[int, Picture | str]:
    """How examples look, by index."""
    indices = result.shown["indices"].tolist() if result.shown else []
    if "texts" in result.shown:
        return dict(zip(indices, result.shown["texts"], strict=True))
    return {i: Picture(image.numpy()) for i, image in zip(indices, result.shown.get("images", ()), strict=True)}


def _informative(result: VoGResult) -> list[str]:
    """Names of the scores that are defined for some example: VoG in every window, the others over all events."""
    names = [name for name in result.score_names if name.startswith("vog") or "/" not in name]
    return [name for name in names if result.score(name).isfinite().any()]
