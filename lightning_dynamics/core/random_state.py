"""Random number streams: seeding them all, and putting them all back."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Restore = Callable[[], None]


def seed_all(seed: int) -> None:
    """Seed torch (on every device in use), NumPy and Python.

    Not ``torch.manual_seed``: where CUDA is not running yet, that queues a seed for when it starts.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def preserved_random_state(*owners: Any) -> Iterator[None]:
    """Put the global streams back, and the generators that ``owners`` (a data set, a module) hold.

    Generators are looked for in the owners' attributes, lists, tuples and dicts, a few levels deep: where
    transforms keep them.
    """
    with ExitStack() as restore:
        for put_back in (*_global_streams(), *map(_stream, _generators(owners))):
            restore.callback(put_back)
        yield


def _global_streams() -> list[Restore]:
    cpu, legacy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    restores: list[Restore] = [
        lambda: torch.set_rng_state(cpu),
        lambda: np.random.set_state(legacy),
        lambda: random.setstate(python),
    ]
    if torch.cuda.is_initialized():
        cuda = torch.cuda.get_rng_state_all()
        restores.append(lambda: torch.cuda.set_rng_state_all(cuda))
    if torch.backends.mps.is_available():
        mps = torch.mps.get_rng_state()
        restores.append(lambda: torch.mps.set_rng_state(mps))
    return restores


def _stream(generator: Any) -> Restore:
    if isinstance(generator, np.random.Generator):
        bits, bits_state = generator.bit_generator, copy.deepcopy(generator.bit_generator.state)
        return lambda: setattr(bits, "state", bits_state)
    get, put = (
        (generator.getstate, generator.setstate)
        if isinstance(generator, random.Random)
        else (generator.get_state, generator.set_state)
    )
    state = get()
    return lambda: put(state)


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_LEAVES = (Tensor, np.ndarray, str, bytes, int, float, type, FunctionType, ModuleType)


def _generators(owners: Iterable[Any], depth: int = 6) -> list[Any]:
    """Every generator reachable from ``owners`` through attributes and containers."""
    found: list[Any] = []
    seen: set[int] = set()

    def visit(value: Any, depth: int) -> None:
        # A Trainer leads to everything, and to nothing that the owner calls its own.
        if depth < 0 or id(value) in seen or isinstance(value, _LEAVES) or type(value).__name__ == "Trainer":
            return
        seen.add(id(value))
        if isinstance(value, _GENERATORS):
            found.append(value)
        elif isinstance(value, dict):
            for item in value.values():
                visit(item, depth - 1)
        elif isinstance(value, list | tuple):
            for item in value[:1000]:  # longer ones are data, not transforms
                visit(item, depth - 1)
        elif hasattr(value, "__dict__"):
            visit(vars(value), depth - 1)

    for owner in owners:
        visit(owner, depth)
    return found
