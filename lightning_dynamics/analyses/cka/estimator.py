"""Centered kernel alignment: the mathematics, on tensors alone.

Sources, quoted by number below:

* [K19] Kornblith, Norouzi, Lee, Hinton, "Similarity of neural network representations revisited", ICML 2019.
* [S12] Song, Smola, Gretton, Bedo, Borgwardt, "Feature selection via dependence maximization", JMLR 2012.
* [N21] Nguyen, Raghu, Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021.
* [SR14] Székely, Rizzo, "Partial distance correlation with methods for dissimilarities", Ann. Statist. 2014.

One path serves everything. Per layer and batch: features -> Gram matrix (n, n) -> *centred* Gram matrix, kept
as one row of n² numbers. Then every HSIC between layers is an inner product of rows, so all L² of them are one
matrix product; [SR14]'s U-centring makes that inner product equal to n(n-3) · HSIC₁ of [S12], [N21] eq. 3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_dynamics.core.precision import full_precision

Kernel = Literal["linear", "rbf"]

MIN_EXAMPLES = 4  # HSIC₁ divides by n - 3
_CHUNK_BYTES = 1 << 22  # of centred features at a time: little enough for a shared cache, few enough calls
_CHUNK_BYTES_ACCELERATOR = 1 << 26  # enough to keep an accelerator busy
_BLOCK_ROWS = 64
_PRODUCT_COLUMNS = 8192  # of the centred rows turned to float64 at a time


def cka(x: Tensor, y: Tensor, *, debiased: bool = True, kernel: Kernel = "linear", bandwidth: float = 1.0) -> Tensor:
    """Centered kernel alignment of two representations of the same examples ([K19] eq. 4).

    Args:
        x: ``(n, …)``, any float dtype; everything after the first axis is one feature vector.
        y: ``(n, …)``, any float dtype.
        debiased: HSIC₁ of [S12] ([N21] eq. 3), near 0 for independent data and sometimes below it; else the
            biased estimate of [K19] eq. 3, which tends to 1 when there are more features than examples.
        kernel: ``"linear"`` or ``"rbf"``.
        bandwidth: of the RBF kernel, as a multiple of the median distance between examples.

    Returns:
        A float64 scalar; NaN if either representation is the same for all examples.

    Raises:
        ValueError: fewer than 4 examples, or different numbers of them.

    Cost: 2 n² (p_x + p_y) operations and n² numbers of memory per input.
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must hold the same examples, got {len(x)} and {len(y)}")
    rows = [
        centered_rows(gram(features, kernel=kernel, bandwidth=bandwidth)[None], debiased=debiased)
        for features in (x, y)
    ]
    return similarity(inner_products(*rows), norms(rows[0]), norms(rows[1]))[0, 0]


def gram(
    x: Tensor,
    *,
    kernel: Kernel = "linear",
    bandwidth: float = 1.0,
    out: Tensor | None = None,
    scratch: Tensor | None = None,
) -> Tensor:
    """Kernel matrix of the examples, computed from features that were shifted to near their mean first.

    HSIC does not change when a constant is added to a feature; float32 does: with activations of 1000 ± 1 an
    uncentred Gram matrix has no correct digit left. So features are shifted before the product, in float32 or
    better whatever ``x`` is, outside autocast, and a chunk of features at a time; centring the matrix does the rest.

    Args:
        x: ``(n, …)`` features, any float dtype.
        kernel: ``"linear"`` or ``"rbf"``: exp(-d² / (2 (bandwidth · median d)²)), [K19] section 4, less 1: HSIC
            does not see a constant, and where all examples are the same, nothing is left.
        bandwidth: of the RBF kernel, as a multiple of the median distance between two different examples (the
            lower one of two medians).
        out: ``(n, n)`` to write into.
        scratch: a 1-D buffer to centre chunks in, from :func:`scratch_for`; allocated when absent.

    Returns:
        ``(n, n)``, float32, or float64 for float64 features.

    Raises:
        ValueError: fewer than 4 examples.
    """
    n = len(x)
    if n < MIN_EXAMPLES:
        raise ValueError(f"CKA needs at least {MIN_EXAMPLES} examples, got {n}")
    features = _flat(x.detach())
    if out is None:
        out = torch.empty(n, n, dtype=gram_dtype(x), device=x.device)
    dtype = out.dtype
    if scratch is None:
        scratch = scratch_for(n, dtype, x.device)
    width = max(1, len(scratch) // n)
    # The matrix is symmetric: on a CPU, blocks of rows up to the diagonal take a quarter less time than all of it.
    block = _BLOCK_ROWS if x.device.type == "cpu" else n
    blocks = [(top, min(n, top + block)) for top in range(0, n, block)]
    out.zero_()
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False), full_precision():
        for start in range(0, features.shape[1], width):
            chunk = features[:, start : start + width]
            centred = scratch[: chunk.numel()].view(chunk.shape)
            torch.sub(chunk.to(dtype), _near_mean(chunk, dtype), out=centred)
            for top, bottom in blocks:
                out[top:bottom, :bottom].addmm_(centred[top:bottom], centred[:bottom].T)
        for top, bottom in blocks:
            out[:top, top:bottom] = out[top:bottom, :top].T
    return _rbf(out, bandwidth) if kernel == "rbf" else out


