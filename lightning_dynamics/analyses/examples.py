"""The examples of an analysis, and what a batch of them means to the module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, PredictFn
from lightning_dynamics.core.probe import Probe, probe_for, recorded_probe
from lightning_dynamics.core.recording import Recorded, batch_sizes
from lightning_dynamics.core.task import Task
from lightning_dynamics.core.understanding import task_for

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


@dataclass(frozen=True)
class Wanted:
    """What an analysis asks for, in the words of its arguments.

    Args:
        data: the first probe's.
        second_data: the second's; None for no second.
        num_examples: of each.
        batch_size: of each.
        smallest_batch: a minibatch may have.
        seed: of the choice.
        loss_fn: the user's.
        predict_fn: the user's.
        mode: of the analysis; None if it was not said.
    """

    data: Any
    second_data: Any
    num_examples: int
    batch_size: int
    smallest_batch: int
    seed: int
    loss_fn: LossFn | None
    predict_fn: PredictFn | None
    mode: Mode | None

    def probes(
        self, trainer: Trainer, module: LightningModule, recorded: Sequence[Recorded] | None = None
    ) -> list[Probe]:
        """The probes; of training data without an index, from the minibatches recorded.

        Raises:
            NoIndex: they must be recorded first.
            ConfigurationError: see :func:`~lightning_dynamics.core.probe.probe_for`.
        """
        return [
            recorded_probe(
                trainer, recorded, seed=self.seed, num_examples=self.num_examples, batch_size=self.batch_size
            )
            if recorded is not None and data == "train"
            else probe_for(
                trainer,
                module,
                data,
                argument=argument,
                num_examples=self.num_examples,
                batch_size=self.batch_size,
                smallest_batch=self.smallest_batch,
                seed=self.seed,
            )
            for argument, data in (("data", self.data), ("second_data", self.second_data))
            if data is not None
        ]

    def understood(
        self, trainer: Trainer, module: LightningModule, recorded: Sequence[Recorded] | None = None
    ) -> tuple[list[Probe], Task, bool]:
        """Probes and task, and whether the task is new to this training.

        A loss that is no mean over anything in a batch (a contrastive one) is another loss for batches of another
        size: its minibatches are as large as those of training.
        """
        probes = self.probes(trainer, module, recorded)
        task, is_new = task_for(
            trainer, module, probes[0], loss_fn=self.loss_fn, predict_fn=self.predict_fn, mode=self.mode or "eval"
        )
        if self.chosen_mode(task) != (self.mode or "eval"):
            probes, task, _ = replace(self, mode="train").understood(trainer, module, recorded)
            return probes, task, is_new
        if task.counter is None and task.loss_known and recorded is None:
            sizes = batch_sizes(trainer.train_dataloader if isinstance(self.data, str) else self.data)
            if len(sizes) == 1:
                (size,) = sizes
                if size != self.batch_size:
                    own = replace(self, batch_size=size, smallest_batch=size, num_examples=max(size, self.num_examples))
                    probes = own.probes(trainer, module)
            probes = [_of_one_size(probe) for probe in probes]
        return probes, task, is_new

    def chosen_mode(self, task: Task) -> Mode:
        """The mode that was said; else eval mode, unless that is another function than the one that is trained."""
        return self.mode or ("train" if task.as_trained_only else "eval")


def _of_one_size(probe: Probe) -> Probe:
    """Without a smaller last minibatch."""
    size = max(map(len, probe.batches))
    kept = tuple(batch for batch in probe.batches if len(batch) == size)
    return probe if len(kept) == len(probe.batches) else replace(probe, batches=kept, terms={}, _kept={}, _views={})


def advice(task: Task, said: Mode | None) -> str:
    """What the user should know before numbers are shown; "" if nothing.

    Args:
        task: what was found out.
        said: the mode; None if the user left it open.
    """
    texts = []
    if task.keeps_state:
        texts.append(
            f"`training_step` of {task.module} changes something that cannot be put back: a second run of it differs "
            "from the first, so training beside an analysis may differ too; keep such state in the module"
        )
    if said is None and task.as_trained_only:
        layers = task.eval_fails or f"{', '.join(task.differing)} differ"
        texts.append(
            f"in eval mode {task.module} is another function than the one that is trained ({layers}), so it is "
            "analysed in train mode, with the same random numbers at every event; `mode='eval'` is the other one"
        )
    return "; ".join(texts)


def explained(error: Exception, task: Task | None, data: Any) -> Exception:
    """The error of a preparation; in words where data other than those of training may be the reason."""
    if task is None or isinstance(error, ConfigurationError) or task.loss_known or isinstance(data, str):
        return error
    refused = ConfigurationError(
        f"{task.module} fails on a minibatch of `data` ({type(error).__name__}: {error}), which must be as those of "
        "training are: pass `data='train'`, or a DataLoader with the same `collate_fn`"
    )
    refused.__cause__ = error
    return refused
