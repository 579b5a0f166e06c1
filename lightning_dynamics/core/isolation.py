"""Do no harm: what happens inside :func:`isolated` leaves training bit-identical."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_dynamics.core.module_state import plain_attributes, restores_of
from lightning_dynamics.core.precision import default_dtype, full_precision
from lightning_dynamics.core.random_state import generators_of, preserved_random_state, seed_all
from lightning_dynamics.core.restore import Restore

Mode = Literal["eval", "train"]


@contextmanager
def isolated(
    module: nn.Module, *, mode: Mode = "eval", seed: int | None = None, grad: bool = False
) -> Iterator[list[Any]]:
    """Run anything on ``module`` and have it, and every random stream, back bit for bit, on exceptions too.

    Restored:

    * parameters and buffers: values, storage, shape, version counter, ``.grad``, ``requires_grad``; which there are;
    * of each submodule its class (a lazy one is lazy again), training flag, hooks, and every plain attribute:
      numbers, tensors, arrays, metrics, and lists, dicts, sets and deques with what is in them;
    * attributes and slots of other objects that the module holds (meters, queues, running averages; those that they
      hold, too; objects of bound methods), and modules that are held without being registered. For each
      submodule up to 10,000 values are opened, the nearest first. Of a container of over 1,000 items the items come
      back, but are not opened;
    * autocast, grad mode, and the random number streams of torch (all devices in use), NumPy, Python, and of
      generators that the module holds.

    Not restored: what Trainers, data sets and loaders, loggers, optimizers, threads and their queues hold; iterators
    that are drawn from; closures, class attributes and global variables; state of C extensions; files.

    Inside, gradients are ``None``: an analysis takes its own with ``torch.autograd.grad``, never
    ``.backward()``, which would reach DDP's reducer. Nothing is computed in less than float32. Compiled submodules
    run uncompiled: hooks placed after compilation fire, and nothing is compiled a second time. Transformer encoders
    run without their fast path, so that hooks see ordinary tensors. ``Embedding(max_norm=…)`` renormalises its rows
    as in training, but writes to the weight only where a row is too long.

    Args:
        module: the bare module, not a strategy's wrapper.
        mode: ``"eval"``: every submodule's training flag is False inside; ``module.eval()`` is not called: users
            override it. ``"train"``: as it is trained. If ``module`` is in training mode, all flags stay as they are,
            so that a BatchNorm kept in eval mode is; if not, ``module.train()`` is called inside, the user's own too.
        seed: seeds torch, NumPy, Python and the module's own generators inside, so that an analysis repeats itself.
        grad: whether autograd is on inside.

    Yields:
        The generators that the submodules hold.

    Cost: one copy of parameters, buffers and the tensors in attributes and objects, in memory and in time.
    """
    attributes, parameters = plain_attributes(module), list(module.parameters())
    device_types = {"cpu"} | {tensor.device.type for tensor in parameters} - {"meta"}
    streams = generators_of(*attributes.values())
    with ExitStack() as stack:
        stack.enter_context(preserved_random_state(*streams))
        stack.callback(_undo, restores_of(attributes, parameters, module.buffers()))
        stack.enter_context(_uncompiled())
        stack.enter_context(_ordinary_tensors())
        stack.enter_context(_rows_renormalised_where_needed())
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(full_precision())
        stack.enter_context(_new_tensors_as_wide_as(parameters))
        for device_type in device_types:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        for parameter in parameters:
            parameter.grad = None
        if mode == "eval":
            for submodule in attributes:
                submodule.training = False
        elif not module.training:
            module.train()
        if seed is not None:
            seed_all(seed, *streams)
        yield streams


def _undo(restores: list[Restore]) -> None:
    """Last first; one that fails stops none of the others."""
    failure: Exception | None = None
    for restore in reversed(restores):
        try:
            restore()
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


@contextmanager
def _new_tensors_as_wide_as(parameters: Sequence[Tensor]) -> Iterator[None]:
    """In double precision training, what a ``training_step`` makes without a dtype is float64."""
    before = torch.get_default_dtype()
    if not parameters or parameters[0].dtype is not torch.float64 or before is torch.float64:
        yield
        return
    with default_dtype(torch.float64):
        yield


@contextmanager
def _uncompiled() -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing dynamo would take seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """No nested tensors, which Transformer encoders make of padded batches in eval mode, and hooks cannot read."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_RENORM = "_no_grad_embedding_renorm_"


@contextmanager
def _rows_renormalised_where_needed() -> Iterator[None]:
    """``max_norm`` of embeddings does not write to rows that keep to it, where a graph may need the weight.

    torch writes them all, which breaks graphs of earlier minibatches if another layer shares the weight. A row that
    is too long is still written: the layers that share it must see it, as in training. Graphs that have saved
    the weight before cannot be walked back then, which torch says.
    """
    original = getattr(nn.functional, _RENORM)

    def renormalise(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> Any:
        if torch._C._functorch.is_functorch_wrapped_tensor(weight) or _is_too_long(weight, input, max_norm, norm_type):
            return original(weight, input, max_norm, norm_type)
        return None

    setattr(nn.functional, _RENORM, renormalise)
    try:
        yield
    finally:
        setattr(nn.functional, _RENORM, original)


def _is_too_long(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> bool:
    """Any row that is looked up, by more than rounding: a row that was renormalised may be so again, for ever."""
    rows = weight.data[input.reshape(-1)]
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    return bool((rows.norm(norm_type, 1) > max_norm * (1 + 8 * torch.finfo(weight.dtype).eps)).any())
