"""Variance of Gradients: which examples are hard, and which labels may be wrong."""

from lightning_dynamics.vog.callback import VoGCallback
from lightning_dynamics.vog.checkpoints import score_checkpoints
from lightning_dynamics.vog.comparison import RunComparison, compare_runs
from lightning_dynamics.vog.estimator import normalize_per_class, variance_of_gradients
from lightning_dynamics.vog.result import VoGResult
from lightning_dynamics.vog.sampler import DifficultySampler

__all__ = [
    "DifficultySampler",
    "RunComparison",
    "VoGCallback",
    "VoGResult",
    "compare_runs",
    "normalize_per_class",
    "score_checkpoints",
    "variance_of_gradients",
]
