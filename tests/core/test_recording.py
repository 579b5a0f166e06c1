"""Recorded minibatches: how many examples are in each, copies, shares of several processes, checkpoints."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.recording import Recording, as_state, batch_sizes, stacks

EIGHT = frozenset({8})


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("sizes", "batches", "counts"),
    [
        (EIGHT, [(zeros(8, 5), zeros(8)), (zeros(6, 5), zeros(6))], [8, 6]),
        (EIGHT, [(zeros(8, 8), zeros(8)), (zeros(6, 8), zeros(6))], [8, 6]),
        (EIGHT, [(zeros(5, 8, 3), zeros(8)), (zeros(8, 6, 3), zeros(6))], [8, 6]),
        (EIGHT, [zeros(5, 8, 3), zeros(7, 8, 3), zeros(4, 6, 3)], [8, 8, 6]),
        (EIGHT, [(zeros(4, 8), zeros(4))], [4]),  # fewer than a minibatch
        (EIGHT, [{"nodes": zeros(31, 3), "edges": zeros(2, 90), "y": zeros(8)}] * 2, [8, 8]),
        (frozenset(), [(zeros(6, 5, 3), zeros(5)), (zeros(9, 4, 3), zeros(4))], [5, 4]),
        (frozenset(), [(zeros(6, 5), zeros(6, 5)), (zeros(4, 5), zeros(4, 5))], [6, 4]),
        (frozenset(), [{"x": zeros(6, 5), "scale": torch.tensor(2.0)}], [6]),
    ],
    ids=[
        "the last is smaller",
        "as many features as examples",
        "time first, with labels",
        "time first, alone",
        "the first is smaller",
        "graphs",
        "no size known, time first",
        "no size known",
        "a number beside them",
    ],
)
def test_how_many_examples_there_are(sizes: frozenset[int], batches: list[Any], counts: list[int]) -> None:
    recording = Recording(sizes)
    for place, batch in enumerate(batches):
        recording.see(batch, 0, place)
    assert [size for _, size in recording.batches] == counts
    assert recording.count() == sum(counts)


def test_a_known_collate_function_settles_it() -> None:
    """Eight features, and a size of eight: the first axis counts, whatever the lengths."""
    recording = Recording(EIGHT, stacks=True)
    for place, size in enumerate((8, 6)):
        recording.see(zeros(size, 8), 0, place)
    assert [size for _, size in recording.batches] == [8, 6]


def test_what_cannot_be_counted_or_copied_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lists without tensors.*`data=Dataset`"):
        Recording(EIGHT).see(["a", "b"], 0, 0)
    recording = Recording(EIGHT)
    with pytest.raises(ConfigurationError, match="cannot be copied.*generator.*`data=Dataset`"):
        recording.see({"x": zeros(8), "more": iter(x for x in "ab")}, 0, 0)
    assert recording.batches == []
    with pytest.raises(ConfigurationError, match="cannot be copied"):  # every callback is told
        recording.see({"x": zeros(8), "more": iter(x for x in "ab")}, 0, 0)


def test_each_minibatch_is_copied_once_and_is_its_own() -> None:
    recording, batch = Recording(EIGHT), {"x": zeros(8, 2)}
    for epoch, place in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1)]:
        recording.see(batch, epoch, place)
        batch["x"] += 1
    assert [float(held["x"][0, 0]) for held, _ in recording.batches] == [0, 2, 3]


@pytest.mark.parametrize(("wanted", "taken"), [(1, 1), (8, 1), (9, 2), (16, 2), (22, 3), (99, 3)])
def test_as_many_as_it_takes(wanted: int, taken: int) -> None:
    recording = Recording(EIGHT)
    for place, size in enumerate((8, 8, 6)):
        recording.see(zeros(size, 3), 0, place)
    assert recording.first(wanted) == recording.batches[:taken]


def test_it_goes_on_only_where_it_has_not_begun() -> None:
    recording, before = Recording(EIGHT), [(zeros(8), 8)]
    recording.go_on(before)
    recording.see(zeros(8), 0, 1)
    recording.go_on(before)
    assert len(recording.batches) == 2 and len(before) == 1


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from torch.zeros(20, 2)


def test_what_loaders_say() -> None:
    data = TensorDataset(zeros(20, 2))
    eight, four = DataLoader(Stream(), 8), DataLoader(data, 4)
    own = DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(range(20), 5, False))
    whole, custom = DataLoader(Stream(), batch_size=None), DataLoader(data, 4, collate_fn=torch.stack)
    assert batch_sizes(eight) == {8} and batch_sizes({"a": eight, "b": [four, own]}) == {8, 4, 5}
    assert batch_sizes(whole) == batch_sizes([]) == batch_sizes(iter("ab")) == set()
    assert stacks(eight) and stacks({"a": eight, "b": [four, own]})
    assert not any(map(stacks, (whole, custom, [eight, custom], [], iter("ab"))))
    assert batch_sizes(CombinedLoader([eight, four]).iterables) == {8, 4}


def test_only_plain_containers_go_into_a_checkpoint(tmp_path: Path) -> None:
    plain = [({"x": [zeros(2), (1, "a", None, 2.0, True)]}, 2)]
    state = as_state(plain)
    torch.save(state, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (
        again[0][1] == 2 and torch.equal(again[0][0]["x"][0], zeros(2)) and again[0][0]["x"][1] == plain[0][0]["x"][1]
    )
    assert as_state([(UserDict(x=zeros(2)), 2)]) is None
    assert as_state([]) == []