def _near_mean(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean of the first examples, 32 at most: near enough to the mean of all, in a quarter of a pass.

    By halving, so that it is exact for a feature that does not vary, and what is left of one is exactly zero.
    """
    total = features[: 1 << min(5, len(features).bit_length() - 1)].to(dtype)
    count = len(total)
    while len(total) > 1:
        total = total[: len(total) // 2] + total[len(total) // 2 :]
    return total / count


def gram_dtype(*layers: Tensor) -> torch.dtype:
    """What Gram matrices are formed in: float32, or float64 if a layer is float64 or complex128."""
    doubles = (torch.float64, torch.complex128)
    return torch.float64 if any(layer.dtype in doubles for layer in layers) else torch.float32


def scratch_for(n: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A buffer for :func:`gram`, to be reused over layers and batches of at most ``n`` examples."""
    chunk = _CHUNK_BYTES if torch.device(device).type == "cpu" else _CHUNK_BYTES_ACCELERATOR
    columns = max(64, chunk // (n * dtype.itemsize))
    return torch.empty(n * columns, dtype=dtype, device=device)


def _flat(x: Tensor) -> Tensor:
    """``(n, p)`` without a copy where the memory layout allows: the order of features does not matter."""
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    for layout, channels_last in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if x.ndim == channels_last and not x.is_contiguous() and x.is_contiguous(memory_format=layout):
            return x.movedim(1, -1).flatten(1)
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def _rbf(linear: Tensor, bandwidth: float) -> Tensor:
    """Turn the linear Gram matrix of centred features into the RBF one less 1, in place."""
    n = len(linear)
    norms = linear.diagonal().clone()
    scale = norms[:, None] + norms[None, :]
    squared = linear.mul_(-2).add_(scale)
    # Identical examples have distance 0, not the rounding error of their inner products.
    squared.masked_fill_(squared < 64 * torch.finfo(linear.dtype).eps * scale, 0.0)
    pairs = torch.triu_indices(n, n, offset=1, device=linear.device)
    median = squared[pairs[0], pairs[1]].median()
    return squared.div_(median.clamp(min=torch.finfo(linear.dtype).tiny)).div_(-2 * bandwidth**2).expm1_()


def double_center(grams: Tensor) -> Tensor:
    """Subtract row and column means, in place: ``(…, n, n)`` Gram matrices K -> HKH of [K19]."""
    grams -= grams.mean(-1, keepdim=True)
    grams -= grams.mean(-2, keepdim=True)
    return grams


def centered_rows(grams: Tensor, *, debiased: bool = True) -> Tensor:
    """Centre Gram matrices so that inner products are HSICs, in place.

    Args:
        grams: ``(L, n, n)``, overwritten.
        debiased: U-centring of [SR14] eq. 2.6: the inner product is n(n-3) HSIC₁. Else double centring: the
            inner product is (n-1)² times the biased HSIC.

    Returns:
        ``(L, n²)``, a view of ``grams``.
    """
    if not debiased:
        return double_center(grams).flatten(1)
    n = grams.shape[-1]
    diagonal = grams.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    shift = grams.sum(-1, keepdim=True) / (n - 2)
    shift -= shift.sum(-2, keepdim=True) / (2 * (n - 1))
    grams -= shift
    grams -= shift.mT
    diagonal.zero_()
    return grams.flatten(1)


def inner_products(rows_x: Tensor, rows_y: Tensor) -> Tensor:
    """All inner products of centred rows, ``(L_x, n²)`` and ``(L_y, n²)`` -> ``(L_x, L_y)`` float64.

    n(n-3) HSIC₁ (or (n-1)² HSIC) of every pair of layers on one batch. Sums over batches weight a ragged last
    batch by n(n-3), as the official code of [N21] does; with equal batches this is the paper's plain mean.
    """
    total = torch.zeros(len(rows_x), len(rows_y), dtype=torch.float64, device=_float64_device(rows_x))
    same = rows_x is rows_y
    for a, b in zip(rows_x.split(_PRODUCT_COLUMNS, 1), rows_y.split(_PRODUCT_COLUMNS, 1), strict=True):
        a64 = a.to(total.device, torch.float64)
        total.addmm_(a64, (a64 if same else b.to(total.device, torch.float64)).T)
    return total


def norms(rows: Tensor) -> Tensor:
    """Each row's inner product with itself, ``(L, n²)`` -> ``(L,)`` float64: every layer's own HSIC."""
    return torch.stack([row.to(_float64_device(rows), torch.float64).square().sum() for row in rows])


def similarity(xy: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    """CKA from summed HSICs: sums first, ratio last ([N21] eq. 2).

    Args:
        xy: ``(L_x, L_y)`` sums of HSIC between layers.
        xx: ``(L_x,)`` sums of each layer's HSIC with itself; never negative.
        yy: ``(L_y,)`` likewise.

    Returns:
        ``(L_x, L_y)``: negative values kept, NaN in the row or column of a layer that does not vary.
    """
    norm = (xx[:, None] * yy[None, :]).sqrt()
    return torch.where(norm > 0, xy / norm, torch.nan)


def first_component(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue and its eigenvector of double-centred Gram matrices ([N21] section 5).

    Args:
        centred: ``(L, n, n)`` from :func:`double_center`. A matrix that is not finite gets NaN.

    Returns:
        ``(L,)`` variance of the first principal component (times n), and ``(L, n)`` unit-length scores of
        the examples on it, both in the dtype of ``centred``. A matrix of zeros has no direction: NaN scores.

    Cost: one symmetric eigendecomposition per layer, O(L n³).
    """
    finite = centred.isfinite().all(-1).all(-1)
    safe = torch.where(finite[:, None, None], centred, 0.0)
    values, vectors = torch.linalg.eigh(safe.cpu() if centred.device.type == "mps" else safe)
    values, vectors = values[:, -1].to(centred.device), vectors[:, :, -1].to(centred.device)
    varies = centred.diagonal(dim1=-2, dim2=-1).sum(-1) > 0
    return values.where(finite, torch.nan), vectors.where((finite & varies)[:, None], torch.nan)


def remove_component(centred: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """Gram matrices of the features with their first principal component removed: K - λ u uᵀ, in place.

    Where nothing but rounding error would be left (a layer of a single component), zeros are.
    """
    total = centred.diagonal(dim1=-2, dim2=-1).sum(-1)
    single = total - values <= centred.shape[-1] * torch.finfo(centred.dtype).eps * total
    centred.sub_((values[:, None] * vectors)[:, :, None] * vectors[:, None, :])
    return centred.masked_fill_(single[:, None, None], 0.0)


def _float64_device(tensor: Tensor) -> torch.device:
    """Apple's GPUs have no float64."""
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device
