"""What can be analysed on a module and its data, found out without training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.examples import Wanted, advice
from lightning_dynamics.core.batch_tree import worded
from lightning_dynamics.core.lightning import Callback, ConfigurationError, both, first_minibatches, package_of
from lightning_dynamics.core.probe_sources import NoIndex
from lightning_dynamics.core.random_state import preserved_random_state
from lightning_dynamics.core.recording import Recording
from lightning_dynamics.core.task import Task

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_EXAMPLES = 64  # that experiments choose from where no callback asks for more
_EPOCHS = 1000  # nobody knows how long training will be: enough for whatever is planned


@dataclass(frozen=True)
class Verdict:
    """Whether a callback can work here.

    Args:
        callback: its class, and its label where that tells more.
        works: every kind of pass that it makes has been made once; None if it is no analysis, and was not tried.
        reason: why it cannot, with the argument to give; "" if it works.
        advice: what its warnings said.
    """

    callback: str
    works: bool | None
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
        told = advice(task, None)
        lines += [f"  {told}"] if told else []
        for one in self.callbacks:
            said = "not tried" if one.works is None else "works" if one.works else f"rests: {one.reason}"
            lines.append(f"{one.callback}: {said}")
            lines += [f"  {text}" for text in one.advice]
        return "\n".join(lines)


class _Stopped(Exception):
    """Training is not wanted."""


def preflight(module: LightningModule, data: Any, callbacks: Sequence[Any] = ()) -> Preflight:
    """Say, without training, what a module's batches mean and which callbacks can work on it; prints it, too.

    A Trainer is set up as for training on one device, with its hooks up to the first batch. The module, the data and
    the callbacks are left as they were; what hooks of the module or the data module make, stays.

    Args:
        module: to be trained.
        data: what training is given: a LightningDataModule, a DataLoader, several in a dict or list, or any iterable
            of minibatches that can be iterated anew; or a Dataset, read in minibatches of 32.
        callbacks: analyses to try.

    Returns:
        The report: ``str()`` for people, ``.to_dict()`` for machines.

    Raises:
        ConfigurationError: no LightningModule, or data that are empty or can be read only once.
    """
    if isinstance(data, Iterator):
        raise ConfigurationError(
            f"`data` is a {type(data).__name__}, which can be read only once: training would miss what is read here; "
            "pass an object whose `__iter__` begins anew, a DataLoader, say"
        )
    package = package_of(module)
    tried = [callback for callback in callbacks if isinstance(callback, AnalysisCallback)]
    look = _Look(tried)
    with ExitStack() as back:
        back.enter_context(_left_as_it_was(module, data))
        for callback in tried:
            back.enter_context(callback.only_prepares())
        heard = back.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        trainer = package.Trainer(
            max_epochs=_EPOCHS,
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
                trainer.fit(module, datamodule=data)
            else:
                trainer.fit(module, DataLoader(data, batch_size=32) if _is_dataset(data) else data)
        except _Stopped:
            pass
        if look.task is None:
            raise ConfigurationError("`data` are empty: training would end before its first minibatch")
        texts = [str(warning.message) for warning in heard]
        report = Preflight(look.task, tuple(_verdict(callback, texts) for callback in callbacks))
    print(report)
    return report


@contextmanager
def _left_as_it_was(module: LightningModule, data: Any) -> Iterator[None]:
    """Puts back what a Trainer does to a module and its data: references to it, flags, device, random numbers."""
    flags = [(sub, sub.training) for sub in module.modules()]
    attached = [(owner, owner.__dict__["_trainer"]) for owner in module.modules() if "_trainer" in owner.__dict__]
    owner_of_data = isinstance(data, both("LightningDataModule"))
    data_trainer, device = data.trainer if owner_of_data else None, module.device
    with preserved_random_state(module, data):
        try:
            yield
        finally:
            for owner, before in attached:
                owner.__dict__["_trainer"] = before
            if owner_of_data:
                data.trainer = data_trainer
            for sub, flag in flags:
                sub.training = flag
            if module.device != device:  # Lightning leaves it on the CPU
                module.to(device)


def _is_dataset(data: Any) -> bool:
    """Whether it hands out examples, not minibatches."""
    if isinstance(data, DataLoader | dict) or data is None:
        return False
    if isinstance(data, list | tuple) and any(isinstance(one, DataLoader) for one in data):
        return False
    return isinstance(data, IterableDataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _verdict(callback: Any, texts: Sequence[str]) -> Verdict:
    if not isinstance(callback, AnalysisCallback):
        return Verdict(type(callback).__name__, None, "it is no analysis")
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
            recording = self._read(trainer, pl_module, most)
            for callback in self.tried:
                callback.provide(recording.first(callback.num_examples))
            _, self.task, _ = wanted.understood(trainer, pl_module, recording.first(_EXAMPLES))

    def _read(self, trainer: Trainer, module: LightningModule, num_examples: int) -> Recording:
        recording = Recording.of(trainer)
        for number, batch in enumerate(islice(first_minibatches(trainer, module), num_examples)):
            recording.see(batch, 0, number)
            if recording.count() >= num_examples:
                break
        return recording


class _Stop(Callback):
    """Ends training before its first batch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _Stopped
