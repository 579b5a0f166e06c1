"""The callback every analysis derives from: hooks -> schedule -> analyse -> publish."""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, final

from torch import nn

from lightning_dynamics.analyses.arguments import COMMON, Data, OnError, check, documented
from lightning_dynamics.analyses.examples import Wanted, advice, explained
from lightning_dynamics.analyses.history import History
from lightning_dynamics.analyses.result import AnalysisResult
from lightning_dynamics.analyses.supply import Supply
from lightning_dynamics.core.checks import speaking, spoken, warn_of_failure
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import CollectiveFailure, Ranks, require_whole_model
from lightning_dynamics.core.isolation import Mode, isolated
from lightning_dynamics.core.lightning import (
    Callback,
    ConfigurationError,
    steps_taken,
    tell,
    training_length,
)
from lightning_dynamics.core.module_state import require_materialized
from lightning_dynamics.core.objective import LossFn, PredictFn, resolve_function
from lightning_dynamics.core.probe import Probe, release_probes
from lightning_dynamics.core.probe_sources import NoIndex
from lightning_dynamics.core.quiet import logging_disabled
from lightning_dynamics.core.recording import Recorded, release_recording
from lightning_dynamics.core.schedule import Due, Length, Moment, Never, Schedule
from lightning_dynamics.core.task import Task
from lightning_dynamics.core.understanding import release_tasks
from lightning_dynamics.figures.result import closing_panels
from lightning_dynamics.panels import Panel, Scalar
from lightning_dynamics.publishing import Event, publish

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

R = TypeVar("R", bound=AnalysisResult)


