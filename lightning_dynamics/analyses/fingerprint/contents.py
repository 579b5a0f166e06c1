"""What a fingerprint covers: batches, losses, a module's tensors, optimizers, random states; each under a name."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.fingerprint.digest import Packed, Sketch, digest_of, fetch, sketch, sketch_rows
from lightning_dynamics.core.parameters import plain_name

_PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic, Enum, torch.dtype, torch.device)
_DEEPEST = 8
_NUMBERS = "biufc"  # kinds of NumPy arrays that torch can hold

Digests = dict[str, str]
"""Name → digest."""


class PendingDigests:
    """Things of one kind: sketched now, digested when their bytes are on the CPU, together with other kinds'."""

    def __init__(self, items: Iterable[tuple[str, Any]] = ()) -> None:
        """Sketch tensors and digest plain values."""
        self.sketches: list[Sketch] = []
        self._words: Digests = {}
        self._waiting: list[str] = []
        for name, value in items:
            if isinstance(value, Tensor):
                self._words[name] = ""  # its place
                self._waiting.append(name)
                self.sketches.append(sketch(value))
            else:
                self._words[name] = digest_of(type(value).__name__, repr(value).encode())

    def read(self, contents: Sequence[bytes]) -> Digests:
        """The digests, given what the sketches hold."""
        for name, one, content in zip(self._waiting, self.sketches, contents, strict=True):
            self._words[name] = digest_of(one.shape, content)
        return self._words


