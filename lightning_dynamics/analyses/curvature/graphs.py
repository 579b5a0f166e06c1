"""Gradients that can be differentiated once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable(module: nn.Module) -> Iterator[None]:
    """What has no second derivative is computed in a way that has one; call it within ``isolated``.

    cuDNN's recurrent layers give way to PyTorch's, fused attention and weight normalisation to their formulas, sparse
    gradients of embeddings to dense ones.
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
        if any(map(_has_weight_norm, module.modules())):
            stack.enter_context(_PlainWeightNorm())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _has_weight_norm(layer: nn.Module) -> bool:
    """Whether it is the parametrization, or carries the hook of the older function."""
    return isinstance(layer, _WeightNorm) or any(
        isinstance(hook, WeightNorm) for hook in layer._forward_pre_hooks.values()
    )


class _PlainWeightNorm(TorchFunctionMode):
    """Weight normalisation written out: torch's own leaves the norm out of its second derivative (seen in 2.13.0)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the one function, whoever calls it."""
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


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
