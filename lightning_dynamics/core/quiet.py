"""Nothing that an analysis runs is logged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from lightning_dynamics.core.lightning import both


@contextmanager
def logging_disabled(module: Any) -> Iterator[None]:
    """Nothing that a module says inside reaches a log, whichever way it says it.

    Silenced: ``self.log``, ``log_dict`` and ``print`` of every LightningModule in it; ``self.logger`` (a dummy stands
    in) and the Trainer's loggers themselves; and, if they are imported, Weights & Biases (``wandb.log``, the run's own
    methods, its summary, ``wandb.watch``), TensorBoard's ``SummaryWriter``, MLflow and Comet, for every thread of this
    process.

    Args:
        module: any module; only LightningModules have a log of their own.
    """
    if vars(module).get("log") is _nothing:  # silent already, and all below it
        yield
        return
    trainer = getattr(module, "_trainer", None)
    with ExitStack() as stack:
        for submodule in module.modules():
            if isinstance(submodule, both("LightningModule")):
                for name in ("log", "log_dict", "print"):
                    _replace(stack, vars(submodule), name)
        if trainer is not None:
            loggers = trainer.loggers
            for logger in loggers:
                _replace(stack, vars(logger), "log_metrics")
            stack.callback(setattr, trainer, "loggers", loggers)
            trainer.loggers = [_dummy(trainer) for _ in loggers]
        for place, wanted, stand_in in _TRACKERS:
            _silence(stack, place, wanted, stand_in)
        yield


def _nothing(*_: Any, **__: Any) -> None: ...


def _dummy(trainer: Any) -> Any:
    package = next(cls for cls in both("Trainer") if isinstance(trainer, cls)).__module__.partition(".trainer")[0]
    return import_module(f"{package}.loggers.logger").DummyLogger()


def _replace(stack: ExitStack, attributes: dict[str, Any], name: str) -> None:
    """An instance's attribute, which goes before its class's method."""
    stack.callback(attributes.__setitem__ if name in attributes else attributes.pop, name, attributes.get(name))
    attributes[name] = _nothing


def _logs(name: str) -> bool:
    return name.startswith("log_")


_TRACKERS: tuple[tuple[str, Callable[[str], bool], Callable[..., Any]], ...] = (
    # wandb.log is the bound method that the run had when it began; all ways to the history lead through _log.
    ("wandb.sdk.wandb_run:Run", {"_log", "log_artifact", "log_model", "save", "alert"}.__contains__, _nothing),
    ("wandb.sdk.wandb_summary:Summary", {"_update"}.__contains__, _nothing),
    # The hooks of wandb.watch count their calls in a closure: the count must not move.
    ("wandb.integration.torch.wandb_torch:", {"log_track_update"}.__contains__, lambda _: False),
    ("torch.utils.tensorboard.writer:SummaryWriter", lambda name: name.startswith("add_"), _nothing),
    ("tensorboardX.writer:SummaryWriter", lambda name: name.startswith("add_"), _nothing),
    ("mlflow.tracking.client:MlflowClient", lambda name: _logs(name) or name in ("set_tag", "set_tags"), _nothing),
    ("mlflow:", lambda name: _logs(name) or name in ("set_tag", "set_tags"), _nothing),
    ("comet_ml.experiment:BaseExperiment", _logs, _nothing),
    ("comet_ml.experiment:CometExperiment", _logs, _nothing),
)
"""Module and class (or none), which of their functions reach the log, and what stands in for them."""


def _silence(stack: ExitStack, place: str, wanted: Callable[[str], bool], stand_in: Callable[..., Any]) -> None:
    """Where such a module is imported; what is not imported logs nothing."""
    name, _, cls = place.partition(":")
    if name not in sys.modules:
        return
    owner = getattr(sys.modules[name], cls, None) if cls else sys.modules[name]
    for function in [key for key, value in vars(owner).items() if wanted(key) and callable(value)] if owner else ():
        stack.callback(setattr, owner, function, vars(owner)[function])
        setattr(owner, function, stand_in)
