"""Training in random subspaces, and the intrinsic dimension of a task."""

from lightning_dynamics.subspace.callback import RandomSubspaceCallback
from lightning_dynamics.subspace.estimator import (
    DenseProjection,
    FastfoodProjection,
    Projection,
    SparseProjection,
    project,
    walsh_hadamard,
)
from lightning_dynamics.subspace.panels import comparison, panels
from lightning_dynamics.subspace.result import Crossing, IntrinsicDimension
from lightning_dynamics.subspace.search import intrinsic_dimension

__all__ = [
    "Crossing",
    "DenseProjection",
    "FastfoodProjection",
    "IntrinsicDimension",
    "Projection",
    "RandomSubspaceCallback",
    "SparseProjection",
    "comparison",
    "intrinsic_dimension",
    "panels",
    "project",
    "walsh_hadamard",
]
