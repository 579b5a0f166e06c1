"""The intrinsic dimension of a task for a network: trainings in subspaces of growing dimension."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_dynamics.core.checks import check_count, is_count
from lightning_dynamics.core.lightning import ConfigurationError, trainer_for
from lightning_dynamics.core.random_state import preserved_random_state, seed_all
from lightning_dynamics.interventions.random_subspace.callback import RandomSubspaceCallback
from lightning_dynamics.interventions.random_subspace.estimator import Kind
from lightning_dynamics.studies.intrinsic_dimension.result import IntrinsicDimension, from_runs, read_log

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

_SMALLEST = 8  # of the grid's dimensions
_QUIET = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


def intrinsic_dimension(
    module_factory: Callable[[], LightningModule],
    data: Any,
    *,
    baseline: float | None = 1.0,
    threshold: float = 0.9,
    seeds: Sequence[int] = (0, 1, 2),
    dims: Sequence[int] | None = None,
    resolution: float = 1.1,
    metric: str = "val/accuracy",
    max_epochs: int = 10,
    projection: Kind = "fastfood",
    parameters: str | Sequence[str] = "*",
    trainer_options: Mapping[str, Any] | None = None,
    log: str | PathLike[str] | None = None,
    show_progress: bool = True,
) -> IntrinsicDimension:
    """The smallest dimension of a random subspace in which a network still learns a task (Li et al. 2018, section 2).

    The network is trained directly, then in random subspaces of growing dimension, each with every seed; then
    bisection in steps of equal ratio finds the dimension at which the mean over seeds reaches ``threshold`` times a
    baseline. It is found for both of the paper's baselines: one number for all networks, and the network's own
    performance in direct training. With the default threshold this is d_int90.

    A seed determines everything random in one training: initial weights, the order of examples, the subspace. The
    random state of the caller's program does not change. Whether a dimension suffices depends on how well training is
    done: a poor optimizer, learning rate or number of epochs gives a dimension that is too large.

    Cost: about (log₂ of the dimension found - 1 + bisections) x seeds trainings in subspaces, besides the
    direct ones; ``benchmarks/subspace.py`` says how long one takes.

    Args:
        module_factory: makes the LightningModule; called once per training, after the seed is set.
        data: a LightningDataModule, or a pair (training loader, validation loader).
        baseline: the global one, e.g. 1.0 for an accuracy of 100 %; None to use only the network's own.
        threshold: the share of the baseline that counts as having learned.
        seeds: of the trainings.
        dims: the dimensions to try before bisection; by default 8, 16, 32, … until both baselines are reached, or the
            number of parameters.
        resolution: bisection ends when two neighbouring dimensions differ by at most this ratio.
        metric: a logged metric, larger is better; its value after the last epoch counts.
        max_epochs: of each training.
        projection: see :class:`RandomSubspaceCallback`.
        parameters: see :class:`RandomSubspaceCallback`.
        trainer_options: further arguments of the Trainer.
        log: a file with one line per training, written as they end. If it exists, its trainings are not repeated: an
            interrupted search continues, and one with a finer ``resolution`` or other ``dims`` uses them.
        show_progress: a progress bar over the trainings.

    Raises:
        ConfigurationError: invalid arguments; a metric that is not logged; a log of another search.

    Example::

        found = intrinsic_dimension(lambda: Net(), (train_loader, val_loader), log="runs/net.jsonl")
        print(found.by_global_baseline.dim, found.by_own_baseline.interval)
    """
    _check(baseline, threshold, seeds, dims, resolution, max_epochs)
    settings = {
        "baseline": baseline,
        "threshold": threshold,
        "metric": metric,
        "max_epochs": max_epochs,
        "projection": projection,
        "parameters": [parameters] if isinstance(parameters, str) else list(parameters),
        "trainer_options": {name: repr(value) for name, value in sorted((trainer_options or {}).items())},
        "seeds": list(seeds),
    }
    trainings = _Trainings(module_factory, data, settings, trainer_options or {}, log, show_progress)
    with trainings.bar():
        size = trainings.all(None)
        if dims is not None and max(dims) > size:
            raise ConfigurationError(f"`dims`: {max(dims)} is more than the {size} parameters that are trained")
        for dim in dims if dims is not None else _geometric(size):
            trainings.all(dim)
            if dims is None and all(found is not None for _, found in trainings.brackets()):
                break
        for number in range(len(trainings.brackets())):
            while (middle := _middle(*trainings.brackets()[number], resolution)) is not None:
                trainings.all(middle)
    return trainings.result()


class _Trainings:
    """All trainings of one search, done and still to be done."""

    def __init__(
        self,
        module_factory: Callable[[], LightningModule],
        data: Any,
        settings: dict[str, Any],
        options: Mapping[str, Any],
        log: str | PathLike[str] | None,
        show_progress: bool,
    ) -> None:
        """Read the log."""
        self._factory, self._data, self._settings, self._options = module_factory, data, settings, options
        self._seeds: list[int] = settings["seeds"]
        self._log = None if log is None else Path(log)
        self._shows = show_progress
        self._bar: Any = None
        before, self._runs = ({}, {}) if self._log is None else read_log(self._log)
        # What may differ from one call to the next without making the trainings different.
        free = ("baseline", "threshold", "seeds")
        for name in settings if before else ():
            if name not in free and before[name] != settings[name]:
                raise ConfigurationError(
                    f"`log={str(log)!r}` is of a search with {name}={before[name]!r}, not {settings[name]!r}; give "
                    "another file"
                )
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            # A line that was cut off stays alone.
            cut = self._log.is_file() and not self._log.read_text().endswith("\n") and self._log.stat().st_size > 0
            self._write({"settings": settings}, "\n" if cut else "")

    def all(self, dim: int | None) -> int:
        """Train with every seed, but for what the log has; returns the number of parameters."""
        for seed in self._seeds:
            if (dim, seed) not in self._runs:
                if self._bar is not None:
                    self._bar.set_postfix_str("direct training" if dim is None else f"{dim} dimensions")
                entry = {"dim": dim, "seed": seed} | self._train(dim, seed)
                self._runs[dim, seed] = entry
                self._write(entry)
                if self._bar is not None:
                    self._bar.update()
        return int(self._runs[dim, self._seeds[0]]["size"])

    def result(self) -> IntrinsicDimension:
        """As far as there are trainings of all seeds."""
        return from_runs(self._settings, self._runs, self._seeds, "" if self._log is None else self._log.stem)

    def brackets(self) -> list[tuple[int, int | None]]:
        """(below, dim) of both baselines."""
        found = self.result()
        return [(c.below, c.dim) for c in (found.by_global_baseline, found.by_own_baseline) if c is not None]

    @contextmanager
    def bar(self) -> Iterator[None]:
        """A bar that counts trainings; nobody knows how many there will be."""
        if self._shows:
            from tqdm.auto import tqdm

            self._bar = tqdm(desc="intrinsic dimension", unit=" trainings", leave=False)
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.close()

    def _train(self, dim: int | None, seed: int) -> dict[str, Any]:
        """One training: its performance and the number of parameters."""
        defaults: dict[str, Any] = {
            "accelerator": "auto",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        options = defaults | dict(self._options) | {"max_epochs": self._settings["max_epochs"]}
        callbacks = options.pop("callbacks", None) or []
        callbacks = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
        if dim is not None:
            subspace = RandomSubspaceCallback(
                dim, self._settings["projection"], seed, self._settings["parameters"], announce=False
            )
            callbacks.append(subspace)
        with preserved_random_state(self._data), _quiet():
            seed_all(seed)
            module = self._factory()
            trainer = trainer_for(module, callbacks=callbacks, **options)
            if isinstance(self._data, list | tuple):
                trainer.fit(module, *self._data)
            else:
                trainer.fit(module, datamodule=self._data)
        metric = self._settings["metric"]
        if metric not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ConfigurationError(f"`metric={metric!r}` is not logged by the module; it logs {logged}")
        size = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        if dim is not None:
            size = len(subspace.theta_0)
        return {"performance": float(trainer.callback_metrics[metric]), "size": size}

    def _write(self, entry: dict[str, Any], before: str = "") -> None:
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(before + json.dumps(entry) + "\n")


def _geometric(size: int) -> Iterator[int]:
    """8, 16, 32, … and at last the whole space."""
    dim = min(_SMALLEST, size)
    while dim < size:
        yield dim
        dim *= 2
    yield size


def _middle(below: int, dim: int | None, resolution: float) -> int | None:
    """The dimension to try next, or None if the two are close enough, or there is nothing between them."""
    if dim is None or dim - below < 2 or (below and dim <= resolution * below):
        return None
    return min(max(round(math.sqrt(below * dim)), below + 1), dim - 1) if below else dim // 2


def _check(
    baseline: float | None,
    threshold: float,
    seeds: Sequence[int],
    dims: Sequence[int] | None,
    resolution: float,
    max_epochs: int,
) -> None:
    if baseline is not None and not baseline > 0:
        raise ConfigurationError(f"`baseline` must be above 0, or None; got {baseline!r}")
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"`threshold` must be above 0 and at most 1, got {threshold!r}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"`seeds` must be different whole numbers, at least one; got {seeds!r}")
    if dims is not None and (not dims or not all(map(is_count, dims))):
        raise ConfigurationError(f"`dims` must be whole numbers from 1 up, at least one; got {dims!r}")
    if not resolution > 1:
        raise ConfigurationError(f"`resolution` is a ratio above 1, got {resolution!r}")
    check_count("max_epochs", max_epochs)


@contextmanager
def _quiet() -> Iterator[None]:
    """What Lightning says at every training is said too often here."""
    loggers = [logging.getLogger(name) for name in _QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for known in (".*does not have many workers.*", ".*LeafSpec.*"):
                warnings.filterwarnings("ignore", message=known)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
