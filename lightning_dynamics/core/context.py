"""One run of an analysis: on which module, on what, by whom, when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.module_state import plain_attributes, restores_of
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.probe import Batch, Probe
from lightning_dynamics.core.progress import progress
from lightning_dynamics.core.random_state import generators_of, seed_all
from lightning_dynamics.core.restore import Restore
from lightning_dynamics.core.schedule import Length, Moment
from lightning_dynamics.core.task import EXAMPLES, Task


@dataclass(frozen=True)
class Context:
    """What an analysis is handed.

    Args:
        module: bare, isolated from training.
        probe: the examples.
        ranks: the processes.
        moment: of training.
        description: for the progress bar; None shows none.
        second_probe: further examples, if the analysis asked for some.
        streams: the generators that the module holds, if they are known.
        length: of the whole training.
        task: what a batch means to the module.
        loss_fn: ``(module, batch) -> scalar``; None for the module's ``training_step``.
    """

    module: nn.Module
    probe: Probe
    ranks: Ranks
    moment: Moment
    description: str | None = None
    second_probe: Probe | None = None
    streams: list[Any] | None = None
    length: Length = Length()
    task: Task | None = None
    loss_fn: LossFn | None = None

    def batches(self, probe: Probe | None = None) -> Iterator[Batch]:
        """This process's share of the probe (or of another one), with a progress bar if it takes long.

        Whatever is random in the module draws from streams seeded by the minibatch's number: the same at every
        event, and whichever process has the minibatch.
        """
        probe = self.probe if probe is None else probe
        numbers = self.ranks.shard(range(len(probe.batches)))
        for number in progress(numbers, total=len(numbers), description=self.description):
            batch = probe.batch(number)
            self.terms(batch, probe)  # now, before anybody takes the labels out
            self.seed(batch)
            yield batch

    def terms(self, batch: Batch, probe: Probe | None = None) -> float:
        """How many terms the loss of this minibatch is a mean over: its weight in the mean over all of them."""
        if self.task is None or self.task.counter is EXAMPLES:
            return float(len(batch))
        known = (self.probe if probe is None else probe).terms
        key = (id(self.task), batch.number)
        if key not in known:
            known[key] = self.task.terms(batch.data, len(batch))
        return known[key]

    @property
    def loss_is(self) -> str:
        """What the loss of a picture is, for its caption, where it is not simply the mean over the examples."""
        task = self.task
        if task is None or not task.loss_known or (task.counter is EXAMPLES and not task.sums):
            return ""
        if task.sums:
            return "loss per example (a sum in training)"
        if task.counter is None:
            return f"loss of minibatches of {max(map(len, self.probe.batches))}, which depends on their size"
        return f"loss is a mean over {task.counter.described}"

    def seed(self, batch: Batch) -> None:
        """Begin the random streams of a minibatch anew, and the module's state: before it is run once more."""
        for restore in reversed(self._state):
            restore()
        seed_all(self.probe.seed + batch.number, *self._streams)

    @cached_property
    def _state(self) -> list[Restore]:
        """Puts back what runs change, where they do: all but the parameters, as they are when this is first asked."""
        if self.task is None or not self.task.carries_state:
            return []
        return restores_of(plain_attributes(self.module), (), self.module.buffers())

    @cached_property
    def _streams(self) -> list[Any]:
        """The module's own generators."""
        return generators_of(*self.module.modules()) if self.streams is None else self.streams
