"""Lightning checkpoints: when they were written, and a module at their weights for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import nn

from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import plain_name


def epoch_and_step_of(path: str | PathLike[str], *, argument: str) -> tuple[int, int]:
    """Epoch (from 0) and step at which a checkpoint was written.

    Raises:
        ConfigurationError: naming ``argument``: no readable checkpoint, or one that does not say.
    """
    checkpoint = _load(path, argument)
    try:
        return int(checkpoint["epoch"]), int(checkpoint["global_step"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"`{argument}={str(path)!r}` does not say its epoch and step: {error!r}") from error


@contextmanager
def at_checkpoint(module: nn.Module, path: str | PathLike[str], *, argument: str) -> Iterator[None]:
    """The module with the checkpoint's parameters and buffers inside, and its own, bit for bit, afterwards.

    No second module is made. Names match with or without ``torch.compile``.

    Raises:
        ConfigurationError: naming ``argument``: no readable checkpoint, or one of another architecture.
    """
    saved = {plain_name(name): value for name, value in _load(path, argument)["state_dict"].items()}
    own = {plain_name(name): name for name in module.state_dict()}
    with isolated(module, mode="train" if module.training else "eval", grad=torch.is_grad_enabled()):
        try:
            module.load_state_dict({own.get(name, name): value for name, value in saved.items()})
        except RuntimeError as error:
            raise ConfigurationError(
                f"`{argument}={str(path)!r}` does not fit {type(module).__name__}: {error}"
            ) from error
        yield


def short_names(paths: Sequence[str]) -> list[str]:
    """The file's name without its ending, with as many folders before it as tell all paths apart."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _load(path: str | PathLike[str], argument: str) -> dict[str, Any]:
    try:
        # Whole pickles may run code; weights and plain values cannot.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        if not isinstance(checkpoint["state_dict"], dict):
            raise TypeError("its `state_dict` is none")
    except Exception as error:
        raise ConfigurationError(
            f"`{argument}={str(path)!r}` is no Lightning checkpoint that loads with `weights_only=True`: {error}"
        ) from error
    return checkpoint
