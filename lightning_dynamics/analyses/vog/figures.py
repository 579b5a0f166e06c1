"""How a VoGResult looks."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from lightning_dynamics.analyses.vog import pictures
from lightning_dynamics.analyses.vog.estimator import error_by_percentile
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.analyses.vog.windows import ALL, FEWEST_EVENTS
from lightning_dynamics.analyses.vog.wording import basis, caption, class_name, moment
from lightning_dynamics.figures.pages import SCATTER_HEIGHT, scatter_page
from lightning_dynamics.panels import Download, Page, Panels, Picture, Table
from lightning_dynamics.panels.values import Cell, Panel

MOST_POINTS = 5000
"""Points of the page."""
MOST_ROWS = 1000
"""Rows of the table; the files hold all examples."""
_LONGEST_NAME = 150  # bytes of a file's


def panels(result: VoGResult, label: str) -> Panels:
    """Pictures and table of one event, under keys ``{label}/…``; nothing before the second event.

    A window's examples are drawn at its own events: later they do not change.
    """
    windows = [window for window, told in result.windows.items() if told["events"] >= FEWEST_EVENTS]
    if not windows or not len(result.indices):
        return {}
    shown: dict[str, Panel] = {}
    if "images" in result.shown:
        current = [window for window in windows if result.windows[window]["last_step"] == result.step]
        shown |= {f"examples/{window}": pictures.examples(result, window) for window in current}
    normalized = [window for window in windows if result.class_normalized[window].isfinite().any()]
    if normalized and result.predictions.max() >= 0 and result.labels.max() >= 0:
        shown["error_by_percentile"] = pictures.error_rates(result, normalized)
    shown["histogram"] = pictures.histogram_of(result, windows)
    if result.classes.max() >= 0 and any(result.scores[window].isfinite().any() for window in windows):
        shown["classes"] = pictures.classes(result, windows)
    if result.confidence.isfinite().any():
        shown["data_map"] = pictures.data_map(result)
    shown["values"] = values(result)
    return {f"{label}/{name}": panel for name, panel in shown.items()}


def scalars(result: VoGResult) -> dict[str, float]:
    """The event's numbers, by key without label."""
    numbers = {"accuracy": result.accuracy, "undefined": float(result.undefined)}
    if not result.forgetting.isnan().all():
        numbers["never_learned"] = float(result.forgetting.isinf().double().mean())
    for window, scores in result.scores.items():
        numbers[f"mean/{window}"] = float(scores.nanmean())
        wrong = result.window_predictions[window] != result.labels
        if result.predictions.max() >= 0 and result.labels.max() >= 0:
            rates = error_by_percentile(result.class_normalized[window], wrong)
            numbers[f"error_of_easiest/{window}"] = float(rates[0])
            numbers[f"error_of_hardest/{window}"] = float(rates[-1])
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def film(result: VoGResult, label: str) -> Panels:
    """When training has ended: a page to explore, and all scores of all examples, to filter a data set with."""
    if not len(result.indices):
        return {}
    shown: dict[str, Panel] = {"map": explore(result)} if _informative(result) else {}
    name = re.sub(r"[^\w.-]+", "_", label).encode()[:_LONGEST_NAME].decode(errors="ignore")
    files = {f"{name}_scores.csv": result.csv(), f"{name}_scores.npz": result.npz()}
    shown["scores"] = Download(files, caption(result, "all scores, one row per example, by data set index"))
    return {f"{label}/{name}": panel for name, panel in shown.items()}


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
    scores, what = result.class_normalized[ALL], "examples by normalised VoG, hardest first"
    if not scores.isfinite().any():
        scores, what = result.scores[ALL], "examples by VoG, hardest first"
    order = scores.nan_to_num(nan=-math.inf).argsort(descending=True, stable=True)
    known = order[scores[order].isfinite()]
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
