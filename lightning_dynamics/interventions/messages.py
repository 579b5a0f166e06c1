"""Whose complaint it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_dynamics.core.lightning import ConfigurationError


@contextmanager
def speaking(speaker: object) -> Iterator[None]:
    """Begin complaints from inside with the speaker's class: many callbacks take part in a training."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{type(speaker).__name__}: {error}") from error.__cause__
