"""Calls that a loss makes, seen from outside, and made again on other batches."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torchmetrics import MeanMetric, MetricCollection

from lightning_dynamics.core.calls import CallTemplate, Record, captured, first_tensor, recorded

X = torch.arange(6.0).view(3, 2)
Y = torch.tensor([0, 1, 0])
Pair = namedtuple("Pair", "x y")
Outputs = namedtuple("Outputs", "loss hidden logits")


@dataclass
class Output:
    loss: Tensor | None = None
    hidden: Tensor | None = None


@dataclass
class Batch:
    x: Tensor
    y: Tensor


class Fields:
    """A batch object of the user's own."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


# ---- the tensor that stands for an output -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        X,
        (None, [X, Y]),
        {"a": None, "b": X},
        {"loss": Y, "logits": X},
        {"loss": Y.sum(), "other": X},
        {"logits": None, "other": X},
        UserDict(loss=Y, last_hidden_state=X),
        UserDict(last_hidden_state=X, logits=Y),
        Outputs(Y.sum(), Y, X),
        Pair(Y.sum(), X),
        Output(Y.sum(), X),
        SimpleNamespace(loss=Y, logits=X),
        SimpleNamespace(prediction=X),
    ],
    ids=repr,
)
def test_first_tensor(output: Any) -> None:
    assert first_tensor(output) is X


@pytest.mark.parametrize(
    "output", [None, "text", [], {"a": 1}, {"loss": Y.sum()}, Output(), SimpleNamespace(x=X), Pair]
)
def test_no_tensor_stands_for_it(output: Any) -> None:
    assert first_tensor(output) is None


def test_packed_sequences_are_their_data() -> None:
    packed = pack_sequence([X])
    assert first_tensor((packed, X)) is packed.data


# ---- which calls a loss makes -----------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)
        self.blocks = nn.ModuleList([nn.Linear(3, 3)])
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))
        self.metrics = MetricCollection({"mean": MeanMetric()})

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.last(self.act(self.first(x))) * scale


def state(module: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    return [(name, dict(vars(sub))) for name, sub in module.named_modules()]


def names(record: Record) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    own, outer = ([(call.name, call.number) for call in calls] for calls in (record.own, record.outer))
    return own, outer


def test_calls_of_forward_enclose_those_of_layers() -> None:
    net = Net()
    before = state(net)
    with recorded(net) as record:
        logits = net(X, scale=2.0)
        net.criterion(logits, Y)
    assert names(record) == ([("", 0)], [])
    (call,) = record.own
    assert call.args == (X,) and call.kwargs == {"scale": 2.0} and call.output is logits
    assert state(net) == before


def test_calls_of_layers_where_forward_is_not_on_the_way() -> None:
    """Activations, losses and metrics are no outputs; what a list holds is called by itself."""
    net = Net()
    with recorded(net) as record:
        hidden = net.act(net.first(X))
        logits = net.blocks[0](net.last(hidden))
        again = net.first(X + 1)
        net.metrics(net.criterion(logits, Y))
    assert names(record) == ([], [("first", 0), ("last", 0), ("blocks.0", 0), ("first", 1)])
    assert record.outer[1].args[0] is hidden and record.outer[2].output is logits and record.outer[3].output is again


def test_every_call_of_forward_is_noted() -> None:
    net = Net()
    with recorded(net) as record:
        net(X), net(X + 1)
    assert names(record) == ([("", 0), ("", 1)], [])


def test_a_forward_of_the_instances_own_is_put_back() -> None:
    net = nn.Linear(2, 1)
    net.forward = own = lambda x: x * 2  # type: ignore[method-assign]
    with recorded(net) as record:
        assert torch.equal(net(X), X * 2)
    with captured(net, "", 0) as found:
        assert torch.equal(net(X), X * 2)
    assert len(record.own) == len(found.outputs) == 1
    assert vars(net)["forward"] is own


@pytest.mark.parametrize("watch", [recorded, lambda net: captured(net, "first", 0)], ids=["recorded", "captured"])
def test_modules_are_as_before_also_after_an_error(watch: Callable[[nn.Module], Any]) -> None:
    net = Net()
    before = state(net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watch(net):
        net(torch.zeros(3, 7))
    assert state(net) == before


def test_a_call_that_fails_is_none_and_those_after_it_count() -> None:
    """As in a step that tries one thing and falls back to another."""
    net = Net()
    with recorded(net) as record:
        with pytest.raises(RuntimeError):
            net(torch.zeros(3, 7))
        net(X)
    assert names(record) == ([("", 1)], [])


# ---- the output of one call -------------------------------------------------------------------------------------


def test_one_call_of_several_is_captured() -> None:
    net = Net()
    with captured(net, "first", 1) as found:
        outputs = [net.first(X + shift) for shift in range(3)]
        assert len(found.outputs) == 1 and found.outputs[0] is outputs[1]
        found.start()
        assert found.outputs == []
        net.first(X)
        later = net.first(X + 9)
        assert found.outputs[0] is later
    assert "forward" not in vars(net.first)


def test_a_call_that_is_not_made() -> None:
    net = Net()
    with captured(net, "last", 1) as found:
        net(X)
    assert found.outputs == []


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: (None, x), lambda x: {"logits": x}, lambda x: Outputs(None, None, x), lambda x: Output(x)],
    ids=["tensor", "tuple", "dict", "named tuple", "dataclass"],
)
def test_copies_are_out_of_the_reach_of_later_operations(wrap: Callable[[Tensor], Any]) -> None:
    class Wrapping(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return wrap(x * 1)

    net = Wrapping()
    for copies in (True, False):
        with captured(net, "", 0, copies=copies) as found:
            output = net(X)
            tensor = first_tensor(output)
            assert tensor is not None
            tensor.zero_()
        kept = first_tensor(found.outputs[0])
        assert kept is not None and type(found.outputs[0]) is type(output)
        assert torch.equal(kept, X if copies else torch.zeros_like(X))


# ---- the same call once more ------------------------------------------------------------------------------------


def template_of(module: nn.Module, run: Callable[[nn.Module, Any], Any], batch: Any) -> CallTemplate | None:
    with recorded(module) as record:
        run(module, batch)
    (call,) = record.own or record.outer
    return CallTemplate.of(call, batch)


BATCHES: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Tensor], tuple[Any, ...]]] = {
    "the batch itself": (lambda x, y: x, lambda batch: batch, ()),
    "tuple": (lambda x, y: (x, y), lambda batch: batch[0], (0,)),
    "list": (lambda x, y: [y, x], lambda batch: batch[1], (1,)),
    "nested": (lambda x, y: {"clinic": [y, (x,)]}, lambda batch: batch["clinic"][1][0], ("clinic", 1, 0)),
    "dict": (lambda x, y: {"x": x, "y": y}, lambda batch: batch["x"], ("x",)),
    "mapping": (lambda x, y: UserDict(x=x, y=y), lambda batch: batch["x"], ("x",)),
    "named tuple": (Pair, lambda batch: batch.x, ("x",)),
    "dataclass": (Batch, lambda batch: batch.x, ("x",)),
    "object": (Fields, lambda batch: batch.x, ("x",)),
}


