"""The intrinsic dimension of a task: the smallest random subspace in which a network still learns it."""

from lightning_dynamics.studies.intrinsic_dimension import figures  # noqa: F401  (registers how the results look)
from lightning_dynamics.studies.intrinsic_dimension.comparison import (
    IntrinsicDimensionComparison,
    compare_intrinsic_dimensions,
)
from lightning_dynamics.studies.intrinsic_dimension.result import Crossing, IntrinsicDimension
from lightning_dynamics.studies.intrinsic_dimension.search import intrinsic_dimension

__all__ = [
    "Crossing",
    "IntrinsicDimension",
    "IntrinsicDimensionComparison",
    "compare_intrinsic_dimensions",
    "intrinsic_dimension",
]
