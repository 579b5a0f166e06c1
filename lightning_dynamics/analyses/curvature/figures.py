"""How a CurvatureResult looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_dynamics.analyses.curvature.quantities import non_convexity
from lightning_dynamics.analyses.curvature.result import CurvatureResult
from lightning_dynamics.figures import time_series
from lightning_dynamics.figures.result import Pictures, closing_panels, pictures, tables
from lightning_dynamics.panels import Film, Picture, Table
from lightning_dynamics.panels.values import Cell

_POINTS = 801  # of a spectrum's picture: seven to a standard deviation of 1 % of its width


@pictures.register
def _pictures(result: CurvatureResult) -> Pictures:
    drawn: dict[str, Callable[[], Picture]] = {}
    if len(result.grid):
        text = f"Spectrum of the Hessian, {_moment(result)}; {_basis(result)}; {_broadening(result)}"
        drawn["spectrum"] = lambda: Picture(spectrum(result), text)
    about = f"Extreme eigenvalues of the Hessian, {_moment(result)}; {_basis(result)}; {_trust(result)}"
    drawn["eigenvalues"] = lambda: Picture(eigenvalues(result), about)
    return drawn


@tables.register
def _tables(result: CurvatureResult) -> dict[str, Table]:
    return {"values": values(result)}


@closing_panels.register
def _closing_panels(last: CurvatureResult, results: Sequence[CurvatureResult]) -> dict[str, Callable[[], Film]]:
    """The spectrum over training; nothing for fewer than two."""
    drawn = [result for result in results if len(result.grid)]
    return {"spectrum_film": lambda: film(drawn)} if len(drawn) > 1 else {}


def film(results: Sequence[CurvatureResult]) -> Film:
    """The spectrum over training, all frames on the same axes."""
    span = min(_span(result)[0] for result in results), max(_span(result)[1] for result in results)
    heights = np.array([_heights(result, np.linspace(*span, _POINTS)) for result in results])
    first, last = results[0], results[-1]
    text = (
        f"Spectrum of the Hessian over training, {len(results)} events, step {first.step} to {last.step}; "
        f"{_basis(last)}; {_broadening(last)}"
    )
    return Film([spectrum(result, span, _limits(heights)) for result in results], text)


def spectrum(
    result: CurvatureResult, span: tuple[float, float] | None = None, limits: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """The density of the eigenvalues on a logarithmic scale, down to a tenth of a single eigenvalue."""
    x = np.linspace(*(span or _span(result)), _POINTS)
    heights = _heights(result, x)
    ends = np.concatenate([result.smallest.numpy(), result.largest.numpy()])
    return time_series(
        x,
        heights,
        names=["density of the eigenvalues"],
        title=f"Spectrum of the Hessian · {_moment(result)}",
        footer=f"{_trust(result)}; {_broadening(result)}; {_basis(result)}",
        x_title="eigenvalue λ",
        y_title="log₁₀ density",
        limits=limits or _limits(heights),
        marks=ends[np.isfinite(ends)],
        marks_name="extreme eigenvalues",
    )


def eigenvalues(result: CurvatureResult) -> NDArray[np.uint8]:
    """Both ends of the spectrum over training; of this event alone in a condensed result."""
    course = result if len(result.course_steps) else result.after(())
    k = len(result.largest)
    steps, unsettled = course.course_steps.tolist(), course.course_steps[~course.course_converged].tolist()
    return time_series(
        steps,
        np.concatenate([course.course_largest.T.numpy(), course.course_smallest.flip(1).T.numpy()]),
        names=[_ordinal(i, "largest") for i in range(k)] + [_ordinal(i, "smallest") for i in reversed(range(k))],
        title=f"Extreme eigenvalues of the Hessian · {_moment(result)}",
        footer=f"{_trust(result)}; {_basis(result)}",
        x_title="training step",
        y_title="eigenvalue",
        marks=unsettled,
        marks_name="not converged" if unsettled else "",
    )


def values(result: CurvatureResult) -> Table:
    """One row per number, with what is known of its error."""
    rows: list[list[Cell]] = []

    def add(name: str, value: float, error: float = math.nan, of_what: str = "") -> None:
        known = math.isfinite(error)
        rows.append([name, value if math.isfinite(value) else None, error if known else None, of_what if known else ""])

    for i, (value, residual) in enumerate(zip(result.largest.tolist(), result.largest_residuals.tolist(), strict=True)):
        add(f"{_ordinal(i, 'largest')} eigenvalue", value, residual, "residual")
    for i, (value, residual) in enumerate(
        zip(result.smallest.tolist(), result.smallest_residuals.tolist(), strict=True)
    ):
        add(f"{_ordinal(i, 'smallest')} eigenvalue", value, residual, "residual")
    add("|λmin / λmax|", non_convexity(float(result.smallest[0]), float(result.largest[0])))
    add("condition number", result.condition_number)
    add("trace", result.trace, result.trace_standard_error, "standard error")
    add("loss", result.loss)
    add("gradient norm ‖g‖", result.gradient_norm)
    add("‖Hg‖ / ‖g‖", result.flatness)
    add("‖Hg‖ / (‖g‖ max|λ|)", result.relative_flatness)
    add("share of ‖g‖² outside of the extreme eigenvectors", result.outside_share)
    caption = f"Curvature of the loss, {_moment(result)}; {_basis(result)}; {_trust(result)}"
    return Table(("quantity", "value", "error", "kind of error"), rows, caption)


def _span(result: CurvatureResult) -> tuple[float, float]:
    """What the picture must show: the density, and the extreme eigenvalues."""
    ends = [float(end) for end in (result.smallest[0], result.largest[0]) if math.isfinite(end)]
    low, high = min([float(result.grid[0]), *ends]), max([float(result.grid[-1]), *ends])
    return low, high


def _heights(result: CurvatureResult, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log₁₀ of the density at ``x``; NaN, a gap, below a tenth of a single eigenvalue's peak."""
    floor = 0.1 / (result.num_parameters * result.sigma * math.sqrt(2 * math.pi))
    density = np.interp(x, result.grid.numpy(), result.density.numpy(), left=0.0, right=0.0)
    return np.log10(np.where(density >= floor, density, np.nan))


