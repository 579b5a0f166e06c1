"""How two runs differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.fingerprint.advice import describe
from lightning_dynamics.analyses.fingerprint.onset import Kind, Onset
from lightning_dynamics.figures.result import Result


@dataclass(frozen=True, eq=False)
class Divergence(Result):
    """How two runs differ; ``str()`` tells it with what it usually means.

    Args:
        kind: what differs first: ``"rng"``, ``"settings"``, ``"batch"``, ``"loss"``, ``"gradients"``, ``"parameters"``,
            ``"buffers"`` or ``"optimizer"``; or ``"processes"``, ``"model"``: the runs cannot be compared; or
            ``"length"``: they are equal as far as both go, and one goes further.
        step: the training batch in which it does, from 1; 0 is before the first. For ``"length"``, the last common one.
        name: the first tensor, batch entry, setting or random stream that differs; empty if there is none.
        onsets: of each kind that differs anywhere, where it does first: in time, then causes before effects. The first
            is what the other fields tell of.
        lengths: the last step of both fingerprints.
        notes: what else a reader should know: another seed, a file that ends in a crash.
        spread_steps: ``(T,)`` int64: steps around the first onset, in its process; empty if there is no onset.
        spread_names: R names of digests that differ in one of these steps; states first, then causes before effects.
        spread: ``(R, T)`` bool: whether the digest differs; those of states as the step begins.
        spread_equal: how many more digests there are, which are equal in all of these steps.
    """

    kind: Kind
    step: int
    name: str
    onsets: tuple[Onset, ...]
    lengths: tuple[int, int]
    notes: tuple[str, ...] = ()
    spread_steps: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    spread_names: tuple[str, ...] = ()
    spread: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    spread_equal: int = 0

    def __str__(self) -> str:
        """The whole finding, in a few lines."""
        return describe(self.kind, self.step, self.onsets, self.lengths, self.notes)

    def scalars(self) -> dict[str, float]:
        """The step, and how many kinds of things differ; nothing where the runs cannot be compared."""
        if self.kind in ("processes", "model"):
            return {}
        return {"step": float(self.step), "kinds": float(len(self.onsets))}

    def to_state(self) -> dict[str, Any]:
        """Tensors and plain values: what :meth:`save` and a checkpoint can hold."""
        onsets = [asdict(onset) | {"compared": sorted(onset.compared)} for onset in self.onsets]
        return super().to_state() | {"onsets": onsets}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Divergence:
        """The inverse of :meth:`to_state`."""
        found = super().from_state(state)
        return replace(
            found,
            onsets=tuple(_onset(onset) for onset in state["onsets"]),
            lengths=(found.lengths[0], found.lengths[1]),
            notes=tuple(found.notes),
            spread_names=tuple(found.spread_names),
        )


def _onset(state: dict[str, Any]) -> Onset:
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in state.items()}
    return Onset(**plain | {"compared": frozenset(state["compared"])})