class PendingBatch:
    """A batch: a digest of each of its tensors, and one of its examples whatever their order."""

    def __init__(self, batch: Any) -> None:
        """Sketch every leaf; examples are what the first tensor's first dimension counts."""
        found = list(leaves(batch, "batch"))
        sizes = (len(value) for _, value in found if isinstance(value, Tensor) and value.dim() and value.numel())
        self.size: int | None = next(sizes, None)
        self._rest = PendingDigests(((name, value) for name, value in found if not self._by_example(value)))
        self._rows = {name: value for name, value in found if self._by_example(value)}
        self._order = [name for name, _ in found]
        of_rows = [sketch_rows(value) for value in self._rows.values() if isinstance(value, Tensor)]
        self._shapes = [one.shape for one in of_rows]
        self._rows = {name: None if isinstance(value, Tensor) else value for name, value in self._rows.items()}
        self.sketches = [*self._rest.sketches, *of_rows]

    def read(self, contents: Sequence[bytes]) -> tuple[Digests, Digests]:
        """Digests of the leaves, and of the examples as a set (empty where there are none to tell apart)."""
        split = len(self._rest.sketches)
        words = dict(self._rest.read(contents[:split]))
        by_tensor = iter(zip(self._shapes, contents[split:], strict=True))
        rows: list[list[bytes]] = []
        for name, values in self._rows.items():
            if values is None:
                shape, content = next(by_tensor)
                width = len(content) // (self.size or 1)
                rows.append([content[i : i + width] for i in range(0, len(content), width)])
            else:
                shape, content = "list", repr(list(values)).encode()
                rows.append([repr(value).encode() for value in values])
            words[name] = digest_of(shape, content)
        examples = sorted(b"\0".join(example) for example in zip(*rows, strict=True)) if rows else []
        ordered = {name: words[name] for name in self._order}
        return ordered, {"examples": digest_of(f"{len(examples)}", b"\0".join(examples))} if examples else {}

    def _by_example(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.dim() > 0 and value.numel() > 0 and len(value) == self.size
        return isinstance(value, list) and len(value) == self.size


class Snapshot:
    """What several kinds of things hold, copied together before their tensors change."""

    def __init__(self, sections: Mapping[str, PendingDigests | PendingBatch]) -> None:
        """Copy what is sketched, without waiting for a device."""
        self.sections = sections
        self.staged = Packed([one for section in sections.values() for one in section.sketches])


def read_digests(*stages: Snapshot) -> dict[str, Any]:
    """What each ``read`` gives, by kind, after one wait for each device."""
    contents = iter(fetch(*(stage.staged for stage in stages)))
    return {
        kind: section.read(list(islice(contents, len(section.sketches))))
        for stage in stages
        for kind, section in stage.sections.items()
    }


def leaves(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Tensors, plain values and lists of plain values within a batch, and their names, e.g. ``batch[0]``.

    Mappings, sequences, named tuples, dataclasses and objects with attributes are gone into. Of anything else
    (functions, iterators, what lies deeper than eight levels) only the type counts: a ``repr`` may hold an address,
    which differs in every run.
    """
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _PLAIN):
        yield name, value
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in _NUMBERS and value.dtype.isnative and value.dtype.itemsize <= 16:
            yield name, torch.from_numpy(np.array(value))
        else:
            yield from leaves(value.tolist(), name, depth + 1)
    elif depth >= _DEEPEST:
        yield name, type(value).__name__
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if isinstance(key, str) else f"{name}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        if all(isinstance(inner, _PLAIN) for inner in value):
            yield name, list(value)
            return
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{name}[{place}]", depth + 1)
    elif isinstance(value, set | frozenset):
        yield name, sorted(map(repr, value))
    elif hasattr(value, "__dict__") and not (callable(value) or hasattr(value, "__next__")):
        for key, inner in vars(value).items():
            yield from leaves(inner, f"{name}.{key}", depth + 1)
    else:
        yield name, type(value).__name__


def losses(outputs: Any) -> list[tuple[str, Any]]:
    """The loss in what ``training_step`` returned: nothing where it returned none, as manual optimisation may."""
    if isinstance(outputs, Tensor):
        return [("loss", outputs)]
    if isinstance(outputs, Mapping) and outputs.get("loss") is not None:
        return list(leaves(outputs["loss"], "loss"))
    return []


def number(value: Any) -> str | None:
    """A one-element tensor on the CPU as a text that shows every digit, for people."""
    return repr(value.item()) if isinstance(value, Tensor) and value.numel() == 1 else None


@dataclass
class ModuleTensors:
    """A module's parameters and buffers by name, without walking through the module at every step.

    Walking takes longer than digesting a small network. So the owners are remembered, and asked each time for what they
    hold: a tensor that is replaced is seen at once, one that is added at the next :meth:`of`.
    """

    parameters: dict[str, tuple[dict[str, Any], str]]
    buffers: dict[str, tuple[dict[str, Any], str]]

    @classmethod
    def of(cls, module: nn.Module, patterns: str | Sequence[str]) -> ModuleTensors:
        """Of a module: parameters that match one of the globs, and every buffer; tied ones once."""
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        seen: set[int] = set()
        for prefix, owner in module.named_modules():
            for places, held in zip(found, (owner._parameters, owner._buffers), strict=True):
                for key, tensor in held.items():
                    name = plain_name(f"{prefix}.{key}" if prefix else key)
                    if tensor is None or id(tensor) in seen:
                        continue
                    seen.add(id(tensor))
                    if held is owner._buffers or any(fnmatchcase(name, pattern) for pattern in wanted):
                        places[name] = (held, key)
        return cls(*found)

    def tensors(self, kind: str) -> list[tuple[str, Tensor]]:
        """``"parameters"`` or ``"buffers"`` as they are now."""
        places = self.parameters if kind == "parameters" else self.buffers
        return [(name, tensor) for name, (held, key) in places.items() if (tensor := held.get(key)) is not None]

    def gradients(self) -> list[tuple[str, Any]]:
        """``.grad`` of the parameters; None where there is none."""
        return [(name, parameter.grad) for name, parameter in self.tensors("parameters")]


def settings(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[str, Any]]:
    """What the optimizers' parameter groups say: learning rates, momenta and so on."""
    for i, optimizer in enumerate(optimizers):
        for j, group in enumerate(optimizer.param_groups):
            for key, value in group.items():
                if key not in ("params", "param_names"):
                    yield from leaves(value, f"optimizer[{i}].group[{j}].{key}")


def optimizer_states(
    optimizers: Sequence[torch.optim.Optimizer], parameters: Sequence[tuple[str, Tensor]]
) -> Iterator[tuple[str, Any]]:
    """What the optimizers remember of these parameters, e.g. ``optimizer[0].net.weight.exp_avg``."""
    for i, optimizer in enumerate(optimizers):
        for name, parameter in parameters:
            # Not by subscript: the state is a defaultdict.
            for key, value in optimizer.state.get(parameter, {}).items():
                yield from leaves(value, f"optimizer[{i}].{name}.{key}")


def random_states() -> Digests:
    """Digests of the states of the global random streams: of torch, of each CUDA device in use, NumPy, Python."""
    legacy: Any = np.random.get_state(legacy=False)
    version, internal, gauss = random.getstate()
    found = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": legacy["state"]["key"].tobytes()
        + repr((legacy["state"]["pos"], legacy["has_gauss"], legacy["gauss"])).encode()
        if legacy["bit_generator"] == "MT19937"
        else repr(legacy).encode(),
        "python": struct.pack(f"{len(internal)}Q", *internal) + repr((version, gauss)).encode(),
    }
    if torch.cuda.is_initialized():
        for i, state in enumerate(torch.cuda.get_rng_state_all()):
            found[f"cuda:{i}"] = state.numpy().tobytes()
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state().cpu().numpy().tobytes()
    return {name: sha256(state).hexdigest()[:16] for name, state in found.items()}
