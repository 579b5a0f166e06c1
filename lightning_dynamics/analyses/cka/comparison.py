"""Two representations compared: sums over minibatches and processes first, ratios last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynamics.analyses.cka.estimator import inner_products, norms, similarity
from lightning_dynamics.analyses.cka.reference import Representation
from lightning_dynamics.core.distributed import Ranks


@dataclass
class Sums:
    """What adds up over minibatches and processes. All float64, on the CPU.

    Args:
        values: ``xy (L_x, L_y)``, ``xx (L_x,)``, ``yy (L_y,)``: HSIC sums; the same with ``_without_first``;
            ``first (L_x,)`` and ``total (L_x,)``: variance of the first component, and of all; ``cosine`` and
            ``cosine_weight (L_x, L_y)``: |cos| between first components times the number of examples, and that
            number, over the minibatches where both are defined.
    """

    values: dict[str, Tensor]

    @classmethod
    def zero(cls, num_layers_x: int, num_layers_y: int) -> Sums:
        """Before the first minibatch."""
        shapes: dict[str, tuple[int, ...]] = {"first": (num_layers_x,), "total": (num_layers_x,)}
        for suffix in ("", "_without_first"):
            shapes |= {
                f"xy{suffix}": (num_layers_x, num_layers_y),
                f"xx{suffix}": (num_layers_x,),
                f"yy{suffix}": (num_layers_y,),
            }
        shapes |= dict.fromkeys(("cosine", "cosine_weight"), (num_layers_x, num_layers_y))
        return cls({name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()})

    def __iadd__(self, other: Sums) -> Sums:
        """Add another minibatch's sums."""
        for name, value in other.values.items():
            self.values[name] = self.values[name].to(value.device) + value
        return self

    def over(self, ranks: Ranks) -> Sums:
        """The sums of all processes, on the CPU."""
        return Sums({name: ranks.all_reduce(value.cpu()) for name, value in self.values.items()})

    def similarity(self) -> Tensor:
        """CKA, ``(L_x, L_y)``."""
        return similarity(self.values["xy"], self.values["xx"], self.values["yy"])

    def similarity_without_first(self) -> Tensor:
        """CKA after removal of the first components, ``(L_x, L_y)``."""
        return similarity(*(self.values[f"{name}_without_first"] for name in ("xy", "xx", "yy")))

    def first_share(self) -> Tensor:
        """Share of variance of the first component, ``(L_x,)``."""
        return self.values["first"] / self.values["total"]

    def first_cosine(self) -> Tensor:
        """Mean |cos| between first components, ``(L_x, L_y)``."""
        return self.values["cosine"] / self.values["cosine_weight"]


def compare(x: Representation, y: Representation) -> Sums:
    """One minibatch's sums; ``x is y`` compares a network with itself."""
    sums = _hsic(x.rows, y.rows, "")
    if x.rows_without_first is not None and y.rows_without_first is not None:
        sums |= _hsic(x.rows_without_first, y.rows_without_first, "_without_first")
    if x.scores is not None and y.scores is not None and x.first is not None and x.total is not None:
        cosine = inner_products(x.scores, y.scores).abs()
        sums |= {name: value.to(cosine.device).double() for name, value in (("first", x.first), ("total", x.total))}
        defined = cosine.isfinite()
        n = x.scores.shape[1]
        sums |= {"cosine": n * cosine.nan_to_num(0.0), "cosine_weight": n * defined.double()}
    return Sums(sums)


def _hsic(x: Tensor, y: Tensor, suffix: str) -> dict[str, Tensor]:
    xy = inner_products(x, y)
    xx, yy = (xy.diagonal(), xy.diagonal()) if x is y else (norms(x), norms(y))
    return {f"xy{suffix}": xy, f"xx{suffix}": xx, f"yy{suffix}": yy}
