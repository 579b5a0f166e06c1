"""What an analysis found at one moment of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from lightning_dynamics.figures.result import Result

Self = TypeVar("Self", bound="AnalysisResult")


@dataclass(frozen=True, eq=False)
class AnalysisResult(Result):
    """Base of the results of callbacks.

    Args:
        epoch: the epoch it was measured in, from 0.
        step: the number of training batches that had stepped when it was measured: 0 is the untrained model.
        num_examples: how many examples of the probe it rests on, over all processes.
    """

    epoch: int
    step: int
    num_examples: int

    def condensed(self: Self) -> Self:
        """What is worth keeping when it is no longer the latest: by default all of it."""
        return self
