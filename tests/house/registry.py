"""Every callback of the suite, to be held to the house rules. A new analysis adds one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lightning_dynamics import AnalysisCallback, CKACallback


@dataclass(frozen=True)
class Tenant:
    """A callback under the house rules.

    Args:
        make: the callback, set up to be quick on the house's models, with these overrides.
        keys: log keys that every event must show, without the label; globs.
        bad: arguments that must raise ConfigurationError, and the word its text must contain; at construction
            or before training starts.
    """

    make: Callable[..., AnalysisCallback]
    keys: tuple[str, ...]
    bad: tuple[tuple[dict[str, Any], str], ...]
    yaml: dict[str, Any] = field(default_factory=dict)


def _cka(**overrides: Any) -> CKACallback:
    return CKACallback(**{"num_examples": 24, "batch_size": 8, "on_error": "raise"} | overrides)


def _cka_to_initialization(**overrides: Any) -> CKACallback:
    return _cka(**{"compare_to": "initialization", "every_n_train_steps": 2} | overrides)


_ANYWHERE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"data": "tests"}, "data"),
    ({"num_examples": 0}, "num_examples"),
    ({"batch_size": 0}, "batch_size"),
    ({"every_n_epochs": 0}, "every_n_epochs"),
    ({"every_n_train_steps": -1}, "every_n_train_steps"),
    ({"mode": "evaluation"}, "mode"),
    ({"on_error": "ignore"}, "on_error"),
)
"""Complaints that every analysis owes its users."""

TENANTS = {
    "cka": Tenant(
        make=_cka,
        keys=("similarity", "without_first_pc", "first_pc", "first_pc_cosine", "values", "mean_off_diagonal"),
        bad=_ANYWHERE
        + (
            ({"every_n_epochs": None, "at_end": False}, "every_n_epochs"),
            ({"layers": "no_such_layer*"}, "layers"),
            ({"layers": "re:("}, "layers"),
            ({"layers": []}, "layers"),
            ({"batch_size": 3}, "batch_size"),
            ({"num_examples": 9}, "num_examples"),
            ({"compare_to": "no_such.ckpt"}, "compare_to"),
            ({"compare_to": []}, "compare_to"),
            ({"kernel": "poly"}, "kernel"),
            ({"bandwidth": 0.0}, "bandwidth"),
            ({"reduction": "median"}, "reduction"),
            ({"predict_fn": "nowhere.nothing"}, "predict_fn"),
        ),
        yaml={"layers": ["conv*", "Linear"], "kernel": "rbf", "reduction": "mean", "every_n_train_steps": 3},
    ),
    "cka to initialization": Tenant(
        make=_cka_to_initialization,
        keys=("similarity", "values", "similarity_to/initialization"),
        bad=_ANYWHERE,
        yaml={"compare_to": "previous", "num_examples": 16},
    ),
}
