"""Which row of a collated batch is which example: told for functions that keep, sort and drop, else not claimed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_sequence
from torch.utils.data import default_collate

from lightning_dynamics.core.collating import Collate, row_order
from lightning_dynamics.core.random_state import preserved_random_state, seed_all

LENGTHS = [3, 7, 2, 5, 9, 4]


def sequences(lengths: list[int] = LENGTHS) -> list[tuple[Tensor, int]]:
    """Example i: ``(T_i,)`` numbers that no other example has, and a label; labels repeat."""
    return [(torch.arange(length) + 100.0 * i, i % 2) for i, length in enumerate(lengths)]


def padded(items: list[Any]) -> tuple[Tensor, Tensor]:
    return pad_sequence([x for x, _ in items], batch_first=True), torch.tensor([y for _, y in items])


def longest_first(items: list[Any]) -> tuple[Tensor, Tensor]:
    return padded(sorted(items, key=lambda item: -len(item[0])))


def without_none(items: list[Any]) -> Any:
    return default_collate([item for item in items if item is not None])


def order_of(collate: Collate, items: list[Any]) -> tuple[int, ...] | None:
    """As the probe asks: the batch is made from one seed, and looked into afterwards."""
    with preserved_random_state(collate):
        seed_all(5, collate)
        data = collate(list(items))
        return row_order(collate, items, data)


def by_length(lengths: list[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(lengths)), key=lambda i: -lengths[i]))


@pytest.mark.parametrize(
    "collate",
    [
        padded,
        lambda items: default_collate([(x[:2], y) for x, y in items]),
        lambda items: {"x": padded(items)[0], "more": {"y": padded(items)[1]}},
        lambda items: pad_sequence([x for x, _ in items]),  # time first
        lambda items: {"x": [x for x, _ in items], "y": torch.tensor([y for _, y in items])},
    ],
    ids=["padding", "stacked", "a dict in a dict", "time first", "a list of tensors"],
)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_order_is_kept(collate: Collate, count: int) -> None:
    assert order_of(collate, sequences()[:count]) == tuple(range(count))


@pytest.mark.parametrize(
    "lengths", [LENGTHS, [4, 4, 4, 4], [2, 4, 4, 2, 3, 4], [5, 1], [1, 2, 3, 4, 5]], ids=lambda lengths: str(lengths)
)
@pytest.mark.parametrize("form", [lambda batch: batch, lambda batch: {"x": batch[0], "y": batch[1]}])
def test_sorting_is_found_out_with_ties_too(lengths: list[int], form: Any) -> None:
    assert order_of(lambda items: form(longest_first(items)), sequences(lengths)) == by_length(lengths)


@pytest.mark.parametrize("places", [[5, 4, 3, 2, 1, 0], [0, 2, 1, 4, 3, 5], [1, 2, 3, 4, 5, 0]])
def test_any_other_order(places: list[int]) -> None:
    """Turned round, among others: backwards examples would give backwards rows."""

    def turned(items: list[Any]) -> Any:
        return padded([items[place] for place in places if place < len(items)])

    assert order_of(turned, sequences()) == tuple(places)
    assert order_of(turned, [(torch.full((3,), 7.0), i) for i in range(6)]) == tuple(places)


def test_the_beginning_of_a_longer_example_is_not_taken_for_it() -> None:
    """Alone, it fits every row that goes on from it."""
    whole = torch.arange(1.0, 7)
    items = [(whole[:2], 0), (whole, 0), (whole[:4], 0), (whole[:3], 0)]
    assert order_of(longest_first, items) == (1, 2, 3, 0)


def test_sorted_examples_that_are_told_apart_by_nothing_seen_are_not_told_apart() -> None:
    """Values of all examples lie in one long tensor: rows of it are no examples, and lengths and labels have ties."""

    def flat(items: list[Any]) -> dict[str, Tensor]:
        items = sorted(items, key=lambda item: -len(item[0]))[::-1]  # those of one length backwards
        return {
            "values": torch.cat([x for x, _ in items]),
            "lengths": torch.tensor([len(x) for x, _ in items]),
            "y": torch.tensor([y for _, y in items]),
        }

    assert order_of(flat, sequences([3, 3, 3, 3])) is None
    assert order_of(flat, sequences([3, 1, 2, 5])) == (1, 2, 0, 3)

    def packed(items: list[Any]) -> dict[str, Any]:
        items = sorted(items, key=lambda item: -len(item[0]))
        lengths = torch.tensor([len(x) for x, _ in items])
        return {"x": pack_sequence([x for x, _ in items]), "lengths": lengths, "y": torch.tensor([y for _, y in items])}

    assert order_of(packed, sequences([2, 3, 2, 3])) is None
    assert order_of(packed, sequences([2, 3, 2, 4])) is None, "the first and the third look alike"
    assert order_of(packed, sequences([2, 3, 1, 4])) == (3, 1, 0, 2)


@pytest.mark.parametrize("lost", [[2], [0, 3], [1, 2, 3, 4, 5], []])
def test_dropped_examples_are_found_out(lost: list[int]) -> None:
    items = [None if i in lost else (torch.full((3,), float(i)), i % 2) for i in range(6)]
    assert order_of(without_none, items) == tuple(i for i in range(6) if i not in lost)


def test_dropped_and_sorted() -> None:
    def collate(items: list[Any]) -> Any:
        return longest_first([item for item in items if len(item[0]) > 2])

    assert order_of(collate, sequences()) == (4, 1, 3, 5, 0)


def test_nothing_is_left() -> None:
    assert order_of(lambda items: torch.zeros(0, 3), sequences()) is None


@pytest.mark.parametrize("count", [2, 5, 6])
def test_merged_examples_are_no_rows(count: int) -> None:
    def mixed(items: list[Any]) -> Tensor:  # two make one
        stacked = torch.stack([x[:2] for x, _ in items])
        return stacked[: len(items) // 2] + stacked[len(items) - len(items) // 2 :]

    assert order_of(mixed, sequences()[:count]) is None


def test_rows_that_hold_something_of_the_neighbour_are_no_examples() -> None:
    """Mixup, with a share that is drawn."""

    def mixup(items: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = torch.stack([x[:2] for x, _ in items]), torch.tensor([y for _, y in items])
        share = torch.rand(())
        return share * x + (1 - share) * x.roll(1, 0), share * y + (1 - share) * y.roll(1, 0)

    assert order_of(mixup, sequences()) is None


def masked(items: list[Any]) -> dict[str, Tensor]:
    """As for a masked language model: nothing but ones is the same each time."""
    words = torch.stack([x for x, _ in items])
    hidden = torch.rand(words.shape) < 0.3
    return {"words": words.masked_fill(hidden, -1), "attention": torch.ones_like(words)}


@pytest.mark.parametrize("count", [2, 3, 6])
def test_random_masking_hides_no_order(count: int) -> None:
    items = sequences([9] * count)
    assert order_of(masked, items) == tuple(range(count))
    assert order_of(lambda items: masked(items[::-1]), items) is None, "turned round, and masked"


def test_a_generator_of_its_own() -> None:
    class Masking:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(1)

        def __call__(self, items: list[Any]) -> Tensor:
            words = torch.stack([x for x, _ in items])
            return words.masked_fill(torch.rand(words.shape, generator=self.generator) < 0.3, -1)

    collate = Masking()
    before = collate.generator.get_state()
    assert order_of(collate, sequences([9] * 6)) == tuple(range(6))
    assert torch.equal(collate.generator.get_state(), before)


def test_identical_examples_may_stand_for_each_other() -> None:
    items = [(torch.ones(3), 1)] * 5
    for collate in (padded, longest_first, lambda items: masked([(x, y) for x, y in items])):
        assert order_of(collate, items) == (0, 1, 2, 3, 4)
    found = order_of(longest_first, [*items[:2], (torch.ones(9), 0), items[0]])
    assert found is not None and found[0] == 2 and sorted(found) == [0, 1, 2, 3]


def test_a_function_that_changes_its_items() -> None:
    def greedy(items: list[Any]) -> Any:
        for item in items:
            item["x"] += 1
        return {"x": torch.stack([item.pop("x") for item in items]), "y": torch.tensor([item["y"] for item in items])}

    items: list[dict[str, Any]] = [{"x": torch.full((2,), float(i)), "y": i} for i in range(4)]
    with preserved_random_state():
        data = {"x": torch.arange(1.0, 5)[:, None].expand(4, 2).clone(), "y": torch.arange(4)}
        assert row_order(greedy, items, data) == (0, 1, 2, 3)
    assert all(item.keys() == {"x", "y"} for item in items) and items[3]["x"].tolist() == [3, 3]


def test_one_example_and_known_functions_are_not_tried() -> None:
    def never(items: list[Any]) -> Any:
        raise AssertionError

    assert row_order(never, [1], None) == (0,)
    assert row_order(default_collate, [1, 2, 3], None) == (0, 1, 2)
