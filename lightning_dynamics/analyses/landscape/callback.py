"""LandscapeCallback: the shape of the loss around and between solutions, still and in motion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import ClassVar

from torch import Tensor, nn

from lightning_dynamics.analyses.arguments import Data, OnError
from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.landscape.arguments import check_numbers, pair, slice_of
from lightning_dynamics.analyses.landscape.evaluator import BatchNormMode, DropoutMode, EvaluationSettings, Evaluator
from lightning_dynamics.analyses.landscape.measuring import Part, measure, result_of
from lightning_dynamics.analyses.landscape.minibatches import of_context
from lightning_dynamics.analyses.landscape.placement import SliceContext, Weights
from lightning_dynamics.analyses.landscape.quantities import MetricFn, metrics_named
from lightning_dynamics.analyses.landscape.result import LandscapeResult
from lightning_dynamics.analyses.landscape.slices import Slice
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, PredictFn
from lightning_dynamics.core.parameters import copied, flatten, select_parameters
from lightning_dynamics.core.trajectory import Recorder, Trajectory

_PROBE_BATCH = 512  # examples; where nobody says otherwise they are cut to what suits the machine


class LandscapeCallback(AnalysisCallback[LandscapeResult]):
    r"""Draw the loss on a plane or a line through the space of weights, while the network trains.

    H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018:
    L(θ + x d₁ + y d₂) with filter-normalised random directions (section 4), or the plane of the trajectory's two main
    directions (section 7). Planes and lines through solutions: Garipov et al. 2018; Goodfellow et al. 2015. Every
    picture is a two-dimensional slice: what it does not show is in all the other dimensions.

    Logged keys (``landscape`` becomes ``landscape/{name}`` with a ``name``):

    ==================================  =========  ===========================================================
    ``landscape/contour``               picture    a plane from above, with the trajectory
    ``landscape/surface``               picture    the same in 3-D
    ``landscape/line``                  picture    a line: loss and accuracy
    ``landscape/trajectory``            picture    true loss, the slice's loss, distance from the plane
    ``landscape/non_convexity``         picture    \|λmin / λmax\| over the plane, with ``curvature_resolution``
    ``landscape/values``                table      coordinates and quantities
    ``landscape/film``                  film       when training ends: the plane over training, in one scale
    ``landscape/explorer``              page       when training ends: the surface to walk on
    ``landscape/files``                 download   when training ends: ``.npz`` with everything, ``.vtp`` for ParaView
    ``landscape/sharpness``             scalar     worst loss within ``radius``, relative
    ``landscape/barrier``               scalar     of the line between two points
    ``landscape/explained_variance``    scalar     of the trajectory, by the plane
    ``landscape/center``                scalar     the loss at the centre of a slice around the weights
    ==================================  =========  ===========================================================

    Cost of an event: ``resolution²`` forward passes over the examples (25² × 512 examples are as many as 320,000
    examples), a little over twice that where batch normalisation is re-estimated; two more per snapshot of the
    trajectory. Points are shared out over processes. A curvature map takes up to 60 Hessian-vector products per
    point. Memory: the examples and five copies of the weights; a trajectory keeps up to ``max_snapshots + 2`` copies
    in float32 on the CPU or in files (and in checkpoints).

    Args:
        slice: which plane or line: ``"random"``, ``"random_line"``, ``"pca"`` (the trajectory's plane), ``"hessian"``
            (the two leading eigenvectors), ``"gradient"`` (and a random direction), a list of two or three points
            (``["initialization", "current"]``, paths of checkpoints), or a value with settings of its own:
            ``landscape.RandomPlane``, ``RandomLine``, ``TrajectoryPlane``, ``Through``, ``HessianPlane``,
            ``GradientPlane``.
        resolution: points along each axis, or ``[x, y]``; odd ones have the weights themselves among them.
        span: around the weights: how far along each direction, in units of the weights' own norm. Otherwise: 1 shows
            all points and a quarter of their range beyond.
        parameters: globs: which parameters move; the others stay as they are.
        quantities: beside the loss: ``"accuracy"``, or functions ``(logits, targets) -> scalar``, themselves or as
            ``"package.module.function"``; None for the accuracy if there is one.
        batchnorm: ``"reestimate"``, ``"frozen"`` or ``"batch"``; None: ``"frozen"`` along Hessian and gradient
            directions, which stay near the weights, else ``"reestimate"``.
        dropout: ``"off"``, or ``"fixed"``: on, with one mask for all points.
        weight_decay: λ of a term λ/2 ‖θ‖², added to the loss.
        radius: of the sharpness, in the units of a slice around the weights.
        curvature_resolution: points along each axis of a map of \|λmin / λmax\|; None for no map.
        trajectory: whether the weights are recorded during training and drawn, or a ``landscape.Trajectory`` that
            says how often. The trajectory's plane always shows its own.
        explorer: whether to make the interactive page.
        mode: ``"eval"``, or ``"train"``: the flags that the submodules have in training, but for batch normalisation
            and dropout, which have arguments of their own.
        channels_last: lay out images with their channels innermost: faster convolutions on many machines.
        second_data: as ``data``: further examples, whose quantities come as ``"second/…"`` (``"val/…"`` for ``"val"``).
        batch_size: examples per forward pass; None for what suits the machine. A loss that is no mean over examples
            (a contrastive one) needs a number.

    Raises:
        ConfigurationError: before training: points that are equal, missing, or of another architecture; a pattern that
            selects no parameter; a span of 0, a resolution of 1; quantities that cannot be measured.

    Example::

        trainer = Trainer(callbacks=[LandscapeCallback("pca", resolution=31)])
        LandscapeCallback(slice=landscape.RandomPlane(normalize="layer"), at_start=True)
    """

    group: ClassVar[str] = "landscape"
    result_type: ClassVar[type[LandscapeResult]] = LandscapeResult
    smallest_batch: ClassVar[int] = 2

    def __init__(
        self,
        slice: str | Sequence[str | PathLike[str]] | Slice = "random",
        resolution: int | Sequence[int] = 25,
        span: float = 1.0,
        parameters: str | Sequence[str] = "*",
        quantities: Sequence[str | MetricFn] | None = None,
        batchnorm: BatchNormMode | None = None,
        dropout: DropoutMode = "off",
        weight_decay: float = 0.0,
        radius: float = 0.25,
        curvature_resolution: int | Sequence[int] | None = None,
        trajectory: bool | Trajectory = False,
        explorer: bool = True,
        channels_last: bool = False,
        data: Data = "train",
        second_data: Data | None = None,
        num_examples: int = 512,
        batch_size: int | None = None,
        every_n_epochs: int | None = None,
        every_n_train_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = True,
        loss_fn: str | LossFn | None = None,
        predict_fn: str | PredictFn | None = None,
        mode: Mode | None = None,
        seed: int = 0,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        self.slice = slice_of(slice)
        own = Trajectory() if trajectory is True else trajectory or None
        self.trajectory: Trajectory | None = self.slice.trajectory or own
        super().__init__(
            locals(),
            batch_size=_PROBE_BATCH if batch_size is None else batch_size,
            remembers=self.trajectory or self.slice.remembers,
            leaves_out=() if explorer else ("explorer",),
            identity={
                "slice": repr(self.slice),
                "trajectory": repr(self.trajectory),
                "resolution": resolution,
                "span": span,
                "parameters": parameters,
                "batchnorm": batchnorm,
                "dropout": dropout,
                "weight_decay": weight_decay,
            },
        )
        check_numbers(span, radius, weight_decay)
        metrics_named(quantities or ())
        if at_start and self.slice.needs_steps:
            raise ConfigurationError("`at_start=True`: before the first step there is no trajectory to make a plane of")
        if curvature_resolution is not None and self.slice.is_line:
            raise ConfigurationError("`curvature_resolution`: a line has no map; choose a slice that is a plane")
        self.resolution = pair(resolution, "resolution")
        self.span = float(span)
        self.parameters = parameters if self.slice.parameters is None else self.slice.parameters
        self.curvature_resolution = None
        if curvature_resolution is not None:
            self.curvature_resolution = pair(curvature_resolution, "curvature_resolution")
        self.radius = float(radius)
        self._evaluation = EvaluationSettings(
            self.loss_fn,
            quantities,
            batchnorm or self.slice.batchnorm,
            dropout,
            float(weight_decay),
            "auto" if batch_size is None else None,
            channels_last,
            mode=self.mode,
        )

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Try the quantities and the slice."""
        parameters = select_parameters(context.module, self.parameters)
        if self.trajectory is not None:
            Recorder(self.memory, self.trajectory).resume()
        self.slice.check(self._slice_context(context, parameters, parameters))
        self._evaluator(context, first_only=True)

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> Part | None:
        """Record the weights; if a landscape is due, this process's points of it."""
        parameters = select_parameters(context.module, self.parameters)
        now = copied(parameters)
        self.slice.remember(now, self.memory)
        steps: Sequence[int] = ()
        snapshots: Sequence[Tensor] = ()
        if self.trajectory is not None:
            recorder, step = Recorder(self.memory, self.trajectory), context.moment.step
            if self.trajectory.due(context.moment):
                recorder.record(step, now)
            earlier = sum(taken < step for taken in recorder.steps)
            steps = [*recorder.steps[:earlier], step]
            snapshots = [*recorder.snapshots[:earlier], flatten(now).float().cpu()]
        if not self.schedule.due(context.moment):
            return None
        return measure(
            context,
            self.slice.place(self._slice_context(context, parameters, now, steps, snapshots)),
            self._evaluator(context),
            parameters,
            snapshots=snapshots,
            steps=steps,
            curvature_points=self.curvature_resolution,
            loss_fn=context.loss_fn,
        )

    def combine(self, part: Part | None, context: Context) -> LandscapeResult | None:
        """Everybody's points."""
        if part is None:
            return None
        settings = {
            "data": context.probe.name,
            "batchnorm": self._evaluation.batchnorm,
            "dropout": self._evaluation.dropout,
            "weight_decay": self._evaluation.weight_decay,
            "parameters": self.parameters if isinstance(self.parameters, str) else list(self.parameters),
            "radius": self.radius,
            "mode": self.mode,
            "loss_is": context.loss_is,
        }
        return result_of(part, context, settings, self.curvature_resolution)

    def _slice_context(
        self,
        context: Context,
        parameters: Mapping[str, nn.Parameter],
        weights: Weights,
        steps: Sequence[int] = (),
        snapshots: Sequence[Tensor] = (),
    ) -> SliceContext:
        return SliceContext(
            context,
            parameters,
            weights,
            self.span,
            self.resolution,
            self.seed,
            context.loss_fn,
            self.memory,
            steps,
            snapshots,
        )

    def _evaluator(self, context: Context, *, first_only: bool = False) -> Evaluator:
        assert context.task is not None
        probes = {"": context.probe}
        if context.second_probe is not None:
            probes["val/" if self.second_data == "val" else "second/"] = context.second_probe
        layout = self._evaluation.channels_last
        batches = {
            prefix: of_context(context, probe, first_only=first_only, layout=layout) for prefix, probe in probes.items()
        }
        # A loss that is no mean over anything in the batch is another one for smaller batches.
        size = None if context.task.counter is None else self._evaluation.batch_size
        settings = replace(
            self._evaluation, loss_fn=context.loss_fn, batch_size=size, seed=context.probe.seed, mode=self.mode
        )
        return Evaluator(context.module, context.task, batches, settings)
