"""How difficult each example is, at one moment of training."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from lightning_dynamics.analyses.result import AnalysisResult
from lightning_dynamics.analyses.vog.estimator import error_by_percentile, normalize_per_class
from lightning_dynamics.analyses.vog.record import Reading
from lightning_dynamics.analyses.vog.windows import ALL
from lightning_dynamics.core.lightning import ConfigurationError

EASY_IF_HIGH = ("aum", "confidence", "correctness")
"""Scores that are high for easy examples; all others are high for hard ones."""

DYNAMICS = ("aum", "el2n", "confidence", "variability", "correctness", "loss", "loss_spread")
"""What :attr:`VoGResult.dynamics` holds of every window."""


class _OverAllEvents:
    """One of the dynamics over all events, as an attribute of the result."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, result: None, owner: type) -> _OverAllEvents: ...
    @overload
    def __get__(self, result: VoGResult, owner: type) -> Tensor: ...
    def __get__(self, result: VoGResult | None, owner: type) -> Tensor | _OverAllEvents:
        return self if result is None else result.dynamics[ALL][self._name]


@dataclass(frozen=True, eq=False)
class VoGResult(AnalysisResult):
    """Scores of examples, joined by their index in the data set.

    All tensors of shape ``(N,)`` are in the same order, by rising index. The results that a callback keeps of earlier
    events hold no examples: N is 0 there, and only the numbers and ``windows`` are kept.

    Args:
        epoch: from 0.
        step: training batches that had stepped.
        num_examples: N, over all processes.
        data: name of the data.
        settings: in words: variant, channel, ddof, target, attribution, with_respect_to.
        indices: ``(N,)`` int64: in the data set.
        labels: ``(N,)`` int64; −1 if unknown.
        predictions: ``(N,)`` int64: at this event; −1 if the output is not logits of classes.
        scores: window -> ``(N,)`` float64: Variance of Gradients; NaN with fewer than two events.
        class_normalized: window -> ``(N,)`` float64: in standard deviations from the mean of the example's class (its
            label, or its prediction where there are no labels); NaN in classes where that is not defined.
        window_predictions: window -> ``(N,)`` int64: at the window's latest event.
        dynamics: window -> name -> ``(N,)`` float64: ``aum``, ``el2n``, ``confidence``, ``variability``,
            ``correctness``, ``loss`` and ``loss_spread`` over the window's events; definitions and sources in
            :mod:`lightning_dynamics.vog.dynamics`. NaN without labels.
        forgetting: ``(N,)`` float64: how often the example was right at one event and wrong at the next; infinity if it
            never was right.
        windows: window -> number of ``events``, ``first_step``, ``last_step``.
        accuracy: share of the examples that are predicted right now; NaN if unknown.
        undefined: gradients that were not finite and so were left out, over all events.
        class_names: of the classes, if given.
        shown: what is shown of the extreme examples: ``indices`` ``(M,)``, and ``images`` ``(M, h, w, 3)`` uint8 or
            ``texts``, a list of M strings; or empty.
    """

    data: str
    settings: dict[str, Any]
    indices: Tensor
    labels: Tensor
    predictions: Tensor
    scores: dict[str, Tensor]
    class_normalized: dict[str, Tensor]
    window_predictions: dict[str, Tensor]
    dynamics: dict[str, dict[str, Tensor]]
    forgetting: Tensor
    windows: dict[str, dict[str, int]]
    accuracy: float
    undefined: int
    class_names: list[str]
    shown: dict[str, Any]

    # ---- the scores that people use beside VoG, over all events ----------------------------------------------

    aum = _OverAllEvents("``(N,)``: area under the margin; low for wrong labels.")
    el2n = _OverAllEvents(
        "``(N,)``: norm of the error vector, mean over events; of the first ones: ``dynamics['early']['el2n']``."
    )
    confidence = _OverAllEvents("``(N,)``: mean probability of the label.")
    variability = _OverAllEvents("``(N,)``: standard deviation of the label's probability.")
    correctness = _OverAllEvents("``(N,)``: share of events in which the prediction is the label.")

    @property
    def classes(self) -> Tensor:
        """``(N,)`` int64: what class normalisation goes by: labels, or predictions where there are none."""
        return torch.where(self.labels >= 0, self.labels, self.predictions)

    @property
    def undefined_classes(self) -> int:
        """In how many classes scores could not be normalised: one example, or no spread."""
        normalized = self.class_normalized.get(ALL, torch.empty(0))
        classes = self.classes
        return sum(bool(normalized[classes == one].isnan().all()) for one in classes.unique())

    def scalars(self) -> dict[str, float]:
        """Accuracy, and of each window the mean score and the error rates of the easiest and the hardest tenth."""
        numbers = {"accuracy": self.accuracy, "undefined": float(self.undefined)}
        if not self.forgetting.isnan().all():
            numbers["never_learned"] = float(self.forgetting.isinf().double().mean())
        for window, scores in self.scores.items():
            numbers[f"mean/{window}"] = float(scores.nanmean())
            wrong = self.window_predictions[window] != self.labels
            if self.predictions.max() >= 0 and self.labels.max() >= 0:
                rates = error_by_percentile(self.class_normalized[window], wrong)
                numbers[f"error_of_easiest/{window}"] = float(rates[0])
                numbers[f"error_of_hardest/{window}"] = float(rates[-1])
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    # ---- using them ----------------------------------------------------------------------------------------

    def score(self, name: str = "vog") -> Tensor:
        """One score of every example, as it is published.

        Args:
            name: ``"vog"``, ``"vog_normalized"``, ``"forgetting"``, or one of :data:`DYNAMICS`; over all events, or in
                a window as ``"vog/early"``.

        Returns:
            ``(N,)`` float64.

        Raises:
            ConfigurationError: there is no such score.
        """
        kind, _, window = name.partition("/")
        window = window or ALL
        found: Tensor | None = None
        if kind == "vog":
            found = self.scores.get(window)
        elif kind == "vog_normalized":
            found = self.class_normalized.get(window)
        elif kind == "forgetting" and window == ALL:
            found = self.forgetting
        else:
            found = self.dynamics.get(window, {}).get(kind)
        if found is None:
            known = ", ".join(self.score_names) or "none, as only the latest result holds the examples"
            raise ConfigurationError(f"there is no score {name!r}; there are: {known}")
        return found

    @property
    def score_names(self) -> list[str]:
        """Of every score there is, those over all events first."""
        names = []
        for window in self.scores:
            end = "" if window == ALL else f"/{window}"
            names += [f"vog{end}", f"vog_normalized{end}", *(["forgetting"] if window == ALL else [])]
            names += [f"{name}{end}" for name in self.dynamics.get(window, {})]
        return names

    def hardness(self, name: str = "vog") -> Tensor:
        """A score with its sign such that higher is harder; arguments as of :meth:`score`."""
        score = self.score(name)
        return -score if name.partition("/")[0] in EASY_IF_HIGH else score

    def hardest(self, n: int, per_class: bool = True, score: str = "vog") -> Tensor:
        """Data set indices of the hardest examples, the hardest first.

        Args:
            n: how many; of each class, if ``per_class``.
            per_class: choose within each class, as the paper does: classes differ in difficulty. They follow each
                other by number.
            score: see :meth:`score`.

        Returns:
            ``(M,)`` int64; examples whose score is undefined are not among them.
        """
        hardness = self.hardness(score)
        order = hardness.nan_to_num(nan=-math.inf, posinf=math.inf).argsort(descending=True, stable=True)
        order = order[~hardness[order].isnan()]
        if not per_class:
            return self.indices[order[:n]]
        classes = self.classes[order]
        chosen = [order[classes == one][:n] for one in classes.unique()]
        return self.indices[torch.cat(chosen)] if chosen else self.indices[:0]

    def suspected_label_errors(self, n: int, score: str = "aum") -> Tensor:
        """Data set indices of the examples whose label is most likely wrong, the most suspicious first.

        By default those with the lowest area under the margin (Pleiss et al. 2020), which found more of the corrupted
        labels than VoG in our experiment (``examples/03_example_difficulty.py``).

        Args:
            n: how many.
            score: see :meth:`score`.
        """
        return self.hardest(n, per_class=False, score=score)

    # ---- taking them away ----------------------------------------------------------------------------------

    def to_columns(self) -> dict[str, np.ndarray]:
        """One array per column, one row per example: index, label, prediction and every score."""
        columns = {"index": self.indices, "label": self.labels, "prediction": self.predictions}
        columns |= {name: self.score(name) for name in self.score_names}
        return {name: column.numpy() for name, column in columns.items()}

    def to_pandas(self) -> Any:
        """:meth:`to_columns` as a ``pandas.DataFrame`` with ``index`` as its index.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("`to_pandas()` needs pandas (`pip install pandas`); `to_columns()` does not") from error
        return pandas.DataFrame(self.to_columns()).set_index("index")

    def save_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_columns` as a CSV file, with full precision; what is not defined is empty."""
        Path(path).write_bytes(self.csv())

    def csv(self) -> bytes:
        """The content of :meth:`save_csv`."""
        columns = self.to_columns()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*(column.tolist() for column in columns.values()), strict=True):
            writer.writerow("" if value != value else value for value in row)
        return text.getvalue().encode()

    def npz(self) -> bytes:
        """:meth:`to_columns` as an ``.npz`` file for NumPy."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self.to_columns())  # type: ignore[arg-type]
        return buffer.getvalue()

    def condensed(self) -> VoGResult:
        """Without the examples."""
        # Not a part of a tensor: it would take the whole of it into every checkpoint.
        left_out: dict[str, Any] = {
            field.name: value.new_empty(0)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        left_out |= {name: {} for name in ("scores", "class_normalized", "window_predictions", "dynamics", "shown")}
        return replace(self, **left_out)


def result_of(
    reading: Reading,
    indices: Sequence[int],
    *,
    epoch: int,
    step: int,
    data: str,
    settings: Mapping[str, Any],
    windows: Mapping[str, dict[str, int]],
    undefined: int,
    class_names: Sequence[str],
) -> VoGResult:
    """What a record says, by rising index, with scores normalised within the classes."""
    order = torch.tensor(indices).argsort()
    labels, predictions = reading.labels[order], reading.predictions[ALL][order]
    classes = torch.where(labels >= 0, labels, predictions)
    known = (labels >= 0) & bool((predictions >= 0).any())  # NaN logits are wrong, as everywhere
    scores = {window: score[order] for window, score in reading.scores.items()}
    return VoGResult(
        epoch=epoch,
        step=step,
        num_examples=len(indices),
        data=data,
        settings=dict(settings),
        indices=torch.tensor(indices)[order],
        labels=labels,
        predictions=predictions,
        scores=scores,
        class_normalized={window: normalize_per_class(score, classes) for window, score in scores.items()},
        window_predictions={window: kept[order] for window, kept in reading.predictions.items()},
        dynamics={w: {name: one[order] for name, one in kept.items()} for w, kept in reading.dynamics.items()},
        forgetting=reading.forgetting[order],
        windows=dict(windows),
        accuracy=float((predictions == labels)[known].double().mean()),
        undefined=undefined,
        class_names=list(class_names),
        shown={},
    )
