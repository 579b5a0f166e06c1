"""PyTorch Lightning callbacks that show how a network learns, not only how low its loss is."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_dynamics import datasets, nn, problems
    from lightning_dynamics.cka import CKACallback, CKAResult
    from lightning_dynamics.core.callback import AnalysisCallback
    from lightning_dynamics.core.lightning import ConfigurationError
    from lightning_dynamics.critical_points import CriticalPointsCallback, CriticalPointsResult
    from lightning_dynamics.curvature import CurvatureCallback, CurvatureResult
    from lightning_dynamics.fingerprint import FingerprintCallback, compare_fingerprints
    from lightning_dynamics.landscape import LandscapeCallback, LandscapeResult
    from lightning_dynamics.loss_contribution import LossContributionCallback, LossContributionResult
    from lightning_dynamics.publishing import LocalReport
    from lightning_dynamics.subspace import IntrinsicDimension, RandomSubspaceCallback, intrinsic_dimension
    from lightning_dynamics.vog import DifficultySampler, VoGCallback, VoGResult

__version__ = "0.1.0"

__all__ = [
    "AnalysisCallback",
    "CKACallback",
    "CKAResult",
    "ConfigurationError",
    "CriticalPointsCallback",
    "CriticalPointsResult",
    "CurvatureCallback",
    "CurvatureResult",
    "DifficultySampler",
    "FingerprintCallback",
    "IntrinsicDimension",
    "LandscapeCallback",
    "LandscapeResult",
    "LocalReport",
    "LossContributionCallback",
    "LossContributionResult",
    "RandomSubspaceCallback",
    "VoGCallback",
    "VoGResult",
    "compare_fingerprints",
    "datasets",
    "intrinsic_dimension",
    "nn",
    "problems",
]

_ROOMS = {
    "cka": ("CKACallback", "CKAResult"),
    "core.callback": ("AnalysisCallback",),
    "core.lightning": ("ConfigurationError",),
    "critical_points": ("CriticalPointsCallback", "CriticalPointsResult"),
    "curvature": ("CurvatureCallback", "CurvatureResult"),
    "fingerprint": ("FingerprintCallback", "compare_fingerprints"),
    "landscape": ("LandscapeCallback", "LandscapeResult"),
    "loss_contribution": ("LossContributionCallback", "LossContributionResult"),
    "publishing": ("LocalReport",),
    "subspace": ("IntrinsicDimension", "RandomSubspaceCallback", "intrinsic_dimension"),
    "vog": ("DifficultySampler", "VoGCallback", "VoGResult"),
}


def __getattr__(name: str) -> Any:
    """A room is entered when something of it is asked for: who wants one callback does not wait for all of them."""
    for room, names in _ROOMS.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{room}"), name)
            globals()[name] = value
            return value
    if name in ("datasets", "nn", "problems"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
