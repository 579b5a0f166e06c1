"""Problems whose truth is known: to check claims about training, and our own callbacks."""

from lightning_dynamics.problems.critical import CriticalPoint
from lightning_dynamics.problems.deep_linear import DeepLinear
from lightning_dynamics.problems.estimator import mode_strength
from lightning_dynamics.problems.shuffled import ShuffledLabels, ShuffledPixels

__all__ = ["CriticalPoint", "DeepLinear", "ShuffledLabels", "ShuffledPixels", "mode_strength"]
