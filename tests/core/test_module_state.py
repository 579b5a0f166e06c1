"""What a module holds in objects of other classes comes back, too; what leads out of the module is left alone."""

from __future__ import annotations

import functools
import queue
import threading
from array import array
from collections import OrderedDict, UserDict, deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_dynamics import CurvatureCallback, LandscapeCallback, LossContributionCallback
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.module_state import require_materialized


class Meter:
    def __init__(self, **held: Any) -> None:
        self.total, self.recent = 0.0, deque([1.0], maxlen=3)
        self.centre = torch.zeros(2)
        vars(self).update(held)

    def update(self) -> None:
        self.total += 1
        self.recent.append(self.total)
        self.centre = self.centre + 1

    def update_in_place(self) -> None:
        self.centre += 1


class Slotted:
    __slots__ = ("__weakref__", "empty", "inner", "value")

    def __init__(self) -> None:
        self.value, self.inner = 1, Meter()


class SlottedChild(Slotted):
    __slots__ = ("more",)

    def __init__(self) -> None:
        super().__init__()
        self.more = torch.ones(1)


@dataclass(frozen=True)
class Frozen:
    meter: Meter = field(default_factory=Meter)


class Counting(dict[str, Any]):
    """Counts what is set; refuses to be copied, cleared or updated."""

    def __init__(self) -> None:
        super().__init__(a=1)
        self.sets = 0

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.sets += 1

    def copy(self) -> Any:
        raise NotImplementedError

    clear = update = copy  # type: ignore[assignment]


class Ordered(OrderedDict[str, int]):
    def __init__(self, size: int) -> None:
        super().__init__({str(i): i for i in range(size)})


def bits(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """A comparable copy of an object and all it holds."""
    seen = {} if seen is None else seen
    if isinstance(value, Tensor):
        return "tensor", id(value), value.tolist()
    if isinstance(value, np.ndarray | array | bytearray):
        return "array", id(value), list(value)
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    if id(value) in seen:
        return "again"
    seen[id(value)] = value
    found: list[Any] = [type(value).__name__, id(value)]
    if isinstance(value, dict):
        found.append([(key, bits(item, seen)) for key, item in value.items()])
    elif isinstance(value, list | tuple | set | deque):
        found.append([bits(item, seen) for item in value])
    if isinstance(value, Slotted):
        names = ("value", "inner", "empty", "more")
        found.append([(name, bits(getattr(value, name), seen)) for name in names if hasattr(value, name)])
    found.append([(key, bits(item, seen)) for key, item in getattr(value, "__dict__", {}).items()])
    return found


def _slots(held: Slotted) -> None:
    held.value, held.empty = 2, 3
    held.inner.update()
    del held.inner


def _more_slots(held: SlottedChild) -> None:
    held.more += 1
    held.value = 7


def _cycle() -> Meter:
    one = Meter()
    one.other = Meter(other=one, same=[one, one])  # type: ignore[attr-defined]
    return one


def _hidden(held: list[nn.Module]) -> None:
    held[0].train()(torch.randn(4, 2))
    held[0][0].weight.data.add_(1)
    held[0][1].weight.requires_grad_(False)
    held[0].register_forward_hook(lambda *_: None)
    held[0][1].meter.update()


def _hidden_module() -> list[nn.Module]:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    net[1].meter = Meter()  # type: ignore[assignment]
    return [net]


HELD: dict[str, tuple[Any, Any]] = {
    "namespace": (lambda: SimpleNamespace(value=torch.zeros(2)), lambda held: setattr(held, "value", torch.ones(2))),
    "meter": (Meter, lambda held: held.update()),
    "in place": (Meter, lambda held: held.update_in_place()),
    "new attribute": (Meter, lambda held: setattr(held, "new", 1)),
    "deleted attribute": (Meter, lambda held: delattr(held, "total")),
    "nested": (
        lambda: Meter(inner=[{"a": (Meter(inner=Meter()),)}]),
        lambda held: held.inner[0]["a"][0].inner.update(),
    ),
    "slots": (Slotted, _slots),
    "slots of a child": (SlottedChild, _more_slots),
    "frozen": (Frozen, lambda held: held.meter.update()),
    "user dict": (lambda: UserDict(a=1), lambda held: held.update(b=2)),
    "partial": (lambda: functools.partial(max, Meter(), key=Meter()), lambda held: held.keywords["key"].update()),
    "bound method": (lambda: Meter().update, lambda held: held()),
    "dict of its own": (Counting, lambda held: (held.__setitem__("b", 2), held.pop("a"))),
    "ordered dict of its own": (lambda: Ordered(3), lambda held: held.move_to_end("0")),
    "bytes": (lambda: Meter(raw=bytearray(b"abc")), lambda held: held.raw.extend(b"d")),
    "array": (lambda: Meter(raw=array("d", [1.0])), lambda held: held.raw.append(2.0)),
    "numpy": (lambda: Meter(raw=np.zeros(2)), lambda held: held.raw.fill(1)),
    "cycle": (_cycle, lambda held: (held.update(), held.other.update())),
    "module in a list": (_hidden_module, _hidden),
    "module in an object": (lambda: Meter(net=_hidden_module()), lambda held: _hidden(held.net)),
}


def everything(held: Any) -> Any:
    """With what a hidden module holds, which ``bits`` finds in its ``__dict__``; bound methods by their object."""
    held = getattr(held, "__self__", held)
    return bits([held.args, held.keywords] if isinstance(held, functools.partial) else held)


@pytest.mark.parametrize("name", HELD)
def test_state_in_objects_comes_back(name: str) -> None:
    make, change = HELD[name]
    net = nn.Linear(1, 1)
    net.held = held = make()
    before = everything(held)
    with pytest.raises(ZeroDivisionError), isolated(net):
        change(held)
        assert everything(held) != before, "the change must be visible inside, or this tests nothing"
        raise ZeroDivisionError
    assert everything(held) == before


def test_metrics_in_objects() -> None:
    net = nn.Linear(1, 1)
    metrics = {"mean": torchmetrics.MeanMetric(), "cat": torchmetrics.CatMetric()}
    net.held = Meter(metrics=metrics)  # type: ignore[assignment]
    for metric in metrics.values():
        metric.update(torch.tensor([1.0]))
    with isolated(net):
        for metric in metrics.values():
            metric.update(torch.tensor([3.0]))
    assert metrics["mean"].compute() == 1 and metrics["cat"].compute() == 1


def test_many_objects_and_the_last_submodule() -> None:
    """The limit is on what is opened for one submodule."""
    net = nn.Sequential(*[nn.ReLU() for _ in range(300)])
    for module in net:
        module.sizes = [[1]] * 50
    net[-1].meters = [Meter() for _ in range(1000)]
    with isolated(net):
        net[-1].meters[-1].update()
        net[-1].meters.pop(0)
    assert len(net[-1].meters) == 1000 and net[-1].meters[-1].total == 0


class Ints(Dataset[int]):
    def __init__(self) -> None:
        self.served = 0


def _outside(tmp_path: Any) -> dict[str, Any]:
    """What leads out of a module, and an attribute of it that somebody else may change meanwhile."""
    linear = nn.Linear(1, 1)
    return {
        "trainer": (Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), "seen"),
        "data set": (Ints(), "served"),
        "loader": (DataLoader(TensorDataset(torch.zeros(2))), "seen"),
        "data module": (LightningDataModule(), "seen"),
        "logger": (CSVLogger(tmp_path), "seen"),
        "optimizer": (torch.optim.SGD(linear.parameters(), 0.1), "seen"),
        "thread": (threading.Thread(), "seen"),
        "queue of threads": (queue.Queue(), "seen"),
    }


