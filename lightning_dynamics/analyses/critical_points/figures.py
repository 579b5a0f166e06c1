"""How a CriticalPointsResult looks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.analyses.critical_points.picture import index_against_loss
from lightning_dynamics.analyses.critical_points.result import CriticalPointsResult
from lightning_dynamics.analyses.critical_points.settings import METHODS
from lightning_dynamics.figures import time_series
from lightning_dynamics.figures.result import Pictures, pictures, tables
from lightning_dynamics.panels import Picture, Table
from lightning_dynamics.panels.values import Cell

_LEAST = 1e-40  # ‖g‖² of 0 is drawn here


@pictures.register
def _pictures(result: CriticalPointsResult) -> Pictures:
    about = f"{_moment(result)}; {_found(result)}; {_basis(result)}"
    return {
        "index_against_loss": lambda: Picture(scatter_of(result), f"Index against loss, {about}"),
        "convergence": lambda: Picture(convergence(result), f"‖g‖² of every search, {about}"),
    }


@tables.register
def _tables(result: CriticalPointsResult) -> dict[str, Table]:
    return {"values": values(result)}


def scatter_of(result: CriticalPointsResult) -> NDArray[np.uint8]:
    """Index against loss, by status; the starts too where their index is known."""
    return index_against_loss(
        result.loss.numpy(),
        result.index.numpy(),
        result.status,
        errors=result.index_error.numpy(),
        start_loss=result.losses[:, 0].numpy(),
        start_index=result.start_index.numpy(),
        title=f"Critical points: index against loss · {_moment(result)}",
        footer=f"{_found(result)}; {_criteria(result)}; {_basis(result)}",
    )


def convergence(result: CriticalPointsResult) -> NDArray[np.uint8]:
    """log₁₀ ‖g‖² by iteration, and the tolerance."""
    courses = np.maximum(result.squared_gradient_norms.numpy(), _LEAST)  # NaN stays
    steps = np.arange(courses.shape[1])
    limit = math.log10(result.tolerance)
    return time_series(
        steps,
        np.log10(courses),
        names=[f"{name}: {status}" for name, status in zip(result.starts, result.status, strict=True)],
        title=f"Searches for critical points · {_moment(result)}",
        footer=f"{_found(result)}; {_criteria(result)}; {_basis(result)}",
        x_title=f"iteration of {METHODS[result.method].title}",
        y_title="log₁₀ ‖g‖²",
        emphasis=np.full((1, len(steps)), limit),
        emphasis_names=[f"tolerance {result.tolerance:.0e}"],
    )


def values(result: CriticalPointsResult) -> Table:
    """One row per search."""
    words = "start, status, stopped, loss at the start, loss, ‖g‖², index, ± standard error, negative eigenvalues"
    columns = f"{words}, zero eigenvalues, ‖Hg‖ / (‖g‖ Λ), ‖Hp + g‖ / ‖g‖, iterations, products".split(", ")
    rows: list[list[Cell]] = []
    for i, start in enumerate(result.starts):
        numbers = (
            result.losses[i, 0],
            result.loss[i],
            result.squared_gradient_norm[i],
            result.index[i],
            result.index_error[i],
            result.negative[i],
            result.zero[i],
            result.flatness[i],
            result.newton_residual[i],
            result.iterations[i],
            result.products[i],
        )
        cells = [float(number) if math.isfinite(float(number)) else None for number in numbers]
        rows.append([start, result.status[i], result.stopped[i], *cells])
    return Table(columns, rows, f"Searches for critical points, {_moment(result)}; {_basis(result)}")


def _moment(result: CriticalPointsResult) -> str:
    return f"epoch {result.epoch}, step {result.step}"


def _found(result: CriticalPointsResult) -> str:
    counts = [f"{result.status.count(word)} {word}" for word in ("critical", "gradient-flat", "unfinished")]
    return f"{len(result.starts)} searches by {METHODS[result.method].title}: {', '.join(counts)}"


def _criteria(result: CriticalPointsResult) -> str:
    return (
        f"critical: ‖g‖² ≤ {result.tolerance:.0e}; gradient-flat: stalled, g in the kernel of H up to "
        f"{100 * result.flatness_tolerance:g} % of the curvature; |λ| ≤ {result.zero_tolerance:.0e} max|λ| counts as 0"
    )


def _basis(result: CriticalPointsResult) -> str:
    chosen = f"{result.parameters} ({result.num_parameters:,})"
    return f"{result.num_examples} examples of {result.data}; {chosen}; {result.estimator}"
