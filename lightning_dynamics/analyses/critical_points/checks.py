"""What a search for critical points cannot work with, refused before anything is computed."""

from __future__ import annotations

import math
from typing import Any, get_args

from lightning_dynamics.analyses.critical_points.search import ITERATIONS, Method, Search
from lightning_dynamics.analyses.curvature.checks import check_count
from lightning_dynamics.core.lightning import ConfigurationError


def checked_search(
    *,
    method: Any,
    tolerance: Any,
    flatness_tolerance: Any,
    max_iterations: Any,
    inner_iterations: Any,
    zero_tolerance: Any,
    dense_up_to: Any,
    seed: int,
) -> Search:
    """The settings of a search.

    Raises:
        ConfigurationError: naming the argument.
    """
    if method not in get_args(Method):
        raise ConfigurationError(f"`method` must be 'newton_mr' or 'gradient_norm', got {method!r}")
    _check_number("tolerance", tolerance, "of ‖g‖² and positive, e.g. 1e-20", (0.0, math.inf))
    _check_number("flatness_tolerance", flatness_tolerance, "above 0 and below 1", (0.0, 1.0))
    if zero_tolerance != 0:
        _check_number("zero_tolerance", zero_tolerance, "from 0 to below 1", (0.0, 1.0))
    if max_iterations is not None:
        check_count("max_iterations", max_iterations)
    check_count("inner_iterations", inner_iterations)
    check_count("dense_up_to", dense_up_to, least=0)
    return Search(
        method=method,
        tolerance=float(tolerance),
        flatness_tolerance=float(flatness_tolerance),
        max_iterations=ITERATIONS[method] if max_iterations is None else max_iterations,
        inner_iterations=inner_iterations,
        zero_tolerance=float(zero_tolerance),
        dense_up_to=dense_up_to,
        seed=seed,
    )


def _check_number(argument: str, value: Any, wanted: str, within: tuple[float, float]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not within[0] < value < within[1]:
        raise ConfigurationError(f"`{argument}` must be a number, {wanted}; got {value!r}")
