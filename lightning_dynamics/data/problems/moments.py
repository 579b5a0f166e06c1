"""From second moments to the few examples that have them, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.core.lightning import ConfigurationError


def examples(
    d_in: int, d_out: int, input_covariance: Any, cross_covariance: Any, target_covariance: Any
) -> tuple[Tensor, Tensor]:
    """As few examples ``(n, d_in)``, ``(n, d_out)`` as have these second moments, float64.

    One for each principal direction of x, with y = A x; and one with x = 0 for each of y − A x.
    """
    inner = _square(input_covariance, d_in, "input_covariance")
    if cross_covariance is None and d_in != d_out:
        raise ConfigurationError(f"give `cross_covariance` ({d_out}, {d_in}): only an autoencoder can do without")
    cross = inner if cross_covariance is None else torch.as_tensor(cross_covariance, dtype=torch.float64)
    if cross.shape != (d_out, d_in):
        raise ConfigurationError(f"`cross_covariance` must be ({d_out}, {d_in}), got {tuple(cross.shape)}")
    x = _root(inner, "input_covariance")
    if cross_covariance is None:
        y, fitted = x, torch.eye(d_in, dtype=torch.float64)
    else:
        fitted = cross @ torch.linalg.pinv(inner, hermitian=True)
        if (fitted @ inner - cross).norm() > 1e-9 * cross.norm():
            raise ConfigurationError("`cross_covariance` correlates y with directions in which x does not vary")
        y = x @ fitted.T
    if target_covariance is not None:
        outer = _square(target_covariance, d_out, "target_covariance")
        explained = fitted @ inner @ fitted.T
        noise = _root(outer - explained, "target_covariance", scale=float(outer.abs().max()))
        x, y = torch.cat([x, x.new_zeros(len(noise), d_in)]), torch.cat([y, noise])
    if len(x) == 0:
        raise ConfigurationError("`input_covariance` is 0: there are no data")
    return x * len(x) ** 0.5, y * len(x) ** 0.5


def _square(matrix: Any, size: int, name: str) -> Tensor:
    found = torch.eye(size, dtype=torch.float64) if matrix is None else torch.as_tensor(matrix, dtype=torch.float64)
    good = found.shape == (size, size) and bool(torch.isfinite(found).all())
    if not good or (found - found.T).abs().max() > 1e-9 * found.abs().max():
        raise ConfigurationError(f"`{name}` must be a symmetric matrix ({size}, {size}) of finite numbers")
    return (found + found.T) / 2


def _root(matrix: Tensor, name: str, scale: float | None = None) -> Tensor:
    """Rows R with Rᵀ R = the matrix, as many as its rank."""
    values, vectors = torch.linalg.eigh(matrix)
    top = float(values.abs().max()) if scale is None else scale
    if values.min() < -1e-10 * top:
        raise ConfigurationError(
            f"`{name}` is no covariance"
            + (" that fits the others" if scale is not None else "")
            + f": {float(values.min()):.4g} is an eigenvalue of "
            + ("it" if scale is None else "what y has beyond A x")
        )
    kept = values > 1e-12 * top
    vectors = vectors[:, kept]
    # One sign of the two, so that the examples of a diagonal matrix are positive.
    signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return ((vectors * signs) * values[kept].sqrt()).T.flip(0)


def fit(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map A that is best of all ranks, and what it leaves of the targets."""
    fitted = targets @ torch.linalg.pinv(inputs)
    return fitted, targets - fitted @ inputs
