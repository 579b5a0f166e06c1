"""Which plane or line through the space of weights is looked at. A new kind of slice is one new class here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from lightning_dynamics.analyses.landscape import estimator
from lightning_dynamics.analyses.landscape.derivatives import gradient_plane, hessian_plane
from lightning_dynamics.analyses.landscape.directions import roles_in
from lightning_dynamics.analyses.landscape.estimator import Normalization
from lightning_dynamics.analyses.landscape.evaluator import BatchNormMode
from lightning_dynamics.analyses.landscape.placement import (
    Placement,
    SliceContext,
    Weights,
    around,
    from_rank_zero,
    principal_plane,
)
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import flatten, unflatten
from lightning_dynamics.core.schedule import Due
from lightning_dynamics.core.trajectory import Trajectory


class Slice(ABC):
    """Base of all slices: a value that knows how to check itself before training, and to place itself at an event."""

    words: ClassVar[tuple[str, ...]] = ()
    """Short forms: ``LandscapeCallback("random")``."""

    is_line: bool = False
    """Whether it has one direction, not two."""

    batchnorm: BatchNormMode = "reestimate"
    """How batch normalisation is treated unless the callback says otherwise."""

    parameters: str | Sequence[str] | None = None
    """Globs of the parameters that move; None for those of the callback."""

    trajectory: Trajectory | None = None
    """Which snapshots of the weights it needs."""

    remembers: Due | None = None
    """Moments beside the events at which :meth:`remember` is called."""

    needs_steps: bool = False
    """Whether there is nothing to see before the first training step."""

    def check(self, at: SliceContext) -> None:  # noqa: B027  (not every slice can be checked)
        """Refuse what cannot work on this module; called before training.

        Raises:
            ConfigurationError: naming the argument.
        """

    def remember(self, weights: Weights, memory: dict[str, Any]) -> None:  # noqa: B027  (nor remembers)
        """Keep of the weights what a later event needs; ``memory`` goes into checkpoints."""

    @abstractmethod
    def place(self, at: SliceContext) -> Placement:
        """Where it lies at these weights. Called in all processes."""


@dataclass(frozen=True)
class _Random(Slice):
    normalize: Normalization = "filter"
    move_biases: bool = False
    renormalize: bool = True

    def __post_init__(self) -> None:
        if self.normalize not in get_args(Normalization):
            raise ConfigurationError(f"`normalize` must be 'filter', 'layer' or 'none'; got {self.normalize!r}")

    def check(self, at: SliceContext) -> None:
        self.place(at)

    def place(self, at: SliceContext) -> Placement:
        anchor = at.weights
        if not self.renormalize:
            flat = at.memory.setdefault("anchor", flatten(at.weights).float().cpu())
            anchor = {name: t.to(at.weights[name]) for name, t in unflatten(flat, at.weights).items()}
        try:
            directions = estimator.random_directions(
                anchor,
                count=1 if self.is_line else 2,
                seed=at.seed,
                normalize=self.normalize,
                move_biases=self.move_biases,
                **roles_in(at.context.module),
            )
        except ValueError as error:
            raise ConfigurationError(f"`parameters`: {error}") from error
        unit = {"filter": "filter-normalised", "layer": "layer-normalised", "none": "not normalised"}[self.normalize]
        about: dict[str, Any] = {"kind": "random", "title": f"random {'line' if self.is_line else 'plane'}"}
        about |= {axis: f"random direction {number}, {unit}" for number, axis in enumerate("xy", 1)}
        about |= {"normalize": self.normalize, "seed": at.seed, "orthogonal": False}
        return around(at.weights, directions, at.span, at.resolution, about)


class RandomPlane(_Random):
    """Two random directions around the weights (Li et al. 2018, section 4).

    Args:
        normalize: ``"filter"`` (the paper): every filter of a direction has the norm of the weights' filter;
            ``"layer"`` or ``"none"``.
        move_biases: whether biases and the parameters of normalisation layers move.
        renormalize: whether the same random draws get the norms of the weights at every event (the paper's picture at
            every moment), or those of the weights with which training began (the very same directions throughout).

    Raises:
        ConfigurationError: an unknown ``normalize``.
    """

    words = ("random",)


class RandomLine(_Random):
    """One random direction around the weights; arguments as of :class:`RandomPlane`.

    Args:
        normalize: ``"filter"``, ``"layer"`` or ``"none"``.
        move_biases: whether biases and the parameters of normalisation layers move.
        renormalize: whether the direction gets the norms of the weights at every event.
    """

    words = ("random_line",)
    is_line = True


@dataclass(frozen=True)
class TrajectoryPlane(Slice):
    """The plane of the trajectory's two main directions, through the current weights (Li et al. 2018, section 7).

    Memory: ``max_snapshots + 2`` copies of the weights in float32 on the CPU, or in files.

    Args:
        max_snapshots: how many snapshots of the weights are kept beside the first; 4 or more.
        snapshot_every_n_steps: how often one is taken; less often as the run grows.
        memory_limit: bytes that all snapshots together may take in memory.
        memory_folder: for the files of larger ones; None for the system's temporary folder.

    Raises:
        ConfigurationError: numbers that cannot work.
    """

    words = ("pca", "trajectory")
    needs_steps = True

    max_snapshots: int = 64
    snapshot_every_n_steps: int = 1
    memory_limit: int = field(default=2**30, repr=False)
    memory_folder: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the numbers."""
        _ = self.trajectory

    @property
    def trajectory(self) -> Trajectory:  # type: ignore[override]
        """The snapshots."""
        return Trajectory(self.max_snapshots, self.snapshot_every_n_steps, self.memory_limit, self.memory_folder)

    def check(self, at: SliceContext) -> None:
        """Two steps make a trajectory."""
        length = at.context.length
        if length.steps is not None and length.steps < 2 and not length.is_fast_dev_run:
            raise ConfigurationError("the plane of the trajectory needs at least 2 training steps")

    def place(self, at: SliceContext) -> Placement:
        """The plane by principal component analysis."""
        if at.context.length.is_fast_dev_run and len(at.steps) < 3:
            return RandomPlane().place(at)
        return from_rank_zero(
            at.context.ranks,
            lambda: principal_plane(at.snapshots, at.steps, at.weights, at.span, at.resolution),
        )


@dataclass(frozen=True)
class _AlongDerivatives(Slice):
    batchnorm = "frozen"

    parameters: str | Sequence[str] | None = None


class HessianPlane(_AlongDerivatives):
    """The eigenvectors of the Hessian's two largest eigenvalues, around the weights. One unit is the weights' own norm.

    Args:
        parameters: globs: of which the Hessian is taken, and which move; None for those that the callback moves.
    """

    words = ("hessian",)

    def place(self, at: SliceContext) -> Placement:
        """The eigenvectors at the current weights."""
        return hessian_plane(at)


class GradientPlane(_AlongDerivatives):
    """The gradient and a random direction, around the weights. One unit is the weights' own norm.

    Args:
        parameters: globs: of which the gradient is taken, and which move; None for those that the callback moves.
    """

    words = ("gradient",)

    def place(self, at: SliceContext) -> Placement:
        """The gradient at the current weights."""
        return gradient_plane(at)
