"""Checks of arguments, and the warning that an analysis failed: the same words everywhere."""

from __future__ import annotations

import traceback
import warnings
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


def warn_of_failure(speaker: str, error: Exception) -> None:
    """Tell the user, with the traceback, that an analysis failed and training goes on."""
    text = "".join(traceback.format_exception(error))
    warnings.warn(
        f"{speaker} failed, and training goes on without this analysis (said once; `on_error='raise'` stops training "
        f"instead):\n{text}",
        stacklevel=3,
    )
