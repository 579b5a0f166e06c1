"""The analyses, quick on small modules, and otherwise as they are by default: no functions of the user's are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_dynamics import (
    CKACallback,
    CriticalPointsCallback,
    CurvatureCallback,
    FingerprintCallback,
    LandscapeCallback,
    LossContributionCallback,
    VoGCallback,
)
from lightning_dynamics.analyses.critical_points import NewtonMR

_ONE_BATCH: dict[str, Any] = {"batch_size": 32}
_SMALL_BATCHES: dict[str, Any] = {"batch_size": 5}
"""Other minibatches than those of training, and a smaller last one: the mean over all must not depend on them."""


def _cka(few: str, folder: Path, **given: Any) -> CKACallback:
    return CKACallback(**_ONE_BATCH | given)  # a plain CKA to compare with


def _vog(few: str, folder: Path, **given: Any) -> VoGCallback:
    return VoGCallback(**_SMALL_BATCHES | given)


def _loss_contribution(few: str, folder: Path, **given: Any) -> LossContributionCallback:
    return LossContributionCallback(**_SMALL_BATCHES | {"rule": "trapezoid"} | given)


def _landscape(few: str, folder: Path, **given: Any) -> LandscapeCallback:
    return LandscapeCallback(**_SMALL_BATCHES | {"resolution": 3, "explorer": False} | given)


def _curvature(few: str, folder: Path, **given: Any) -> CurvatureCallback:
    quick: dict[str, Any] = {"max_iterations": 6, "trace_samples": 1, "density_samples": 0, "every_n_epochs": None}
    return CurvatureCallback(**_SMALL_BATCHES | quick | given)


def _critical_points(few: str, folder: Path, **given: Any) -> CriticalPointsCallback:
    quick = {"parameters": few, "method": NewtonMR(1, inner_iterations=2), "trajectory": False}
    return CriticalPointsCallback(**_SMALL_BATCHES | quick | given)


def _fingerprint(few: str, folder: Path, **given: Any) -> FingerprintCallback:
    return FingerprintCallback(str(folder / "fingerprint"), optimizer_state=True, gradients=True, **given)


ANALYSES: dict[str, Callable[..., Any]] = {
    "CKACallback": _cka,
    "VoGCallback": _vog,
    "LossContributionCallback": _loss_contribution,
    "LandscapeCallback": _landscape,
    "CurvatureCallback": _curvature,
    "CriticalPointsCallback": _critical_points,
    "FingerprintCallback": _fingerprint,
}
"""Callbacks made from the pattern of a few parameters, a folder to write to, and further arguments."""
