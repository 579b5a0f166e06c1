"""Arguments that the callback and :func:`~lightning_dynamics.vog.score_checkpoints` share, checked and in words."""

from __future__ import annotations

from typing import Any

from lightning_dynamics.analyses.vog.estimator import check_options
from lightning_dynamics.analyses.vog.methods import attribution_method
from lightning_dynamics.analyses.vog.outputs import TARGETS, Setup
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import resolve_function


def setup_of(target: Any, attribution: Any, with_respect_to: str, channels_last: bool, predict_fn: Any) -> Setup:
    """These arguments, checked.

    Raises:
        ConfigurationError: naming the argument.
    """
    if isinstance(target, str) and target not in TARGETS:
        if "." not in target:
            raise ConfigurationError(
                f"`target` must be 'label', 'prediction', 'final_prediction', or a function (output, targets) -> (N,); "
                f"got {target!r}"
            )
        target = resolve_function(target, "target")
    method = attribution_method(attribution)
    return Setup(target, method, with_respect_to, channels_last, resolve_function(predict_fn, "predict_fn"))


def check_words(variant: str, channel: str, ddof: int) -> None:
    """As the estimator's check, in the suite's own error."""
    try:
        check_options(variant, channel, ddof)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def describe(setup: Setup, variant: str, channel: str, ddof: int) -> dict[str, Any]:
    """In words, for results."""
    target = setup.target if isinstance(setup.target, str) else getattr(setup.target, "__name__", "function")
    return {
        "variant": variant,
        "channel": channel,
        "ddof": ddof,
        "target": target,
        "attribution": str(setup.attribution),
        "with_respect_to": setup.with_respect_to,
    }
