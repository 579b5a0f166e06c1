"""What `preflight` says, and that nothing is changed by asking."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_dynamics import (
    CKACallback,
    ConfigurationError,
    CurvatureCallback,
    FingerprintCallback,
    LandscapeCallback,
    LossContributionCallback,
    RandomSubspaceCallback,
    VoGCallback,
    preflight,
)
from tests.house.cases import NAMES, make
from tests.house.models import Convnet, NoisyImages
from tests.house.training import Recorder, assert_identical, bits, trainer
from tests.kinds.kind import CLASSES, FEATURES, labelled

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`"),
]


class Net(lightning.LightningModule):
    """A classifier with everything that a Trainer could leave traces in."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, CLASSES))
        self.inner = Inner()
        self.noise = torch.Generator().manual_seed(3)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 1e-3 * torch.randn(x.shape, generator=self.noise))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch_idx)
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Inner(lightning.LightningModule):
    """A module of Lightning's within another."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Autoencoder(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.net(batch[0]) - batch[0][:, :CLASSES]).square().mean()


def data() -> TensorDataset:
    return TensorDataset(*labelled(40))


class Data(lightning.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(data(), 8, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(data(), 8)


class Examples(IterableDataset[Any]):
    def __init__(self, size: int = 40) -> None:
        self.size, self.drawn = size, 0

    def __iter__(self) -> Iterator[Any]:
        for item in zip(*labelled(self.size), strict=True):
            self.drawn += 1
            yield item


class Minibatches:
    def __iter__(self) -> Iterator[Any]:
        x, y = labelled(40)
        return iter(list(zip(x.split(8), y.split(8), strict=True)))


SOURCES: dict[str, Any] = {
    "a Dataset": data,
    "a list": lambda: list(data()),
    "a DataLoader": lambda: DataLoader(data(), 8, shuffle=True),
    "a LightningDataModule": Data,
    "an IterableDataset": Examples,
    "a DataLoader of a stream": lambda: DataLoader(Examples(), 8),
    "minibatches": Minibatches,
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_data_may_be(name: str) -> None:
    callbacks = [CKACallback(num_examples=16, batch_size=8), CurvatureCallback(num_examples=16, trace_samples=0)]
    report = preflight(Net(), SOURCES[name](), callbacks)
    assert (report.task.kind, report.task.inputs, report.task.targets) == ("multiclass", ((0,),), (1,))
    assert [one.works for one in report.callbacks] == [True, True]


def test_several_loaders() -> None:
    class Two(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return sum(F.cross_entropy(self(x), y) for x, y in batch.values())  # type: ignore[return-value]

    loaders = {"a": DataLoader(data(), 8), "b": DataLoader(data(), 8)}
    report = preflight(Two(), loaders, [LandscapeCallback(num_examples=16)])
    assert report.to_dict()["task"]["inputs"] == [["a", 0], ["b", 0]] and report.callbacks[0].works


def test_of_a_stream_as_much_is_read_as_is_asked_for() -> None:
    stream = Examples(500)
    preflight(Net(), DataLoader(stream, 4), [CKACallback(num_examples=8, batch_size=4)])
    assert 64 <= stream.drawn <= 64 + 2 * 4, "as many as experiments choose from; Lightning reads one minibatch ahead"
    preflight(Net(), DataLoader(stream, 4), [LossContributionCallback(num_examples=100)])
    assert 100 <= stream.drawn - 64 <= 100 + 4 * 4


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (iter([1]), "`data` is a list_iterator, which can be read only once"),
        ((batch for batch in [1]), "`data` is a generator, which can be read only once"),
        (TensorDataset(torch.zeros(0, 5)), "empty"),
        (DataLoader(TensorDataset(torch.zeros(0, 5))), "empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*zero length", "ignore:Total length of")
def test_data_that_cannot_work(source: Any, text: str) -> None:
    module = Net()
    with pytest.raises(ConfigurationError, match=text):
        preflight(module, source)
    assert module._trainer is None and module.training


def test_a_module_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="expected a LightningModule, got Linear"):
        preflight(nn.Linear(2, 2), data())  # type: ignore[arg-type]


def test_a_module_of_the_other_package() -> None:
    class Other(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(FEATURES, CLASSES)

        configure_optimizers = Net.configure_optimizers

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

    assert preflight(Other(), data()).task.kind == "multiclass"  # type: ignore[arg-type]


# ---- nothing is changed -------------------------------------------------------------------------------------


def test_the_module_is_left_as_it_was() -> None:
    module = Net()
    module.net[1].eval()
    module.net[0].weight.requires_grad_(False)
    names, before = set(vars(module)), copy.deepcopy(module.state_dict())
    flags = [sub.training for sub in module.modules()]
    states = torch.get_rng_state(), module.noise.get_state()
    preflight(module, DataLoader(data(), 8, shuffle=True), [CurvatureCallback(num_examples=16, trace_samples=0)])
    assert_identical(dict(before), dict(module.state_dict()))
    assert [sub.training for sub in module.modules()] == flags
    assert [p.requires_grad for p in module.net[0].parameters()] == [False, True]
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), states[0]) and torch.equal(module.noise.get_state(), states[1])
    assert module._trainer is None and module.inner._trainer is None and module.seen == []
    assert set(vars(module)) - {"_hparams"} == names  # which Lightning makes when it is asked for


def test_a_trainer_that_the_module_has_stays(tmp_path: Path) -> None:
    module, source = Net(), Data()
    run = trainer(tmp_path, [], max_epochs=1)
    run.fit(module, datamodule=source)
    preflight(module, source)
    assert module.trainer is run and module.inner.trainer is run and source.trainer is run


def test_generators_of_the_data_are_put_back() -> None:
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(NoisyImages(), 8, shuffle=True, generator=generator)
    before = generator.get_state(), str(loader.dataset.own.bit_generator.state)
    preflight(Convnet(), loader)
    assert torch.equal(generator.get_state(), before[0])
    assert str(loader.dataset.own.bit_generator.state) == before[1]


def test_training_afterwards_is_bit_identical(tmp_path: Path) -> None:
    def trained(asked: bool) -> Any:
        torch.manual_seed(0)
        module, loader = Net(), DataLoader(data(), 8, shuffle=True)
        callbacks = [LossContributionCallback(num_examples=16), VoGCallback(num_examples=16, windows={})]
        if asked:
            preflight(module, loader, callbacks)
            preflight(module, loader, callbacks)
        recorder = Recorder()
        trainer(tmp_path, callbacks, logger=recorder).fit(module, loader)
        results = [callback.last_result.to_state() for callback in callbacks]
        return dict(module.state_dict()), recorder.rows, results, torch.get_rng_state()

    assert_identical(trained(False), trained(True))


def test_callbacks_are_left_as_they_were() -> None:
    callbacks = list(make(NAMES, on_error="warn").values())
    before = [comparable(callback) for callback in callbacks]
    report = preflight(Convnet(), DataLoader(NoisyImages(), 8), callbacks)
    assert [one.works for one in report.callbacks] == [True] * len(callbacks), str(report)
    for callback, was in zip(callbacks, before, strict=True):
        assert comparable(callback) == was


def test_callbacks_that_have_results_keep_them(tmp_path: Path) -> None:
    callback = VoGCallback(num_examples=16, windows={}, on_error="raise")
    module, loader = Net(), DataLoader(data(), 8)
    trainer(tmp_path, [callback]).fit(module, loader)
    before = copy.deepcopy(callback.state_dict())
    assert preflight(module, loader, [callback]).callbacks[0].works
    assert_identical(before, callback.state_dict())
    assert len(callback.results) == 2


def comparable(value: Any, depth: int = 0) -> Any:
    """An object's attributes, as far as they can be compared."""
    if isinstance(value, Tensor):
        return bits(value).tolist()
    if isinstance(value, dict):
        return {str(key): comparable(held, depth + 1) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(held, depth + 1) for held in value]
    if depth < 3 and hasattr(value, "__dict__") and not callable(value) and not isinstance(value, type):
        return {name: comparable(held, depth + 1) for name, held in vars(value).items()}
    return repr(value)


