"""What lies where in batches of every kind, and what is put there instead."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_dynamics.core.batch_tree import (
    LIST,
    Path,
    at,
    example_axes,
    items,
    moving_axis,
    replaced,
    rows,
    tensors,
    walk,
    worded,
)

Pair = namedtuple("Pair", "x y")


@dataclass
class Plain:
    x: Tensor
    y: Tensor
    name: str = "plain"


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    y: Tensor
    names: list[str] = field(default_factory=list)


class Keyed(UserDict):  # type: ignore[type-arg]
    """A mapping that is no dict, as transformers' BatchEncoding."""


class Object:
    """A batch object with attributes, among them one that is nobody's business."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self._cache = x + 1


class Graph:
    """Keys, but no Mapping, as torch_geometric's Data: it can be called, and a copy has a store of its own."""

    def __init__(self, **store: Any) -> None:
        self._store = store

    def keys(self) -> list[str]:
        return list(self._store)

    def __getitem__(self, key: str) -> Any:
        return self._store[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._store[key] = value

    def __call__(self, *keys: str) -> Any:
        return iter(keys)

    def __copy__(self) -> Graph:
        return Graph(**self._store)


class OlderGraph(Graph):
    """``keys`` is a property."""

    keys = property(Graph.keys)  # type: ignore[assignment]

    def __copy__(self) -> OlderGraph:
        return OlderGraph(**self._store)


CONTAINERS: dict[str, tuple[Any, tuple[Any, Any]]] = {
    "tuple": (lambda x, y: (x, y), (0, 1)),
    "list": (lambda x, y: [x, y], (0, 1)),
    "named tuple": (Pair, ("x", "y")),
    "dict": (lambda x, y: {"x": x, "y": y}, ("x", "y")),
    "ordered dict": (lambda x, y: OrderedDict(x=x, y=y), ("x", "y")),
    "dict with numbers for keys": (lambda x, y: {3: x, 7: y}, (3, 7)),
    "mapping": (lambda x, y: Keyed(x=x, y=y), ("x", "y")),
    "dataclass": (Plain, ("x", "y")),
    "frozen dataclass": (Frozen, ("x", "y")),
    "object": (Object, ("x", "y")),
    "graph": (lambda x, y: Graph(x=x, y=y), ("x", "y")),
    "graph with a property": (lambda x, y: OlderGraph(x=x, y=y), ("x", "y")),
}
containers = pytest.mark.parametrize(("make", "keys"), CONTAINERS.values(), ids=list(CONTAINERS))


@containers
def test_everything_is_found_at_its_path(make: Any, keys: tuple[Any, Any]) -> None:
    x, y = torch.randn(4, 3), torch.arange(4)
    batch = {"inner": [make(x, y)], "size": 4}
    expected = {("inner", 0, keys[0]): x, ("inner", 0, keys[1]): y}
    found = tensors(batch)
    assert list(found) == list(expected)  # nothing else: not the private cache, not the names
    for path, tensor in expected.items():
        assert found[path] is tensor and at(batch, path) is tensor
    assert at(batch, ()) is batch and at(batch, ("size",)) == 4
    paths = [path for path, _ in walk(batch)]
    assert paths[0] == () and len(set(paths)) == len(paths)
    assert all(path[:-1] in paths[: paths.index(path)] for path in paths[1:]), "containers before what they hold"


@containers
def test_what_is_put_elsewhere_leaves_the_batch_as_it_was(make: Any, keys: tuple[Any, Any]) -> None:
    x, y = torch.randn(4, 3), torch.arange(4)
    other = torch.zeros(2, 3)
    inner = make(x, y)
    batch = [inner, {"beside": x}]
    changed = replaced(batch, {(0, keys[0]): other})
    assert type(changed) is list and type(changed[0]) is type(inner)
    assert at(changed, (0, keys[0])) is other and at(changed, (0, keys[1])) is y
    assert changed[1] is batch[1], "what lies not on the way is not copied"
    assert at(inner, (keys[0],)) is x and batch[0] is inner


def test_replacing_the_whole_or_nothing() -> None:
    batch = (torch.zeros(1), torch.ones(1))
    assert replaced(batch, {(): 5}) == 5
    assert replaced(batch, {}) is batch
    assert replaced(7, {}) == 7


@pytest.mark.parametrize("path", [(2,), ("x",), (0, 0), ("x", "y")])
def test_nothing_lies_there(path: Path) -> None:
    with pytest.raises(KeyError) as caught:
        at((torch.zeros(2), 3), path)
    assert caught.value.args == (path,)


@pytest.mark.parametrize(
    "node",
    [
        torch.zeros(2),
        pack_sequence([torch.zeros(2, 1)]),
        nn.Linear(1, 1),
        "text",
        b"bytes",
        3,
        None,
        np.zeros(3),
        np.float32(1),
        torch.device("cpu"),
        len,
        lambda batch: batch,
        Pair,
        {1, 2},
        [0] * 10_001,
    ],
    ids=lambda node: type(node).__name__,
)
def test_what_is_not_opened(node: Any) -> None:
    assert items(node) is None
    assert [path for path, _ in walk(node)] == [()]


def test_a_batch_that_holds_itself_ends() -> None:
    batch: dict[str, Any] = {"x": torch.zeros(2)}
    batch["self"] = batch
    found = tensors(batch)
    assert ("x",) in found and all(len(path) <= 6 for path in found)


# ---- along which axis the examples lie --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "sizes", "axis"),
    [
        ([(3, 5), (4, 5)], [3, 4], 0),
        ([(5, 3), (5, 4)], [3, 4], 1),
        ([(3, 3), (4, 3)], [3, 4], 0),  # by one size alone it could be either
        ([(3, 3), (4, 4)], [3, 4], None),  # pairs of examples
        ([(6, 2), (8, 2)], [3, 4], None),  # two rows per example
        ([(5,), (5,)], [3, 4], None),
        ([(3, 1), (4,)], [3, 4], None),
        ([(3, 5), (3, 5)], [3, 3], None),  # one size tells nothing
        ([(), ()], [3, 4], None),
        ([(2, 7, 3), (2, 9, 4), (2, 7, 2)], [3, 4, 2], 2),  # padded to the longest
    ],
)
def test_the_axis_that_moves_with_the_number_of_examples(shapes: Any, sizes: list[int], axis: int | None) -> None:
    assert moving_axis(shapes, sizes) == axis


