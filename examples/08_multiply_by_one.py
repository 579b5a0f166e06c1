"""Multiplying by one: gradient descent from many starts on a surface that is known exactly.

    python examples/08_multiply_by_one.py                 # two weights: ½ (ab − 1)²
    python examples/08_multiply_by_one.py --rate 0.4      # steps so long that starts change branches
    python examples/08_multiply_by_one.py --powers 2 1    # three weights, in the plane (a, a, b)

The simplest problem that has what deep networks have: a saddle at 0 and valleys of solutions. Gradient flow conserves
a² − b², and so every start's end is known beforehand; gradient descent takes steps, and the table shows what that
costs. All starts run at once, by ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Sequence

import logs
import numpy as np
import torch
from common import parser
from torch import Tensor
from torch.func import functional_call, grad, vmap

from lightning_dynamics import problems
from lightning_dynamics.core.parameters import unflatten
from lightning_dynamics.data.problems.explorer import DESCENTS_HEIGHT, Descents, descents_page
from lightning_dynamics.data.problems.plane import AT_SADDLE, GONE, STILL_MOVING
from lightning_dynamics.figures import line_chart
from lightning_dynamics.panels import Page, Panel, Picture, Scalar, Table
from lightning_dynamics.publishing import publish_panels


def descend(problem: problems.DeepLinear, starts: Tensor, rate: float, momentum: float, steps: int) -> Tensor:
    """Gradient descent (as ``torch.optim.SGD``) from ``(N, P)``, all at once: ``(N, T + 1, P)``."""
    inputs, targets = problem.dataset.tensors
    parameters = {name: parameter.detach().double() for name, parameter in problem.named_parameters()}

    def loss(theta: Tensor) -> Tensor:
        output = functional_call(problem, unflatten(theta, parameters), (inputs,))
        return (output - targets).square().sum(-1).mean() / 2

    slopes = vmap(grad(loss))
    theta, velocity = starts.clone(), torch.zeros_like(starts)
    path = [theta]
    for _ in range(steps):
        velocity = momentum * velocity + slopes(theta)
        theta = theta - rate * velocity
        path.append(theta)
    return torch.stack(path, dim=1)


def grid_starts(count: int, limit: float) -> Tensor:
    """``(count², 2)``, on a square: with a diagonal on which a = −b exactly."""
    places = torch.linspace(-limit, limit, count, dtype=torch.float64)
    places = (places - places.flip(0)) / 2  # rounding had made some opposite places differ
    return torch.cartesian_prod(places, places)


def random_starts(count: int, norm: float, seed: int) -> Tensor:
    """``(count, 2)``: random directions, all of one norm."""
    directions = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return norm * directions / directions.norm(dim=1, keepdim=True)


def compare_rates(
    problem: problems.DeepLinear,
    plane: problems.Plane,
    starts: Tensor,
    rates: Sequence[float],
    momentum: float,
    time: float,
) -> list[list[float]]:
    """For each rate: rate, steps, ends of every kind, ends elsewhere than the flow's, drift, distance from the flow."""
    kinds = [*range(len(plane.branches)), AT_SADDLE, STILL_MOVING, GONE]
    flow_ends = plane.ends(problem.flow_limit(starts)[:, [0, -1]].numpy())
    rows = []
    for rate in rates:
        steps = round(time / rate)
        paths = descend(problem, starts, rate, momentum, steps)
        ends = plane.ends(paths[:, -1][:, [0, -1]].numpy())
        arrived = (ends != GONE) & (ends != STILL_MOVING)
        kept = paths[..., 0] ** 2 - paths[..., -1] ** 2
        drift = (kept - kept[:, :1]).abs().amax(1).numpy()
        aside = np.nan
        if plane.powers == (1, 1) and momentum == 0:
            exact = problem.flow(starts[:, None], rate * torch.arange(steps + 1, dtype=torch.float64))
            aside = float((paths - exact).norm(dim=-1).amax(1).numpy()[arrived].max())
        counts = [int((ends == kind).sum()) for kind in kinds]
        astray = int((arrived & (ends != flow_ends)).sum())
        rows.append([rate, steps, *counts, astray, float(drift[arrived].max()), aside])
    return rows


