"""A module at the weights of a Lightning checkpoint, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import torch
from torch import nn

from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import plain_name


@contextmanager
def at_checkpoint(module: nn.Module, path: str | PathLike[str], *, argument: str) -> Iterator[None]:
    """The module with the checkpoint's parameters and buffers inside, and its own, bit for bit, afterwards.

    No second module is made. Names match with or without ``torch.compile``.

    Raises:
        ConfigurationError: naming ``argument``: no readable checkpoint, or one of another architecture.
    """
    try:
        # Whole pickles may run code; weights and plain values cannot.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        saved = {plain_name(name): value for name, value in checkpoint["state_dict"].items()}
    except Exception as error:
        raise ConfigurationError(
            f"`{argument}={str(path)!r}` is no Lightning checkpoint that loads with `weights_only=True`: {error}"
        ) from error
    own = {plain_name(name): name for name in module.state_dict()}
    with isolated(module, mode="train" if module.training else "eval", grad=torch.is_grad_enabled()):
        try:
            module.load_state_dict({own.get(name, name): value for name, value in saved.items()})
        except RuntimeError as error:
            raise ConfigurationError(
                f"`{argument}={str(path)!r}` does not fit {type(module).__name__}: {error}"
            ) from error
        yield
