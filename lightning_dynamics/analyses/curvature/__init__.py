"""Curvature of the loss: eigenvalues, trace and spectrum of the Hessian, from its products with vectors.

The functions need no Trainer, and leave the module bit for bit as it was. In all of them ``loss_fn(module, batch)`` is
the mean over the batch's examples, and ``batches`` any iterable of batches: tensors, or tuples, lists or mappings of
tensors, of any sizes. They are read once and held in memory. A batch of n examples (rows of its first tensor) counts
with weight n: the curvature is that of the mean over all examples. Where the loss is a mean over something else (tokens
that are no padding, class weights), ``weights`` says how much of it each batch has.

Before anything is computed, every kind of pass is tried on the smallest batch: products of the Hessian that cannot be
right are refused.
"""

from lightning_dynamics.analyses.curvature import figures  # noqa: F401  (registers how a CurvatureResult looks)
from lightning_dynamics.analyses.curvature.callback import CurvatureCallback
from lightning_dynamics.analyses.curvature.eigenvalues import (
    ExtremeEigenvalues,
    extreme_eigenvalues,
    gradient_flatness,
)
from lightning_dynamics.analyses.curvature.functions import (
    TraceEstimate,
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
