"""The weights during training, in bounded memory: evenly spaced snapshots, fewer per step as the run grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.core.checks import check_count
from lightning_dynamics.core.parameters import flatten
from lightning_dynamics.core.schedule import Moment
from lightning_dynamics.core.storage import Storage


@dataclass(frozen=True)
class Trajectory:
    """Which snapshots of the weights are kept during training: every n-th step, fewer per step as the run grows.

    Snapshots are taken every n-th step; every 2n-th when there would be too many; and so on. That depends on the step
    alone, so a resumed run takes the same ones. Memory: ``max_snapshots + 2`` copies of the weights in float32 on the
    CPU, or in files.

    Args:
        max_snapshots: how many are kept beside the first; 4 or more.
        snapshot_every_n_steps: n.
        memory_limit: bytes that all snapshots together may take in memory.
        memory_folder: for the files of larger ones; None for the system's temporary folder.

    Raises:
        ConfigurationError: numbers that cannot work.
    """

    max_snapshots: int = 64
    snapshot_every_n_steps: int = 1
    memory_limit: int = field(default=2**30, repr=False)
    memory_folder: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("snapshot_every_n_steps", 1), ("max_snapshots", 4), ("memory_limit", 0)):
            check_count(name, getattr(self, name), least)

    def stride(self, step: int) -> int:
        """Steps from one snapshot to the next in a run of this length."""
        stride = self.snapshot_every_n_steps
        while step > self.max_snapshots * stride:
            stride *= 2
        return stride

    def due(self, moment: Moment) -> bool:
        """Before the first step, and after every stride."""
        return moment.kind == "start" or (moment.kind == "step" and moment.step % self.stride(moment.step) == 0)

    @property
    def storage(self) -> Storage:
        """Of one snapshot."""
        return Storage(max(1, self.memory_limit // (self.max_snapshots + 2)), self.memory_folder)


class Recorder:
    """Snapshots of chosen parameters, kept in an analysis's memory (so they go into checkpoints).

    Args:
        memory: where they are kept; filled in place.
        trajectory: which are, and where they are stored.
    """

    def __init__(self, memory: dict[str, Any], trajectory: Trajectory) -> None:
        """What is in the memory already stays."""
        self._trajectory, self._storage = trajectory, trajectory.storage
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
        stride = self._trajectory.stride(step)
        if (self._steps and step <= self._steps[-1]) or (self._steps and step % stride):
            return
        keep = [i for i, s in enumerate(self._steps) if i == 0 or s % stride == 0]
        if len(keep) < len(self._steps):
            self._steps[:] = [self._steps[i] for i in keep]
            self._snapshots[:] = [self._snapshots[i] for i in keep]
        flat = flatten({name: p.detach().to("cpu", torch.float32) for name, p in parameters.items()})
        self._steps.append(step)
        self._snapshots.append(self._storage.store(flat))

    def resume(self) -> None:
        """After a checkpoint was loaded: large snapshots go back into files."""
        self._snapshots[:] = [self._storage.store(snapshot) for snapshot in self._snapshots]
