"""FingerprintCallback: write down what every training step was, to the bit."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_dynamics.analyses.arguments import OnError, check
from lightning_dynamics.analyses.fingerprint.contents import (
    Digests,
    ModuleTensors,
    PendingBatch,
    PendingDigests,
    Snapshot,
    losses,
    number,
    optimizer_states,
    random_states,
    read_digests,
    settings,
)
from lightning_dynamics.analyses.fingerprint.environment import folder_of, header_of
from lightning_dynamics.analyses.fingerprint.journal import DigestsByKind, Journal, Record, chained, file_in
from lightning_dynamics.core.checks import check_count, warn_of_failure
from lightning_dynamics.core.distributed import require_whole_model
from lightning_dynamics.core.lightning import Callback, ConfigurationError, steps_taken
from lightning_dynamics.core.module_state import require_materialized
from lightning_dynamics.core.parameters import select_parameters
from lightning_dynamics.panels import Table
from lightning_dynamics.publishing import Event, publish

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class FingerprintCallback(Callback):
    r"""Write a digest of every training step to a file, so that two runs can be compared bit by bit.

    "The same seed gives the same run": :func:`~lightning_dynamics.compare_fingerprints` says whether it did, and if
    not, names the first step and the first tensor at which the runs part, in the order of cause and effect.

    ======================  ============================  ==========================================================
    what                    when                          whose bits
    ======================  ============================  ==========================================================
    parameters              ``on_train_batch_start``      those that ``parameters`` selects
    buffers                 ``on_train_batch_start``      all, running statistics among them
    optimizer (on request)  ``on_train_batch_start``      the optimizers' state, e.g. momenta
    random states           ``on_train_batch_start``      torch, every CUDA device in use, NumPy, Python; the batch
                                                          has been loaded by then
    settings                ``on_train_batch_start``      the optimizers' parameter groups: learning rates and so on
    batch                   ``on_train_batch_start``      every tensor and value in it; the examples in any order
    loss                    ``on_train_batch_end``        as ``training_step`` returned it
    gradients (on request)  ``on_train_batch_end``        ``.grad``, as the optimizer has left them
    ======================  ============================  ==========================================================

    The first three are the state *after* the step before; comparisons call them so. They are read as late as possible,
    so that nothing that happens between two steps (other callbacks, validation) goes unseen; the state after the last
    step follows when training ends. The loader is not asked which examples it drew, which would disturb it: the bits
    of each example show it, and whether only their order differs. If a data set returns the index with each example,
    the index is in the batch, and so in the fingerprint.

    The file is ``fingerprint-rank{r}.jsonl``, one for each process, JSON in lines, about 16 bytes for each tensor that
    changed and 0.4 KB besides; memory does not grow. It is flushed at every step. What was there before is kept as
    ``fingerprint-rank{r}.previous.jsonl``. A run that is resumed from a checkpoint goes on in the same file after the
    checkpoint's step; where it writes to another folder, earlier steps are copied from the old one, if that is there.

    The run digest, :attr:`run_digest`, is one word for everything but the random states, for comparing runs that have
    the same arguments here by eye. Rank zero's is printed when training ends, and logged:

    ====================  =======  =================================================
    ``fingerprint/run``   table    the run digest, steps, and where the file is
    ====================  =======  =================================================

    Cost: the parameters are read once, on their device, with one host synchronisation (see
    :func:`~lightning_dynamics.fingerprint.digest.sketch`); a step that is not due touches no tensor. No process waits
    for another one, and training is bit for bit the same.

    Args:
        path: folder for the files. By default ``fingerprint/`` in the first logger's folder, or in the Trainer's
            ``default_root_dir``.
        every_n_train_steps: digest every n-th optimizer step, with all the batches that it accumulates.
        parameters: globs: whose bits, and whose gradients and optimizer state.
        gradients: whether to digest gradients; tells a backward pass from an optimizer that differs.
        optimizer_state: whether to digest it.
        name: tells several of these apart: part of the default folder, and of the logged key.
        on_error: ``"warn"``: if digesting or writing fails, this process warns once, with the traceback, writes no
            more, and training goes on; ``"raise"``: it ends training.

    Raises:
        ConfigurationError: before training: a pattern that matches no parameter, a ``path`` that is a file or
            another callback's, a strategy that shards parameters.

    Example::

        trainer = Trainer(callbacks=[FingerprintCallback("runs/first")])
        trainer.fit(module)
        print(compare_fingerprints("runs/first", "runs/second") or "bit for bit the same")
    """

    def __init__(
        self,
        path: str | None = None,
        every_n_train_steps: int = 1,
        parameters: str | Sequence[str] = "*",
        gradients: bool = False,
        optimizer_state: bool = False,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        super().__init__()
        if path is not None and (not isinstance(path, str | os.PathLike) or not str(path)):
            raise ConfigurationError(f"`path` must be the name of a folder, or None for the logger's, got {path!r}")
        check_count("every_n_train_steps", every_n_train_steps)
        check({"name": name, "on_error": on_error})
        self.path = path
        self.every_n_train_steps = every_n_train_steps
        self.parameters = parameters
        self.gradients = gradients
        self.optimizer_state = optimizer_state
        self.name = name
        self.on_error = on_error
        self.folder: Path | None = None
        """Where the files of the latest training are."""
        self._earlier: Path | None = None
        self._module: weakref.ref[nn.Module] | None = None
        self._journal: Journal | None = None
        self._recording = False
        self._restored = False
        self._pending: tuple[Digests, Snapshot, int | None] | None = None
        self._warned = False
        self._forget()

    @property
    def run_digest(self) -> str:
        """16 hexadecimal digits for this process's run, random states left out; once it has ended, with its result."""
        return self._final or self._digest

    @property
    def state_key(self) -> str:
        """One per configuration, so that two of these can live in one Trainer."""
        patterns = self.parameters if isinstance(self.parameters, str) else list(self.parameters)
        chosen = [self.every_n_train_steps, patterns, self.gradients, self.optimizer_state]
        return self._generate_state_key(name=self.name, chosen=chosen)

    # ---- Lightning's hooks ---------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle where to write, the same for all processes, and refuse what cannot work."""
        if stage != "fit":
            return
        require_whole_model(trainer)
        self._earlier = self.folder if self._earlier is None else self._earlier
        folder = str(folder_of(trainer, self.path, self.name)) if trainer.is_global_zero else ""
        self.folder = Path(trainer.strategy.broadcast(folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigurationError(f"`path` must be a folder, and {self.folder} is a file")
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if other is not self and isinstance(other, FingerprintCallback) and other.folder == self.folder:
                raise ConfigurationError(
                    f"two FingerprintCallbacks would write to {self.folder}: give each a `path` or a `name` of its own"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the file, or go on in it."""
        select_parameters(pl_module, self.parameters)
        same = self._module is not None and self._module() is pl_module
        if not (same or self._restored):
            self._forget()
        self._module = weakref.ref(pl_module)
        self._pending, self._warned = None, False
        self._recording = True
        self._guarded(lambda: self._begin(trainer, pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look again what the module holds: layers may have been added."""
        if self._recording:
            self._tensors = ModuleTensors.of(pl_module, self.parameters)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sketch what the step begins with, before it can change."""
        self._pending = None  # a step that was begun and not ended
        if self._recording and (steps_taken(trainer) + 1) % self.every_n_train_steps == 0:
            self._guarded(lambda: self._look(trainer, batch))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read everything and write it down."""
        self._n += 1
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._guarded(lambda: self._write(trainer, outputs, batch_idx, *pending))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down the result, and say the run digest."""
        self._guarded(lambda: self._finish(trainer))
        self._guarded(lambda: self._tell(trainer))
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the file."""
        if stage == "fit":
            self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the file: Lightning skips ``teardown`` when training fails."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Plain values: batches so far, the run digest, and where the file is."""
        return {"n": self._n, "digest": self._digest, "folder": "" if self.folder is None else str(self.folder)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._n, self._digest, self._final = state_dict["n"], state_dict["digest"], ""
        self._earlier = Path(state_dict["folder"]) if state_dict["folder"] else None
        self._restored = True

    # ---- one record ----------------------------------------------------------------------------------------

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        require_materialized(module)
        restored, self._restored = self._restored, False
        self._final = ""
        self._tensors = ModuleTensors.of(module, self.parameters)
        if self._n == 0 and steps_taken(trainer):  # resumed from the checkpoint of a training without fingerprint
            self._n = trainer.fit_loop.total_batch_idx + 1
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # a rehearsal leaves no files
            assert self.folder is not None
            rank = trainer.global_rank
            self._journal = Journal(
                file_in(self.folder, rank),
                header_of(trainer, self._tensors, self.every_n_train_steps),
                after=self._n,
                # A checkpoint holds rank zero's.
                digest=self._digest if rank == 0 or not restored else None,
                earlier=None if self._earlier is None else file_in(self._earlier, rank),
            )
            self._digest = self._journal.digest
        self._earlier = self.folder

    def _look(self, trainer: Trainer, batch: Any) -> None:
        sections = self._state(trainer) | {"settings": PendingDigests(settings(trainer.optimizers))}
        brought = PendingBatch(batch)
        self._pending = random_states(), Snapshot({**sections, "batch": brought}), brought.size

    def _write(
        self, trainer: Trainer, outputs: Any, batch_idx: int, rng: Digests, seen: Snapshot, size: int | None
    ) -> None:
        lost = losses(outputs)
        came_out = {"loss": PendingDigests(lost)}
        if self.gradients:
            came_out["gradients"] = PendingDigests(self._tensors.gradients())
        read = read_digests(seen, Snapshot(came_out))
        leaves, examples = read.pop("batch")
        sections: DigestsByKind = {"rng": rng, "batch": leaves, **({"examples": examples} if examples else {}), **read}
        self._digest = chained(self._digest, self._n, sections)
        if self._journal is not None:
            loss = number(lost[0][1]) if len(lost) == 1 else None
            step, epoch = steps_taken(trainer, in_batch=True), trainer.current_epoch
            self._journal.add(Record(self._n, step, epoch, batch_idx, loss, size, sections, self._digest))

    def _finish(self, trainer: Trainer) -> None:
        """The state after the last step; it is no part of what a later fit goes on from."""
        n = self._n + 1
        sections = read_digests(Snapshot(self._state(trainer)))
        self._final = chained(self._digest, n, sections)
        if self._journal is not None:
            step, epoch = steps_taken(trainer), trainer.current_epoch
            self._journal.add(Record(n, step, epoch, None, None, None, sections, self._final, end=True))

    def _state(self, trainer: Trainer) -> dict[str, PendingDigests | PendingBatch]:
        parameters = self._tensors.tensors("parameters")
        state: dict[str, PendingDigests | PendingBatch] = {
            "parameters": PendingDigests(parameters),
            "buffers": PendingDigests(self._tensors.tensors("buffers")),
        }
        if self.optimizer_state:
            state["optimizer"] = PendingDigests(optimizer_states(trainer.optimizers, parameters))
        return state

    # ---- around it -----------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it; a failure ends the recording, and training only if it should."""
        if not self._recording:
            return
        try:
            work()
        except Exception as error:
            self._close()
            if self.on_error == "raise":
                raise
            if not self._warned:
                self._warned = True
                warn_of_failure("FingerprintCallback", error)

    def _close(self) -> None:
        self._recording, self._pending = False, None
        if self._journal is not None:
            journal, self._journal = self._journal, None
            try:
                journal.close()
            except OSError:  # nothing waits to be written: every record was flushed, or its failure was told
                pass

    def _tell(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or self._journal is None:
            return
        print(f"FingerprintCallback: run digest {self._final} after {self._n} training batches; {self._journal.path}")
        if trainer.loggers:
            label = "fingerprint" if self.name is None else f"fingerprint/{self.name}"
            columns = ["run digest", "training batches", "optimizer steps", "processes", "file"]
            row = [self._final, self._n, steps_taken(trainer), trainer.world_size, str(self._journal.path)]
            epoch = max(0, trainer.current_epoch - 1)  # Lightning has already moved on to the epoch that will not be
            table = Table(
                columns, [row], "Equal run digests: equal batches, losses, parameters and buffers, to the bit"
            )
            publish(trainer.loggers, Event(label, epoch, steps_taken(trainer), {f"{label}/run": table}))

    def _forget(self) -> None:
        """As before the first training."""
        self._n = 0
        self._digest = ""
        self._final = ""
        self._earlier = None
