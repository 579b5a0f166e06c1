"""What is digested: batches of any make, random states, a module's tensors."""

from __future__ import annotations

import random
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dynamics.analyses.fingerprint.contents import (
    ModuleTensors,
    PendingBatch,
    Snapshot,
    leaves,
    losses,
    number,
    optimizer_states,
    random_states,
    read_digests,
    settings,
)

Pair = namedtuple("Pair", ["image", "label"])


@dataclass
class Sample:
    x: torch.Tensor
    text: str


def batch_words(batch: Any) -> tuple[dict[str, str], dict[str, str]]:
    return read_digests(Snapshot({"batch": PendingBatch(batch)}))["batch"]


def test_leaves_of_every_kind_of_batch() -> None:
    x, y = torch.zeros(2, 3), torch.ones(2)
    assert [name for name, _ in leaves((x, y), "batch")] == ["batch[0]", "batch[1]"]
    assert [name for name, _ in leaves({"a": x, 3: [y, {"b": x}]}, "batch")] == [
        "batch.a",
        "batch[3][0]",
        "batch[3][1].b",
    ]
    assert [name for name, _ in leaves(Pair(x, y), "batch")] == ["batch[0]", "batch[1]"]
    assert [name for name, _ in leaves(Sample(x, "t"), "batch")] == ["batch.x", "batch.text"]
    assert list(leaves(["a", "b"], "batch")) == [("batch", ["a", "b"])]
    assert [type(value) for _, value in leaves(np.zeros(3, dtype=np.float32), "batch")] == [torch.Tensor]
    assert list(leaves(np.array(["a", None], dtype=object), "batch")) == [("batch", ["a", None])]
    assert list(leaves(None, "batch")) == [("batch", None)]


def test_what_has_an_address_does_not_count_for_it() -> None:
    for thing in (lambda: 0, iter([1]), object(), nn.Linear(1, 1).forward, int):
        assert list(leaves(thing, "batch")) == [("batch", type(thing).__name__)]
    endless: list[Any] = [torch.zeros(1)]
    endless.append(endless)
    assert len(list(leaves(endless, "batch"))) < 20


def test_every_entry_of_a_batch_counts() -> None:
    def batch() -> dict[str, Any]:
        return {"x": torch.zeros(3, 4), "y": torch.zeros(3, dtype=torch.int64), "text": ["a", "b", "c"], "scale": 0.5}

    base, _ = batch_words(batch())
    assert list(base) == ["batch.x", "batch.y", "batch.text", "batch.scale"]
    for key, value in (("x", torch.ones(3, 4)), ("y", torch.ones(3)), ("text", ["a", "b", "d"]), ("scale", 0.25)):
        other, _ = batch_words(batch() | {key: value})
        assert {name for name in base if base[name] != other[name]} == {f"batch.{key}"}


def test_order_of_the_examples_is_told_from_their_content() -> None:
    x, y, words = torch.randn(5, 3, 3), torch.arange(5), list("abcde")
    order = [3, 0, 4, 1, 2]
    leaves_of, examples = batch_words((x, y, words))
    again, same = batch_words((x[order], y[order], [words[i] for i in order]))
    assert examples == same and all(again[name] != leaves_of[name] for name in leaves_of)
    # The same rows, but not the same examples: labels that went to other images.
    _, other = batch_words((x, y[order], words))
    assert other != examples


@pytest.mark.parametrize(
    "batch", [(), None, torch.tensor(3.0), torch.zeros(0, 4), {"x": torch.zeros(())}, "text"], ids=str
)
def test_batches_without_examples(batch: Any) -> None:
    _, examples = batch_words(batch)
    assert examples == {} and PendingBatch(batch).size is None


def test_size_and_entries_of_another_length() -> None:
    section = PendingBatch({"x": torch.zeros(4, 2), "weights": torch.zeros(7), "scalar": torch.tensor(1.0)})
    assert section.size == 4
    words, examples = read_digests(Snapshot({"batch": section}))["batch"]
    assert list(words) == ["batch.x", "batch.weights", "batch.scalar"] and examples


def test_a_batch_that_is_changed_in_place_afterwards() -> None:
    for x in (torch.randn(6, 4), torch.randn(6, 40, 40), torch.randn(())):
        expected = batch_words({"x": x.clone(), "more": torch.zeros(3)})
        batch = {"x": x, "more": torch.zeros(3)}
        stage = Snapshot({"batch": PendingBatch(batch)})
        for value in batch.values():
            value.add_(1)
        assert read_digests(stage)["batch"] == expected


def test_losses() -> None:
    loss = torch.tensor(0.1)
    assert losses(loss) == losses({"loss": loss, "logits": torch.zeros(2)}) == [("loss", loss)]
    assert losses(None) == losses({}) == losses({"other": loss}) == []
    assert number(loss) == repr(loss.item()) and number(torch.zeros(2)) is None and number(1.0) is None


def test_each_random_stream_by_itself() -> None:
    before = random_states()
    assert random_states() == before
    for name, draw in (
        ("torch", lambda: torch.rand(())),
        ("numpy", lambda: np.random.rand()),
        ("python", random.random),
        ("python", lambda: random.gauss(0, 1)),
        ("numpy", lambda: np.random.standard_normal()),
        ("numpy", lambda: np.random.standard_normal()),  # the second of a pair: only `has_gauss` changes
    ):
        draw()
        after = random_states()
        assert {key for key in before if before[key] != after[key]} == {name}
        before = after


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("passing", torch.zeros(2), persistent=False)


def test_a_modules_tensors() -> None:
    held = ModuleTensors.of(Tied(), "*")
    assert [name for name, _ in held.tensors("parameters")] == [name for name, _ in Tied().named_parameters()]
    assert [name for name, _ in held.tensors("buffers")] == [name for name, _ in Tied().named_buffers()]
    chosen = ModuleTensors.of(Tied(), ["first.*", "norm.bias"])
    assert [name for name, _ in chosen.tensors("parameters")] == ["first.weight", "first.bias", "norm.bias"]
    assert len(chosen.tensors("buffers")) == 4


def test_a_tensor_that_is_replaced_is_seen() -> None:
    module = nn.BatchNorm1d(3)
    held = ModuleTensors.of(module, "*")
    module.weight = nn.Parameter(torch.zeros(3))
    module.running_mean = torch.full((3,), 2.0)
    del module.running_var
    assert torch.equal(dict(held.tensors("parameters"))["weight"], torch.zeros(3))
    assert [name for name, _ in held.tensors("buffers")] == ["running_mean", "num_batches_tracked"]
    assert held.gradients() == [("weight", None), ("bias", None)]


def test_settings_and_states_of_optimizers() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(module.named_parameters(), lr=torch.tensor(0.1), betas=(0.8, 0.9))
    told = dict(settings([optimizer]))
    assert torch.equal(told["optimizer[0].group[0].lr"], torch.tensor(0.1))
    assert told["optimizer[0].group[0].betas"] == [0.8, 0.9]
    assert not any("param" in name for name in told)
    parameters = list(module.named_parameters())
    assert list(optimizer_states([optimizer], parameters)) == [] and not optimizer.state
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    names = [name for name, _ in optimizer_states([optimizer], parameters[:1])]
    assert names == [f"optimizer[0].weight.{key}" for key in ("step", "exp_avg", "exp_avg_sq")]
