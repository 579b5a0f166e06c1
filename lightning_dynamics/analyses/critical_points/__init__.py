"""Critical points of the loss: where the gradient vanishes, and where searches for such points get stuck."""

from lightning_dynamics.analyses.critical_points.callback import CriticalPointsCallback
from lightning_dynamics.analyses.critical_points.functions import find
from lightning_dynamics.analyses.critical_points.index import Index
from lightning_dynamics.analyses.critical_points.point import CriticalPoint
from lightning_dynamics.analyses.critical_points.result import CriticalPointsResult

__all__ = ["CriticalPoint", "CriticalPointsCallback", "CriticalPointsResult", "Index", "find"]
