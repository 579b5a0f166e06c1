"""The weights during training, in bounded memory: evenly spaced snapshots, fewer per step as the run grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import flatten
from lightning_dynamics.core.schedule import Moment
from lightning_dynamics.core.storage import Storage


@dataclass(frozen=True)
class Cadence:
    """When snapshots are taken: every n-th step; every 2n-th when there would be too many; and so on.

    It depends on the step alone, so that a resumed run takes the same ones.

    Args:
        every: n.
        most: snapshots kept, beside the first.
    """

    every: int = 1
    most: int = 64

    def __post_init__(self) -> None:
        """Check the numbers."""
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ConfigurationError(f"`snapshot_every_n_steps` must be a whole number from 1 up, got {self.every!r}")
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 4:
            raise ConfigurationError(f"`max_snapshots` must be a whole number from 4 up, got {self.most!r}")

    def stride(self, step: int) -> int:
        """Steps from one snapshot to the next in a run of this length."""
        stride = self.every
        while step > self.most * stride:
            stride *= 2
        return stride

    def due(self, moment: Moment) -> bool:
        """Before the first step, and after every stride."""
        return moment.kind == "start" or (moment.kind == "step" and moment.step % self.stride(moment.step) == 0)


class Recorder:
    """Snapshots of chosen parameters, kept in an analysis's memory (so they go into checkpoints).

    Memory: ``most + 2`` copies of the parameters in float32 on the CPU; above a limit, in files of
    the temporary folder.

    Args:
        memory: where they are kept; filled in place.
        cadence: which are.
        storage: of one snapshot.
    """

    def __init__(self, memory: dict[str, Any], cadence: Cadence, storage: Storage) -> None:
        """What is in the memory already stays."""
        self._cadence, self._storage = cadence, storage
        self._steps: list[int] = memory.setdefault("steps", [])
        self._snapshots: list[Tensor] = memory.setdefault("snapshots", [])

    @property
    def steps(self) -> list[int]:
        """When the snapshots were taken, rising."""
        return self._steps

    @property
    def snapshots(self) -> list[Tensor]:
        """``(P,)`` each, float32 on the CPU."""
        return self._snapshots

    def record(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Take one now, if it is time, and let go of those that are now too close together."""
        stride = self._cadence.stride(step)
        if (self._steps and step <= self._steps[-1]) or (self._steps and step % stride):
            return
        keep = [i for i, s in enumerate(self._steps) if i == 0 or s % stride == 0]
        if len(keep) < len(self._steps):
            self._steps[:] = [self._steps[i] for i in keep]
            self._snapshots[:] = [self._snapshots[i] for i in keep]
        flat = flatten({name: p.detach().to("cpu", torch.float32) for name, p in parameters.items()})
        self._steps.append(step)
        self._snapshots.append(self._storage.housed(flat))

    def resume(self) -> None:
        """After a checkpoint was loaded: large snapshots go back into files."""
        self._snapshots[:] = [self._storage.housed(snapshot) for snapshot in self._snapshots]
