"""Descents on the surface of a product of weights: checks them and writes the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_dynamics.data.problems.plane import Plane
from lightning_dynamics.figures.pages.document import plain_numbers, plotly_page

DESCENTS_HEIGHT = 900
"""The height, in pixels, that a frame around the page should have (``Page.height``)."""

_HERE = __name__.rpartition(".")[0]
_DIGITS = 6  # of points on the way; starts are exact
_SCRIPTS = ("descent.js", "explorer.js")  # they share one scope, in this order


@dataclass(frozen=True, eq=False)
class Descents:
    """Gradient descents from many starts, as they were run.

    Args:
        name: how the starts were chosen, e.g. ``"grid"``.
        paths: ``(N, T + 1, 2)``: a and b from the start to the last of T steps. What is not finite ends a path.
        rate: the learning rate of all.
        momentum: as ``torch.optim.SGD`` means it.
    """

    name: str
    paths: ArrayLike
    rate: float
    momentum: float = 0.0


def descents_page(
    runs: Sequence[Descents], *, plane: Plane | None = None, title: str, footer: str, limit: float = 2.5
) -> str:
    r"""Write descents on L = ½ (aᵐ bⁿ − 1)² as an HTML document without network.

    The surface in 3-D and from above, with the gradient field, the solutions and every descent in the colour of where
    it ends. The reader plays them, points at a start to read its conserved quantity, its end and its steps, chooses
    the starts, drops further ones, and changes rate and momentum, upon which the page runs all descents itself; what it
    shows first is what was run. The page holds plotly's script: about 5 MB, and some 15 bytes for every step.

    Args:
        runs: one or more, of T steps each.
        plane: by default of two weights.
        title: above the pictures.
        footer: below: how the descents were run, caveats.
        limit: the plane is shown where \|a\|, \|b\| ≤ this.

    Returns:
        The document. A frame of :data:`DESCENTS_HEIGHT` pixels suits it.

    Raises:
        ValueError: without runs, for paths of another shape or number of steps, starts that are not finite, and a rate,
            momentum or limit that is none.
    """
    plane = plane or Plane()
    if not runs:
        raise ValueError("a page of descents needs at least one run")
    if not (math.isfinite(limit) and limit > 1):
        raise ValueError(f"limit must be above 1, so that there are solutions to see, got {limit}")
    described = [_run(run) for run in runs]
    if len({len(run["paths"][0]) for run in described}) > 1:
        raise ValueError("all runs must have the same number of steps")
    content = {
        "title": title,
        "powers": plane.powers,
        "branches": plane.branches,
        "ends": [plane.name(end) for end in (*range(len(plane.branches)), -1, -2, -3)],
        "solutions": [plain_numbers(curve.T, _DIGITS) for curve in plane.solutions(limit)],
        "limit": limit,
        "runs": described,
    }
    return plotly_page(_HERE, title=title, footer=footer, scripts=_SCRIPTS, content=content)


def _run(run: Descents) -> dict[str, Any]:
    """A run as JSON can say it."""
    where = f"run {run.name!r}"
    paths = np.asarray(run.paths, dtype=np.float64)
    if paths.ndim != 3 or paths.shape[2] != 2 or paths.shape[0] < 1 or paths.shape[1] < 2:
        raise ValueError(f"{where}: paths must be (N, T + 1, 2) with N and T at least 1, got {paths.shape}")
    if not np.isfinite(paths[:, 0]).all():
        raise ValueError(f"{where}: every start must be finite")
    if not (math.isfinite(run.rate) and run.rate > 0) or not 0 <= run.momentum < 1:
        raise ValueError(f"{where}: rate must be above 0 and momentum from 0 to below 1: {run.rate}, {run.momentum}")
    return {
        "name": run.name,
        "rate": float(run.rate),
        "momentum": float(run.momentum),
        "starts": plain_numbers(paths[:, 0], 17),
        "paths": plain_numbers(paths.reshape(len(paths), -1), _DIGITS),
    }
