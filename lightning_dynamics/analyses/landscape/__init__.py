"""Slices through the loss around and between solutions: Li, Xu, Taylor, Studer, Goldstein 2018."""

from lightning_dynamics.analyses.landscape.callback import LandscapeCallback
from lightning_dynamics.analyses.landscape.estimator import (
    barrier,
    cosine,
    difference,
    filter_normalize,
    plane_through,
    principal_directions,
    random_directions,
    sharpness,
)
from lightning_dynamics.analyses.landscape.evaluation import evaluate_line, evaluate_plane
from lightning_dynamics.analyses.landscape.result import LandscapeResult

__all__ = [
    "LandscapeCallback",
    "LandscapeResult",
    "barrier",
    "cosine",
    "difference",
    "evaluate_line",
    "evaluate_plane",
    "filter_normalize",
    "plane_through",
    "principal_directions",
    "random_directions",
    "sharpness",
]
