"""Variance of Gradients: which examples are hard, and which labels may be wrong."""

from lightning_dynamics.analyses.vog import figures  # noqa: F401  (registers how a VoGResult looks)
from lightning_dynamics.analyses.vog.callback import VoGCallback
from lightning_dynamics.analyses.vog.checkpoints import score_checkpoints
from lightning_dynamics.analyses.vog.comparison import RunComparison, compare_runs
from lightning_dynamics.analyses.vog.estimator import error_by_percentile, normalize_per_class, variance_of_gradients
from lightning_dynamics.analyses.vog.methods import IntegratedGradients, SmoothGrad
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.analyses.vog.windows import Window

__all__ = [
    "IntegratedGradients",
    "RunComparison",
    "SmoothGrad",
    "VoGCallback",
    "VoGResult",
    "Window",
    "compare_runs",
    "error_by_percentile",
    "normalize_per_class",
    "score_checkpoints",
    "variance_of_gradients",
]
