"""How a CKAResult looks."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dynamics.cka.result import CKAResult
from lightning_dynamics.cka.structure import MIN_LENGTH, THRESHOLD, stages
from lightning_dynamics.panels import Film, Panels, Picture, Table
from lightning_dynamics.panels.drawing import heat_map, profile
from lightning_dynamics.panels.names import without_common_prefix
from lightning_dynamics.panels.values import Panel


def panels(result: CKAResult, label: str) -> Panels:
    """The pictures and the table of one event, under keys ``{label}/…``."""
    shown: dict[str, Panel] = {f"{label}/similarity": Picture(similarity_map(result), caption(result, "CKA"))}
    for reference, matrix in result.matrices.items() if len(result.matrices) > 1 else ():
        image = similarity_map(result, matrix, f"CKA with {reference}")
        shown[f"{label}/similarity/{reference}"] = Picture(image, caption(result, f"CKA with {reference}"))
    if result.first_pc_variance.isfinite().any():
        shown |= _component_panels(result, label)
    rows = [
        (x, y, value if math.isfinite(value) else None)
        for x, values in zip(result.layers_x, result.matrix.tolist(), strict=True)
        for y, value in zip(result.layers_y, values, strict=True)
    ]
    shown[f"{label}/values"] = Table(("layer x", "layer y", "cka"), rows, caption(result, "CKA"))
    return shown


def scalars(result: CKAResult) -> dict[str, float]:
    """The event's numbers, by key without label."""
    with_itself = result.compared_to == "itself"
    numbers: dict[str, float] = {}
    if with_itself:
        off = ~torch.eye(len(result.matrix), dtype=torch.bool)
        numbers["mean_off_diagonal"] = result.matrix[off].nanmean().item()
        numbers["block_score"] = result.block_score
        numbers["block_score_without_first_pc"] = result.block_score_without_first_pc
    elif result.layers_x == result.layers_y:
        diagonal = result.matrix.diagonal()
        reference = result.compared_to.replace(" ", "_") if len(result.matrices) == 1 else "references"
        for stage, members in stages(result.layers_x).items():
            numbers[f"similarity_to/{reference}/{stage}"] = diagonal[members].nanmean().item()
        numbers[f"similarity_to/{reference}"] = diagonal.nanmean().item()
    else:
        numbers["mean"] = result.matrix.nanmean().item()
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def film(results: list[CKAResult], label: str) -> Panels:
    """The map over training, one frame per result kept; nothing for fewer than two."""
    same = [r for r in results if (r.layers_x, r.layers_y) == (results[-1].layers_x, results[-1].layers_y)]
    if len(same) < 2:
        return {}
    first, last = same[0], same[-1]
    text = f"CKA over training, {len(same)} events, step {first.step} to {last.step}; {_basis(last)}"
    return {f"{label}/similarity_film": Film([similarity_map(result) for result in same], text)}


def similarity_map(result: CKAResult, matrix: Tensor | None = None, title: str | None = None) -> NDArray[np.uint8]:
    """The heat map: this network's layers upwards, the other's (or its own) to the right."""
    compared = "" if result.compared_to == "itself" else f" with {result.compared_to}"
    outlined = f"; squares: blocks of {MIN_LENGTH}+ layers with CKA ≥ {THRESHOLD}" if result.blocks else ""
    return heat_map(
        (result.matrix if matrix is None else matrix).numpy(),
        x_labels=without_common_prefix(result.layers_y),
        y_labels=without_common_prefix(result.layers_x),
        title=f"{title or f'CKA{compared}'} · epoch {result.epoch}, step {result.step}",
        footer=_basis(result) + outlined,
        x_title="" if result.compared_to == "itself" else result.compared_to,
        blocks=[(start, stop) for start, stop in result.blocks] if matrix is None else (),
        colorbar_label="CKA",
    )


def caption(result: CKAResult, what: str) -> str:
    """What a picture shows, for loggers that show a caption beside it."""
    other = "" if result.compared_to == "itself" else f" with {result.compared_to}"
    return f"{what}{other}, epoch {result.epoch}, step {result.step}; {_basis(result)}"


def _component_panels(result: CKAResult, label: str) -> dict[str, Panel]:
    moment = f"epoch {result.epoch}, step {result.step}"
    without = similarity_map(result, result.matrix_without_first_pc, "CKA without first principal components")
    share = profile(
        result.first_pc_variance.numpy(),
        labels=without_common_prefix(result.layers_x),
        title=f"First principal component · {moment}",
        footer=f"λ₁ / Σλ of each minibatch's centred activations, summed over minibatches; {_basis(result)}",
        y_title="share of variance",
    )
    cosine = heat_map(
        result.first_pc_cosine.numpy(),
        x_labels=without_common_prefix(result.layers_y),
        y_labels=without_common_prefix(result.layers_x),
        title=f"|cos| between first principal components · {moment}",
        footer=f"scores of the examples of a minibatch, mean over minibatches; {_basis(result)}",
        colorbar_label="|cos|",
    )
    return {
        f"{label}/without_first_pc": Picture(without, caption(result, "CKA without first principal components")),
        f"{label}/first_pc": Picture(
            share, f"share of variance of the first principal component, {moment}; {_basis(result)}"
        ),
        f"{label}/first_pc_cosine": Picture(cosine, caption(result, "|cos| between first principal components")),
    }


def _basis(result: CKAResult) -> str:
    return f"{result.num_examples} examples of {result.data}, {result.estimator}"
