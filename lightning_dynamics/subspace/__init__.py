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

__all__ = [
    "DenseProjection",
    "FastfoodProjection",
    "Projection",
    "RandomSubspaceCallback",
    "SparseProjection",
    "project",
    "walsh_hadamard",
]
