"""DeepLinear: a network whose loss surface is known exactly, as a LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.core.lightning import ConfigurationError, LightningModule
from lightning_dynamics.data.problems import critical, estimator, moments, scalar

Matrix = Tensor | Sequence[Sequence[float]]


class DeepLinear(LightningModule):
    """A deep linear network y = W_L ⋯ W_1 x with loss ½ E‖y − W_L ⋯ W_1 x‖²: nonlinear to train, and solved.

    Its data are known by their second moments alone. :attr:`dataset` holds a few examples whose moments are these,
    so that on the full batch ``training_step`` gives the very loss that :meth:`loss_at` states, and gradient descent
    with a Trainer is gradient descent on the exact surface; ``train_dataloader`` gives it to the Trainer.

    Exact, closed-form, float64, at any number of points θ at once: :meth:`loss_at`, :meth:`gradient_at`,
    :meth:`hessian_at` and, for whatever ``theta (…, P)``, what gradient flow conserves (:meth:`conserved_at`). θ is
    the weights in the order of ``parameters()``. What is known of particular ones: :meth:`critical_points`,
    :attr:`minimum_loss`; of :meth:`multiply_by_one` with width 1, :meth:`solution`, :meth:`distance_to_solutions`,
    :meth:`basins`, :meth:`flow` and :meth:`flow_limit`.

    Saxe, McClelland, Ganguli 2014; Baldi & Hornik 1989. ``lightning_dynamics.data.problems.estimator``, ``.scalar`` and
    ``.critical`` have the formulas.

    Args:
        sizes: layer sizes d_0, …, d_L, input first.
        input_covariance: ``(d_0, d_0)`` E xxᵀ; by default I.
        cross_covariance: ``(d_L, d_0)`` E yxᵀ; by default E xxᵀ: an autoencoder.
        target_covariance: ``(d_L, d_L)`` E yyᵀ; by default y is linear in x, without noise.
        lr: of SGD.
        momentum: of SGD.

    Raises:
        ConfigurationError: sizes that are none, or moments that no data can have.

    Example::

        problem = DeepLinear.multiply_by_one()
        problem.hessian_at(torch.tensor([2.0, 0.5]))  # eigenvalues 0 and 2² + 0.5²: at a solution
    """

    def __init__(
        self,
        sizes: Sequence[int],
        input_covariance: Matrix | None = None,
        cross_covariance: Matrix | None = None,
        target_covariance: Matrix | None = None,
        lr: float = 0.1,
        momentum: float = 0.0,
    ) -> None:
        """Check the moments, and make data that have them."""
        super().__init__()
        if len(sizes) < 2 or any(not isinstance(size, Integral) or size < 1 for size in sizes):
            raise ConfigurationError(f"`sizes={sizes!r}`: give at least an input and an output size, each 1 or more")
        self.sizes = tuple(map(int, sizes))
        self.lr = lr
        self.momentum = momentum
        given = {
            "input_covariance": input_covariance,
            "cross_covariance": cross_covariance,
            "target_covariance": target_covariance,
        }
        tables = {
            name: None if table is None else torch.as_tensor(table, dtype=torch.float64).tolist()
            for name, table in given.items()
        }
        self.save_hyperparameters({"sizes": list(self.sizes), **tables, "lr": lr, "momentum": momentum}, logger=False)
        self.layers = nn.Sequential(*(nn.Linear(before, after, bias=False) for before, after in pairwise(sizes)))
        inputs, targets = moments.examples(self.sizes[0], self.sizes[-1], *given.values())
        self.dataset = TensorDataset(inputs, targets)

    @classmethod
    def multiply_by_one(cls, depth: int = 2, width: int = 1, **options: Any) -> DeepLinear:
        """Input 1, target 1: L = ½ (W_L ⋯ W_1 − 1)², with hidden layers of ``width`` units.

        The simplest problem with the symmetries, saddles and conserved quantities of deep networks.
        """
        if depth < 1 or width < 1:
            raise ConfigurationError(f"`depth={depth}` and `width={width}` must be at least 1")
        return cls([1, *[width] * (depth - 1), 1], **options)

    @classmethod
    def autoencoder(cls, eigenvalues: Sequence[float] = (3.0, 1.0), hidden: int = 1, **options: Any) -> DeepLinear:
        """Target = input, of covariance diag(eigenvalues), through ``hidden`` units (Baldi & Hornik 1989).

        With the defaults: critical losses 2 (index 2), 1.5 (index 1) and 0.5 (index 0).
        """
        if len(eigenvalues) == 0 or min(eigenvalues) <= 0:
            raise ConfigurationError(f"`eigenvalues={eigenvalues!r}` must be positive, at least one")
        covariance = torch.tensor(list(eigenvalues), dtype=torch.float64).diag()
        return cls([len(eigenvalues), hidden, len(eigenvalues)], covariance, **options)

    # ---- a LightningModule ---------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """W_L ⋯ W_1 x for ``(N, d_0)``, in the precision of the weights: ``(N, d_L)``."""
        return self.layers(x.to(next(self.parameters()).dtype))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of the batch, logged as ``train/loss``."""
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """½ ‖y − W x‖², the mean over the examples ``(N, d_0)``, ``(N, d_L)`` of a batch."""
        output = self(batch[0])
        return (output - batch[1].to(output.dtype)).square().sum(-1).mean() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)

    def train_dataloader(self) -> DataLoader[Any]:
        """The whole data set as one batch."""
        return DataLoader(self.dataset, batch_size=len(self.dataset))

    @property
    def theta(self) -> Tensor:
        """The weights where they are now: ``(P,)`` float64, a copy."""
        return torch.cat([weight.detach().flatten() for weight in self.parameters()]).double()

    @torch.no_grad()
    def move_to(self, theta: Tensor | Sequence[float]) -> DeepLinear:
        """Set the weights to ``(P,)``; returns the module itself.

        Raises:
            ConfigurationError: if that is another number of them.
        """
        flat = self._points(theta)
        if flat.ndim != 1:
            raise ConfigurationError(f"`theta` must be one point ({flat.shape[-1]},), got {tuple(flat.shape)}")
        for parameter, weight in zip(self.parameters(), estimator.split(flat, self.sizes), strict=True):
            parameter.copy_(weight)
        return self

    # ---- exact, for every network --------------------------------------------------------------------------

    def loss_at(self, theta: Tensor | Sequence[float]) -> Tensor:
        """L ``(…)`` float64 at points ``(…, P)``."""
        return estimator.loss(*self._network(theta))

    def gradient_at(self, theta: Tensor | Sequence[float]) -> Tensor:
        """∂L/∂θ ``(…, P)`` float64."""
        return estimator.gradient(*self._network(theta))

    def hessian_at(self, theta: Tensor | Sequence[float]) -> Tensor:
        """∂²L/∂θ² ``(…, P, P)`` float64; so many numbers are held."""
        return estimator.hessian(*self._network(theta))

    def conserved_at(self, theta: Tensor | Sequence[float]) -> list[Tensor]:
        """W_(l+1)ᵀ W_(l+1) − W_l W_lᵀ ``(…, d_l, d_l)`` for l = 1 … L − 1: constant along gradient flow.

        For two scalar weights, b² − a². A step of gradient descent at rate η multiplies it by 1 − η² (ab − 1)².
        """
        return estimator.imbalances(self._network(theta)[0])

    @property
    def minimum_loss(self) -> float:
        """The least loss that the narrowest layer allows: that of the best linear map of its rank (Eckart & Young)."""
        inputs, targets = self._moments()
        fitted, missed = moments.fit(inputs, targets)
        values = torch.linalg.svdvals(fitted @ inputs)
        return float((missed**2).sum() + (values[min(self.sizes) :] ** 2).sum()) / 2

    def critical_points(self) -> list[critical.CriticalPoint]:
        """All families of critical points, where they are known.

        For two layers whose input and output sizes are the same (an autoencoder; multiply-by-one of any width), and
        singular values that are positive and distinct: see :func:`~lightning_dynamics.problems.critical.two_layers`.
        For multiply-by-one of width 1 and any depth: :func:`~lightning_dynamics.problems.critical.product_of`.

        Raises:
            ConfigurationError: for other networks.
        """
        if self._multiplies_by_one and len(self.sizes) > 2:
            return list(critical.product_of(len(self.sizes) - 1))
        if len(self.sizes) != 3 or self.sizes[0] != self.sizes[2]:
            raise ConfigurationError(
                f"critical points are known for sizes (d, hidden, d) and for multiply_by_one, not for {self.sizes}"
            )
        inputs, targets = self._moments()
        fitted, missed = moments.fit(inputs, targets)
        values, vectors = torch.linalg.eigh(inputs @ inputs.T)
        if values[0] <= 1e-12 * values[-1]:
            raise ConfigurationError("critical points are known where x varies in all directions; E xxᵀ is singular")
        root, whitener = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
        left, strengths, right = torch.linalg.svd(fitted @ root)
        critical.check_distinct(strengths.tolist())
        noise = float((missed**2).sum()) / 2
        found = critical.two_layers(whitener, left, strengths, right.T, self.sizes[1])
        return [critical.CriticalPoint(p.theta, p.loss + noise, p.index, p.nullity, p.modes) for p in found]

    # ---- exact, for multiply-by-one of width 1 -------------------------------------------------------------

    def solution(self, free: Tensor | Sequence[float]) -> Tensor:
        """See :func:`lightning_dynamics.problems.scalar.solution`."""
        self._check_scalar("solution")
        return scalar.solution(self._points(free, missing=1))

    def distance_to_solutions(self, theta: Tensor | Sequence[float]) -> Tensor:
        """See :func:`lightning_dynamics.problems.scalar.distance_to_solutions`."""
        self._check_scalar("distance_to_solutions")
        return scalar.distance_to_solutions(self._points(theta))

    def basins(self, theta: Tensor | Sequence[float]) -> Tensor:
        """See :func:`lightning_dynamics.problems.scalar.basins`."""
        self._check_scalar("basins")
        return scalar.basins(self._points(theta))

    def flow(self, theta: Tensor | Sequence[float], time: Tensor | float) -> Tensor:
        """See :func:`lightning_dynamics.problems.scalar.flow`."""
        self._check_scalar("flow")
        return scalar.flow(self._points(theta), time)

    def flow_limit(self, theta: Tensor | Sequence[float]) -> Tensor:
        """See :func:`lightning_dynamics.problems.scalar.flow_limit`."""
        self._check_scalar("flow_limit")
        return scalar.flow_limit(self._points(theta))

    # ---- inside --------------------------------------------------------------------------------------------

    @property
    def _multiplies_by_one(self) -> bool:
        inputs, targets = self._moments()
        return set(self.sizes) == {1} and inputs.tolist() == targets.tolist() == [[1.0]]

    def _check_scalar(self, what: str) -> None:
        if not self._multiplies_by_one:
            raise ConfigurationError(
                f"`{what}` is known for multiply_by_one with width 1, not for a network of sizes {self.sizes}"
            )

    def _moments(self) -> tuple[Tensor, Tensor]:
        """The factors that the estimator takes."""
        x, y = self.dataset.tensors
        return x.T / len(x) ** 0.5, y.T / len(x) ** 0.5

    def _network(self, theta: Tensor | Sequence[float]) -> tuple[list[Tensor], Tensor, Tensor]:
        points = self._points(theta)
        inputs, targets = self._moments()
        return estimator.split(points, self.sizes), inputs.to(points.device), targets.to(points.device)

    def _points(self, theta: Tensor | Sequence[float], missing: int = 0) -> Tensor:
        points = torch.as_tensor(theta, dtype=torch.float64)
        expected = estimator.num_parameters(self.sizes) - missing
        if points.ndim == 0 or points.shape[-1] != expected:
            raise ConfigurationError(f"points of this network are (…, {expected}), got {tuple(points.shape)}")
        return points
