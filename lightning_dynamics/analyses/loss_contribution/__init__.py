"""Loss change allocation: which parameters moved the loss, and by how much."""

from lightning_dynamics.analyses.loss_contribution import figures  # noqa: F401  (registers how its result looks)
from lightning_dynamics.analyses.loss_contribution.callback import LossContributionCallback
from lightning_dynamics.analyses.loss_contribution.estimator import Adaptive, Attribution, attribute
from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult
from lightning_dynamics.analyses.loss_contribution.synchrony import Synchrony, peaks, synchrony

__all__ = [
    "Adaptive",
    "Attribution",
    "LossContributionCallback",
    "LossContributionResult",
    "Synchrony",
    "attribute",
    "peaks",
    "synchrony",
]
