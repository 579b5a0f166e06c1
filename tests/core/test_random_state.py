"""Every random stream is put back; generators are found where transforms keep them."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dynamics.core.random_state import preserved_random_state, seed_all


def state() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), repr(np.random.get_state(legacy=False)), random.getstate()


class Holder:
    def __init__(self, **held: Any) -> None:
        vars(self).update(held)

    def collate(self, examples: list[Any]) -> Any:
        return examples


def wrapped(rng: Any) -> dict[str, Any]:
    """An owner for every place where data sets keep their generators."""
    transform = Holder(rng=rng)
    compose = Holder(transforms=[Holder(), transform])
    return {
        "itself": rng,
        "attribute": transform,
        "compose": Holder(transform=compose),
        "subset of concatenation": Holder(dataset=Holder(datasets=[Holder(), Holder(transform=compose)])),
        "dict of tuples": Holder(by_name={"a": (transform,)}),
        "partial": Holder(transform=partial(max, key=rng)),
        "bound method": transform.collate,
        "after a long list": Holder(samples=list(range(10**6)), targets=[[1] * 100] * 500, transform=compose),
        "in a module": _module(transform),
        "cycle": _cycle(transform),
    }


def _module(transform: Any) -> nn.Module:
    module = nn.Sequential(*[nn.Linear(1, 1) for _ in range(3)])
    module[2].augment = transform
    return module


def _cycle(transform: Any) -> Holder:
    one, two = Holder(), Holder(transform=transform)
    one.two, two.one = two, one  # type: ignore[attr-defined]
    return one


GENERATORS = {
    "torch": (lambda: torch.Generator().manual_seed(1), lambda rng: torch.rand(1, generator=rng).item()),
    "numpy": (lambda: np.random.default_rng(1), lambda rng: rng.random()),
    "numpy mt19937": (lambda: np.random.Generator(np.random.MT19937(1)), lambda rng: rng.random()),
    "numpy legacy": (lambda: np.random.RandomState(1), lambda rng: rng.rand()),
    "python": (lambda: random.Random(1), lambda rng: rng.random()),
}


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("place", wrapped(None))
def test_generators_are_found_put_back_and_seeded(kind: str, place: str) -> None:
    make, draw = GENERATORS[kind]
    rng, untouched = make(), make()
    owner = wrapped(rng)[place]
    with preserved_random_state(owner):
        seed_all(7, owner)
        first = draw(rng)
        seed_all(7, owner)
        assert draw(rng) == first
        seed_all(8, owner)
        assert draw(rng) != first
    assert draw(rng) == draw(untouched)


def test_every_owner_of_many_is_searched() -> None:
    """A large model has thousands of submodules; the last one's generator counts as much as the first's."""
    model = nn.Sequential(*[nn.ReLU() for _ in range(3000)])
    rng = torch.Generator().manual_seed(0)
    model[-1].rng = rng
    before = rng.get_state()
    with preserved_random_state(*map(vars, model.modules())):
        torch.rand(1, generator=rng)
    assert torch.equal(rng.get_state(), before)


def test_global_streams_come_back_on_exceptions() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), preserved_random_state():
        seed_all(5)
        torch.rand(1), np.random.rand(), random.random(), np.random.randn(1)
        assert all(a != b for a, b in zip(before, state(), strict=True))
        raise ZeroDivisionError
    assert state() == before


@pytest.mark.parametrize("seed", [0, 2**32 + 5, -3])
def test_any_seed_repeats_itself(seed: int) -> None:
    owner = [make() for make, _ in GENERATORS.values()]

    def draws() -> list[float]:
        seed_all(seed, owner)
        own = [draw(rng) for rng, (_, draw) in zip(owner, GENERATORS.values(), strict=True)]
        return [torch.rand(1).item(), np.random.rand(), random.random(), *own]

    with preserved_random_state():
        assert draws() == draws()


def test_what_has_no_state_is_left_alone() -> None:
    with preserved_random_state(Holder(rng=random.SystemRandom())):
        seed_all(0)


def test_the_trainer_is_not_searched() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.rng = torch.Generator().manual_seed(0)

    owner = Holder(trainer=Trainer())
    before = owner.trainer.rng.get_state()  # type: ignore[attr-defined]
    with preserved_random_state(owner):
        seed_all(1, owner)
    assert torch.equal(owner.trainer.rng.get_state(), before)  # type: ignore[attr-defined]


def test_searching_data_is_cheap() -> None:
    owner = Holder(
        nested=[[list(range(100)) for _ in range(100)] for _ in range(100)],
        vocabulary={str(i): [i] for i in range(100_000)},
    )
    start = time.perf_counter()
    with preserved_random_state(owner):
        pass
    assert time.perf_counter() - start < 0.3
