"""How far runs agree on which examples are hard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_dynamics.analyses.vog.estimator import rank_correlation
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.figures import bars, heat_map
from lightning_dynamics.panels import Panels, Picture, Scalar, Table
from lightning_dynamics.panels.values import Panel
from lightning_dynamics.publishing import Event, publish


@dataclass(frozen=True, eq=False)
class RunComparison:
    """Rank correlations of scores between runs.

    Args:
        names: of the R runs.
        correlations: score -> ``(R, R)`` float64, symmetric: Spearman's ρ over the examples that all runs have scored.
        num_examples: how many those are.
        step: the latest of the runs' steps.
    """

    names: list[str]
    correlations: dict[str, Tensor]
    num_examples: int
    step: int

    def mean(self, score: str = "vog") -> float:
        """Mean correlation of two different runs."""
        matrix = self.correlations[score]
        return float(matrix[~torch.eye(len(matrix), dtype=torch.bool)].nanmean())

    def panels(self, label: str = "vog/runs") -> Panels:
        """A map per score, bars of the means, and all numbers as a table."""
        footer = (
            f"Spearman's rank correlation over the {self.num_examples} examples that all {len(self.names)} runs scored"
        )
        shown: dict[str, Panel] = {}
        for score, matrix in self.correlations.items():
            image = heat_map(
                matrix.numpy(),
                x_labels=self.names,
                y_labels=self.names,
                title=f"Do runs agree? {score}",
                footer=f"{footer}; mean of two different runs {self.mean(score):.3f}",
                colorbar_label="rank correlation",
            )
            shown[f"{label}/{score}"] = Picture(image, f"rank correlation of {score} between runs; {footer}")
        means = [self.mean(score) for score in self.correlations]
        image = bars(
            np.array(means),
            labels=list(self.correlations),
            names=["mean of two different runs"],
            title="How far runs agree, by score",
            footer=footer,
            x_title="mean rank correlation of two different runs",
            limits=(min(0.0, *means), 1.0) if all(map(math.isfinite, means)) else (0.0, 1.0),
            colours=["#0072b2"],
        )
        shown[f"{label}/agreement"] = Picture(image, footer)
        rows = [
            (score, a, b, float(matrix[i, j]))
            for score, matrix in self.correlations.items()
            for i, a in enumerate(self.names)
            for j, b in enumerate(self.names)
            if i < j
        ]
        shown[f"{label}/values"] = Table(("score", "run", "other run", "rank correlation"), rows, footer)
        return shown | {f"{label}/mean/{s}": Scalar(mean) for s, mean in zip(self.correlations, means, strict=True)}

    def publish(self, loggers: Any, label: str = "vog/runs") -> None:
        """Show it in one or several loggers, of W&B, TensorBoard or a local report."""
        many = loggers if isinstance(loggers, Iterable) else [loggers]
        publish(many, Event(label, 0, self.step, self.panels(label)))


def compare_runs(
    results: Sequence[VoGResult], *, scores: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> RunComparison:
    """Rank correlation of difficulty scores between runs, e.g. of different seeds.

    Scores of single runs are noisy; what runs agree on is about the data ("Dataset difficulty and the role of inductive
    bias", arXiv 2401.01867).

    Args:
        results: two or more, of the same data set; examples are joined by index.
        scores: as of ``VoGResult.score``; by default all scores over all events that every run has.
        names: of the runs; by default numbers.

    Raises:
        ConfigurationError: fewer than two results, no examples in common, or another data set.
    """
    if len(results) < 2:
        raise ConfigurationError(f"`results` must hold two runs or more, got {len(results)}")
    if names is not None and (len(names) != len(results) or len(set(names)) < len(names)):
        raise ConfigurationError(f"`names` must be {len(results)} different names, got {list(names)}")
    common = torch.tensor(sorted(set.intersection(*(set(one.indices.tolist()) for one in results))))
    if len(common) < 2:
        raise ConfigurationError(
            "`results` have fewer than two examples in common: give the callbacks the same `data`, `num_examples` and "
            "`seed` in all runs (a callback keeps the examples of its latest result only)"
        )
    rows = [torch.searchsorted(one.indices, common) for one in results]
    if names is None:
        names = [f"run {number + 1}" for number in range(len(results))]
    if scores is None:
        wanted = [name for name in results[0].score_names if "/" not in name and name != "vog_normalized"]
        scores = [name for name in wanted if all(name in one.score_names for one in results)]
    correlations = {}
    for score in scores:
        columns = [one.score(score)[row] for one, row in zip(results, rows, strict=True)]
        if all(column.isnan().all() for column in columns):
            continue
        correlations[score] = torch.tensor([[rank_correlation(a, b) for a in columns] for b in columns])
    if not correlations:
        raise ConfigurationError(f"`scores`: none of {list(scores)} is defined for the examples that all runs scored")
    return RunComparison(list(names), correlations, len(common), max(one.step for one in results))
