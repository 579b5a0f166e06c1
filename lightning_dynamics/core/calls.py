"""Which calls a loss makes: what ``forward`` is given, what it returns, and how to call it the same way again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.utils._pytree import tree_map
from torchmetrics import Metric, MetricCollection

from lightning_dynamics.core.batch_tree import Path, at, items, replaced, tensors, walk


@dataclass(eq=False)
class Call:
    """One call of a module.

    Args:
        name: of the submodule; "" for the module itself.
        number: of the submodule's call, from 0.
        args: what it was given.
        kwargs: likewise.
        output: what it returned.
    """

    name: str
    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(eq=False)
class Record:
    """The calls that enclose all others.

    Args:
        own: of the module's own ``forward``.
        outer: of submodules with parameters, where ``forward`` was not on the way.
    """

    own: list[Call] = field(default_factory=list)
    outer: list[Call] = field(default_factory=list)


@contextmanager
def recorded(module: nn.Module) -> Iterator[Record]:
    """Note the calls that are made inside; the module is as before afterwards."""
    record, depth = Record(), [0]
    made: Counter[str] = Counter()

    def noting(name: str, into: list[Call], original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            number, made[name] = made[name], made[name] + 1
            try:
                output = original(*args, **kwargs)
            finally:
                depth[0] -= 1
            if not depth[0]:
                into.append(Call(name, number, args, kwargs, output))
            return output

        return forward

    with ExitStack() as stack:
        for name, sub in module.named_modules():
            counts = not name or (next(sub.parameters(), None) is not None and not isinstance(sub, _UNCOUNTED))
            if counts and not isinstance(sub, torch.jit.ScriptModule | nn.ModuleList | nn.ModuleDict):
                into = record.outer if name else record.own
                stack.enter_context(_replaced_forward(sub, noting(name, into, sub.forward)))
        yield record


_UNCOUNTED = (_Loss, Metric, MetricCollection)


@contextmanager
def _replaced_forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    has_own, own = "forward" in vars(module), vars(module).get("forward")
    module.__dict__["forward"] = function
    try:
        yield
    finally:
        if has_own:
            module.__dict__["forward"] = own
        else:
            del module.__dict__["forward"]


@dataclass(eq=False)
class Captured:
    """The output of one call.

    Args:
        number: of the call, from 0; calls are counted from :meth:`start` on.
        seen: calls so far.
        outputs: of that call, once it has been made.
    """

    number: int
    seen: int = 0
    outputs: list[Any] = field(default_factory=list)

    def start(self) -> None:
        """Forget, and count from 0 again."""
        self.seen = 0
        self.outputs.clear()


@contextmanager
def captured(module: nn.Module, name: str, number: int, *, copies: bool = False) -> Iterator[Captured]:
    """Catch the output of one call of a submodule (or of the module itself).

    Args:
        module: the whole.
        name: of the submodule; "" for the module itself.
        number: of the call, from 0.
        copies: take a copy, which no later operation in place can reach.
    """
    found = Captured(number)
    sub = _submodule(module, name)
    original = sub.forward

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        if found.seen == found.number:
            found.outputs.append(_copied(output) if copies else output)
        found.seen += 1
        return output

    with _replaced_forward(sub, forward):
        yield found


def _submodule(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name) if name else module  # a scripted module cannot be asked even for itself


def _copied(output: Any) -> Any:
    if _has_fields(output):  # a dataclass would be a leaf
        return replaced(output, {path: tensor.clone() for path, tensor in tensors(output).items()})
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that stands for a layer's or model's output.

    The tensor itself; of a mapping (Hugging Face's outputs among them) ``last_hidden_state``, else ``logits``,
    else the first value that has a tensor (a scalar loss is none); of a named tuple or dataclass likewise; of another
    tuple or list the first item that has one; of another object ``logits`` or ``prediction``.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        preferred = [output[key] for key in ("last_hidden_state", "logits", "prediction") if key in output]
        return first_tensor([*preferred, *(value for value in output.values() if not _is_scalar(value))])
    if _has_fields(output) and (fields := items(output)) is not None:
        return first_tensor(fields)
    if isinstance(output, list | tuple):
        return next((tensor for item in output if (tensor := first_tensor(item)) is not None), None)
    found = (getattr(output, name, None) for name in ("logits", "prediction"))
    return next((tensor for tensor in found if isinstance(tensor, Tensor)), None)


def _has_fields(output: Any) -> bool:
    """Whether it is a named tuple or a dataclass; a mapping is neither."""
    if isinstance(output, Mapping):
        return False
    return (isinstance(output, tuple) and hasattr(output, "_fields")) or is_dataclass(output)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


@dataclass(frozen=True)
class CallTemplate:
    """How a module is called, given a batch: what each argument is taken from.

    Args:
        name: of the submodule; "" for the module itself.
        args: the path of an item, or ``(None, value)`` for a constant.
        kwargs: likewise.
    """

    name: str
    args: tuple[tuple[Path | None, Any], ...]
    kwargs: tuple[tuple[str, tuple[Path | None, Any]], ...]

    @classmethod
    def of(cls, call: Call, batch: Any) -> CallTemplate | None:
        """The template of a call made on this batch; None if some argument was computed on the way.

        Nor is there one where a number or text is given that the batch holds too: it may be from there, or a constant.
        """
        nodes = list(walk(batch))
        # Of one tensor at several places, the first.
        known = {id(node): path for path, node in reversed(nodes) if not isinstance(node, _CONSTANTS)}
        plain = {(type(node), node) for _, node in nodes if isinstance(node, int | float | str)} - _FLAGS
        slots = [_slot(value, known, plain) for value in (*call.args, *call.kwargs.values())]
        if any(slot is None for slot in slots):
            return None
        args = tuple(slot for slot in slots[: len(call.args)] if slot is not None)
        named = [slot for slot in slots[len(call.args) :] if slot is not None]
        return cls(call.name, args, tuple(zip(call.kwargs, named, strict=True)))

    def __call__(self, module: nn.Module, batch: Any) -> Any:
        """The output on a batch of the same kind."""
        args = [value if path is None else at(batch, path) for path, value in self.args]
        kwargs = {name: value if path is None else at(batch, path) for name, (path, value) in self.kwargs}
        return _submodule(module, self.name)(*args, **kwargs)

    def consumed(self, batch: Any) -> list[Path]:
        """Paths of the tensors that the call is given."""
        paths = [path for path, _ in (*self.args, *(slot for _, slot in self.kwargs)) if path is not None]
        return [path for path in tensors(batch) if any(path[: len(own)] == own for own in paths)]


_CONSTANTS = (bool, int, float, str, type(None))
_FLAGS = {(bool, False), (bool, True)}


def _slot(value: Any, known: Mapping[int, Path], plain: Collection[tuple[type, Any]]) -> tuple[Path | None, Any] | None:
    if isinstance(value, _CONSTANTS):
        return None if (type(value), value) in plain else (None, value)
    return (known[id(value)], None) if id(value) in known else None
