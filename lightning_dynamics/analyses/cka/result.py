"""What CKACallback finds at one moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_dynamics.analyses.cka.structure import stages
from lightning_dynamics.analyses.result import AnalysisResult


@dataclass(frozen=True, eq=False)
class CKAResult(AnalysisResult):
    """Similarity of layers, ``matrix[i, j]`` between ``layers_x[i]`` and ``layers_y[j]``.

    All tensors are float64 on the CPU. A layer that does not vary over the examples has NaN in its row or
    column. Values may be slightly negative: the unbiased estimate of 0 is.

    Args:
        epoch: from 0.
        step: training batches that had stepped.
        num_examples: of the probe.
        matrix: ``(L_x, L_y)`` CKA; with several references, the mean over them.
        layers_x: names of this network's layers, in execution order.
        layers_y: names of the layers it is compared with.
        compared_to: ``"itself"``, or what the reference is called.
        matrices: reference name to ``(L_x, L_y)``: each reference on its own.
        first_pc_variance: ``(L_x,)`` share of each layer's variance that its first principal component holds,
            0 to 1; NaN throughout with ``components=False``, as in the next two.
        matrix_without_first_pc: ``(L_x, L_y)`` CKA after removing every layer's first principal component.
        first_pc_cosine: ``(L_x, L_y)`` |cos| between the examples' scores on the layers' first components.
        blocks: half-open extents of blocks in ``matrix``; empty unless it compares a network with itself.
        block_score: share of the pairs of layers within a block, 0 to 1; NaN unless as above.
        block_score_without_first_pc: the same for ``matrix_without_first_pc``.
        data: what the examples were taken from.
        estimator: how, in words for a caption.
    """

    matrix: Tensor
    layers_x: list[str]
    layers_y: list[str]
    compared_to: str
    matrices: dict[str, Tensor]
    first_pc_variance: Tensor
    matrix_without_first_pc: Tensor
    first_pc_cosine: Tensor
    blocks: list[list[int]] = field(default_factory=list)
    block_score: float = float("nan")
    block_score_without_first_pc: float = float("nan")
    data: str = ""
    estimator: str = ""

    def scalars(self) -> dict[str, float]:
        """Similarity off the diagonal and blocks, or similarity of each layer to itself in the reference."""
        numbers: dict[str, float] = {}
        if self.compared_to == "itself":
            off = ~torch.eye(len(self.matrix), dtype=torch.bool)
            numbers["mean_off_diagonal"] = self.matrix[off].nanmean().item()
            numbers["block_score"] = self.block_score
            numbers["block_score_without_first_pc"] = self.block_score_without_first_pc
        elif self.layers_x == self.layers_y:
            diagonal = self.matrix.diagonal()
            reference = self.compared_to.replace(" ", "_") if len(self.matrices) == 1 else "references"
            for stage, members in stages(self.layers_x).items():
                numbers[f"similarity_to/{reference}/{stage}"] = diagonal[members].nanmean().item()
            numbers[f"similarity_to/{reference}"] = diagonal.nanmean().item()
        else:
            numbers["mean"] = self.matrix.nanmean().item()
        return {name: value for name, value in numbers.items() if math.isfinite(value)}
