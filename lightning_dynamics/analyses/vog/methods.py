"""Attribution methods: at which points of the input space gradients are taken, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_dynamics.core.checks import is_count
from lightning_dynamics.core.lightning import ConfigurationError


@dataclass(frozen=True)
class SmoothGrad:
    """The mean gradient at noisy copies of the example.

    D. Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017. The noise is Gaussian, and the same at every
    event.

    Args:
        samples: copies per example, and so passes.
        noise: standard deviation, as a share of the example's range (its largest minus its smallest value).
    """

    samples: int = 16
    noise: float = 0.15

    def point(self, x: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """The inputs ``(n, …)`` at which the number-th gradient is taken."""
        flat = x.reshape(len(x), -1)
        size = self.noise * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.ndim - 1))
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return x + size * noise.to(x)

    def attribution(self, mean: Tensor, x: Tensor) -> Tensor:
        """What is made of the mean gradient."""
        return mean

    def __str__(self) -> str:
        """As results and pictures say it."""
        noise = "" if self.noise == SmoothGrad.noise else f", noise {self.noise:g}"
        return f"smoothgrad, {self.samples} samples{noise}"


@dataclass(frozen=True)
class IntegratedGradients:
    """The example times the mean gradient on the straight line from 0 to it.

    M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, eq. 3, with gradients at the
    midpoints of equal intervals.

    Args:
        samples: intervals, and so passes.
    """

    samples: int = 16

    def point(self, x: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """The inputs ``(n, …)`` at which the number-th gradient is taken."""
        return x * ((number + 0.5) / self.samples)

    def attribution(self, mean: Tensor, x: Tensor) -> Tensor:
        """What is made of the mean gradient."""
        return mean * x

    def __str__(self) -> str:
        """As results and pictures say it."""
        return f"integrated_gradients, {self.samples} samples"


MethodName = Literal["gradient", "smoothgrad", "integrated_gradients"]
Attribution: TypeAlias = Literal["gradient"] | SmoothGrad | IntegratedGradients
"""What gradients are taken by; ``"gradient"``: one, at the example itself."""

_BY_NAME: dict[str, Attribution] = {
    "gradient": "gradient",
    "smoothgrad": SmoothGrad(),
    "integrated_gradients": IntegratedGradients(),
}


def attribution_method(given: Any) -> Attribution:
    """A method, given as itself or by its name.

    Raises:
        ConfigurationError: there is no such method, or its settings cannot work.
    """
    method = _BY_NAME.get(given) if isinstance(given, str) else given
    if method == "gradient":
        return "gradient"
    if not isinstance(method, SmoothGrad | IntegratedGradients):
        raise ConfigurationError(
            f"`attribution` must be one of {', '.join(map(repr, get_args(MethodName)))}, or a value such as "
            f"`lightning_dynamics.vog.SmoothGrad(samples=16)`; got {given!r}"
        )
    if not is_count(method.samples):
        raise ConfigurationError(f"`attribution={method!r}`: `samples` must be a whole number from 1 up")
    if isinstance(method, SmoothGrad) and not method.noise >= 0:
        raise ConfigurationError(f"`attribution={method!r}`: `noise` must be a number from 0 up")
    return method
