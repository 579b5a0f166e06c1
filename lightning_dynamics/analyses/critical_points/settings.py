"""How critical points are searched for: the methods, and when a point counts as critical."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from lightning_dynamics.core import trajectory
from lightning_dynamics.core.checks import check_count
from lightning_dynamics.core.lightning import ConfigurationError


@dataclass(frozen=True)
class Method:
    """What both methods have.

    Raises:
        ConfigurationError: on values that cannot work.
    """

    name: ClassVar[str]
    """The short form."""

    title: ClassVar[str]
    """For captions."""

    patience: ClassVar[int]
    """Steps in which ‖g‖² must be halved: else the search has stalled."""

    max_iterations: int
    inner_iterations: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_count("max_iterations", self.max_iterations)
        check_count("inner_iterations", self.inner_iterations)


@dataclass(frozen=True)
class NewtonMR(Method):
    """Steps p = −H⁺g by MINRES, with a line search on ‖g‖² (Roosta et al. 2018).

    Args:
        max_iterations: steps of each search.
        inner_iterations: Hessian-vector products for one step; fewer where there are fewer parameters.
    """

    name: ClassVar[str] = "newton_mr"
    title: ClassVar[str] = "Newton-MR"
    patience: ClassVar[int] = 25

    max_iterations: int = 100
    inner_iterations: int = 200


@dataclass(frozen=True)
class GradientNorm(Method):
    """Gradient descent on ½‖g‖², along −Hg, with a line search (Pennington, Bahri, ICML 2017).

    It converges linearly, as slowly as the square of the condition number; it is here to compare with.

    Args:
        max_iterations: steps of each search.
        inner_iterations: Hessian-vector products of the one Newton step that tells, when a search has stalled, whether
            its point is gradient-flat.
    """

    name: ClassVar[str] = "gradient_norm"
    title: ClassVar[str] = "gradient descent on ½‖g‖²"
    patience: ClassVar[int] = 200

    max_iterations: int = 2000
    inner_iterations: int = 200


MethodName = Literal["newton_mr", "gradient_norm"]
"""Short forms: the method with its default values."""

METHODS: dict[str, Method] = {method.name: method for method in (NewtonMR(), GradientNorm())}


@dataclass(frozen=True)
class Search:
    """How points are looked for, and what they are called.

    Args:
        method: a value, or its name.
        tolerance: largest ‖g‖² of a critical point.
        flatness_tolerance: curvature that counts as none at a gradient-flat one, as a share of the largest.
        zero_tolerance: |λ| that count as 0, as a share of the largest |λ|.
        dense_up_to: P up to which all eigenvalues are computed.
        seed: of random vectors, where P is larger.

    Raises:
        ConfigurationError: naming the argument.
    """

    method: Method = NewtonMR()
    tolerance: float = 1e-20
    flatness_tolerance: float = 0.01
    zero_tolerance: float = 1e-6
    dense_up_to: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.method, Method):
            raise ConfigurationError(
                "`method` must be 'newton_mr', 'gradient_norm', or one of lightning_dynamics.critical_points.NewtonMR "
                f"and GradientNorm; got {self.method!r}"
            )
        _check_number("tolerance", self.tolerance, "of ‖g‖² and positive, e.g. 1e-20", (0.0, math.inf))
        _check_number("flatness_tolerance", self.flatness_tolerance, "above 0 and below 1", (0.0, 1.0))
        if self.zero_tolerance != 0:
            _check_number("zero_tolerance", self.zero_tolerance, "from 0 to below 1", (0.0, 1.0))
        check_count("dense_up_to", self.dense_up_to, least=0)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Search:
        """Of a function's arguments by name, others among them; ``method`` may be a name."""
        own = {field.name: arguments[field.name] for field in fields(cls)}
        if isinstance(own["method"], str):
            own["method"] = METHODS.get(own["method"], own["method"])
        return cls(**own)


@dataclass(frozen=True)
class Trajectory(trajectory.Trajectory):
    """From which snapshots of the training searches begin; each costs a search.

    Args:
        max_snapshots: how many are kept beside the first; 4 or more.
        snapshot_every_n_steps: n: every n-th step; every 2n-th when there would be too many; and so on.
        memory_limit: bytes that all snapshots together may take in memory.
        memory_folder: for the files of larger ones; None for the system's temporary folder.
    """

    max_snapshots: int = 8


def _check_number(argument: str, value: Any, wanted: str, within: tuple[float, float]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not within[0] < value < within[1]:
        raise ConfigurationError(f"`{argument}` must be a number, {wanted}; got {value!r}")
