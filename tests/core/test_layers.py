"""Which layers are chosen, and which of them run, in what order."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

from lightning_dynamics.core.calls import first_tensor
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.layers import Layer, capture_outputs, executed_layers, select_layers
from lightning_dynamics.core.lightning import ConfigurationError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout())
        self.heads = nn.ModuleDict({"a": nn.Linear(72, 3), "b": nn.Linear(72, 3)})
        self.tied = self.heads["a"]
        self.unused = nn.Linear(1, 1)
        self.loss = nn.CrossEntropyLoss()
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.metrics = torchmetrics.MetricCollection({"mean": torchmetrics.MeanMetric()})

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        return self.heads["a"](x) + self.heads["b"](x)


ENCODER = ["encoder", "encoder.0", "encoder.1", "encoder.2", "encoder.3"]
HEADS = ["heads.a", "heads.b"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("*", [*ENCODER, *HEADS, "unused"]),
        ("encoder.*", ENCODER[1:]),
        ("Linear", [*HEADS, "unused"]),
        (["Conv2d", "ReLU"], ["encoder.0", "encoder.1"]),
        (r"re:encoder\.[01]", ["encoder.0", "encoder.1"]),
        (["heads.b", "encoder.0"], ["encoder.0", "heads.b"]),
        ("re:encoder", ["encoder"]),
        ("accuracy", ["accuracy"]),
        (["loss", "heads.?"], [*HEADS, "loss"]),
        ("metrics.mean", ["metrics.mean"]),
        ("encoder.[!0-2]", ["encoder.3"]),
    ],
)
def test_selection(patterns: str | list[str], expected: list[str]) -> None:
    assert list(select_layers(Net(), patterns)) == expected


@pytest.mark.parametrize("pattern", ["nothing", "", "re:", "re:enc", "Encoder.*", "[", "_Loss", "Accuracy*"])
def test_no_match_lists_the_names(pattern: str) -> None:
    text = f"`blocks={pattern!r}` matches no layer of Net; there are: encoder, encoder.0, encoder.1"
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        select_layers(Net(), ["*", pattern], argument="blocks")


@pytest.mark.parametrize("pattern", ["re:(", "re:[", "re:*", "re:a{99999999999}", "re:(?P<x>a)(?P<x>b)"])
def test_a_broken_expression_is_named(pattern: str) -> None:
    text = f"`layers={pattern!r}` is not a regular expression"
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        select_layers(Net(), pattern)


def test_nothing_chosen_and_nothing_there() -> None:
    with pytest.raises(ConfigurationError, match="`layers` is empty"):
        select_layers(Net(), [])
    with pytest.raises(ConfigurationError, match="there are: none"):
        select_layers(nn.Linear(1, 1))


def test_compiled_layers_are_listed_once() -> None:
    net = Net()
    net.encoder = torch.compile(net.encoder, backend="eager")  # type: ignore[assignment]
    net.unused.compile(backend="eager")
    chosen = select_layers(net)
    assert list(chosen) == [*ENCODER, *HEADS, "unused"]
    assert type(chosen["encoder"]) is nn.Sequential
    assert list(select_layers(torch.compile(net, backend="eager"))) == list(chosen)


# ---- which run ----------------------------------------------------------------------------------------------


def run(net: nn.Module, x: Tensor, *, keep: set[str] | None = None, usable: Any = None) -> Any:
    usable = usable or (lambda layer, output: first_tensor(output) is not None)
    with isolated(net):
        found, never, refused = executed_layers(select_layers(net), lambda: net(x), usable, keep or set())
    assert not any(module._forward_hooks for module in net.modules())
    return [str(layer) for layer in found], never, refused


def test_execution_order_without_what_only_hands_on() -> None:
    found, never, refused = run(Net(), torch.randn(2, 1, 8, 8))
    # The in-place ReLU returns the convolution's memory, changed: a layer of its own. Flatten, dropout and the
    # container return the ReLU's output.
    assert found == ["encoder.0", "encoder.1", "heads.a", "heads.b"]
    assert never == ["unused"]
    assert refused == []


def test_what_is_kept_by_name() -> None:
    found, _, _ = run(Net(), torch.randn(2, 1, 8, 8), keep={"encoder", "encoder.2"})
    assert found == ["encoder.0", "encoder.1", "encoder.2", "encoder", "heads.a", "heads.b"]


def test_a_module_called_twice_is_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.block = nn.Sequential(self.layer)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.layer(self.act(self.layer(x))))

    found, never, _ = run(Twice(), torch.randn(3, 2))
    assert found == ["layer", "act", "layer:2", "act:2"]
    assert never == ["block"]
    assert str(Layer("a")) == "a" and str(Layer("a", 2)) == "a:2"


def test_outputs_of_every_kind() -> None:
    class Odd(nn.Module):
        def __init__(self, output: Any) -> None:
            super().__init__()
            self.output = output

        def forward(self, x: Tensor) -> Any:
            return self.output(x)

    net = nn.ModuleDict(
        {
            "tuple": Odd(lambda x: (x * 2, None)),
            "dict": Odd(lambda x: {"logits": x * 3, "loss": x.sum()}),
            "none": Odd(lambda x: None),
            "text": Odd(lambda x: "text"),
            "lstm": nn.LSTM(2, 3),
            "first_half": Odd(lambda x: x.chunk(2)[0]),
            "empty": Odd(lambda x: x[:0]),
        }
    )
    net.forward = lambda x: [sub(x) for sub in net.values()]  # type: ignore[method-assign]
    found, never, refused = run(net, torch.randn(4, 2))
    assert found == ["tuple", "dict", "lstm", "first_half", "empty"]
    assert (never, refused) == ([], ["none", "text"])
    found, _, refused = run(
        net, torch.randn(4, 2), usable=lambda layer, output: layer.name == "lstm" or isinstance(output, dict)
    )
    assert found == ["dict", "lstm"] and "tuple" in refused


def test_memory_that_is_used_again_is_not_taken_for_the_same_output() -> None:
    """Activations that nothing holds are freed, and the next layer's output gets their address."""
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(8)])
    found, _, _ = run(net, torch.randn(16, 64))
    assert found == [str(i) for i in range(8)]


def test_compiled_submodules_are_seen_once() -> None:
    torch._dynamo.reset()
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    x = torch.randn(3, 2)
    expected = run(net, x)
    net[0] = torch.compile(net[0], backend="eager")
    with torch.no_grad():
        net(x)  # compiled before any hook is there
    assert run(net, x) == expected
    torch._dynamo.reset()


def test_watching_ends_with_an_exception() -> None:
    net = Net()
    with pytest.raises(ZeroDivisionError), capture_outputs(select_layers(net), lambda layer, output: None):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in net.modules())


def test_watching_does_not_change_the_output() -> None:
    net = nn.Linear(2, 2)
    whole = nn.Sequential(net)
    x = torch.randn(1, 2)
    seen: list[Any] = []
    with capture_outputs(select_layers(whole), lambda layer, output: seen.append(output) or "ignored"):
        y = whole(x)
    assert torch.equal(y, net(x)) and seen[0] is y
