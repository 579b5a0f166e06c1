"""Minibatches: how many examples they hold, and of which size they are quickest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_dynamics.core.lightning import ConfigurationError

_ROOM = {"cpu": 10 * 2**20}
"""Bytes that the largest layer's input and output may take: of a few times that much, a CPU's memory allocator gives
some back to the system after each batch, and getting it anew costs as much as a convolution."""
_ROOM_ELSEWHERE = 256 * 2**20
_KEPT = 31 * 2**20
SMALLEST, _LARGEST = 32, 4096
"""Examples of a minibatch whose size is ours to choose."""

Minibatch = tuple[Any, int]
"""A batch, and how many examples are in it."""


def counted(batches: Iterable[Any], argument: str = "batches") -> list[Minibatch]:
    """The batches, each with its number of examples: the length of its first tensor.

    Raises:
        ConfigurationError: no batches, or one without a tensor.
    """
    found = []
    for batch in batches:
        first = next((leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.ndim), None)
        if first is None or not len(first):
            raise ConfigurationError(f"`{argument}`: a batch without examples (no tensor with a first dimension)")
        found.append((batch, len(first)))
    if not found:
        raise ConfigurationError(f"`{argument}` is empty: there is nothing to evaluate the loss on")
    return found


def divided(minibatches: list[Minibatch], size: int) -> list[Minibatch]:
    """The same examples in minibatches of at most ``size``, as views; a batch that cannot be cut stays whole."""
    parts: list[Minibatch] = []
    for batch, examples in minibatches:
        leaves, structure = tree_flatten(batch)
        can_be_cut = all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == examples for leaf in leaves)
        if examples <= size or not can_be_cut:
            parts.append((batch, examples))
            continue
        count = math.ceil(examples / size)
        pieces = [leaf.tensor_split(count) for leaf in leaves]
        for piece in zip(*pieces, strict=True):
            parts.append((tree_unflatten(piece, structure), len(piece[0])))
    return parts


def comfortable_size(module: nn.Module, minibatch: Minibatch, run: Any) -> int:
    """Examples per forward pass for which it is quick: by counting bytes, so the same on every machine.

    Args:
        module: within ``isolated``.
        minibatch: to try it with.
        run: a forward pass.
    """
    batch, examples = minibatch
    most = 1

    def count(_: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal most
        leaves = tree_flatten((arguments, output))[0]
        most = max(most, sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor)))

    handles = [m.register_forward_hook(count) for m in module.modules() if not any(True for _ in m.children())]
    try:
        run(batch)
    finally:
        for handle in handles:
            handle.remove()
    device = next((p.device.type for p in module.parameters()), "cpu")
    fitting = _ROOM.get(device, _ROOM_ELSEWHERE) * examples / most
    return int(2 ** round(math.log2(min(max(fitting, SMALLEST), _LARGEST))))


def keep_freed_memory() -> None:
    """Have glibc keep up to twice ``_KEPT`` bytes of freed memory for the next layer; elsewhere nothing happens.

    It learns from the largest block freed so far, of at most 32 MiB, how much to keep. In a process that has freed
    only small ones, a convolution spends up to half its time on clearing the pages of its output.
    """
    torch.empty(_KEPT, dtype=torch.uint8)


def channels_last(batch: Any) -> Any:
    """Images of a batch with their channels innermost."""

    def laid_out(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim != 4:
            return leaf
        # Not ``contiguous``, which takes a single channel for innermost already: its strides must say so too.
        return torch.empty_like(leaf, memory_format=torch.channels_last).copy_(leaf)

    return tree_map(laid_out, batch)
