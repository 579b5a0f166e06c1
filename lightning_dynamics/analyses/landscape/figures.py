"""How a LandscapeResult looks."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_dynamics.analyses.landscape.explorer import EXPLORER_HEIGHT, Surface, explorer_page
from lightning_dynamics.analyses.landscape.result import LandscapeResult
from lightning_dynamics.analyses.landscape.vtp import vtp_path, vtp_surface
from lightning_dynamics.analyses.landscape.wording import basis, common_limits, loss_name, moment, what, wide
from lightning_dynamics.figures import contour_map, line_chart, surface_plot
from lightning_dynamics.figures.result import Pictures, closing_panels, pictures, tables
from lightning_dynamics.panels import Download, Film, Page, Panel, Picture, Table


@pictures.register
def _pictures(result: LandscapeResult) -> Pictures:
    text = f"{loss_name(result)} on the {what(result)}, {moment(result)}; {basis(result)}"
    if not result.is_plane:
        return {"line": lambda: Picture(line(result), text)}
    drawn = {"contour": lambda: Picture(contour(result), text), "surface": lambda: Picture(surface(result), text)}
    if result.non_convexity.isfinite().any():
        drawn["non_convexity"] = lambda: Picture(non_convexity(result), f"|λmin / λmax| of the Hessian; {text}")
    if len(result.trajectory) > 1:
        drawn["trajectory"] = lambda: Picture(trajectory(result), f"along the trajectory; {text}")
    return drawn


@tables.register
def _tables(result: LandscapeResult) -> dict[str, Table]:
    return {"values": values(result)}


@closing_panels.register
def _closing_panels(last: LandscapeResult, results: Sequence[LandscapeResult]) -> dict[str, Callable[[], Panel]]:
    """The landscape in motion, to explore, and to take away; a line has the file alone."""
    shown: dict[str, Callable[[], Panel]] = {"files": lambda: files(last)}
    planes = [result for result in results if result.is_plane]
    if len(planes) > 1:
        shown["film"] = lambda: film(planes)
    if planes:
        shown["explorer"] = lambda: explorer(planes)
    return shown


def film(planes: Sequence[LandscapeResult]) -> Film:
    """Planes over training, all on one scale."""
    last = planes[-1]
    limits = common_limits([result.loss for result in planes])
    log = all(wide(result.loss) for result in planes)
    scale = "one scale of loss" + (", each in its own plane" if last.directions.get("own_plane") else "")
    text = f"{loss_name(last)} on the {what(last)}, step {planes[0].step} to {last.step}, {scale}; {basis(last)}"
    return Film([surface(result, limits, log=log) for result in planes], text)


def explorer(planes: Sequence[LandscapeResult]) -> Page:
    """A page to walk on the surface."""
    last = planes[-1]
    page = explorer_page(
        [_to_explore(result) for result in planes],
        title=f"{loss_name(last)} on the {what(last)}",
        footer=basis(last),
        x_title=last.directions["x"],
        y_title=last.directions["y"],
    )
    return Page(page, f"the loss to walk on: {what(last)}, {moment(last)}; {basis(last)}", EXPLORER_HEIGHT)


def contour(result: LandscapeResult, limits: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """The plane from above."""
    return contour_map(
        result.loss.numpy(),
        result.xs.numpy(),
        result.ys.numpy(),
        colorbar_label=loss_name(result),
        limits=limits,
        log=wide(result.loss),
        **_title_and_axes(result),
        **_path(result),
    )


def surface(
    result: LandscapeResult, limits: tuple[float, float] | None = None, *, log: bool | None = None
) -> NDArray[np.uint8]:
    """The plane in 3-D."""
    path = _path(result)
    if len(result.trajectory) > 1:
        path["path_values"] = result.trajectory_slice_loss.numpy()
    return surface_plot(
        result.loss.numpy(),
        result.xs.numpy(),
        result.ys.numpy(),
        z_title=loss_name(result),
        limits=limits,
        log=wide(result.loss) if log is None else log,
        **_title_and_axes(result),
        **path,
    )


def non_convexity(result: LandscapeResult) -> NDArray[np.uint8]:
    """Where the loss is far from convex: Li et al. 2018, section 6."""
    return contour_map(
        result.non_convexity.numpy(),
        result.curvature_xs.numpy(),
        result.curvature_ys.numpy(),
        colorbar_label="|λmin / λmax|: 0 is convex",
        **_title_and_axes(result, "|λmin / λmax| of the Hessian"),
        **_path(result),
    )


def trajectory(result: LandscapeResult) -> NDArray[np.uint8]:
    """How far the plane speaks for the training: the true loss beside the slice's, and the distance between."""
    return line_chart(
        result.trajectory_steps.numpy(),
        {"true loss": result.trajectory_loss.numpy(), "loss in the plane": result.trajectory_slice_loss.numpy()},
        title=f"Trajectory and {what(result)} · {moment(result)}",
        footer=basis(result),
        x_title="training step",
        y_title=loss_name(result),
        second={"distance from the plane": result.residual_distance.numpy()},
        second_title="Euclidean distance",
    )


