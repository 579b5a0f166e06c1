"""Copies of batches for callers who may change them, at little cost for those who do not."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten


@dataclass(eq=False)
class Kept:
    """A minibatch, handed out again and again to callers who may change it in place, or pop the labels.

    The first caller gets a copy. One that leaves its copy alone is trusted, as most are, and is handed the tensors
    themselves from then on: copies of them would cost small models a fifth of a forward and backward pass.
    """

    data: Any
    trusted: bool | None = None
    """None before anybody has had it."""
    first: Any = None
    """The first caller's copy, until it is compared."""
    versions: list[tuple[int, bool]] = field(default_factory=list)
    """Torch counts the changes of a tensor in place."""
    leaves: list[Any] = field(default_factory=list)
    """Of the data, once somebody is trusted: they are in nobody else's containers."""
    structure: Any = None

    def is_spoilt(self) -> bool:
        """Whether a trusted caller has changed it after all."""
        return bool(self.trusted) and self.versions != _marks(self.leaves)

    def copy_out(self) -> Any:
        """A copy, or new containers around the same tensors."""
        if self.trusted is None and self.first is not None:
            copied, kept = tree_flatten(self.first), tree_flatten(self.data)
            alike = copied[1] == kept[1] and all(map(_same, copied[0], kept[0]))
            self.trusted, self.first = alike, None
            if alike:
                self.leaves, self.structure = kept
                self.versions = _marks(self.leaves)
        if self.trusted:
            return tree_unflatten(self.leaves, self.structure)
        copied = copy.deepcopy(self.data)
        if self.trusted is None:
            self.first = copied
        return copied


def _marks(leaves: list[Any]) -> list[tuple[int, bool]]:
    return [(leaf._version, leaf.requires_grad) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _same(a: Any, b: Any) -> bool:
    """Bit for bit, of what can be compared and cannot change behind our back."""
    if isinstance(a, torch.Tensor):
        kinds = [(type(x), x.layout, x.shape, x.dtype, x.requires_grad) for x in (a, b)]
        plain = kinds[0] == kinds[1] and kinds[0][:2] == (torch.Tensor, torch.strided)
        counted = not b.is_inference()  # changes of the others are not counted
        return plain and counted and bool(((a == b) | ((a != a) & (b != b))).all())
    return type(a) in (str, int, float, bool, bytes, type(None)) and a == b
