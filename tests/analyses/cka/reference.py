"""CKA once more, in float64 NumPy and by other formulas than the package's: what its numbers must equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def examples(x: Tensor) -> Array:
    """``(n, p)`` float64 of the very values that ``x`` holds, real and imaginary parts apart."""
    x = x.detach().cpu()
    if x.is_complex():
        x = torch.stack((x.real, x.imag), -1)
    return x.to(torch.float64).reshape(len(x), -1).numpy()


def linear(x: Tensor) -> Array:
    """Gram matrix of centred features: HSIC does not see the shift, and float64 keeps its digits."""
    values = examples(x)
    values = values - values.mean(0)
    return values @ values.T


def rbf(x: Tensor, bandwidth: float = 1.0) -> Array:
    """exp(-d² / (2 (bandwidth · median d)²)), d from differences; the lower of two middle distances."""
    values = examples(x)
    distance = np.sqrt(((values[:, None] - values[None]) ** 2).sum(-1))
    pairs = np.sort(distance[np.triu_indices(len(values), 1)])
    sigma = bandwidth * pairs[(len(pairs) - 1) // 2]
    return np.exp(-(distance**2) / (2 * sigma**2))


def hsic1(k: Array, l: Array) -> float:  # noqa: E741
    """Song et al. 2012, eq. 5, as printed."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    trace = np.trace(k @ l)
    product = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    cross = 2 * (one @ k @ l @ one) / (n - 2)
    return float((trace + product - cross) / (n * (n - 3)))


def hsic0(k: Array, l: Array) -> float:  # noqa: E741
    """Biased: tr(KHLH) / (n - 1)²."""
    n = len(k)
    h = np.eye(n) - 1 / n
    return float(np.trace(k @ h @ l @ h) / (n - 1) ** 2)


def weight(n: int, debiased: bool) -> int:
    """With which a minibatch's HSIC counts in a sum."""
    return n * (n - 3) if debiased else (n - 1) ** 2


def cka_map(
    batches_x: Sequence[Sequence[Tensor]],
    batches_y: Sequence[Sequence[Tensor]] | None = None,
    *,
    debiased: bool = True,
    kernel: str = "linear",
) -> Array:
    """``(L_x, L_y)`` minibatch CKA of ``batches[b][layer]``: weighted sums, then one ratio."""
    hsic = hsic1 if debiased else hsic0
    gram = linear if kernel == "linear" else rbf
    xy, xx, yy = 0.0, 0.0, 0.0
    for xs, ys in zip(batches_x, batches_y or batches_x, strict=True):
        ks, ls = [gram(x) for x in xs], [gram(y) for y in ys]
        w = weight(len(xs[0]), debiased)
        xy = xy + w * np.array([[hsic(k, m) for m in ls] for k in ks])
        xx = xx + w * np.array([hsic(k, k) for k in ks])
        yy = yy + w * np.array([hsic(m, m) for m in ls])
    with np.errstate(invalid="ignore", divide="ignore"):
        return xy / np.sqrt(np.outer(xx, yy))


def without_first(x: Tensor) -> Tensor:
    """The centred features less their first principal component, by SVD in feature space."""
    values = examples(x)
    u, s, vt = np.linalg.svd(values - values.mean(0), full_matrices=False)
    s[0] = 0
    return torch.from_numpy((u * s) @ vt)


def spectrum(x: Tensor) -> Array:
    """Variances of the principal components (times n), the largest first."""
    values = examples(x)
    return np.linalg.svd(values - values.mean(0), compute_uv=False) ** 2


def first_scores(x: Tensor) -> Array:
    """Unit-length scores of the examples on the first principal component."""
    values = examples(x)
    return np.linalg.svd(values - values.mean(0), full_matrices=False)[0][:, 0]
