"""Minibatches: how many examples they hold, and of which size they are quickest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from lightning_dynamics.core.batch_tree import rows, tensors
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.copies import Kept
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.task import Task

_ROOM = {"cpu": 10 * 2**20}
"""Bytes that the largest layer's input and output may take: of a few times that much, a CPU's memory allocator gives
some back to the system after each batch, and getting it anew costs as much as a convolution."""
_ROOM_ELSEWHERE = 256 * 2**20
_KEPT = 31 * 2**20
SMALLEST, _LARGEST = 32, 4096
"""Examples of a minibatch whose size is ours to choose."""


@dataclass(frozen=True)
class Minibatch:
    """Some examples, of which every run of a module gets its own copy.

    Args:
        load: the copy; the caller may change it.
        examples: how many.
        terms: how many terms the loss is a mean over.
        counted: how many targets count, for an accuracy.
    """

    load: Callable[[], Any]
    examples: int
    terms: float
    counted: float


Minibatches = Callable[[int | None], list[Minibatch]]
"""The minibatches, with at most so many examples in each; None for as they are."""


def of_context(context: Context, probe: Probe, *, first_only: bool = False, layout: bool = False) -> Minibatches:
    """Those of a probe; smaller ones are collated anew.

    Args:
        context: with the task.
        probe: the examples.
        first_only: the first minibatch alone, to try it.
        layout: lay out images with their channels innermost.
    """
    assert context.task is not None
    task: Task = context.task
    if layout:
        probe = probe.laid_out(channels_last)

    def cut(size: int | None) -> list[Minibatch]:
        own = probe if size is None else probe.cut(size)
        found = []
        for number in range(1 if first_only else len(own.batches)):
            batch = own.batch(number)
            terms, counted = context.terms(batch, own), task.counted(context.module, batch.data, len(batch))
            found.append(Minibatch(lambda number=number: own.batch(number).data, len(batch), terms, counted))  # type: ignore[misc]
        return found

    return cut


def of_batches(module: Any, batches: Iterable[Any], task: Task, *, layout: bool = False) -> Minibatches:
    """Those given; smaller ones are cut from them, along the axes that the task knows.

    Raises:
        ConfigurationError: no batches, or one without a tensor.
    """
    given = counted(batches)
    if layout:
        given = [(channels_last(batch), examples) for batch, examples in given]

    def cut(size: int | None) -> list[Minibatch]:
        parts = given if size is None else divided(given, size, task)
        found = []
        for batch, examples in parts:
            kept = Kept(batch)
            terms = task.terms(batch, examples)
            found.append(Minibatch(kept.copy_out, examples, terms, task.counted(module, batch, examples)))
        return found

    return cut


def counted(batches: Iterable[Any], argument: str = "batches") -> list[tuple[Any, int]]:
    """The batches, each with its number of examples: the commonest length of its tensors.

    Raises:
        ConfigurationError: no batches, or one without a tensor.
    """
    found = []
    for batch in batches:
        lengths = [len(tensor) for tensor in tensors(batch).values() if tensor.ndim]
        if not any(lengths):
            raise ConfigurationError(f"`{argument}`: a batch without examples (no tensor with a first dimension)")
        found.append((batch, Counter(lengths).most_common(1)[0][0]))
    if not found:
        raise ConfigurationError(f"`{argument}` is empty: there is nothing to evaluate the loss on")
    return found


def divided(minibatches: list[tuple[Any, int]], size: int, task: Task) -> list[tuple[Any, int]]:
    """The same examples in minibatches of at most ``size``; a batch that cannot be cut stays whole."""
    parts: list[tuple[Any, int]] = []
    for batch, examples in minibatches:
        can_be_cut = bool(task.axes) and task.counter is not None and not tensors(batch).keys() - task.axes.keys()
        if examples <= size or not can_be_cut:
            parts.append((batch, examples))
            continue
        for piece in torch.arange(examples).tensor_split(math.ceil(examples / size)):
            parts.append((rows(batch, task.axes, piece.tolist()), len(piece)))
    return parts


def comfortable_size(module: nn.Module, minibatch: Minibatch, run: Any) -> int:
    """Examples per forward pass for which it is quick: by counting bytes, so the same on every machine.

    Args:
        module: within ``isolated``.
        minibatch: to try it with.
        run: a forward pass.
    """
    batch, examples = minibatch.load(), minibatch.examples
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
