"""Random number streams: seeding them all, and putting them all back."""

from __future__ import annotations

import copy
import random
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_dynamics.core.restore import Restore


def seed_all(seed: int, *owners: Any) -> None:
    """Seed torch (on every device in use), NumPy and Python, and the generators that ``owners`` hold.

    Not ``torch.manual_seed``: where CUDA is not running yet, that queues a seed for when it starts.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    for generator in generators_of(*owners):
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(seed % 2**32).state
        else:
            generator.seed(seed % 2**32)


@contextmanager
def preserved_random_state(*owners: Any) -> Iterator[None]:
    """Put the global streams back, and the generators that ``owners`` (a data set, a module) hold.

    Generators are looked for in the owners' attributes, containers and bound methods, a few levels deep: where
    transforms keep them.
    """
    with ExitStack() as restore:
        for put_back in (*_global_streams(), *map(_stream, generators_of(*owners))):
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
# Proxies first: a dead one cannot even be asked what it is.
_LEAVES = (*weakref.ProxyTypes, str, int, float, bytes, Tensor, np.ndarray, type, FunctionType, ModuleType)
# The commonest of them by their very type: asking that first takes a fraction of the time.
_COMMON_LEAVES = {str, int, float, bool, bytes, type(None), Tensor, nn.Parameter, np.ndarray, FunctionType}
_DICTS = {dict, OrderedDict}
_CONTAINERS = (list, tuple, set, deque)
_LONGEST = 1000  # longer containers are data, not transforms
_MOST = 10_000  # objects looked at per owner


def generators_of(*owners: Any) -> list[Any]:
    """Every generator reachable from ``owners``, the nearest first; the search of each gives up in the end."""
    found: list[Any] = []
    seen: dict[int, Any] = {}
    for owner in owners:
        queue: deque[Any] = deque([owner])
        for _ in range(_MOST):
            if not queue:
                break
            value = queue.popleft()
            # A Trainer leads to everything, and to nothing that the owner calls its own.
            if id(value) in seen or isinstance(value, _LEAVES) or type(value).__name__ == "Trainer":
                continue
            seen[id(value)] = value
            if isinstance(value, _GENERATORS):
                if not isinstance(value, random.SystemRandom):  # has no state
                    found.append(value)
            elif len(queue) < _MOST:
                # Left out: plain values, tensors, and the dozen empty dictionaries for hooks that every module has.
                queue.extend(
                    [
                        held
                        for held in _held(value)
                        if (kind := type(held)) not in _COMMON_LEAVES and (kind not in _DICTS or held)
                    ]
                )
    return found


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return islice(value.values(), _LONGEST)
    if isinstance(value, _CONTAINERS):
        return islice(value, _LONGEST)
    if isinstance(value, MethodType):
        return (value.__self__,)
    if isinstance(value, partial):
        return (value.func, *value.args, *value.keywords.values())
    return vars(value).values() if hasattr(value, "__dict__") else ()
