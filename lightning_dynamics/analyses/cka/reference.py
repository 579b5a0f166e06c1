"""What a network is compared with: another, or its former self, as centred Gram matrices on the probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.cka import estimator
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.probe import Probe


@dataclass
class Representation:
    """All layers on one minibatch.

    Args:
        rows: ``(L, n²)`` centred Gram matrices.
        rows_without_first: the same after removal of the first principal component; None if not wanted.
        scores: ``(L, n)`` unit-length scores of the examples on the first component; None likewise.
        first: ``(L,)`` variance of the first component; None likewise.
        total: ``(L,)`` total variance; None likewise.
    """

    rows: Tensor
    rows_without_first: Tensor | None = None
    scores: Tensor | None = None
    first: Tensor | None = None
    total: Tensor | None = None

    @classmethod
    def of(cls, grams: Tensor, *, debiased: bool, components: bool) -> Representation:
        """From ``(L, n, n)`` Gram matrices, which are overwritten."""
        if not components:
            return cls(estimator.centered_rows(grams, debiased=debiased))
        centred = estimator.double_center(grams.clone())
        total = centred.diagonal(dim1=-2, dim2=-1).sum(-1)
        first, scores = estimator.first_component(centred)
        without = estimator.remove_component(centred, first, scores)
        return cls(
            estimator.centered_rows(grams, debiased=debiased),
            estimator.centered_rows(without, debiased=debiased),
            scores,
            first,
            total,
        )

    def fields(self) -> dict[str, Tensor]:
        """The tensors a comparison needs, by name."""
        wanted = {"rows": self.rows, "rows_without_first": self.rows_without_first, "scores": self.scores}
        return {name: tensor for name, tensor in wanted.items() if tensor is not None}


@dataclass(eq=False)
class Reference:
    """A network's representations of the whole probe, or of one process's share of it.

    Held on the CPU: L n² numbers per minibatch, twice that with first components.

    Args:
        label: what the panels call it.
        layers: names, in execution order.
        batches: minibatch number to the tensors of :meth:`Representation.fields`.
    """

    label: str
    layers: list[str]
    batches: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def add(self, number: int, representation: Representation) -> None:
        """Keep a copy of one minibatch."""
        self.batches[number] = {name: t.detach().to("cpu", copy=True) for name, t in representation.fields().items()}

    def on(self, number: int, device: torch.device) -> Representation:
        """One minibatch, on a device."""
        return Representation(**{name: tensor.to(device) for name, tensor in self.batches[number].items()})

    def shared(self, probe: Probe, ranks: Ranks, *, components: bool) -> Reference:
        """All processes' minibatches, in each of them: so each can save a checkpoint that any number can load."""
        if ranks.size == 1:
            return self
        whole = Reference(self.label, self.layers)
        double = ranks.any(any(held["rows"].dtype == torch.float64 for held in self.batches.values()))
        kind = torch.float64 if double else torch.float32
        for number, indices in enumerate(probe.batches):
            n, count = len(indices), len(self.layers)
            shapes = {"rows": (count, n * n)}
            if components:
                shapes |= {"rows_without_first": (count, n * n), "scores": (count, n)}
            own = self.batches.get(number, {})
            whole.batches[number] = {
                name: ranks.all_reduce(own.get(name, torch.zeros(shape, dtype=kind))) for name, shape in shapes.items()
            }
        return whole

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"label": self.label, "layers": self.layers, "batches": self.batches}
