"""What can differ between two runs, in the order of cause and effect, and where it does first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "processes",
    "model",
    "rng",
    "settings",
    "batch",
    "loss",
    "gradients",
    "parameters",
    "buffers",
    "optimizer",
    "length",
]

CAUSAL: tuple[Kind, ...] = ("rng", "settings", "batch", "loss", "gradients", "parameters", "buffers", "optimizer")
"""What can differ at a step: causes before effects."""

STATE: tuple[Kind, ...] = ("parameters", "buffers", "optimizer")
"""What a step leaves behind; it is looked at when the next one begins, and stands in that one's record."""

_PREFIX = {"rng": "random state: ", "gradients": "gradient: "}


@dataclass(frozen=True)
class Onset:
    """Where one kind of thing differs for the first time.

    Args:
        kind: one of :data:`CAUSAL`.
        step: training batches up to and with this one; for :data:`STATE`, the step it is the state after, 0 being the
            state before the first.
        names: those that differ, in the module's order, e.g. parameters.
        rank: the process in which it does.
        place: ``(epoch, batch)`` of that step, from 0; None for a state, and at the end.
        equal_until: the latest step before whose record both have; None if this is the first.
        compared: which kinds both files tell of.
        loss: of both runs at that step, with every digit; None where there is none.
        sizes: examples in both batches, likewise.
        same_examples: the batches hold the same examples in another order.
        equal_names: of the kind, those that are equal: labels, for instance.
    """

    kind: Kind
    step: int
    names: tuple[str, ...]
    rank: int
    place: tuple[int, int] | None
    equal_until: int | None
    compared: frozenset[str]
    loss: tuple[str | None, str | None] = (None, None)
    sizes: tuple[int | None, int | None] = (None, None)
    same_examples: bool = False
    equal_names: tuple[str, ...] = ()


def in_order(onsets: Sequence[Onset]) -> list[Onset]:
    """The earliest first; at one step, causes before effects."""
    return sorted(onsets, key=lambda onset: (onset.step, CAUSAL.index(onset.kind)))


def label(kind: str, name: str) -> str:
    """What a picture calls a digest."""
    return f"{_PREFIX.get(kind, '')}{name}"