@pytest.mark.parametrize(("make", "x_of", "path"), BATCHES.values(), ids=list(BATCHES))
def test_the_same_call_on_another_batch(make: Any, x_of: Any, path: tuple[Any, ...]) -> None:
    net = Net()
    template = template_of(net, lambda net, batch: net(x_of(batch), scale=3.0), make(X, Y))
    assert template == CallTemplate("", ((path, None),), (("scale", (None, 3.0)),))
    other = make(X - 5, Y)
    assert torch.equal(template(net, other), net(X - 5, scale=3.0))
    assert template.consumed(other) == [path]


def test_the_call_of_a_submodule() -> None:
    net = Net()
    template = template_of(net, lambda net, batch: net.first(batch[0]), (X, Y))
    assert template == CallTemplate("first", (((0,), None),), ())
    assert torch.equal(template(net, (X + 1, Y)), net.first(X + 1))


def test_a_call_with_the_whole_batch_consumes_all_of_it() -> None:
    class Whole(nn.Module):
        def forward(self, batch: Any, flag: bool, nothing: None = None, *, name: str) -> Tensor:
            return batch["x"] if flag and nothing is None and name == "eval" else batch["y"]

    batch = {"x": X, "y": Y, "ids": ["a", "b", "c"]}
    net = Whole()
    template = template_of(net, lambda net, batch: net(batch, True, None, name="eval"), batch)
    assert template is not None and template(net, batch) is X
    assert template.consumed(batch) == [("x",), ("y",)]


@pytest.mark.parametrize(
    "argument",
    [
        lambda batch: batch[0] * 1,
        lambda batch: batch[0][:2],
        lambda batch: batch[0].float().contiguous().clone(),
        lambda batch: [batch[0]],
        lambda batch: {"x": batch[0]},
        lambda batch: torch.ones(3, 2),
    ],
    ids=["scaled", "cut", "copied", "in a new list", "in a new dict", "from elsewhere"],
)
def test_computed_arguments_have_no_template(argument: Callable[[Any], Any]) -> None:
    class Any_(nn.Module):
        def forward(self, x: Any) -> Tensor:
            return X

    assert template_of(Any_(), lambda net, batch: net(argument(batch)), (X, Y)) is None


def test_one_computed_argument_among_others_is_enough() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    assert template_of(Two(), lambda net, batch: net(batch[0], mask=batch[0] > 1), (X, Y)) is None


@pytest.mark.parametrize(("size", "scale"), [(3, 3), (3.0, 3.0), ("eval", "eval")])
def test_a_number_that_the_batch_holds_too_may_be_from_there(size: Any, scale: Any) -> None:
    class Any_(nn.Module):
        def forward(self, x: Tensor, scale: Any) -> Tensor:
            return x

    assert template_of(Any_(), lambda net, batch: net(batch["x"], scale), {"x": X, "size": size}) is None
    assert template_of(Any_(), lambda net, batch: net(batch["x"], scale), {"x": X, "size": "other"}) is not None


def test_flags_are_constants() -> None:
    net = Net()
    template = template_of(net, lambda net, batch: net(batch["x"], scale=True), {"x": X, "train": True, "one": 1})
    assert template is not None and template.kwargs == (("scale", (None, True)),)


def test_one_tensor_at_two_places_is_taken_from_the_first() -> None:
    template = template_of(Net(), lambda net, batch: net(batch[1]), (X, X))
    assert template is not None and template.args == (((0,), None),)
