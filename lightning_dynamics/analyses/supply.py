"""Where an analysis has its examples from: chosen before training, or recorded as training receives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_dynamics.analyses.examples import Wanted
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.lightning import move_to_device
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.probe_sources import NoIndex
from lightning_dynamics.core.recording import Recorded, Recording, as_state, shared
from lightning_dynamics.core.task import Task

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


@dataclass(eq=False)
class Supply:
    """The examples of one callback, over its trainings.

    Args:
        wanted: what it asks for.
        recorded: minibatches of data without an index, of all processes, once they are complete.
        recording: of this training, while it is not.
        begun: what an interrupted training had recorded, while it was not.
        waits: the examples have yet to be recorded.
    """

    wanted: Wanted
    recorded: list[Recorded] | None = None
    recording: Recording | None = None
    begun: list[Recorded] = field(default_factory=list)
    waits: bool = False

    def start(self, module: LightningModule) -> None:
        """A training begins: what a checkpoint held lies on the CPU."""
        self.waits = False
        if self.recorded is not None:
            self.recorded = move_to_device(self.recorded, module.device)

    def understood(self, trainer: Trainer, module: LightningModule) -> tuple[list[Probe], Task, bool]:
        """Probes and task; see :meth:`Wanted.understood`.

        Raises:
            NoIndex: the data have none. Unless minibatches are there already, :attr:`waits` is set.
        """
        try:
            return self.wanted.understood(trainer, module, self.recorded)
        except NoIndex:
            self.waits = self.recorded is None
            raise

    def see(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy a minibatch as it passes.

        Raises:
            ConfigurationError: it cannot be copied, or its examples not counted.
        """
        self.recording = Recording.of(trainer)
        self.recording.go_on(move_to_device(self.begun, module.device))
        self.recording.see(batch, trainer.current_epoch, batch_idx)

    def has(self, trainer: Trainer, at_least: int) -> bool:
        """Whether so many examples are there, over all processes; they agree."""
        ranks = Ranks.of(trainer)
        return not ranks.any(Recording.of(trainer).count() * ranks.size < at_least)

    def complete(self, trainer: Trainer, module: LightningModule) -> int:
        """What has been recorded becomes the examples, in all processes; the number of minibatches."""
        ranks = Ranks.of(trainer)
        share = -(-self.wanted.num_examples // ranks.size)
        self.recorded = shared(Recording.of(trainer).first(share), ranks, module)
        self.waits = False
        return len(self.recorded)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain values; empty where there is nothing to keep, or it cannot be kept."""
        if self.recorded is not None:
            recorded = as_state(self.recorded)
            return {} if recorded is None else {"recorded": recorded}
        # Interrupted while it waits: of several processes, each has its own part, and the checkpoint is one's.
        if self.waits and self.recording is not None and self.recording.is_whole:
            return {"begun": as_state(self.recording.batches) or []}
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.recorded = state.get("recorded")
        self.begun = state.get("begun", [])

    def forget(self) -> None:
        """Let go of everything recorded."""
        self.recorded, self.recording, self.begun, self.waits = None, None, [], False
