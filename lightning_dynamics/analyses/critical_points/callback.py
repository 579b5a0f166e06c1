"""CriticalPointsCallback: which critical points of the loss lie near the path of training."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_dynamics.analyses.callback import AnalysisCallback, Data, OnError
from lightning_dynamics.analyses.critical_points.checks import checked_search
from lightning_dynamics.analyses.critical_points.figures import panels, scalars
from lightning_dynamics.analyses.critical_points.functions import search_all
from lightning_dynamics.analyses.critical_points.index import ITERATIONS, SAMPLES
from lightning_dynamics.analyses.critical_points.result import CriticalPointsResult, Rows
from lightning_dynamics.analyses.critical_points.search import Method
from lightning_dynamics.analyses.critical_points.starts import checkpoint_states, state_of
from lightning_dynamics.analyses.critical_points.surface import LossSurface, State
from lightning_dynamics.analyses.critical_points.widening import as_double, in_double
from lightning_dynamics.analyses.curvature.checks import check_parameters
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.landscape.trajectory import Cadence, Recorder
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, function_named
from lightning_dynamics.core.parameters import select_parameters, unflatten
from lightning_dynamics.core.storage import Storage
from lightning_dynamics.figures.result import Result
from lightning_dynamics.panels import Panels


class CriticalPointsCallback(AnalysisCallback):
    """Search for critical points of the loss from points of the training's trajectory, when training has ended.

    The searches begin at snapshots of the weights taken during training, at ``checkpoints``, and where the weights are;
    each minimises ½‖g‖² by Newton-MR or by gradient descent, in float64: see
    :func:`lightning_dynamics.critical_points.find` (Frye et al. 2021; Dauphin et al. 2014; Pennington, Bahri 2017).
    The picture to look at is theirs: index (share of negative eigenvalues) against loss, here with every point's
    status. Many a point that such searches end in is not critical but gradient-flat.

    The loss is that of a fixed probe, as the module's ``training_step`` computes it, and must be a mean over the
    batch's examples; weight decay of the optimizer is no part of it. Piecewise linear networks (ReLU) have kinks, at
    which searches get stuck; smooth activations have none.

    Logged keys (``critical_points`` becomes ``critical_points/{name}`` with a ``name``; ``-2`` is added for a second of
    the same name):

    ======================================  ========  ==============================================================
    ``critical_points/index_against_loss``  picture   every point, by status; with ``index_of_starts`` the starts too
    ``critical_points/convergence``         picture   log₁₀ ‖g‖² of every search, step by step
    ``critical_points/values``              table     every point's numbers
    ``critical_points/critical``            scalar    points with this status
    ``critical_points/gradient_flat``       scalar    likewise
    ``critical_points/unfinished``          scalar    likewise
    ``critical_points/lowest_loss``         scalar    least loss of a critical point; not logged without one
    ``critical_points/lowest_gradient``     scalar    least log₁₀ ‖g‖² reached; not logged where all are 0
    ======================================  ========  ==============================================================

    Cost: nothing while training goes on but a copy of the weights for a snapshot. At the end, for each start (about
    ``max_snapshots`` of them), up to ``max_iterations`` × ``inner_iterations`` Hessian-vector products with Newton-MR,
    in practice a few thousand for a network of a thousand parameters, and P for the eigenvalues; a product costs one to
    two training passes over the probe, in float64. So: small networks, small probes. Starts are shared out over
    processes, each of which takes the whole probe; Lightning's time limit for processes that wait for each other
    (30 minutes) holds. Memory: ``max_snapshots`` + 2 copies of the weights in float32, in files above a gigabyte;
    while it searches, what ``find`` says.

    Args:
        method: ``"newton_mr"`` or ``"gradient_norm"``.
        tolerance: largest ‖g‖² of a critical point.
        flatness_tolerance: curvature that counts as none at a gradient-flat point, as a share of the largest.
        max_iterations: steps of each search; None: 100 for Newton-MR, 2,000 for descent.
        inner_iterations: products for one step of Newton-MR.
        zero_tolerance: eigenvalues count as 0 up to this share of the largest.
        dense_up_to: number of parameters up to which all eigenvalues are computed; beyond, the index is estimated.
        index_of_starts: whether to determine the index at the starts too.
        checkpoints: paths of Lightning checkpoints to begin from, too.
        trajectory: whether to begin from snapshots of this training.
        snapshot_every_n_steps: of the trajectory; fewer as the run grows.
        max_snapshots: of the trajectory; 4 or more.
        keep_points: whether the result holds the points themselves, float64.
        parameters: globs: the coordinates, e.g. ``"head.*"`` for one layer; frozen ones that match count too.
        loss_fn: ``loss_fn(module, batch)``, itself or as ``"package.module.function"``; by default ``training_step``.
        data: ``"train"``, ``"val"``, a Dataset or a DataLoader.
        num_examples: at most this many, chosen once by ``seed``.
        batch_size: examples per pass.
        every_n_epochs: search after every n-th epoch; None for never.
        every_n_train_steps: search after every n-th optimizer step; None for never.
        at_start: search from the untrained model.
        at_end: search when training ends.
        mode: ``"eval"`` or ``"train"``; random layers get the same draws in every product.
        seed: of the choice of examples, and of every random vector.
        name: tells several of these apart in the loggers.
        on_error: ``"warn"`` or ``"raise"``.

    Raises:
        ConfigurationError: before training: unknown checkpoints or ones of another architecture, a pattern that matches
            nothing, a loss that does not depend on the parameters, manual optimisation without ``loss_fn``, parameters
            in half precision, numbers that cannot work.

    Example::

        trainer = Trainer(callbacks=[CriticalPointsCallback(snapshot_every_n_steps=10, index_of_starts=True)])
    """

    group: ClassVar[str] = "critical_points"
    result_type: ClassVar[type[Result]] = CriticalPointsResult

    def __init__(
        self,
        method: Method = "newton_mr",
        tolerance: float = 1e-20,
        flatness_tolerance: float = 0.01,
        max_iterations: int | None = None,
        inner_iterations: int = 200,
        zero_tolerance: float = 1e-6,
        dense_up_to: int = 1000,
        index_of_starts: bool = False,
        checkpoints: Sequence[str | PathLike[str]] | None = None,
        trajectory: bool = True,
        snapshot_every_n_steps: int = 1,
        max_snapshots: int = 8,
        keep_points: bool = False,
        parameters: str | Sequence[str] = "*",
        loss_fn: str | LossFn | None = None,
        data: Data = "train",
        num_examples: int = 256,
        batch_size: int = 128,
        every_n_epochs: int | None = None,
        every_n_train_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = True,
        mode: Mode = "eval",
        seed: int = 0,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        if isinstance(checkpoints, str | PathLike):
            raise ConfigurationError(f"`checkpoints` must be a list of paths, got {checkpoints!r}: put it into a list")
        self.checkpoints = [str(path) for path in checkpoints or ()]
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ConfigurationError(f"`checkpoints` has the same path twice: {self.checkpoints}")
        cadence = Cadence(snapshot_every_n_steps, max_snapshots)
        search = checked_search(
            method=method,
            tolerance=tolerance,
            flatness_tolerance=flatness_tolerance,
            max_iterations=max_iterations,
            inner_iterations=inner_iterations,
            zero_tolerance=zero_tolerance,
            dense_up_to=dense_up_to,
            seed=seed,
        )
        super().__init__(
            data=data,
            num_examples=num_examples,
            batch_size=batch_size,
            every_n_epochs=every_n_epochs,
            every_n_train_steps=every_n_train_steps,
            at_start=at_start,
            at_end=at_end,
            remembers=cadence if trajectory else None,
            mode=mode,
            seed=seed,
            name=name,
            on_error=on_error,
            identity={
                "search": search,
                "starts": (self.checkpoints, trajectory, snapshot_every_n_steps, max_snapshots),
                "parameters": parameters if isinstance(parameters, str) else list(parameters),
                "loss_fn": loss_fn if loss_fn is None or isinstance(loss_fn, str) else getattr(loss_fn, "__name__", ""),
            },
        )
        self.search = search
        self.index_of_starts = index_of_starts
        self.trajectory = trajectory
        self.keep_points = keep_points
        self.parameters = parameters
        self._cadence = cadence
        self._storage = Storage(max(1, 2**30 // (max_snapshots + 2)))
        self._loss_fn: Any = function_named(loss_fn, "loss_fn")

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Try the checkpoints, and the loss in float64."""
        check_parameters(select_parameters(context.module, self.parameters))
        if self.mode == "train" and context.ranks.size > 1:
            if any(isinstance(layer, nn.SyncBatchNorm) for layer in context.module.modules()):
                raise ConfigurationError(
                    "`mode='train'` makes SyncBatchNorm talk to the other processes, which search elsewhere: use "
                    "`mode='eval'`"
                )
        checkpoint_states(self.checkpoints, context.module, "checkpoints")
        if self.trajectory:
            self._recorder().resume()
        with in_double(context.module):
            self._surface(context).check(f"parameters={self.parameters!r}")

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> tuple[list[str], Rows] | None:
        """Record the weights; if a search is due, this process's starts of it, each on the whole probe."""
        now, step = state_of(context.module), context.moment.step
        if self.trajectory and self.remembers.due(context.moment):
            self._recorder().record(step, now)
        if not self.schedule.due(context.moment):
            return None
        starts = self._starts(context, now)
        own = list(context.ranks.shard(range(len(starts))))
        names = list(starts)
        with in_double(context.module):
            surface = self._surface(context)
            points = search_all(
                surface,
                {names[place]: starts[names[place]] for place in own},
                self.search,
                description=context.description,
                index_of_starts=self.index_of_starts,
            )
        found = dict(zip(own, points, strict=True))
        placed = [found.get(place) for place in range(len(names))]
        return names, Rows.of(placed, self.search, surface.size, keep_points=self.keep_points)

    def combine(self, part: tuple[list[str], Rows] | None, context: Context) -> CriticalPointsResult | None:
        """Everybody's points."""
        if part is None:
            return None
        names, own = part
        total = context.ranks.all_reduce
        rows = Rows(total(own.numbers), total(own.eigenvalues), total(own.courses), total(own.points))
        patterns = self.parameters if isinstance(self.parameters, str) else ", ".join(self.parameters)
        is_dense = rows.points.shape[1] <= self.search.dense_up_to
        estimate = f"index estimated, {SAMPLES} × {ITERATIONS} products"
        return rows.result(
            names,
            self.search,
            epoch=context.moment.epoch,
            step=context.moment.step,
            num_examples=len(context.probe),
            data=context.probe.name,
            parameters="all parameters" if patterns == "*" else f"parameters {patterns}",
            estimator=f"{self.mode} mode, {'all eigenvalues' if is_dense else estimate}",
        )

    def scalars(self, result: Result) -> dict[str, float]:
        """See :mod:`lightning_dynamics.critical_points.figures`."""
        assert isinstance(result, CriticalPointsResult)
        return scalars(result)

    def panels(self, result: Result) -> Panels:
        """See :mod:`lightning_dynamics.critical_points.figures`."""
        assert isinstance(result, CriticalPointsResult)
        return panels(result, self.label)

    def film(self, results: list[Any]) -> Panels:
        """Nothing: one moment's points do not move."""
        return {}

    # ---- where searches begin, and on what -----------------------------------------------------------------

    def _starts(self, context: Context, now: dict[str, Tensor]) -> dict[str, State]:
        step = context.moment.step
        starts: dict[str, State] = {}
        if self.trajectory:
            recorder = self._recorder()
            for taken, snapshot in zip(recorder.steps, recorder.snapshots, strict=True):
                if taken < step:
                    starts[f"step {taken}"] = unflatten(snapshot, now)
        starts[f"step {step}"] = now
        return starts | checkpoint_states(self.checkpoints, context.module, "checkpoints")

    def _surface(self, context: Context) -> LossSurface:
        """On the whole probe, not on this process's share."""
        probe = context.probe

        def hand_out(place: int) -> Any:
            batch = probe.batch(place)
            context.seed(batch)
            return as_double(batch.data)

        batches = Minibatches(tuple(map(len, probe.batches)), tuple(range(len(probe.batches))), hand_out)
        return LossSurface(context.module, self._loss_fn, batches, select_parameters(context.module, self.parameters))

    def _recorder(self) -> Recorder:
        return Recorder(self.memory, self._cadence, self._storage)