# ---- verdicts -----------------------------------------------------------------------------------------------


def report_on_an_autoencoder() -> Any:
    """One of four cannot work on it, and one is no analysis."""
    callbacks = [
        LossContributionCallback(num_examples=16),
        VoGCallback(num_examples=16, on_error="raise"),
        CKACallback(num_examples=16, batch_size=8, layers="no_such_layer"),
        FingerprintCallback(),
        RandomSubspaceCallback(dim=3),
        LandscapeCallback(num_examples=16, name="wide"),
    ]
    return preflight(Autoencoder(), DataLoader(data(), 8), callbacks)


def test_verdicts_and_their_reasons() -> None:
    report = report_on_an_autoencoder()
    assert [(one.callback, one.works) for one in report.callbacks] == [
        ("LossContributionCallback", True),
        ("VoGCallback", False),
        ("CKACallback", False),
        ("FingerprintCallback", None),
        ("RandomSubspaceCallback", None),
        ("LandscapeCallback (landscape/wide)", True),
    ]
    reasons = [one.reason for one in report.callbacks]
    assert "there are no labels" in reasons[1] and "`predict_fn=" in reasons[1]
    assert "no_such_layer" in reasons[2] and "net.0" in reasons[2]
    assert reasons[0] == reasons[5] == "" and "no analysis" in reasons[3]


def test_the_report_is_readable_and_machine_readable(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_on_an_autoencoder()
    text = str(report)
    assert capsys.readouterr().out.rstrip().endswith(text), "it is printed, too"
    lines = text.splitlines()
    assert lines[0].startswith("read Autoencoder as: a task of unknown kind") and "no targets" in lines[0]
    assert "  item 0: examples along axis 0" in lines and "  item 1: examples along axis 0" in lines
    assert "LossContributionCallback: works" in lines and "FingerprintCallback: not tried" in lines
    assert any(line.startswith("VoGCallback: rests: ") for line in lines)
    assert "<" not in text and "tensor(" not in text

    again = json.loads(json.dumps(report.to_dict()))
    assert again == report.to_dict()
    assert again["task"]["kind"] == "unknown" and again["task"]["targets"] is None
    assert again["task"]["inputs"] == [[0]] and again["task"]["loss_unit"] == "examples"
    assert again["callbacks"][3] == {
        "callback": "FingerprintCallback",
        "works": None,
        "reason": "it is no analysis",
        "advice": [],
    }
    assert again["memory"] == again["cost"] == {}


def test_advice_is_that_of_the_callback() -> None:
    class Counting(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            RUNS.append(1)  # a global variable
            return super().training_step(batch, batch_idx) * len(RUNS)

    report = preflight(Counting(), DataLoader(data(), 8), [LandscapeCallback(num_examples=16)])
    assert report.callbacks[0].works
    assert any("cannot be put back" in text for text in report.callbacks[0].advice)
    assert "cannot be put back" in str(report)


RUNS: list[int] = []


def test_words_for_validation_data() -> None:
    (verdict,) = preflight(Net(), DataLoader(data(), 8), [CurvatureCallback(data="val")]).callbacks
    assert verdict.works is False and "there is no validation data" in verdict.reason
    (verdict,) = preflight(Net(), Data(), [CurvatureCallback(data="val", trace_samples=0)]).callbacks
    assert verdict.works is True
