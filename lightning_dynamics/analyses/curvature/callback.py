"""CurvatureCallback: how the loss curves around the network, as it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from math import nan
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_dynamics.analyses.arguments import Data, OnError
from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.curvature import estimator
from lightning_dynamics.analyses.curvature.checks import (
    check_batchnorm,
    check_count,
    check_loss,
    check_parameters,
    check_search,
    described,
    identity_of,
)
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import HessianOperator, NotFinite
from lightning_dynamics.analyses.curvature.quantities import condition_number, flatness_of
from lightning_dynamics.analyses.curvature.result import CurvatureResult
from lightning_dynamics.analyses.curvature.second_derivatives import check_second_derivatives
from lightning_dynamics.analyses.curvature.spectrum import density_of
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.objective import LossFn, loss
from lightning_dynamics.core.parameters import select_parameters
from lightning_dynamics.core.progress import progress


class CurvatureCallback(AnalysisCallback[CurvatureResult]):
    r"""Measure the Hessian of the loss as the network trains: its extreme eigenvalues, trace and spectrum.

    Eigenvalues by Lanczos with full reorthogonalisation, trace by Hutchinson's estimator, spectrum by stochastic
    Lanczos quadrature (Lin, Saad, Yang 2016; Papyan 2018; Ghorbani, Krishnan, Xiao 2019), \|λmin/λmax\| as in Li et al.
    2018, section 6, flatness of the gradient after Frye et al. 2021. The Hessian is that of the mean loss over the
    probe's examples, not of a sum over minibatches. Each eigenvalue is shown with its residual; what has not converged
    is marked.

    The loss is that of a fixed probe, as the module's ``training_step`` computes it, and must be a mean over the
    batch's examples; the optimizer's weight decay is not included. In piecewise linear networks (ReLU) all curvature
    comes from the loss function; the kinks have none.

    Logged keys (``curvature`` becomes ``curvature/{name}`` with a ``name``; ``-2`` is added for a second of the same
    name):

    ====================================  ========  ================================================================
    ``curvature/spectrum``                picture   density of the eigenvalues, log₁₀, with the extreme ones marked
    ``curvature/eigenvalues``             picture   the extreme eigenvalues over training
    ``curvature/spectrum_film``           film      the spectrum over training, when training ends
    ``curvature/values``                  table     every number, with its error
    ``curvature/largest``                 scalar    λmax; ``largest_2``, … with ``k`` > 1
    ``curvature/smallest``                scalar    λmin
    ``curvature/non_convexity``           scalar    \|λmin/λmax\|
    ``curvature/trace``                   scalar    and ``trace_standard_error``
    ``curvature/gradient_norm``           scalar    ‖g‖ of the probe's mean loss
    ``curvature/flatness``                scalar    ‖Hg‖/‖g‖; ``relative_flatness``: over max\|λ\|
    ``curvature/gradient_outside``        scalar    share of ‖g‖² outside of the extreme eigenvectors
    ``curvature/condition_number``        scalar    only where all eigenvalues are known
    ``curvature/converged``               scalar    1 or 0
    ``curvature/loss``                    scalar    of the probe
    ====================================  ========  ================================================================

    Cost of an event: Hessian-vector products, ``max_iterations`` + ``trace_samples`` + ``density_samples`` ×
    ``density_iterations`` + 1 at most; eigenvalues usually take 30 to 200. A product costs about as much as one
    training pass (forward and backward) over the probe where the gradient's graph is kept (as many minibatches as fit
    into 1 GiB), else two. Memory while an event lasts: (``max_iterations`` + k) × P numbers at most, those graphs, and
    a copy of the model. None of it grows with training.

    Args:
        k: eigenvalues at each end.
        trace_samples: probes of the trace; 0 leaves it out.
        density_samples: start vectors of the spectrum; 0 leaves it out. With one there is no standard error.
        density_iterations: products for each of them.
        parameters: globs: the parameters whose Hessian it is, e.g. ``"head.*"``; frozen ones that match count too.
        tolerance: largest residual of an eigenvalue, as a share of the largest \|λ\|.
        max_iterations: products that the eigenvalues may take.
        mode: ``"eval"`` or ``"train"``; random layers get the same draws in every product.

    Raises:
        ConfigurationError: before training: a pattern that matches nothing, more eigenvalues than parameters, a loss
            that is no scalar, does not depend on the parameters or is no function of them, manual optimisation without
            ``loss_fn``, parameters in half precision, an operation whose second derivative is missing or wrong.

    Example::

        trainer = Trainer(callbacks=[CurvatureCallback(k=2, every_n_epochs=5)])
    """

    group: ClassVar[str] = "curvature"
    result_type: ClassVar[type[CurvatureResult]] = CurvatureResult

    def __init__(
        self,
        k: int = 1,
        trace_samples: int = 16,
        density_samples: int = 2,
        density_iterations: int = 40,
        parameters: str | Sequence[str] = "*",
        loss_fn: str | LossFn | None = None,
        tolerance: float = 1e-4,
        max_iterations: int = 200,
        data: Data = "train",
        num_examples: int = 256,
        batch_size: int = 128,
        every_n_epochs: int | None = 1,
        every_n_train_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = True,
        mode: Mode | None = None,
        seed: int = 0,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        super().__init__(
            locals(),
            identity={
                "search": (k, tolerance, max_iterations),
                "samples": (trace_samples, density_samples, density_iterations),
                **identity_of(parameters, loss_fn),
            },
        )
        check_search(k, tolerance, max_iterations)
        check_count("trace_samples", trace_samples, least=0)
        check_count("density_samples", density_samples, least=0)
        check_count("density_iterations", density_iterations)
        self.k = k
        self.trace_samples = trace_samples
        self.density_samples = density_samples
        self.density_iterations = density_iterations
        self.parameters = parameters
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Try the loss on every kind of minibatch of this process, and its derivatives on the smallest."""
        chosen = select_parameters(context.module, self.parameters)
        check_parameters(chosen)
        check_search(self.k, self.tolerance, self.max_iterations, sum(p.numel() for p in chosen.values()))
        check_batchnorm(context, self.mode)
        for parameter in context.module.parameters():
            parameter.requires_grad_(False)
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        batches = Minibatches.from_context(context)
        for place in {0, len(batches) - 1} if len(batches) else ():
            with torch.enable_grad():
                value = loss(context.module, batches.load(place), self.loss_fn)
            check_loss(value, self.parameters)
        check_second_derivatives(context.module, self.loss_fn, batches, chosen)

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> CurvatureResult:
        """Everything, by products that all processes take together, each on its own minibatches."""
        chosen = select_parameters(context.module, self.parameters)
        operator = HessianOperator(
            context.module,
            self.loss_fn,
            Minibatches.from_context(context),
            chosen,
            gather=lambda work: context.ranks.all_reduce(context.ranks.run_checked(work)),
            num_examples=len(context.probe),
        )
        try:
            with torch.no_grad():
                found = operator.run_on_rank_zero(context.ranks, lambda: self._found(operator, context.description))
                return self._result(context, operator, found)
        except NotFinite:
            return self._result(context, operator, self._nothing())
        finally:
            operator.clear_cache()

    def combine(self, part: CurvatureResult, context: Context) -> CurvatureResult:
        """The same in all processes already; here it gets the eigenvalues of earlier events."""
        return part.after(self.results)

    # ---- what is measured ----------------------------------------------------------------------------------

    def _found(self, operator: HessianOperator, description: str | None) -> dict[str, Any]:
        most = self.max_iterations + 1 + self.trace_samples + self.density_samples * self.density_iterations
        ticks: Iterator[int] = progress(count(), total=most, description=description)

        def matvec(vector: Tensor) -> Tensor:
            next(ticks)
            return operator.matvec(vector)

        where: dict[str, Any] = {"dtype": operator.dtype, "device": operator.device, "seed": self.seed}
        flat_loss = operator.loss  # before anything else: a loss that is not finite has no Hessian
        pairs = estimator.extreme_pairs(
            matvec,
            operator.size,
            k=self.k,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            **where,
        )
        flatness = flatness_of(operator, pairs)
        found = self._nothing() | {
            "loss": flat_loss,
            "largest": pairs.largest,
            "smallest": pairs.smallest,
            "largest_residuals": pairs.largest_residuals,
            "smallest_residuals": pairs.smallest_residuals,
            "converged": pairs.converged,
            "overlooked": pairs.overlooked,
            "iterations": pairs.products,
            "condition_number": condition_number(pairs),
            "gradient_norm": flatness.gradient_norm,
            "flatness": flatness.flatness,
            "relative_flatness": flatness.relative_flatness,
            "outside_share": flatness.outside_share,
        }
        del pairs  # its vectors take as much memory as the next search
        if self.trace_samples:
            trace = estimator.trace_estimate(matvec, operator.size, num_samples=self.trace_samples, **where)
            found |= {"trace": trace.trace, "trace_standard_error": trace.standard_error}
        if self.density_samples:
            nodes, weights = estimator.quadrature(
                matvec,
                operator.size,
                num_samples=self.density_samples,
                num_iterations=self.density_iterations,
                **where,
            )
            spectrum = density_of(nodes, weights)
            found |= {
                "grid": spectrum.grid,
                "density": spectrum.density,
                "density_standard_error": spectrum.standard_error,
                "sigma": spectrum.sigma,
            }
        return found

    def _nothing(self) -> dict[str, Any]:
        """What is found where nothing is finite, and what is not asked for."""
        numbers = ("loss", "overlooked", "condition_number", "trace", "trace_standard_error", "gradient_norm", "sigma")
        ends = ("largest", "smallest", "largest_residuals", "smallest_residuals")
        curves = ("grid", "density", "density_standard_error")
        return {
            **dict.fromkeys((*numbers, "flatness", "relative_flatness", "outside_share"), nan),
            **{end: torch.full((self.k,), nan, dtype=torch.float64) for end in ends},
            **{curve: torch.zeros(0, dtype=torch.float64) for curve in curves},
            "converged": False,
            "iterations": 0,
        }

    def _result(self, context: Context, operator: HessianOperator, found: dict[str, Any]) -> CurvatureResult:
        samples = f"trace of {self.trace_samples} probes" if self.trace_samples else ""
        spectrum = f"spectrum of {self.density_samples} × {self.density_iterations} products"
        spectrum = spectrum if self.density_samples else ""
        return CurvatureResult(
            epoch=context.moment.epoch,
            step=context.moment.step,
            num_examples=len(context.probe),
            num_parameters=operator.size,
            data=context.probe.name,
            parameters=described(self.parameters),
            estimator=", ".join(part for part in (f"{self.mode} mode", samples, spectrum, context.loss_is) if part),
            **found,
        )
