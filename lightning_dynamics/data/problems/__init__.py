"""Problems with a known solution, to check claims about training and our own callbacks."""

from lightning_dynamics.data.problems.critical import CriticalPoint
from lightning_dynamics.data.problems.deep_linear import DeepLinear
from lightning_dynamics.data.problems.estimator import mode_strength
from lightning_dynamics.data.problems.picture import descents_map
from lightning_dynamics.data.problems.plane import Plane
from lightning_dynamics.data.problems.shuffled import ShuffledLabels, ShuffledPixels

__all__ = [
    "CriticalPoint",
    "DeepLinear",
    "Plane",
    "ShuffledLabels",
    "ShuffledPixels",
    "descents_map",
    "mode_strength",
]
