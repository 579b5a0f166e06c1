"""What pictures of a landscape say beside what they draw."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_dynamics.analyses.landscape.estimator import RANDOM_WALK
from lightning_dynamics.analyses.landscape.result import LandscapeResult

_STATISTICS = {
    "reestimate": "batch statistics measured anew at every point",
    "frozen": "running statistics as they are",
    "batch": "normalised by minibatch",
}


def moment(result: LandscapeResult) -> str:
    """When it was measured, for a title."""
    return f"epoch {result.epoch}, step {result.step}"


def what(result: LandscapeResult) -> str:
    """Which slice it is, for a title."""
    return str(result.directions.get("title", "plane" if result.is_plane else "line"))


def loss_name(result: LandscapeResult) -> str:
    """With the weight decay term, if there is one."""
    decay = result.settings.get("weight_decay", 0.0)
    return f"loss + {decay:g}/2 ‖θ‖²" if decay else "loss"


def basis(result: LandscapeResult) -> str:
    """What the numbers rest on, for a footer."""
    settings, about = result.settings, result.directions
    parts = [f"{result.num_examples} examples of {settings['data']}"]
    if settings.get("loss_is"):
        parts.append(str(settings["loss_is"]))
    if settings.get("mode", "eval") == "train":
        parts.append("train mode")
    if settings.get("parameters", "*") != "*":
        parts.append(f"only {settings['parameters']} moves")
    parts.append(f"BatchNorm, if any: {_STATISTICS[settings['batchnorm']]}")
    if settings.get("dropout", "off") == "fixed":
        parts.append("dropout on, one mask for all points")
    if "cosine" in about and not about.get("orthogonal", True):
        parts.append(f"cosine between the directions {about['cosine']:.3f}")
    if len(result.explained_variance):
        ours = " + ".join(f"{share:.1%}" for share in result.explained_variance.tolist())
        walk = " + ".join(f"{share:.0%}" for share in RANDOM_WALK)
        parts.append(f"explained variance {ours} of {about['snapshots']} snapshots (a pure random walk: {walk})")
    if len(result.residual_distance):
        extent = float((result.trajectory - result.trajectory[-1]).norm(dim=1).max())
        off = float(result.residual_distance.max())
        parts.append(f"the trajectory is up to {off:.3g} off the plane, and {extent:.3g} long in it")
    if about.get("converged") is False:
        parts.append("the eigenvectors have not converged")
    return "; ".join(parts) + ". A slice: it does not show the other dimensions."


def wide(values: Tensor) -> bool:
    """Whether values are so far apart that a logarithmic scale shows more."""
    finite = values[values.isfinite()]
    return bool(len(finite)) and bool(finite.min() > 0) and float(finite.max() / finite.min()) > 30


def common_limits(values: list[Tensor]) -> tuple[float, float] | None:
    """From the least to the largest finite value of several landscapes; None where there is none."""
    finite = torch.cat([v[v.isfinite()].flatten() for v in values])
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if low < high else (low, math.nextafter(low, math.inf) + abs(low) * 1e-6 + 1e-12)
