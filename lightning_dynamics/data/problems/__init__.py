"""Problems whose truth is known: to check claims about training, and our own callbacks."""

from lightning_dynamics.data.problems.critical import CriticalPoint
from lightning_dynamics.data.problems.deep_linear import DeepLinear
from lightning_dynamics.data.problems.estimator import mode_strength
from lightning_dynamics.data.problems.shuffled import ShuffledLabels, ShuffledPixels

__all__ = ["CriticalPoint", "DeepLinear", "ShuffledLabels", "ShuffledPixels", "mode_strength"]
