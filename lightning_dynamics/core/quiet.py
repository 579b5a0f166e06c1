"""Nothing that an analysis runs is logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from lightning_dynamics.core.lightning import both


@contextmanager
def logging_disabled(module: Any) -> Iterator[None]:
    """No ``self.log``, ``log_dict``, ``print`` and no ``self.logger`` inside, in LightningModules below it neither.

    Args:
        module: any module; only LightningModules have anything to say.
    """
    if vars(module).get("log") is _nothing:  # silent already, and all below it
        yield
        return
    names = ("log", "log_dict", "print")
    speakers = [vars(sub) for sub in module.modules() if isinstance(sub, both("LightningModule"))]
    held = [{name: speaker[name] for name in names if name in speaker} for speaker in speakers]
    trainer = getattr(module, "_trainer", None)
    loggers = None if trainer is None else trainer.loggers
    for speaker in speakers:
        speaker.update(dict.fromkeys(names, _nothing))
    if trainer is not None:
        package = next(cls for cls in both("Trainer") if isinstance(trainer, cls)).__module__.partition(".trainer")[0]
        trainer.loggers = [import_module(f"{package}.loggers.logger").DummyLogger() for _ in loggers or ()]
    try:
        yield
    finally:
        for speaker, own in zip(speakers, held, strict=True):
            for name in names:
                del speaker[name]
            speaker.update(own)
        if trainer is not None:
            trainer.loggers = loggers


def _nothing(*_: Any, **__: Any) -> None: ...