def line(result: LandscapeResult) -> NDArray[np.uint8]:
    """Loss and accuracy along a line."""
    losses = {loss_name(result): result.loss.numpy()}
    losses |= {name: v.numpy() for name, v in result.others.items() if name.endswith("/loss")}
    shares = {} if result.accuracy is None else {"accuracy": result.accuracy.numpy()}
    shares |= {name: v.numpy() for name, v in result.others.items() if name.endswith("accuracy")}
    return line_chart(
        result.xs.numpy(),
        losses,
        title=f"{loss_name(result).capitalize()}, {what(result)} · {moment(result)}",
        footer=basis(result) + _barrier(result),
        x_title=result.directions.get("x", "t"),
        y_title=loss_name(result),
        second=shares,
        second_title="accuracy" if shares else "",
        second_limits=(0.0, 1.0) if shares else None,
        log=wide(result.loss),
        marks=[(str(name), float(x)) for name, x, _ in result.marks],
    )


def values(result: LandscapeResult) -> Table:
    """Every point with its quantities."""
    named = result.quantities
    if result.is_plane:
        places = [(x, y) for y in result.ys.tolist() for x in result.xs.tolist()]
    else:
        places = [(x,) for x in result.xs.tolist()]  # type: ignore[misc]
    columns = ("x", "y", *named) if result.is_plane else ("t", *named)
    rows = [
        (*place, *numbers)
        for place, numbers in zip(places, zip(*(_cells(v) for v in named.values()), strict=True), strict=True)
    ]
    return Table(columns, rows, f"{what(result)}, {moment(result)}; {basis(result)}")


def files(result: LandscapeResult) -> Download:
    """The result as ``.npz``; a plane also for ParaView."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "landscape.npz")
        result.save(path)
        content = {"landscape.npz": path.read_bytes()}
    if result.is_plane:
        named = {name: v.numpy() for name, v in result.quantities.items()}
        content["landscape.vtp"] = vtp_surface(result.xs.numpy(), result.ys.numpy(), named)
        if len(result.trajectory) > 1:
            on_it = np.column_stack([result.trajectory.numpy(), result.trajectory_slice_loss.numpy()])
            told = {"step": result.trajectory_steps.numpy(), "true loss": result.trajectory_loss.numpy()}
            content["trajectory.vtp"] = vtp_path(on_it, told | {"distance": result.residual_distance.numpy()})
    return Download(content, f"the {what(result)}, {moment(result)}; {basis(result)}")


def _to_explore(result: LandscapeResult) -> Surface:
    return Surface(
        label=moment(result),
        xs=result.xs.numpy(),
        ys=result.ys.numpy(),
        values={name: v.numpy() for name, v in result.quantities.items()},
        path=result.trajectory.numpy() if len(result.trajectory) > 1 else None,
        path_values={"loss": result.trajectory_slice_loss.numpy()} if len(result.trajectory) > 1 else {},
        path_notes={
            "step": result.trajectory_steps.numpy(),
            "true loss": result.trajectory_loss.numpy(),
            "distance from the plane": result.residual_distance.numpy(),
        }
        if len(result.trajectory) > 1
        else {},
        marks=_marks(result),
    )


def _title_and_axes(result: LandscapeResult, quantity: str = "") -> dict[str, Any]:
    about = result.directions
    title = f"{quantity or loss_name(result).capitalize()}, {what(result)} · {moment(result)}"
    named = {"x_title": about.get("x", "x"), "y_title": about.get("y", "y")}
    return {"title": title, "footer": basis(result), **named}


def _path(result: LandscapeResult) -> dict[str, Any]:
    shown: dict[str, Any] = {"marks": _marks(result)}
    if len(result.trajectory) > 1:
        shown |= {"path": result.trajectory.numpy(), "path_name": "trajectory, projected"}
    return shown


def _marks(result: LandscapeResult) -> list[tuple[str, float, float]]:
    return [(str(name), float(x), float(y)) for name, x, y in result.marks]


def _cells(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.flatten().tolist()]


def _barrier(result: LandscapeResult) -> str:
    return f" Barrier {result.barrier:.4g}." if math.isfinite(result.barrier) else ""