def main() -> None:
    """Descend, draw, compare rates."""
    made = parser(__doc__, data_file=False)
    made.add_argument("--powers", type=int, nargs=2, default=(1, 1), metavar=("M", "N"), help="weights equal to a, b")
    made.add_argument("--grid", type=int, default=13, help="starts along each side of the grid")
    made.add_argument("--random", type=int, default=96, help="starts in random directions")
    made.add_argument("--norm", type=float, default=1.0, help="of the random starts")
    made.add_argument("--rate", type=float, default=0.05)
    made.add_argument("--momentum", type=float, default=0.0)
    made.add_argument("--steps", type=int, default=300)
    made.add_argument("--rates", type=float, nargs="+", default=[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4])
    arguments = made.parse_args()

    plane = problems.Plane(tuple(arguments.powers))
    problem = problems.DeepLinear.multiply_by_one(depth=sum(plane.powers))
    starts = {
        f"grid, {arguments.grid} × {arguments.grid}": grid_starts(arguments.grid, limit=2.0),
        f"random, norm {arguments.norm:g}": random_starts(arguments.random, arguments.norm, arguments.seed),
    }
    settings = f"rate {arguments.rate:g}, momentum {arguments.momentum:g}, {arguments.steps} steps, float64"
    product = "".join(it if power == 1 else f"{it}^{power} " for it, power in zip("ab", plane.powers, strict=True))
    formula = f"½ ({product.strip()} − 1)²"
    panels: dict[str, Panel] = {}
    runs = []
    for name, points in starts.items():
        weights = torch.from_numpy(plane.weights(points))
        paths = descend(problem, weights, arguments.rate, arguments.momentum, arguments.steps)[..., [0, -1]].numpy()
        runs.append(Descents(name, paths, arguments.rate, arguments.momentum))
        title = f"Gradient descent on {formula} from {len(points)} starts ({name})"
        footer = f"{settings} · rings: starts, dots: ends · arrows: downhill, as long as the cube root of the slope; "
        footer += "grey lines: equal loss"
        panels[name.split(",")[0]] = Picture(
            problems.descents_map(paths, plane=plane, title=title, footer=footer), caption=f"{title}; {settings}"
        )
    title = f"Gradient descent on {formula}"
    page = descents_page(runs, plane=plane, title=title, footer=f"{settings}, by torch.func.vmap")
    panels["explorer"] = Page(page, caption=title, height=DESCENTS_HEIGHT)

    time = arguments.rate * arguments.steps
    weights = torch.from_numpy(plane.weights(next(iter(starts.values()))))
    rows = compare_rates(problem, plane, weights, sorted(arguments.rates), arguments.momentum, time)
    kinds = [plane.name(end) for end in (*range(len(plane.branches)), AT_SADDLE, STILL_MOVING, GONE)]
    columns = ["rate", "steps", *kinds, "elsewhere than flow", "most drift of a² − b²", "most distance from flow"]
    caption = f"{formula} from the grid, momentum {arguments.momentum:g}, to time rate × steps = {time:g}"
    panels["rates"] = Table(columns, rows, caption=caption)
    rates, drift, aside = (np.array([row[i] for row in rows]) for i in (0, -2, -1))
    if len(rates) > 1:
        series = {"drift of a² − b²": drift} | ({"distance from the flow": aside} if np.isfinite(aside).any() else {})
        chart = line_chart(
            rates,
            series,
            title="What steps cost: gradient descent against gradient flow",
            footer=f"{caption} · the most over all starts that arrived, at any step",
            x_title="learning rate",
            y_title="largest deviation",
            log=True,
            log_x=True,
        )
        panels["drift"] = Picture(chart, caption=caption)
    panels["largest_drift"] = Scalar(float(drift[-1]))

    wandb_logger, report = logs.loggers(arguments, run="multiply_by_one", report="multiply_by_one")
    publish_panels([wandb_logger, report], panels, "problems", step=arguments.steps)
    heads = [it.removeprefix("solution, ").partition(":")[0] for it in kinds] + ["not the flow's", "drift", "from flow"]
    print(f"{caption}\n\n{'rate':>7}{'steps':>7}" + "".join(f"{it:>16}" for it in heads))
    for row in rows:
        print(f"{row[0]:7g}{row[1]:7d}" + "".join(f"{it:16.4g}" for it in row[2:]))
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
