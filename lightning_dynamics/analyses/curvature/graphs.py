"""Gradients that can be differentiated once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def twice_differentiable(module: nn.Module) -> Iterator[None]:
    """What has no second derivative is computed in a way that has one; call it within ``isolated``.

    cuDNN's recurrent layers give way to PyTorch's, fused attention to its formula, sparse gradients of embeddings to
    dense ones.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.sparse = False  # isolation puts it back
    before = torch.backends.cudnn.enabled
    with ExitStack() as stack:
        if any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
            torch.backends.cudnn.enabled = False
            stack.callback(setattr, torch.backends.cudnn, "enabled", before)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def graph_bytes(outputs: Iterable[Tensor], shared: Iterable[Tensor]) -> int:
    """Memory that the graph behind ``outputs`` keeps alive, themselves included, but for what is ``shared``.

    Nodes tell what they saved by attributes ``_saved_…`` and, where users wrote them, ``saved_tensors``.
    """
    known = {_storage(tensor) for tensor in shared}
    total = 0

    def count(value: Any) -> None:
        nonlocal total
        if isinstance(value, Tensor):
            key = _storage(value)
            if key not in known:
                known.add(key)
                total += value.untyped_storage().nbytes()
        elif isinstance(value, list | tuple):
            for item in value:
                count(item)

    for tensor in outputs:
        count(tensor)
    waiting = [tensor.grad_fn for tensor in outputs]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(type(node)):
            if name.startswith("_saved_") or name == "saved_tensors":
                count(getattr(node, name, None))
        waiting.extend(following for following, _ in node.next_functions)
    return total


def _storage(tensor: Tensor) -> tuple[str, int]:
    if tensor.layout is not torch.strided:
        return "sparse", id(tensor)
    return str(tensor.device), tensor.untyped_storage().data_ptr()
