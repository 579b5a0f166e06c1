"""What a search for the intrinsic dimension found, and the log that it is read from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.figures.result import Result


@dataclass(frozen=True)
class Crossing:
    """Where the performance reaches a share of a baseline.

    Args:
        target: the performance to reach.
        dim: the smallest dimension tried from which on the mean over seeds reaches the target at every dimension tried;
            None if the largest one fails.
        below: the next smaller dimension tried, or 0: the target is first reached somewhere in (below, dim].
        interval: the same for single seeds: (smallest ``below``, largest ``dim``) over all seeds; the end is infinite
            if a seed does not reach the target.
    """

    target: float
    dim: int | None
    below: int
    interval: tuple[int, float]


@dataclass(frozen=True, eq=False)
class IntrinsicDimension(Result):
    """Performance in random subspaces of growing dimension, and the smallest dimension that suffices.

    Args:
        size: D, the number of parameters that were trained.
        dims: ``(K,)`` int64, ascending: the dimensions tried.
        performance: ``(K, S)`` float64, by dimension and seed; NaN where training diverged.
        direct: ``(S,)`` float64, of direct training, without a subspace.
        seeds: S of them.
        settings: what all trainings had in common: ``baseline``, ``threshold``, ``metric``, ``projection`` and more.
        name: of the network and task, for titles; by default that of the log file.
    """

    size: int
    dims: Tensor
    performance: Tensor
    direct: Tensor
    seeds: Sequence[int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def scalars(self) -> dict[str, float]:
        """Both intrinsic dimensions, if they were reached, and the network's own baseline."""
        numbers = {
            f"{self.symbol}_own": self.by_own_baseline.dim,
            f"{self.symbol}_global": None if self.by_global_baseline is None else self.by_global_baseline.dim,
            "own_baseline": self.own_baseline,
        }
        return {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}

    @property
    def symbol(self) -> str:
        """``d_int90`` and the like: the number is the threshold in percent."""
        return f"d_int{100 * self.settings['threshold']:g}"

    @property
    def own_baseline(self) -> float:
        """The mean performance of direct training."""
        return float(self.direct.mean())

    @cached_property
    def by_own_baseline(self) -> Crossing:
        """d_int with the network's own baseline ("local" in Li et al. 2018)."""
        return self.crossing(self.own_baseline)

    @cached_property
    def by_global_baseline(self) -> Crossing | None:
        """d_int with the baseline that was given, the same for all networks; None without one."""
        baseline = self.settings.get("baseline")
        return None if baseline is None else self.crossing(baseline)

    def crossing(self, baseline: float) -> Crossing:
        """Where ``threshold`` times this baseline is reached."""
        target = self.settings["threshold"] * baseline
        dims = self.dims.tolist()
        below, dim = _bracket(dims, (self.performance.mean(1) >= target).tolist())
        single = [_bracket(dims, (column >= target).tolist()) for column in self.performance.T]
        ends = [math.inf if end is None else end for _, end in single]
        return Crossing(target, dim, below, (min(start for start, _ in single), max(ends)))

    @classmethod
    def from_log(cls, path: str | PathLike[str]) -> IntrinsicDimension:
        """What the log of a search holds so far: the dimensions that every seed has been trained in.

        Raises:
            ValueError: the file is not such a log, or direct training has not finished.
        """
        path = Path(path)
        settings, runs = read_log(path)
        if not settings:
            raise ValueError(f"{path} is no log of a search for the intrinsic dimension")
        return from_runs(settings, runs, settings["seeds"], path.stem)


def from_runs(
    settings: Mapping[str, Any],
    runs: Mapping[tuple[int | None, int], Mapping[str, Any]],
    seeds: Sequence[int],
    name: str = "",
) -> IntrinsicDimension:
    """The result of trainings by (dimension, seed); dimension None is direct training."""
    missing = [seed for seed in seeds if (None, seed) not in runs]
    if missing:
        raise ValueError(f"direct training has not finished for seeds {missing}")
    tried = {dim for dim, _ in runs if dim is not None}
    dims = sorted(dim for dim in tried if all((dim, seed) in runs for seed in seeds))

    def row(dim: int | None) -> Tensor:
        return torch.tensor([runs[dim, seed]["performance"] for seed in seeds], dtype=torch.float64)

    performance = torch.stack([row(dim) for dim in dims]) if dims else torch.empty(0, len(seeds), dtype=torch.float64)
    size = next(iter(runs.values()))["size"]
    return IntrinsicDimension(
        size, torch.tensor(dims, dtype=torch.int64), performance, row(None), seeds, settings, name
    )


def read_log(path: Path) -> tuple[dict[str, Any], dict[tuple[int | None, int], dict[str, Any]]]:
    """The settings (empty without a log) and the trainings; a last line that was cut off is skipped."""
    settings: dict[str, Any] = {}
    runs: dict[tuple[int | None, int], dict[str, Any]] = {}
    if not path.is_file():
        return settings, runs
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "settings" in entry:
            settings = entry["settings"]
        elif "performance" in entry:
            runs[entry["dim"], entry["seed"]] = entry
    return settings, runs


def _bracket(dims: Sequence[int], reached: Sequence[bool]) -> tuple[int, int | None]:
    """The largest dimension that does not reach it, and the next one, from which on all do."""
    failed = [place for place, good in enumerate(reached) if not good]
    last = failed[-1] if failed else -1
    return (dims[last] if failed else 0), (dims[last + 1] if last + 1 < len(dims) else None)
