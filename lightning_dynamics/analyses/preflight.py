"""What can be analysed on a module and its data, found out without training."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.examples import Wanted, advice
from lightning_dynamics.core.batch_tree import worded
from lightning_dynamics.core.lightning import Callback, both, first_minibatches, trainer_for
from lightning_dynamics.core.probe_sources import NoIndex
from lightning_dynamics.core.random_state import preserved_random_state
from lightning_dynamics.core.recording import Recorded, Recording
from lightning_dynamics.core.task import Task

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_EXAMPLES = 64  # that experiments choose from where no callback asks for more


@dataclass(frozen=True)
class Verdict:
    """Whether a callback can work here.

    Args:
        callback: its class, and its label where that tells more.
        works: every kind of pass that it makes has been made once.
        reason: why it cannot, with the argument to give; "" if it works.
        advice: what its warnings said.
    """

    callback: str
    works: bool
    reason: str = ""
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preflight:
    """What was understood of a module and its data, and which callbacks can work.

    Args:
        task: what a batch means to the module.
        callbacks: one verdict for each that was given.
        memory: forecast, in bytes by part; empty while nobody makes one.
        cost: forecast, in training steps by callback; likewise.
    """

    task: Task
    callbacks: tuple[Verdict, ...] = ()
    memory: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "task": self.task.to_dict(),
            "callbacks": [
                {"callback": one.callback, "works": one.works, "reason": one.reason, "advice": list(one.advice)}
                for one in self.callbacks
            ],
            "memory": self.memory,
            "cost": self.cost,
        }

    def __str__(self) -> str:
        """All of it, for people."""
        task = self.task
        lines = [str(task)]
        if task.way is not None and task.predict_fn is None:
            call = f"{task.way.name or 'forward'}()" if task.way.template is None or task.way.name else "forward()"
            where = "as `training_step` calls it" if task.way.in_step else "called by its signature"
            lines.append(f"  outputs: those of {call}, {where}")
        for path, axis in task.axes.items():
            along = f"axis {axis}" if isinstance(axis, int) else "its items"
            lines.append(f"  {worded(path)}: examples along {along}")
        if task.random:
            lines.append(f"  random in train mode: {', '.join(task.random)}")
        lines += [f"  not known: {note}" for note in task.notes]
        told = advice(task)
        lines += [f"  {told}"] if told else []
        for one in self.callbacks:
            lines.append(f"{one.callback}: " + ("works" if one.works else f"rests: {one.reason}"))
            lines += [f"  {text}" for text in one.advice]
        return "\n".join(lines)


class _Stopped(Exception):
    """Training is not wanted."""


def preflight(module: LightningModule, data: Any, callbacks: Sequence[Any] = ()) -> Preflight:
    """Say, without training, what a module's batches mean and which callbacks can work on it; prints it, too.

    A Trainer is set up as for training on one device, with its hooks up to the first batch. The module and the
    callbacks are left as they were.

    Args:
        module: to be trained.
        data: a LightningDataModule, a DataLoader, or a Dataset.
        callbacks: analyses to try.

    Returns:
        The report: ``str()`` for people, ``.to_dict()`` for machines.

    Raises:
        ConfigurationError: no LightningModule.
    """
    analyses = [callback for callback in callbacks if isinstance(callback, AnalysisCallback)]
    tried = [callback.for_preflight() for callback in analyses]
    look = _Look(tried)
    flags = [(sub, sub.training) for sub in module.modules()]
    trainer_before = module.__dict__.get("_trainer")
    with warnings.catch_warnings(record=True) as heard, preserved_random_state(module):
        warnings.simplefilter("always")
        trainer = trainer_for(
            module,
            max_epochs=1,
            accelerator="cpu" if module.device.type == "cpu" else "auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[look, *tried, _Stop()],
        )
        try:
            if isinstance(data, both("LightningDataModule")):
                trainer.fit(module, datamodule=data)  # type: ignore[arg-type]
            else:
                trainer.fit(module, data if _is_loader(data) else DataLoader(data, batch_size=32))
        except _Stopped:
            pass
        finally:
            module.__dict__["_trainer"] = trainer_before
            for sub, flag in flags:
                sub.training = flag
    assert look.task is not None
    texts = [str(warning.message) for warning in heard]
    verdicts = [_verdict(callback, tried, texts) for callback in _pairs(callbacks, tried)]
    report = Preflight(look.task, tuple(verdicts))
    print(report)
    return report


def _is_loader(data: Any) -> bool:
    return isinstance(data, DataLoader | dict) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _pairs(callbacks: Sequence[Any], tried: Sequence[AnalysisCallback[Any]]) -> list[Any]:
    own = iter(tried)
    return [next(own) if isinstance(callback, AnalysisCallback) else callback for callback in callbacks]


def _verdict(callback: Any, tried: Sequence[AnalysisCallback[Any]], texts: Sequence[str]) -> Verdict:
    if not isinstance(callback, AnalysisCallback):
        return Verdict(type(callback).__name__, True, advice=("no analysis of this suite: not tried",))
    said = tuple(text for text in texts if text.startswith(f"{callback.speaker}:"))
    return Verdict(callback.speaker, callback.refusal is None, callback.refusal or "", said)


class _Look(Callback):
    """Finds out the task before the callbacks do, and reads a few minibatches where they would be recorded."""

    def __init__(self, tried: Sequence[AnalysisCallback[Any]]) -> None:
        super().__init__()
        self.tried = tried
        self.task: Task | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = Wanted("train", None, _EXAMPLES, _EXAMPLES, 1, 0, None, None, "train")
        try:
            _, self.task, _ = wanted.understood(trainer, pl_module)
        except NoIndex:
            most = max([_EXAMPLES, *(callback.num_examples for callback in self.tried)])
            recorded = self._read(trainer, pl_module, most)
            for callback in self.tried:
                callback.provide(recorded)
            _, self.task, _ = wanted.understood(trainer, pl_module, recorded)

    def _read(self, trainer: Trainer, module: LightningModule, num_examples: int) -> list[Recorded]:
        recording = Recording.of(trainer)
        for number, batch in enumerate(islice(first_minibatches(trainer, module), num_examples)):
            recording.see(copy.deepcopy(batch), 0, number)
            if recording.count() >= num_examples:
                break
        return recording.batches


class _Stop(Callback):
    """Ends training before its first batch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _Stopped
