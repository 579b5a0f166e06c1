"""Arguments that the callback and :func:`~lightning_dynamics.vog.score_checkpoints` share, checked and in words."""

from __future__ import annotations

from typing import Any

from lightning_dynamics.analyses.vog.estimator import check_options
from lightning_dynamics.analyses.vog.outputs import ATTRIBUTIONS, TARGETS, Setup
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import function_named


def setup_of(
    target: Any, attribution: str, samples: int, with_respect_to: str, channels_last: bool, predict_fn: Any
) -> Setup:
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
        target = function_named(target, "target")
    if attribution not in ATTRIBUTIONS:
        raise ConfigurationError(
            f"`attribution` must be one of {', '.join(map(repr, ATTRIBUTIONS))}; got {attribution!r}"
        )
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ConfigurationError(f"`samples` must be a whole number from 1 up, got {samples!r}")
    return Setup(target, attribution, samples, with_respect_to, channels_last, function_named(predict_fn, "predict_fn"))


def check_words(variant: str, channel: str, ddof: int) -> None:
    """As the estimator's check, in the suite's own error."""
    try:
        check_options(variant, channel, ddof)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def describe(setup: Setup, variant: str, channel: str, ddof: int) -> dict[str, Any]:
    """In words, for results."""
    target = setup.target if isinstance(setup.target, str) else getattr(setup.target, "__name__", "function")
    samples = f", {setup.samples} samples" if setup.attribution != "gradient" else ""
    return {
        "variant": variant,
        "channel": channel,
        "ddof": ddof,
        "target": target,
        "attribution": setup.attribution + samples,
        "with_respect_to": setup.with_respect_to,
    }
