"""The intrinsic dimension of a task: the smallest random subspace in which a network still learns it."""

from lightning_dynamics.studies.intrinsic_dimension.figures import comparison, panels
from lightning_dynamics.studies.intrinsic_dimension.result import Crossing, IntrinsicDimension
from lightning_dynamics.studies.intrinsic_dimension.search import intrinsic_dimension

__all__ = ["Crossing", "IntrinsicDimension", "comparison", "intrinsic_dimension", "panels"]
