"""Minibatch CKA as a torchmetrics Metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_dynamics.analyses.cka import estimator
from lightning_dynamics.analyses.cka.estimator import Kernel


class MinibatchCKA(Metric):
    """CKA between all pairs of layers, summed over minibatches (Nguyen, Raghu, Kornblith 2021, eq. 2).

    Numerator and denominator are summed over minibatches and divided once. A ragged minibatch counts with
    n(n - 3), as in the official code; with equal minibatches this is the paper's plain mean.

    Args:
        num_layers_x: number of layers of the first network.
        num_layers_y: of the second; None compares the first with itself.
        debiased: HSIC₁ (the paper), else the biased HSIC.
        kernel: ``"linear"`` or ``"rbf"``.
        bandwidth: of the RBF kernel, as a multiple of the median distance within a minibatch.
        kwargs: for :class:`torchmetrics.Metric`.

    Example::

        metric = MinibatchCKA(num_layers_x=2)
        for batch in loader:
            metric.update([layer1(batch), layer2(batch)])
        metric.compute()  # (2, 2)

    Cost: 2 n² p per layer and minibatch, n² numbers per layer; the state is L² numbers.
    """

    full_state_update = False
    xy: Tensor
    xx: Tensor
    yy: Tensor

    def __init__(
        self,
        num_layers_x: int,
        num_layers_y: int | None = None,
        *,
        debiased: bool = True,
        kernel: Kernel = "linear",
        bandwidth: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """Start at zero minibatches."""
        super().__init__(**kwargs)
        self.num_layers_x = num_layers_x
        self.num_layers_y = num_layers_y
        self.debiased = debiased
        self.kernel: Kernel = kernel
        self.bandwidth = bandwidth
        shapes = {
            "xy": (num_layers_x, num_layers_x if num_layers_y is None else num_layers_y),
            "xx": (num_layers_x,),
            "yy": (num_layers_x if num_layers_y is None else num_layers_y,),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, xs: Sequence[Tensor], ys: Sequence[Tensor] | None = None) -> None:
        """Add one minibatch.

        Args:
            xs: one ``(n, …)`` tensor per layer of the first network, any float dtype, n at least 4.
            ys: the same for the second network, on the same examples; absent when it is compared with itself.

        Raises:
            ValueError: wrong number of layers, different numbers of examples, or fewer than 4.
        """
        if (ys is None) != (self.num_layers_y is None):
            raise ValueError("give `ys` exactly when the metric was made with `num_layers_y`")
        for argument, tensors, expected in (("xs", xs, self.num_layers_x), ("ys", ys, self.num_layers_y)):
            if tensors is not None and len(tensors) != expected:
                raise ValueError(f"`{argument}` must hold {expected} tensors, one per layer; got {len(tensors)}")
        if len({len(tensor) for tensor in (*xs, *(ys or ()))}) > 1:
            raise ValueError("all layers must have seen the same number of examples")
        rows_x = self._rows(xs)
        rows_y = rows_x if ys is None else self._rows(ys)
        xy = estimator.inner_products(rows_x, rows_y)
        self.xy += xy.to(self.xy.device)
        self.xx += (xy.diagonal() if ys is None else estimator.norms(rows_x)).to(self.xx.device)
        self.yy += (xy.diagonal() if ys is None else estimator.norms(rows_y)).to(self.yy.device)

    def compute(self) -> Tensor:
        """``(L_x, L_y)`` float64; NaN in the row or column of a layer that does not vary."""
        return estimator.similarity(self.xy, self.xx, self.yy)

    def _wrap_compute(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Keep the documented shape: torchmetrics squeezes a result of one element, the map of a single layer."""
        squeezed: Callable[..., Tensor] = super()._wrap_compute(compute)

        @wraps(compute)
        def shaped(*args: Any, **kwargs: Any) -> Tensor:
            return squeezed(*args, **kwargs).reshape(self.xy.shape)

        return shaped

    def _rows(self, layers: Sequence[Tensor]) -> Tensor:
        n, dtype = len(layers[0]), estimator.gram_dtype(*layers)
        grams = torch.empty(len(layers), n, n, dtype=dtype, device=layers[0].device)
        scratch = estimator.scratch_for(n, dtype, layers[0].device)
        for layer, out in zip(layers, grams, strict=True):
            estimator.gram(layer, kernel=self.kernel, bandwidth=self.bandwidth, out=out, scratch=scratch)
        return estimator.centered_rows(grams, debiased=self.debiased)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        """Follow the module to its device, and stay in float64: HSIC sums of float32 activations need it."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(torch.empty(0, dtype=tensor.dtype, device=tensor.device)).device)

        return super()._apply(move, exclude_state)
