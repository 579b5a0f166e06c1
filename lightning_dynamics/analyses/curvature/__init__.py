"""Curvature of the loss: eigenvalues, trace and spectrum of the Hessian, from its products with vectors."""

from lightning_dynamics.analyses.curvature import figures  # noqa: F401  (registers how a CurvatureResult looks)
from lightning_dynamics.analyses.curvature.callback import CurvatureCallback
from lightning_dynamics.analyses.curvature.functions import (
    ExtremeEigenvalues,
    TraceEstimate,
    extreme_eigenvalues,
    gradient_flatness,
    hessian_vector_product,
    hutchinson_trace,
    spectral_density,
)
from lightning_dynamics.analyses.curvature.operator import HessianOperator, NotFinite
from lightning_dynamics.analyses.curvature.quantities import GradientFlatness
from lightning_dynamics.analyses.curvature.result import CurvatureResult
from lightning_dynamics.analyses.curvature.spectrum import SpectralDensity

__all__ = [
    "CurvatureCallback",
    "CurvatureResult",
    "ExtremeEigenvalues",
    "GradientFlatness",
    "HessianOperator",
    "NotFinite",
    "SpectralDensity",
    "TraceEstimate",
    "extreme_eigenvalues",
    "gradient_flatness",
    "hessian_vector_product",
    "hutchinson_trace",
    "spectral_density",
]
