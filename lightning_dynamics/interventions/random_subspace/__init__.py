"""Training in a random subspace: the weights move only along a few random directions."""

from lightning_dynamics.interventions.random_subspace.callback import RandomSubspaceCallback
from lightning_dynamics.interventions.random_subspace.estimator import (
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
