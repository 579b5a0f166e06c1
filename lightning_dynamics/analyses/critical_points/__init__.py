"""Critical points of the loss: where the gradient vanishes, and where searches for such points get stuck."""

from lightning_dynamics.analyses.critical_points import figures  # noqa: F401  (registers how a result looks)
from lightning_dynamics.analyses.critical_points.callback import CriticalPointsCallback
from lightning_dynamics.analyses.critical_points.functions import find
from lightning_dynamics.analyses.critical_points.index import Index
from lightning_dynamics.analyses.critical_points.point import CriticalPoint
from lightning_dynamics.analyses.critical_points.result import CriticalPointsResult
from lightning_dynamics.analyses.critical_points.settings import GradientNorm, NewtonMR, Trajectory

__all__ = [
    "CriticalPoint",
    "CriticalPointsCallback",
    "CriticalPointsResult",
    "GradientNorm",
    "Index",
    "NewtonMR",
    "Trajectory",
    "find",
]
