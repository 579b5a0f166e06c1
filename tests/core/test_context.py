"""An context: whose minibatches, and random streams that begin anew with each."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset, default_collate

from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.schedule import Moment


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.inner.own = torch.Generator()  # type: ignore[assignment]
        self.numpy_own = np.random.default_rng(0)


def probe(seed: int = 0, name: str = "train") -> Probe:
    data = TensorDataset(torch.arange(7.0))
    return Probe(data, name, ((0, 1, 2), (3, 4, 5), (6,)), default_collate, lambda batch: batch, seed)


def context(rank: int = 0, size: int = 1, **options: Any) -> Context:
    return Context(Net(), probe(), Ranks(rank, size), Moment("step", 0, 1), **options)


def draws(of: Context) -> list[float]:
    module: Any = of.module
    own = torch.rand((), generator=module.inner.own).item()
    return [torch.rand(()).item(), np.random.rand(), random.random(), own, module.numpy_own.random()]


def test_each_minibatch_has_streams_of_its_own_whoever_has_it() -> None:
    alone = {batch.number: draws(one) for one in [context()] for batch in one.batches()}
    assert len(alone) == 3 and len({tuple(value) for value in alone.values()}) == 3
    for rank in range(2):
        shared = context(rank, 2)
        found = {batch.number: draws(shared) for batch in shared.batches()}
        assert list(found) == ([0, 2], [1])[rank]
        assert all(alone[number] == value for number, value in found.items())


def test_seed_begins_anew() -> None:
    one = context()
    for batch in one.batches():
        first = draws(one)
        assert draws(one) != first
        one.seed(batch)
        assert draws(one) == first


def test_a_second_probe() -> None:
    other = probe(seed=1, name="val")
    one = context(second_probe=other)
    assert one.second_probe is other
    assert [batch.indices for batch in one.batches(other)] == list(other.batches)
    assert context().second_probe is None
