"""What CKACallback finds at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lightning_dynamics.core.result import Result


@dataclass(frozen=True, eq=False)
class CKAResult(Result):
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