class AnalysisCallback(Callback, ABC, Generic[R]):
    """Base of every analysis. A subclass says what is captured and how its result is computed, and nothing else.

    It implements :meth:`prepare`, :meth:`measure` and :meth:`combine`; how a result looks belongs to the result's
    class (see :mod:`lightning_dynamics.figures.result`); hooks, schedule, isolation, processes, errors, loggers and
    checkpoints are settled here, and none of the methods here is overridden. What an analysis must remember between
    events goes into ``self.memory``.

    The common arguments of analyses (:data:`~lightning_dynamics.analyses.arguments.COMMON`) are declared in a
    subclass's signature, and handed over here with the rest of its arguments; they become attributes. Docstrings of
    subclasses explain those only that mean something special there: the others are added to them.

    Args:
        arguments: of the subclass, by name: ``locals()``. Those that are not common are passed over.
        identity: those that tell two callbacks apart in a checkpoint, beside the common ones.
        shows: of the events, which are shown with all panels; the others log their numbers, as often as the
            Trainer's ``log_every_n_steps`` says. By default all are shown.
        remembers: further moments at which it is measured, for the sake of ``self.memory`` alone: ``combine`` returns
            None then.
        leaves_out: names of closing panels that are not shown.
        instead: common arguments that the subclass does not have, or has other values for.

    Raises:
        ConfigurationError: on values that cannot work. What cannot work on this module or these data is found before
            training, and follows ``on_error``: by default the callback says why, and rests.
    """

    group: ClassVar[str]
    """The analysis's name, in log keys and file names."""

    result_type: ClassVar[type[AnalysisResult]]
    """Class of its results."""

    smallest_batch: ClassVar[int] = 1
    """Examples a minibatch must have; where the data set runs short, a smaller rest is left out."""

    refusal: str | None = None
    """Why it rests in this training, in words; None while it does not."""

    memory: dict[str, Any]
    """What the analysis remembers between events: tensors and plain values; goes into checkpoints."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Explain the common arguments in the subclass's docstring; have its complaints say whose they are."""
        super().__init_subclass__(**kwargs)
        cls.__doc__ = documented(cls)
        if "__init__" in vars(cls):
            cls.__init__ = speaking(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        identity: Mapping[str, Any],
        shows: Due | None = None,
        remembers: Due | None = None,
        leaves_out: Collection[str] = (),
        **instead: Any,
    ) -> None:
        """Store and check the common arguments."""
        super().__init__()
        defaults: dict[str, Any] = {"second_data": None, "mode": None, "loss_fn": None, "predict_fn": None}
        given = defaults | {name: arguments[name] for name in COMMON if name in arguments} | instead
        check(given)
        self.data: Data = given["data"]
        self.second_data: Data | None = given["second_data"]
        self.num_examples: int = given["num_examples"]
        self.batch_size: int = given["batch_size"]
        self.every_n_epochs: int | None = given["every_n_epochs"]
        self.every_n_train_steps: int | None = given["every_n_train_steps"]
        self.at_start: bool = given["at_start"]
        self.at_end: bool = given["at_end"]
        self.loss_fn: LossFn | None = resolve_function(given["loss_fn"], "loss_fn")
        self.predict_fn: PredictFn | None = resolve_function(given["predict_fn"], "predict_fn")
        self.mode: Mode = given["mode"] or "eval"
        self.seed: int = given["seed"]
        self.name: str | None = given["name"]
        self.on_error: OnError = given["on_error"]
        self.schedule: Due = Schedule(self.every_n_epochs, self.every_n_train_steps, self.at_start, self.at_end)
        self.shows: Due = self.schedule if shows is None else shows
        self.remembers: Due = Never() if remembers is None else remembers
        self.leaves_out = frozenset(leaves_out)
        wanted = Wanted(
            self.data,
            self.second_data,
            self.num_examples,
            self.batch_size,
            self.smallest_batch,
            self.seed,
            self.loss_fn,
            self.predict_fn,
            given["mode"],
        )
        self._supply = Supply(wanted)
        self._identity = {
            "data": self.data if isinstance(self.data, str) else type(self.data).__name__,
            "second_data": "second" if not isinstance(self.second_data, str | None) else self.second_data,
            "num_examples": self.num_examples,
            "batch_size": self.batch_size,
            "schedule": self.schedule,
            "mode": self.mode,
            "seed": self.seed,
            "name": self.name,
            **identity,
        }
        self._history: History[R]
        self._warned: bool
        self._forget()
        self._module: weakref.ref[nn.Module] | None = None
        self._probes: list[Probe] = []
        self._task: Task | None = None
        self._label = self.group

    # ---- what an analysis is -------------------------------------------------------------------------------

    @abstractmethod
    def prepare(self, context: Context) -> None:
        """Find out before training whether the analysis can be done, and what it needs to know of the module.

        Called isolated, in every process, with the same probe; must not talk to the other processes.

        Raises:
            ConfigurationError: it cannot; the text names the argument and the fix.
        """

    @abstractmethod
    def measure(self, context: Context) -> Any:
        """This process's part, from ``context.batches()``. Called isolated; no talking to other processes."""

    @abstractmethod
    def combine(self, part: Any, context: Context) -> R | Callable[[], R] | None:
        """All processes' parts -> the result, the same in each, with sums from ``context.ranks``.

        Where making it takes time and events are many, a function that makes it from ``self.memory`` as it is now.
        None where there is nothing to tell yet, and the memory alone has grown.
        """

    # ---- what the user reads -------------------------------------------------------------------------------

    @property
    @final
    def last_result(self) -> R | None:
        """The latest result, the same in every process; None before the first event."""
        return self._history.last

    @property
    @final
    def results(self) -> list[R]:
        """Results over training, the latest last; at most 64: as training goes on, evenly fewer are kept."""
        return self._history.results()

    @property
    @final
    def label(self) -> str:
        """Prefix of this callback's log keys: the analysis, its ``name``, a number if another has the same."""
        return self._label

    # ---- Lightning's hooks ---------------------------------------------------------------------------------

    @property
    @final
    def state_key(self) -> str:
        """One per configuration, so that two callbacks of one class can live in one Trainer."""
        return self._generate_state_key(**self._identity)

    @final
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, as early as it can be known."""
        if stage != "fit":
            return
        self._supply.forget()
        require_whole_model(trainer)
        own = self.group if self.name is None else f"{self.group}/{self.name}"
        same = [
            callback
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, AnalysisCallback) and (callback.group, callback.name) == (self.group, self.name)
        ]
        number = next((i for i, callback in enumerate(same) if callback is self), 0)
        self._label = own if number == 0 else f"{own}-{number + 1}"

    @final
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the examples, check everything, and analyse the untrained model if asked to."""
        if self._module is not None and self._module() is not pl_module:
            self._forget()  # another model is fitted with the same callback
        self._module = weakref.ref(pl_module)
        self._ready, self.refusal = False, None
        self.mode = self._supply.wanted.mode or "eval"
        self._seen_step = steps_taken(trainer)
        self._supply.start(pl_module)
        self._begin(trainer, pl_module)

    @final
    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        """With the examples, or, where they have to be recorded first, when those are there."""
        moment = Moment("start", trainer.current_epoch, self._seen_step)
        error: Exception | None = None
        task: Task | None = None
        try:
            with self._undisturbed(module):
                require_materialized(module)
                self._probes, task, is_new = self._supply.understood(trainer, module)
                if is_new:
                    tell(str(task))
                self.mode = self._supply.wanted.chosen_mode(task)
                self._task, self.loss_fn = task, task.mean_loss(self._supply.wanted.loss_fn)
            with self._undisturbed(module) as streams:
                self.prepare(self._context(trainer, module, moment, streams))
        except NoIndex as missing:
            error = missing
        except Exception as caught:
            error = explained(caught, task, self.data)
        if Ranks.of(trainer).any(self._supply.waits):
            self._supply.waits = True
            return
        self._ready = not self._failed(trainer, error)
        if error is not None:
            self.refusal = _in_words(error)
        told = "" if task is None or not self._ready else advice(task, self._supply.wanted.mode)
        if told and trainer.is_global_zero:
            warnings.warn(f"{self.speaker}: {told}", stacklevel=2)
        if self._ready and self._history.step is None and self._due(moment):
            self._analyse(trainer, module, moment)

    @final
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the first minibatches, where the data have no index to choose examples by."""
        if not self._supply.waits:
            return
        error: Exception | None = None
        try:
            self._supply.see(trainer, pl_module, batch, batch_idx)
        except Exception as caught:
            error = caught
        if not self._rests(trainer, error):
            self._begin_recorded(trainer, pl_module, at_least=self.num_examples)

    @final
    def _rests(self, trainer: Trainer, error: Exception | None) -> bool:
        """Whether the examples cannot be recorded, in any process."""
        if not self._failed(trainer, error):
            return False
        self._supply.waits, self.refusal = False, "it failed in another process" if error is None else _in_words(error)
        return True

    @final
    def _begin_recorded(self, trainer: Trainer, module: LightningModule, at_least: int) -> None:
        if not self._supply.has(trainer, at_least):
            return
        error: Exception | None = None
        count = 0
        try:
            count = self._supply.complete(trainer, module)
        except Exception as caught:
            error = caught
        if self._rests(trainer, error):
            return
        if trainer.is_global_zero:
            tell(
                f"{self.speaker}: the training data have no index, so the examples are those of the first {count} "
                f"minibatches; it begins at step {self._seen_step}"
            )
        self._begin(trainer, module)

    @final
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Analyse if an optimizer has stepped and the schedule says so."""
        step = steps_taken(trainer, in_batch=True)
        if step == self._seen_step:
            return
        self._seen_step = step
        moment = Moment("step", trainer.current_epoch, step)
        if self._due(moment):
            self._analyse(trainer, pl_module, moment)

    @final
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse if the schedule says so; validation has run before."""
        if self._supply.waits:  # a short epoch: with what there is
            self._begin_recorded(trainer, pl_module, at_least=1)
        moment = Moment("epoch", trainer.current_epoch, steps_taken(trainer))
        if self._due(moment):
            self._analyse(trainer, pl_module, moment)

    @final
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Analyse the trained model if asked to, then show what needs the whole run."""
        # Lightning has already moved on to the epoch that will not be.
        moment = Moment("end", max(0, trainer.current_epoch - 1), steps_taken(trainer))
        if self._due(moment):
            self._analyse(trainer, pl_module, moment)
        error: Exception | None = None
        if trainer.is_global_zero and trainer.loggers and self._history.last is not None:
            try:
                closing = closing_panels(self._history.last, self.results)
                panels = self._labelled({key: make() for key, make in closing.items() if key not in self.leaves_out})
                if panels:
                    publish(trainer.loggers, Event(self.label, moment.epoch, moment.step, panels))
            except Exception as caught:
                error = caught
        self._failed(trainer, error)
        if not trainer.loggers and self._history.last is not None and trainer.is_global_zero:
            print(f"{type(self).__name__}: the Trainer has no logger; the results are in `callback.results`.")

    @final
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the examples."""
        self._supply.forget()
        self._release(trainer)

    @final
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Free the examples: Lightning skips ``teardown`` when training fails, and may still write a checkpoint."""
        self._release(trainer)

    @final
    def _release(self, trainer: Trainer) -> None:
        self._history.finish()
        self._probes, self._task = [], None
        release_probes(trainer)
        release_tasks(trainer)
        release_recording(trainer)

    @final
    def state_dict(self) -> dict[str, Any]:
        """The results kept and the analysis's memory: tensors and plain values only."""
        return {"history": self._history.to_state(), "memory": self.memory} | self._supply.state()

    @final
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._history.load_state(state_dict["history"], self.result_type)  # type: ignore[arg-type]
        self.memory = state_dict["memory"]
        self._supply.load(state_dict)

    @final
    @contextmanager
    def only_prepares(self) -> Iterator[None]:
        """Within, it analyses at no moment, and rests where it cannot work; then all is as it was."""
        before = dict(vars(self))
        self._supply = Supply(self._supply.wanted)
        self.on_error, self.schedule, self.remembers = "warn", Never(), Never()
        self._forget()
        self._module = None
        try:
            yield
        finally:
            vars(self).clear()
            vars(self).update(before)

    @final
    def provide(self, recorded: list[Recorded]) -> None:
        """Minibatches for data without an index, instead of those that training would receive."""
        self._supply.recorded = recorded

    # ---- one event -----------------------------------------------------------------------------------------

    @final
    def _due(self, moment: Moment) -> bool:
        return self.schedule.due(moment) or self.remembers.due(moment)

    @final
    def _analyse(self, trainer: Trainer, module: nn.Module, moment: Moment) -> None:
        """Measure, combine, publish; after each part the processes agree whether it worked."""
        if not self._ready:
            return
        if self._history.step != moment.step:
            self._measure(trainer, module, moment)
        elif self.shows.due(moment) and self._shown_step != moment.step:
            self._publish(trainer, moment)

    @final
    def _measure(self, trainer: Trainer, module: nn.Module, moment: Moment) -> None:
        part, found, error = None, None, None
        try:
            with self._undisturbed(module) as streams:
                context = self._context(trainer, module, moment, streams)
                context.ranks.synchronize_buffers(module)
                part = self.measure(context)
        except Exception as caught:
            error = caught
        if self._failed(trainer, error):
            return
        try:
            self._history.settle()
            found = self.combine(part, context)
            if found is not None:
                self._history.add(found, moment.step)
        except Exception as caught:
            error = caught
        if not self._failed(trainer, error) and found is not None:
            self._publish(trainer, moment)

    @final
    def _publish(self, trainer: Trainer, moment: Moment) -> None:
        """Show the latest result: on rank zero, with all panels if it is time for them."""
        shown = self.shows.due(moment)
        if shown:
            self._shown_step = moment.step
        elif not trainer.log_every_n_steps or moment.step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        error: Exception | None = None
        if trainer.is_global_zero and trainer.loggers:
            try:
                result = self._history.last
                assert result is not None
                panels: dict[str, Panel] = dict(result.panels()) if shown else {}
                panels |= {key: Scalar(value) for key, value in result.scalars().items()}
                panels = self._labelled(panels)
                event = Event(self.label, moment.epoch, moment.step, panels, result if shown else None)
                publish(trainer.loggers, event)
            except Exception as caught:
                error = caught
        self._failed(trainer, error)

    @final
    def _labelled(self, panels: Mapping[str, Panel]) -> dict[str, Panel]:
        return {f"{self.label}/{key}": panel for key, panel in panels.items()}

    @final
    @contextmanager
    def _undisturbed(self, module: nn.Module) -> Iterator[list[Any]]:
        """Training and its logs notice nothing of what happens inside; yields the module's generators."""
        with isolated(module, mode=self.mode, seed=self.seed) as streams, logging_disabled(module):
            yield streams

    @final
    def _context(self, trainer: Trainer, module: nn.Module, moment: Moment, streams: list[Any]) -> Context:
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        description = self.label if shown else None
        second = self._probes[1] if self.second_data is not None else None
        length = Length(*training_length(trainer), is_fast_dev_run=bool(trainer.fast_dev_run))  # type: ignore[attr-defined]
        return Context(
            module,
            self._probes[0],
            Ranks.of(trainer),
            moment,
            description,
            second,
            streams,
            length,
            self._task,
            self.loss_fn,
        )

    @final
    def _failed(self, trainer: Trainer, error: Exception | None) -> bool:
        """Whether any process failed; all get the same answer. Tells the user, by ``on_error``."""
        # A failure in common work is known to all; about any other the processes must still agree.
        if not isinstance(error, CollectiveFailure) and not Ranks.of(trainer).any(error is not None):
            return False
        if isinstance(error, CollectiveFailure):
            error = error.own
        if self.on_error == "raise":
            if isinstance(error, ConfigurationError):
                raise spoken(error, self.speaker) from error.__cause__
            if error is not None:
                raise error
            raise RuntimeError(f"{self.speaker}: the analysis failed in another process; its error says why")
        if error is not None and not self._warned:
            self._warned = True
            warn_of_failure(self.speaker, error)
        return True

    @property
    @final
    def speaker(self) -> str:
        """How every message begins."""
        own = type(self).__name__
        return own if self._label == self.group else f"{own} ({self._label})"

    @final
    def _forget(self) -> None:
        """As before the first training."""
        self._history = History()
        self._warned = False
        self._ready = False
        self._seen_step = 0
        self._shown_step = -1
        self.memory = {}


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