@pytest.mark.parametrize("name", _outside("."))
def test_what_leads_out_of_the_module_is_left_alone(name: str, tmp_path: Any) -> None:
    thing, attribute = _outside(tmp_path)[name]
    net = nn.Linear(1, 1)
    net.held = Meter(thing=thing)  # type: ignore[assignment]
    with isolated(net):
        setattr(thing, attribute, 5)
    assert getattr(thing, attribute) == 5


def _lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 1))


def test_lazy_modules_are_lazy_again() -> None:
    """Training goes on as alone: the same classes, weights from the same stream, in the optimizer built before."""

    def train(analyse: bool) -> Any:
        torch.manual_seed(0)
        net = _lazy()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        if analyse:
            for mode in ("eval", "train"):
                with isolated(net, mode=mode):  # type: ignore[arg-type]
                    net(torch.randn(4, 5))
                    assert type(net[0]) is nn.Linear
            assert [type(module).__name__ for module in net] == ["LazyLinear", "LazyBatchNorm1d", "Linear"]
            assert net[0].has_uninitialized_params() and net[1].has_uninitialized_params()
        for _ in range(2):
            net(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        assert not any(map(nn.parameter.is_lazy, optimizer.param_groups[0]["params"]))
        return [type(module) for module in net], [value.tolist() for value in net.state_dict().values()]

    assert train(True) == train(False)


def test_lazy_modules_load_a_checkpoint_as_before() -> None:
    net, other = _lazy(), _lazy()
    other(torch.randn(4, 5))
    with isolated(net):
        net(torch.randn(4, 7))
    net.load_state_dict(other.state_dict())
    assert net[0].weight.shape == (3, 5)


def test_weights_that_are_not_drawn_yet_are_refused() -> None:
    net = _lazy()
    with pytest.raises(ConfigurationError, match=r"lazy modules without weights \(0, 1\): run the module once"):
        require_materialized(net)
    net(torch.randn(4, 5))
    require_materialized(net)


class Warming(LightningModule):
    """Steps grow with a count that lives in a plain object; the loss does not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.count = nn.Linear(4, 2), SimpleNamespace(steps=torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.count.steps = self.count.steps + 1
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_after_backward(self) -> None:
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad *= self.count.steps

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_training_with_state_in_an_object_is_the_same(tmp_path: Any) -> None:
    def train(*callbacks: Any) -> Tensor:
        torch.manual_seed(0)
        x = torch.randn(32, 4)
        net = Warming()
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
        )
        trainer.fit(net, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8))
        return torch.cat([net.net.weight.detach().flatten(), net.count.steps[None]])

    alone = train()
    made = (LossContributionCallback(), CurvatureCallback(), LandscapeCallback(resolution=3, at_start=True))
    assert torch.equal(alone, train(*made))
