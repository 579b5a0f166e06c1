"""The pictures of a VoGResult."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_dynamics.analyses.vog.estimator import error_by_percentile
from lightning_dynamics.analyses.vog.rendering import MOST_CLASSES, extremes
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.analyses.vog.windows import ALL
from lightning_dynamics.analyses.vog.wording import basis, by_class, caption, class_name, moment, span
from lightning_dynamics.figures import Tile, box_plot, gallery, histogram, scatter, time_series
from lightning_dynamics.panels import Picture

_BINS = 10
_MOST_BOXES = 40


def examples(result: VoGResult, window: str) -> Picture:
    """The easiest and the hardest images of each class."""
    place = {int(index): number for number, index in enumerate(result.shown["indices"])}
    scores = result.scores[window]

    def tile(row: int) -> Tile:
        image = result.shown["images"][place[int(result.indices[row])]].numpy()
        label, prediction = int(result.labels[row]), int(result.predictions[row])
        wrong = label >= 0 and prediction >= 0 and label != prediction
        lines = [f"{scores[row]:.3g}"]
        if wrong:
            lines.append(f"→ {class_name(result, prediction)}")
        return Tile(image, tuple(lines), wrong)

    chosen = extremes(result, window)
    groups = [[[tile(row) for row in part.tolist()] for part in pair] for pair in chosen.values()]
    classes = len(result.classes.unique())
    left_out = f"; the first {MOST_CLASSES} of {classes} classes" if classes > MOST_CLASSES else ""
    framed = "; framed: predicted otherwise now (→)" if bool((result.labels >= 0).any()) else ""
    image = gallery(
        groups or [[[], []]],
        row_names=[class_name(result, one) if one >= 0 else "" for one in chosen] or [""],
        column_names=["lowest VoG, the lowest first", "highest VoG, the highest first"],
        title=f"Easy and hard examples · {_title(window)} · {moment(result)}",
        footer=(
            f"{by_class(result)}below each image its score{framed}; {span(result, window)}{left_out}; {basis(result)}"
        ),
    )
    return Picture(image, caption(result, f"examples of lowest and highest VoG by class ({span(result, window)})"))


def error_rates(result: VoGResult, windows: Sequence[str]) -> Picture:
    """Error rate by percentile of VoG: of the model as it was at the end of each window, and as it is now."""
    names, lines = [], []
    for window in windows:
        normalized = result.class_normalized[window]
        then, now = result.window_predictions[window], result.predictions
        lines.append(_rates(normalized, then != result.labels))
        names.append(_title(window))
        if bool((then != now).any()):
            names[-1] += f", at step {result.windows[window]['last_step']}"
            lines.append(_rates(normalized, now != result.labels))
            names.append(f"{_title(window)}, now")
    middles = (np.arange(_BINS) + 0.5) * 100 / _BINS
    image = time_series(
        middles,
        np.stack(lines),
        names=names,
        title=f"Errors by VoG percentile · {moment(result)}",
        footer=(
            f"{_BINS} bins of equally many examples by VoG normalised within the class; "
            f"{'; '.join(span(result, window) for window in windows)}; {basis(result)}"
        ),
        x_title="percentile of VoG, easy to hard",
        y_title="error rate in %",
    )
    return Picture(image, caption(result, "error rate by percentile of VoG normalised within the class"))


def histogram_of(result: VoGResult, windows: Sequence[str]) -> Picture:
    """Distribution of VoG."""
    image = histogram(
        [result.scores[window].numpy() for window in windows],
        names=[_title(window) for window in windows],
        title=f"Variance of Gradients · {moment(result)}",
        footer=f"{'; '.join(span(result, window) for window in windows)}; {basis(result)}",
        x_title="VoG",
    )
    return Picture(image, caption(result, "distribution of VoG"))


def classes(result: VoGResult, windows: Sequence[str]) -> Picture:
    """VoG by class, as boxes."""
    known = result.classes.unique().tolist()
    shown = known[:_MOST_BOXES]
    members = [(result.classes == one) for one in shown]
    left_out = f"; the first {len(shown)} of {len(known)} classes" if len(known) > len(shown) else ""
    image = box_plot(
        [[result.scores[window][one].numpy() for one in members] for window in windows],
        labels=[class_name(result, one) for one in shown],
        names=[_title(window) for window in windows],
        title=f"Variance of Gradients by class · {moment(result)}",
        footer=(
            f"{by_class(result)}box: quartiles and median; whiskers: 5th and 95th percentile; "
            f"{'; '.join(span(result, window) for window in windows)}{left_out}; {basis(result)}"
        ),
        x_title="VoG",
    )
    return Picture(image, caption(result, "VoG by class"))


def data_map(result: VoGResult) -> Picture:
    """Confidence against variability."""
    image = scatter(
        result.variability.numpy(),
        result.confidence.numpy(),
        colour=result.correctness.numpy(),
        title=f"Data map · {moment(result)}",
        footer=(
            "probability of the label: mean and standard deviation over events; upper left: easy, right: ambiguous, "
            f"lower left: hard or wrongly labelled; {span(result, ALL)}; {basis(result)}"
        ),
        x_title="variability",
        y_title="confidence",
        colour_label="correctness",
        x_limits=(0, 0.5),
        y_limits=(0, 1),
        colour_limits=(0, 1),
    )
    return Picture(image, caption(result, "data map: confidence against variability, coloured by correctness"))


def _rates(scores: Tensor, wrong: Tensor) -> np.ndarray:
    return 100 * error_by_percentile(scores, wrong, _BINS).numpy()


def _title(window: str) -> str:
    return "all events" if window == ALL else window
