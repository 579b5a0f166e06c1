"""Checks of arguments, and the warning that an analysis failed: the same words everywhere."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning_dynamics.core.lightning import ConfigurationError


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number from ``least`` up."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_count(argument: str, value: Any, least: int = 1) -> None:
    """Refuse anything but whole numbers from ``least`` up.

    Raises:
        ConfigurationError: naming the argument.
    """
    if not is_count(value, least):
        raise ConfigurationError(f"`{argument}` must be a whole number from {least} up, got {value!r}")


def spoken(error: ConfigurationError, speaker: str) -> ConfigurationError:
    """The complaint, beginning with whose it is."""
    text = str(error)
    return error if text.startswith(speaker) else type(error)(f"{speaker}: {text}")


def speaking(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor whose complaints begin with the name of the class."""

    @wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except ConfigurationError as error:
            raise spoken(error, type(self).__name__) from error.__cause__

    return checked


def warn_of_failure(speaker: str, error: Exception) -> None:
    """Tell the user that an analysis failed and training goes on: why, in words, or with the traceback."""
    if isinstance(error, ConfigurationError):
        text = f"{speaker} rests, and training goes on (`on_error='raise'` stops it instead): {error}"
    else:
        text = (
            f"{speaker} failed, and training goes on without this analysis (said once; `on_error='raise'` stops "
            f"training instead):\n{''.join(traceback.format_exception(error))}"
        )
    warnings.warn(text, stacklevel=3)
