"""How a CKAResult looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_dynamics.analyses.cka.result import CKAResult
from lightning_dynamics.analyses.cka.structure import MIN_LENGTH, THRESHOLD
from lightning_dynamics.figures import heat_map, profile
from lightning_dynamics.figures.names import without_common_prefix
from lightning_dynamics.figures.result import Pictures, closing_panels, pictures, tables
from lightning_dynamics.panels import Film, Picture, Table


@pictures.register
def _pictures(result: CKAResult) -> Pictures:
    drawn: dict[str, Callable[[], Picture]] = {
        "similarity": lambda: Picture(similarity_map(result), caption(result, "CKA"))
    }
    for reference, matrix in result.matrices.items() if len(result.matrices) > 1 else ():
        drawn[f"similarity/{reference}"] = partial(_to_reference, result, reference, matrix)
    if result.first_pc_variance.isfinite().any():
        drawn["without_first_pc"] = lambda: _without_first_component(result)
        drawn["first_pc"] = lambda: _first_component(result)
        drawn["first_pc_cosine"] = lambda: _first_component_cosine(result)
    return drawn


@tables.register
def _tables(result: CKAResult) -> dict[str, Table]:
    rows = [
        (x, y, value if math.isfinite(value) else None)
        for x, values in zip(result.layers_x, result.matrix.tolist(), strict=True)
        for y, value in zip(result.layers_y, values, strict=True)
    ]
    return {"values": Table(("layer x", "layer y", "cka"), rows, caption(result, "CKA"))}


@closing_panels.register
def _closing_panels(last: CKAResult, results: Sequence[CKAResult]) -> dict[str, Callable[[], Film]]:
    """The map over training, one frame per result kept; nothing for fewer than two."""
    same = [r for r in results if (r.layers_x, r.layers_y) == (last.layers_x, last.layers_y)]
    if len(same) < 2:
        return {}
    text = f"CKA over training, {len(same)} events, step {same[0].step} to {last.step}; {_basis(last)}"
    return {"similarity_film": lambda: Film([similarity_map(result) for result in same], text)}


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


def _to_reference(result: CKAResult, reference: str, matrix: Tensor) -> Picture:
    image = similarity_map(result, matrix, f"CKA with {reference}")
    return Picture(image, caption(result, f"CKA with {reference}"))


def _without_first_component(result: CKAResult) -> Picture:
    what = "CKA without first principal components"
    return Picture(similarity_map(result, result.matrix_without_first_pc, what), caption(result, what))


def _first_component(result: CKAResult) -> Picture:
    moment = f"epoch {result.epoch}, step {result.step}"
    image = profile(
        result.first_pc_variance.numpy(),
        labels=without_common_prefix(result.layers_x),
        title=f"First principal component · {moment}",
        footer=f"λ₁ / Σλ of each minibatch's centred activations, summed over minibatches; {_basis(result)}",
        y_title="share of variance",
    )
    return Picture(image, f"share of variance of the first principal component, {moment}; {_basis(result)}")


def _first_component_cosine(result: CKAResult) -> Picture:
    image = heat_map(
        result.first_pc_cosine.numpy(),
        x_labels=without_common_prefix(result.layers_y),
        y_labels=without_common_prefix(result.layers_x),
        title=f"|cos| between first principal components · epoch {result.epoch}, step {result.step}",
        footer=f"scores of the examples of a minibatch, mean over minibatches; {_basis(result)}",
        colorbar_label="|cos|",
    )
    return Picture(image, caption(result, "|cos| between first principal components"))


def _basis(result: CKAResult) -> str:
    return f"{result.num_examples} examples of {result.data}, {result.estimator}"
