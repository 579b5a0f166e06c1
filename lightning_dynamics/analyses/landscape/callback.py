"""LandscapeCallback: the shape of the loss around and between solutions, still and in motion."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_dynamics.analyses.callback import AnalysisCallback, Data, OnError
from lightning_dynamics.analyses.landscape.arguments import Directions, check_numbers, checked_points, pair
from lightning_dynamics.analyses.landscape.derivatives import downhill
from lightning_dynamics.analyses.landscape.estimator import Normalization
from lightning_dynamics.analyses.landscape.evaluator import BatchNormMode, DropoutMode, Evaluator, check_modes
from lightning_dynamics.analyses.landscape.figures import film, panels, scalars
from lightning_dynamics.analyses.landscape.measuring import Part, measure, result_of
from lightning_dynamics.analyses.landscape.points import INITIALIZATION, Points, copied
from lightning_dynamics.analyses.landscape.quantities import MetricFn, metrics_named
from lightning_dynamics.analyses.landscape.result import LandscapeResult
from lightning_dynamics.analyses.landscape.slices import (
    Slice,
    Weights,
    around,
    principal_slice,
    random_slice,
    through_points,
)
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, PredictFn, function_named
from lightning_dynamics.core.parameters import flatten, select_parameters, unflatten
from lightning_dynamics.core.schedule import Schedule
from lightning_dynamics.core.trajectory import Recorder, Trajectory
from lightning_dynamics.figures.result import Result
from lightning_dynamics.panels import Panels

_PROBE_BATCH = 512  # examples; where nobody says otherwise they are cut to what suits the machine


class LandscapeCallback(AnalysisCallback):
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
        directions: ``"random"`` (a plane), ``"random_line"``, ``"pca"`` (the trajectory's plane), ``"hessian"`` (the
            two leading eigenvectors), ``"gradient"`` (and a random direction), or ``"points"``.
        points: two (a line) or three (a plane) of ``"initialization"``, ``"current"`` and paths of Lightning
            checkpoints.
        resolution: points along each axis, or ``[x, y]``; odd ones have the weights themselves among them.
        span: around the weights: how far along each direction, in units of the weights' own norm. Otherwise: 1 shows
            all points and a quarter of their range beyond.
        normalize: of random directions: ``"filter"`` (the paper), ``"layer"`` or ``"none"``.
        renormalize: whether the same random draws get the norms of the weights at every event (the paper's picture at
            every moment), or those of the weights with which training began (the very same directions throughout).
        move_biases: whether biases and the parameters of normalisation layers move along random directions.
        parameters: globs: which parameters move; the others stay as they are.
        quantities: beside the loss: ``"accuracy"``, or functions ``(logits, targets) -> scalar``, themselves or as
            ``"package.module.function"``; None for the accuracy if there is one.
        batchnorm: ``"reestimate"``, ``"frozen"`` or ``"batch"``; None: ``"frozen"`` along Hessian and gradient
            directions, which stay near the weights, else ``"reestimate"``.
        dropout: ``"off"``, or ``"fixed"``: on, with one mask for all points.
        weight_decay: λ of a term λ/2 ‖θ‖², added to the loss.
        radius: of the sharpness, in the units of a slice around the weights.
        curvature_resolution: points along each axis of a map of \|λmin / λmax\|; None for no map.
        trajectory: whether the weights are recorded during training and drawn; None: for ``"pca"`` alone.
        snapshot_every_n_steps: of the trajectory; fewer as the run grows.
        max_snapshots: of the trajectory.
        memory_limit: bytes that the snapshots may take in memory.
        memory_folder: for the files of larger ones; None for the system's temporary folder.
        explorer: whether to make the interactive page.
        channels_last: lay out images with their channels innermost: faster convolutions on many machines.
        data: ``"train"``, ``"val"``, a Dataset or a DataLoader.
        second_data: further examples, whose quantities come as ``"second/…"`` (``"val/…"`` for ``"val"``).
        num_examples: at most this many, chosen once by ``seed``.
        batch_size: examples per forward pass; None for what suits the machine. A loss that is no mean over examples
            (a contrastive one) needs a number.
        every_n_epochs: analyse after every n-th epoch; None for never.
        every_n_train_steps: analyse after every n-th optimizer step; None for never.
        at_start: analyse the untrained model.
        at_end: analyse when training ends, if the last event was earlier.
        loss_fn: ``(module, batch) -> scalar``, the mean over the examples, itself or as a dotted name; by default the
            module's ``training_step``.
        predict_fn: ``(module, batch) -> (logits, targets)``, likewise.
        seed: of the choice of examples and of the random directions.
        name: tells several of these apart in the loggers.
        on_error: ``"warn"`` or ``"raise"``.

    Raises:
        ConfigurationError: before training: points that are equal, missing, or of another architecture; a pattern that
            selects no parameter; a span of 0, a resolution of 1; quantities that cannot be measured.

    Example::

        trainer = Trainer(callbacks=[LandscapeCallback("pca", resolution=31)])
    """

    group: ClassVar[str] = "landscape"
    result_type: ClassVar[type[Result]] = LandscapeResult
    smallest_batch: ClassVar[int] = 2

    def __init__(
        self,
        directions: Directions = "random",
        points: Sequence[str | PathLike[str]] | None = None,
        resolution: int | Sequence[int] = 25,
        span: float = 1.0,
        normalize: Normalization = "filter",
        renormalize: bool = True,
        move_biases: bool = False,
        parameters: str | Sequence[str] = "*",
        quantities: Sequence[str | MetricFn] | None = None,
        batchnorm: BatchNormMode | None = None,
        dropout: DropoutMode = "off",
        weight_decay: float = 0.0,
        radius: float = 0.25,
        curvature_resolution: int | None = None,
        trajectory: bool | None = None,
        snapshot_every_n_steps: int = 1,
        max_snapshots: int = 64,
        memory_limit: int = 2**30,
        memory_folder: str | None = None,
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
        seed: int = 0,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        if points is not None and directions == "random":
            directions = "points"
        self._records = trajectory if trajectory is not None else directions == "pca"
        cadence = Trajectory(max_snapshots, snapshot_every_n_steps, memory_limit, memory_folder)
        self._named_points = checked_points(directions, points)
        super().__init__(
            data=data,
            second_data=second_data,
            num_examples=num_examples,
            batch_size=_PROBE_BATCH if batch_size is None else batch_size,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            at_start=at_start,
            at_end=at_end,
            remembers=cadence
            if self._records
            else Schedule(None, None, at_start=True, at_end=False)
            if INITIALIZATION in self._named_points
            else None,
            mode="eval",
            seed=seed,
            name=name,
            on_error=on_error,
            identity={
                "directions": directions,
                "points": self._named_points,
                "resolution": resolution,
                "span": span,
                "normalize": normalize,
                "parameters": parameters,
                "batchnorm": batchnorm,
                "dropout": dropout,
                "weight_decay": weight_decay,
            },
        )
        check_numbers(normalize, span, radius, weight_decay)
        check_modes(batchnorm or "frozen", dropout)
        metrics_named(quantities or ())
        if directions == "pca" and not self._records:
            raise ConfigurationError("`directions='pca'` is the plane of the trajectory: it needs `trajectory=True`")
        if directions == "pca" and at_start:
            raise ConfigurationError("`at_start=True`: before the first step there is no trajectory for 'pca'")
        self.directions = directions
        self.resolution = pair(resolution, "resolution")
        self.span = float(span)
        self.normalize: Normalization = normalize
        self.renormalize = renormalize
        self.move_biases = move_biases
        self.parameters = parameters
        self.explorer = explorer
        self._curvature = None if curvature_resolution is None else pair(curvature_resolution, "curvature_resolution")
        if self._curvature and (
            directions == "random_line" or (directions == "points" and len(self._named_points) == 2)
        ):
            raise ConfigurationError("`curvature_resolution`: a line has no map; choose directions that make a plane")
        nearby = directions in ("hessian", "gradient")
        self._batchnorm: BatchNormMode = batchnorm or ("frozen" if nearby else "reestimate")
        self._dropout: DropoutMode = dropout
        self._weight_decay, self._radius, self._channels_last = float(weight_decay), float(radius), channels_last
        self._quantities, self._cuts = quantities, batch_size is None
        self._loss_fn: Any = function_named(loss_fn, "loss_fn")
        self._predict_fn: Any = function_named(predict_fn, "predict_fn")
        self._cadence = cadence

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Try the quantities, the directions and the points."""
        parameters = select_parameters(context.module, self.parameters)
        if self._records:
            self._recorder().resume()
            length = context.length
            if self.directions == "pca" and length.steps is not None and length.steps < 2 and not length.is_rehearsal:
                raise ConfigurationError("`directions='pca'` needs a trajectory of at least 2 training steps")
        if self.directions == "points":
            points = self._points()
            points.check(points.weights(parameters, context.module), self.span, self.resolution)
        elif self.directions in ("random", "random_line", "gradient"):
            self._random(context.module, parameters)
        self._evaluator(context, first_only=True)

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> Part | None:
        """Record the weights; if a landscape is due, this process's points of it."""
        parameters = select_parameters(context.module, self.parameters)
        now = copied(parameters)
        self._points().remember(now)
        if self._records and self.remembers.due(context.moment):
            self._recorder().record(context.moment.step, now)
        if not self.schedule.due(context.moment):
            return None
        steps, snapshots = self._course(context.moment.step, now)
        return measure(
            context,
            self._slice(context, parameters, now, steps, snapshots),
            self._evaluator(context),
            parameters,
            snapshots=snapshots,
            steps=steps,
            curvature_points=self._curvature,
            loss_fn=self._loss_fn,
        )

    def combine(self, part: Part | None, context: Context) -> LandscapeResult | None:
        """Everybody's points."""
        if part is None:
            return None
        settings = {
            "data": context.probe.name,
            "batchnorm": self._batchnorm,
            "dropout": self._dropout,
            "weight_decay": self._weight_decay,
            "parameters": self.parameters if isinstance(self.parameters, str) else list(self.parameters),
            "radius": self._radius,
        }
        return result_of(part, context, settings, self._curvature)

    def _course(self, step: int, now: Weights) -> tuple[list[int], list[Tensor]]:
        """The trajectory up to the weights as they are now."""
        if not self._records:
            return [], []
        recorded = self._recorder()
        earlier = sum(taken < step for taken in recorded.steps)
        return [*recorded.steps[:earlier], step], [*recorded.snapshots[:earlier], flatten(now).float().cpu()]

    def _slice(
        self,
        context: Context,
        parameters: dict[str, nn.Parameter],
        now: Weights,
        steps: Sequence[int],
        snapshots: Sequence[Tensor],
    ) -> Slice:
        kind, ranks = self.directions, context.ranks

        def found() -> Slice | None:
            if ranks.rank:
                return None
            if kind == "points":
                points = self._points().weights(parameters, context.module)
                return through_points(points, self.span, self.resolution).on_cpu()
            return principal_slice(snapshots, steps, now, self.span, self.resolution).on_cpu()

        if kind == "points" or (kind == "pca" and not (context.length.is_rehearsal and len(steps) < 3)):
            # The last bits of a decomposition may depend on the process; the points that are shared out must not.
            return ranks.broadcast_object(ranks.run_checked(found))
        if kind in ("hessian", "gradient"):
            directions, about = downhill(context, parameters, now, kind=kind, loss_fn=self._loss_fn, seed=self.seed)
            return around(now, directions, self.span, self.resolution, about)
        return self._random(context.module, now)

    def _random(self, module: nn.Module, now: Weights) -> Slice:
        anchor = None
        if not self.renormalize:
            flat = self.memory.setdefault("anchor", flatten(now).float().cpu())
            anchor = {name: t.to(now[name]) for name, t in unflatten(flat, now).items()}
        try:
            return random_slice(
                module,
                now,
                span=self.span,
                resolution=self.resolution,
                normalize=self.normalize,
                move_biases=self.move_biases,
                seed=self.seed,
                is_line=self.directions == "random_line",
                anchor=anchor,
            )
        except ValueError as error:
            raise ConfigurationError(f"`parameters={self.parameters!r}`: {error}") from error

    def _evaluator(self, context: Context, *, first_only: bool = False) -> Evaluator:
        probes = {"": context.probe}
        if context.second_probe is not None:
            probes["val/" if self.second_data == "val" else "second/"] = context.second_probe
        return Evaluator(
            context.module,
            {
                prefix: [probe.batch(number).data for number in range(1 if first_only else len(probe.batches))]
                for prefix, probe in probes.items()
            },
            loss_fn=self._loss_fn,
            predict_fn=self._predict_fn,
            quantities=self._quantities,
            batchnorm=self._batchnorm,
            dropout=self._dropout,
            weight_decay=self._weight_decay,
            batch_size="auto" if self._cuts else None,
            images_channels_last=self._channels_last,
            seed=context.probe.seed,
        )

    def _points(self) -> Points:
        return Points(self._named_points, self.memory)

    def _recorder(self) -> Recorder:
        return Recorder(self.memory, self._cadence)

    # ---- how it looks --------------------------------------------------------------------------------------

    def scalars(self, result: Result) -> dict[str, float]:
        """See the class."""
        assert isinstance(result, LandscapeResult)
        return scalars(result)

    def panels(self, result: Result) -> Panels:
        """See the class."""
        assert isinstance(result, LandscapeResult)
        return panels(result, self.label)

    def film(self, results: list[Any]) -> Panels:
        """The landscape in motion, the page to explore, and the files."""
        return film(results, self.label, explorer=self.explorer)
