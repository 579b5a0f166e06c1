"""CriticalPointsCallback: which critical points of the loss lie near the path of training."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

from torch import Tensor

from lightning_dynamics.analyses.arguments import Data, OnError
from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.critical_points.functions import search_all
from lightning_dynamics.analyses.critical_points.index import ITERATIONS, SAMPLES
from lightning_dynamics.analyses.critical_points.result import CriticalPointsResult, Rows
from lightning_dynamics.analyses.critical_points.settings import GradientNorm, MethodName, NewtonMR, Search, Trajectory
from lightning_dynamics.analyses.critical_points.starts import checkpoint_states, state_of
from lightning_dynamics.analyses.critical_points.surface import LossSurface, State
from lightning_dynamics.analyses.curvature.checks import check_batchnorm, check_parameters, described, identity_of
from lightning_dynamics.analyses.curvature.double_precision import as_double, in_double
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.parameters import select_parameters, unflatten
from lightning_dynamics.core.trajectory import Recorder


class CriticalPointsCallback(AnalysisCallback[CriticalPointsResult]):
    """Search for critical points of the loss from points of the training's trajectory, when training has ended.

    The searches begin at snapshots of the weights taken during training, at ``checkpoints``, and where the weights are;
    each minimises ½‖g‖² by Newton-MR or by gradient descent, in float64: see
    :func:`lightning_dynamics.critical_points.find` (Frye et al. 2021; Dauphin et al. 2014; Pennington, Bahri 2017).
    The picture to look at is theirs: index (share of negative eigenvalues) against loss, here with every point's
    status. Many end points of such searches are not critical but gradient-flat.

    The loss is that of a fixed probe, as the module's ``training_step`` computes it, and must be a mean over the
    batch's examples; the optimizer's weight decay is not included. Piecewise linear networks (ReLU) have kinks, at
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
    two training passes over the probe, in float64. So: small networks, small probes. Starts are distributed over the
    processes, each of which uses the whole probe; Lightning's time limit for processes that wait for each other (30
    minutes) applies. Memory: ``max_snapshots`` + 2 copies of the weights in float32, in files above a gigabyte; in a
    search, what ``find`` says.

    Args:
        method: ``"newton_mr"`` or ``"gradient_norm"``; or a value, to set how long each search may take:
            ``critical_points.NewtonMR(max_iterations=100, inner_iterations=200)`` or
            ``critical_points.GradientNorm(max_iterations=2000)``.
        tolerance: largest ‖g‖² of a critical point.
        flatness_tolerance: curvature that counts as none at a gradient-flat point, as a share of the largest.
        zero_tolerance: eigenvalues count as 0 up to this share of the largest.
        dense_up_to: number of parameters up to which all eigenvalues are computed; beyond, the index is estimated.
        index_of_starts: whether to determine the index at the starts too.
        checkpoints: paths of Lightning checkpoints to begin from, too.
        trajectory: whether to begin from snapshots of this training, and from which:
            ``critical_points.Trajectory(max_snapshots=8, snapshot_every_n_steps=1)``, which True stands for.
        keep_points: whether the result holds the points themselves, float64.
        parameters: globs: the coordinates, e.g. ``"head.*"`` for one layer; frozen ones that match count too.
        every_n_epochs: search after every n-th epoch; None for never.
        every_n_train_steps: search after every n-th optimizer step; None for never.
        at_start: search from the untrained model.
        at_end: search when training ends.
        mode: ``"eval"`` or ``"train"``; random layers get the same draws in every product.

    Raises:
        ConfigurationError: before training: unknown checkpoints or ones of another architecture, a pattern that matches
            nothing, a loss that does not depend on the parameters, manual optimisation without ``loss_fn``, parameters
            in half precision, numbers that cannot work, an operation whose second derivative is missing or wrong.

    Example::

        every_tenth = critical_points.Trajectory(snapshot_every_n_steps=10)
        trainer = Trainer(callbacks=[CriticalPointsCallback(trajectory=every_tenth, index_of_starts=True)])
    """

    group: ClassVar[str] = "critical_points"
    result_type: ClassVar[type[CriticalPointsResult]] = CriticalPointsResult

    def __init__(
        self,
        method: MethodName | NewtonMR | GradientNorm = "newton_mr",
        tolerance: float = 1e-20,
        flatness_tolerance: float = 0.01,
        zero_tolerance: float = 1e-6,
        dense_up_to: int = 1000,
        index_of_starts: bool = False,
        checkpoints: Sequence[str | PathLike[str]] | None = None,
        trajectory: bool | Trajectory = True,
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
        mode: Mode | None = None,
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
        if not isinstance(trajectory, bool | Trajectory):
            raise ConfigurationError(
                "`trajectory` must be True, False or a lightning_dynamics.critical_points.Trajectory; got "
                f"{trajectory!r}"
            )
        search = Search.of(locals())
        recorded = (Trajectory() if trajectory else None) if isinstance(trajectory, bool) else trajectory
        super().__init__(
            locals(),
            remembers=recorded,
            identity={
                "search": search,
                "starts": (self.checkpoints, recorded),
                **identity_of(parameters, loss_fn),
            },
        )
        self.search = search
        self.index_of_starts = index_of_starts
        self.trajectory = recorded
        self.keep_points = keep_points
        self.parameters = parameters

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Try the checkpoints, and the loss in float64."""
        check_parameters(select_parameters(context.module, self.parameters))
        check_batchnorm(context, self.mode)
        checkpoint_states(self.checkpoints, context.module, "checkpoints")
        if self.trajectory is not None:
            Recorder(self.memory, self.trajectory).resume()
        with in_double(context.module):
            try:
                self._surface(context).check(self.parameters)
            except RuntimeError as error:
                if "Double" not in str(error) and "double" not in str(error):
                    raise
                raise ConfigurationError(
                    f"a search needs float64, in which the loss of {type(context.module).__name__} fails ({error}): "
                    "have it make its tensors in the dtype of its inputs (`torch.zeros_like(x)`), or give a `loss_fn` "
                    "that does"
                ) from error

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> tuple[list[str], Rows] | None:
        """Record the weights; if a search is due, this process's starts of it, each on the whole probe."""
        now, step = state_of(context.module), context.moment.step
        if self.trajectory is not None and self.trajectory.due(context.moment):
            Recorder(self.memory, self.trajectory).record(step, now)
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
        is_dense = rows.points.shape[1] <= self.search.dense_up_to
        estimate = f"index estimated, {SAMPLES} × {ITERATIONS} products"
        return rows.result(
            names,
            self.search,
            epoch=context.moment.epoch,
            step=context.moment.step,
            num_examples=len(context.probe),
            data=context.probe.name,
            parameters=described(self.parameters),
            estimator=f"{self.mode} mode, {'all eigenvalues' if is_dense else estimate}"
            + (f", {context.loss_is}" if context.loss_is else ""),
        )

    # ---- where searches begin, and on what -----------------------------------------------------------------

    def _starts(self, context: Context, now: dict[str, Tensor]) -> dict[str, State]:
        step = context.moment.step
        starts: dict[str, State] = {}
        if self.trajectory is not None:
            recorder = Recorder(self.memory, self.trajectory)
            for taken, snapshot in zip(recorder.steps, recorder.snapshots, strict=True):
                if taken < step:
                    starts[f"step {taken}"] = unflatten(snapshot, now)
        starts[f"step {step}"] = now
        return starts | checkpoint_states(self.checkpoints, context.module, "checkpoints")

    def _surface(self, context: Context) -> LossSurface:
        """On the whole probe, not on this process's share."""
        probe = context.probe

        def load(place: int) -> Any:
            batch = probe.batch(place)
            context.seed(batch)
            return as_double(batch.data)

        def count(place: int) -> float:
            return context.terms(probe.batch(place))

        batches = Minibatches(tuple(map(len, probe.batches)), tuple(range(len(probe.batches))), load, count)
        return LossSurface(context.module, self.loss_fn, batches, select_parameters(context.module, self.parameters))
