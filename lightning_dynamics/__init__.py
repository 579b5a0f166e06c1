"""PyTorch Lightning callbacks that show how a network learns, not only how low its loss is."""

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
