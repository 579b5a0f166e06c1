"""How far runs agree on which examples are hard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_dynamics.analyses.vog.estimator import rank_correlation
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.figures import bars, heat_map
from lightning_dynamics.figures.result import Pictures, Result, pictures, tables
from lightning_dynamics.panels import Picture, Table
from lightning_dynamics.publishing import publish_result


@dataclass(frozen=True, eq=False)
class RunComparison(Result):
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

    def scalars(self) -> dict[str, float]:
        """Of each score, the mean correlation of two different runs."""
        means = {f"mean/{score}": self.mean(score) for score in self.correlations}
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}

    def publish(self, loggers: Any, label: str = "vog/runs") -> None:
        """Show it in one or several loggers: W&B, TensorBoard, a local report."""
        publish_result(loggers, self, label, step=self.step)


@pictures.register
def _pictures(comparison: RunComparison) -> Pictures:
    """A map per score, and bars of the means."""
    drawn: dict[str, Callable[[], Picture]] = {
        score: partial(_map, comparison, score) for score in comparison.correlations
    }
    return drawn | {"agreement": lambda: _agreement(comparison)}


@tables.register
def _tables(comparison: RunComparison) -> dict[str, Table]:
    rows = [
        (score, a, b, float(matrix[i, j]))
        for score, matrix in comparison.correlations.items()
        for i, a in enumerate(comparison.names)
        for j, b in enumerate(comparison.names)
        if i < j
    ]
    return {"values": Table(("score", "run", "other run", "rank correlation"), rows, _basis(comparison))}


def _map(comparison: RunComparison, score: str) -> Picture:
    image = heat_map(
        comparison.correlations[score].numpy(),
        x_labels=comparison.names,
        y_labels=comparison.names,
        title=f"Do runs agree? {score}",
        footer=f"{_basis(comparison)}; mean of two different runs {comparison.mean(score):.3f}",
        colorbar_label="rank correlation",
    )
    return Picture(image, f"rank correlation of {score} between runs; {_basis(comparison)}")


def _agreement(comparison: RunComparison) -> Picture:
    means = [comparison.mean(score) for score in comparison.correlations]
    image = bars(
        np.array(means),
        labels=list(comparison.correlations),
        names=["mean of two different runs"],
        title="How far runs agree, by score",
        footer=_basis(comparison),
        x_title="mean rank correlation of two different runs",
        limits=(min(0.0, *means), 1.0) if all(map(math.isfinite, means)) else (0.0, 1.0),
        colours=["#0072b2"],
    )
    return Picture(image, _basis(comparison))


def _basis(comparison: RunComparison) -> str:
    """What the numbers rest on."""
    count, runs = comparison.num_examples, len(comparison.names)
    return f"Spearman's rank correlation over the {count} examples that all {runs} runs scored"


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