def _limits(heights: NDArray[np.float64]) -> tuple[float, float]:
    low, high = math.floor(np.nanmin(heights)), math.ceil(np.nanmax(heights))
    return float(low), float(max(high, low + 1))


def _ordinal(place: int, what: str) -> str:
    if place == 0:
        return what
    ending = "th" if 9 <= place % 100 <= 12 else {1: "nd", 2: "rd"}.get(place % 10, "st" if place % 10 == 0 else "th")
    return f"{place + 1}{ending} {what}"


def _moment(result: CurvatureResult) -> str:
    return f"epoch {result.epoch}, step {result.step}"


def _basis(result: CurvatureResult) -> str:
    chosen = f"{result.parameters} ({result.num_parameters:,})"
    return f"{result.num_examples} examples of {result.data}; {chosen}; {result.estimator}"


def _broadening(result: CurvatureResult) -> str:
    return f"each eigenvalue broadened to σ = {result.sigma:.2g}; gaps: less than a tenth of one eigenvalue"


def _trust(result: CurvatureResult) -> str:
    """How far the eigenvalues can be trusted."""
    if not math.isfinite(result.loss) or not result.iterations:
        return "not defined: the loss or a derivative is not finite"
    residual = max(float(result.largest_residuals.max()), float(result.smallest_residuals.max()))
    state = "converged" if result.converged else "NOT CONVERGED"
    ends = f"λmax = {float(result.largest[0]):.4g}, λmin = {float(result.smallest[0]):.4g}"
    text = f"{ends}, {state} after {result.iterations} products (residual {residual:.1g}"
    if result.overlooked > 0:
        text += f"; at 95 % none lies over {100 * result.overlooked:.2g} % of the spread further out"
    return f"{text})"
