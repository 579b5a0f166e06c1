"""Slices through the loss around and between solutions: Li, Xu, Taylor, Studer, Goldstein 2018."""

from lightning_dynamics.analyses.landscape import (
    explorer,
    figures,  # noqa: F401  (registers how a LandscapeResult looks)
    wording,
)
from lightning_dynamics.analyses.landscape.callback import LandscapeCallback
from lightning_dynamics.analyses.landscape.directions import random_directions
from lightning_dynamics.analyses.landscape.estimator import (
    RANDOM_WALK,
    barrier,
    cosine,
    difference,
    filter_normalize,
    plane_through,
    principal_directions,
    sharpness,
)
from lightning_dynamics.analyses.landscape.evaluation import evaluate_line, evaluate_plane
from lightning_dynamics.analyses.landscape.result import LandscapeResult
from lightning_dynamics.analyses.landscape.slices import (
    GradientPlane,
    HessianPlane,
    RandomLine,
    RandomPlane,
    Slice,
    TrajectoryPlane,
)
from lightning_dynamics.analyses.landscape.through import Through
from lightning_dynamics.core.trajectory import Trajectory

__all__ = [
    "RANDOM_WALK",
    "GradientPlane",
    "HessianPlane",
    "LandscapeCallback",
    "LandscapeResult",
    "RandomLine",
    "RandomPlane",
    "Slice",
    "Through",
    "Trajectory",
    "TrajectoryPlane",
    "barrier",
    "cosine",
    "difference",
    "evaluate_line",
    "evaluate_plane",
    "explorer",
    "filter_normalize",
    "plane_through",
    "principal_directions",
    "random_directions",
    "sharpness",
    "wording",
]