def batch_of(size: int) -> Mapping[str, Any]:
    return {
        "batch first": torch.randn(size, 3),
        "time first": torch.randn(5, size, 2),
        "boxes": [torch.randn(2 + number, 4) for number in range(size)],
        "graph": {"edges": torch.zeros(2, 3 * size)},
        "scale": torch.tensor(1.0),
        "names": ["a", "b", "c"],
    }


def test_axes_of_examples() -> None:
    axes, without = example_axes([(batch_of(size), size) for size in (3, 4)])
    assert axes == {("batch first",): 0, ("time first",): 1, ("boxes",): LIST}
    assert without == [("graph", "edges"), ("scale",)]
    assert repr(axes["boxes",]) == "list"


def test_the_batch_itself_is_no_list_of_examples() -> None:
    """As many tensors as there are examples: a tuple of two for two."""
    axes, without = example_axes([([torch.zeros(2, 1), torch.zeros(2)], 2), ([torch.zeros(3, 1), torch.zeros(3)], 3)])
    assert axes == {(0,): 0, (1,): 0} and without == []


def test_items_that_are_not_in_every_batch_have_no_axis() -> None:
    axes, without = example_axes([({"x": torch.zeros(2)}, 2), ({"x": torch.zeros(3), "more": torch.zeros(3)}, 3)])
    assert axes == {("x",): 0} and without == [("more",)]


def test_rows_are_cut_along_the_axes_in_the_order_asked_for() -> None:
    batch = batch_of(4)
    axes, _ = example_axes([(batch_of(3), 3), (batch, 4)])
    cut = rows(batch, axes, [2, 0])
    assert torch.equal(cut["batch first"], batch["batch first"][[2, 0]])
    assert torch.equal(cut["time first"], batch["time first"][:, [2, 0]])
    assert [box.shape[0] for box in cut["boxes"]] == [4, 2]
    assert cut["graph"] is batch["graph"] and cut["names"] is batch["names"]
    assert batch["batch first"].shape == (4, 3)
    assert rows(torch.arange(4), {(): 0}, [3, 1]).tolist() == [3, 1]


def test_paths_in_words() -> None:
    assert worded(()) == "the batch"
    assert worded((1,)) == "item 1"
    assert worded(("labels",)) == "'labels'"
    assert worded(("clinic", 0)) == "'clinic'.item 0"
