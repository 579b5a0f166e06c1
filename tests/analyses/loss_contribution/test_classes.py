"""Contributions by example and class, both ways, against a backward pass per example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_dynamics.analyses.loss_contribution import Adaptive
from lightning_dynamics.core.lightning import ConfigurationError
from tests.analyses.loss_contribution import reference as R

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]


def deep(layers: int) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [module for _ in range(layers - 2) for module in (nn.Linear(4, 4), nn.Tanh())]
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), *middle, nn.Linear(4, 3)).double()


def agrees(result: Any, points: list[R.Point], module: nn.Module, batches: Any, nodes: R.Nodes = R.SIMPSON) -> None:
    """One gradient per example, node and segment."""
    labels = torch.cat([batch[1] for batch in batches])
    by_example = torch.zeros(len(labels), dtype=torch.float64)
    by_layer = torch.zeros(3, len(result.per_layer), dtype=torch.float64)
    steps = []
    for a, b in zip(points, points[1:], strict=False):
        rows = torch.zeros(3, dtype=torch.float64)
        number = 0
        for batch in batches:
            for x, y in zip(*batch, strict=True):
                loss = R.loss_on(module, [[x[None], y[None]]])
                found = R.contributions(loss, a, b, nodes)
                share = sum(float(v.sum()) for v in found.values()) / len(labels)
                by_example[number] += share
                rows[int(y)] += share
                for column, names in enumerate(result.layers.values()):
                    by_layer[int(y), column] += sum(float(found[name].sum()) for name in names) / len(labels)
                number += 1
        steps.append(rows)
    R.assert_close(result.per_example, by_example, rtol=1e-8, atol=1e-11)
    R.assert_close(result.per_class_layer, by_layer, rtol=1e-8, atol=1e-11)
    R.assert_close(result.per_class_step, torch.stack(steps), rtol=1e-8, atol=1e-11)
    assert list(result.per_class) == ["0", "1", "2"]
    R.assert_close(list(result.per_class.values()), by_layer.sum(1), rtol=1e-8, atol=1e-11)


def closes(result: Any, atol: float = 1e-12) -> None:
    total = sum(result.totals.values())
    assert sum(result.per_class.values()) == pytest.approx(total, abs=atol)
    assert float(result.per_example.sum()) == pytest.approx(total, abs=atol)
    R.assert_close(result.per_class_layer.sum(0), list(result.per_layer.values()), rtol=1e-6, atol=atol)
    R.assert_close(result.per_class_layer.sum(1), list(result.per_class.values()), rtol=1e-6, atol=atol)
    R.assert_close(result.per_class_step.sum(1), result.per_step.sum(1), rtol=1e-6, atol=atol)


@pytest.mark.parametrize("layers", [2, 3, 5], ids=["fewer layers", "as many", "more layers than classes"])
@pytest.mark.parametrize("rule", ["simpson", "trapezoid", "left"])
def test_both_ways_against_a_backward_pass_per_example(tmp_path: Path, layers: int, rule: Any) -> None:
    watched, spy, module = R.callback(per_class=True, rule=rule), R.Spy(), R.Task(deep(layers))
    R.fit(tmp_path, module, R.vectors(), watched, spy, max_steps=2)
    nodes = {"left": R.LEFT, "trapezoid": R.TRAPEZOID}.get(rule, R.SIMPSON)
    agrees(watched.last_result, spy.points, module, watched.probe_batches, nodes)
    closes(watched.last_result)


@pytest.mark.parametrize("layers", [2, 5])
def test_many_nodes(tmp_path: Path, layers: int) -> None:
    watched, module = (
        R.callback(per_class=True, **{"rule": Adaptive(tolerance=1e-9, max_splits=256)}),
        R.Task(deep(layers), lambda p: torch.optim.Adam(p, 0.05)),
    )
    R.fit(tmp_path, module, R.vectors(), watched)
    closes(watched.last_result)
    total = sum(watched.last_result.per_class.values())
    assert total == pytest.approx(watched.last_result.loss - watched.last_result.initial_loss, abs=1e-8)


class Noisy(R.Task):
    """Noise and dropout in train mode and in the loss."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.2 * torch.randn(x.shape, dtype=x.dtype))


@pytest.mark.parametrize("layers", [2, 5])
def test_noise_is_the_same_in_every_pass(tmp_path: Path, layers: int) -> None:
    watched = R.callback(per_class=True)
    R.fit(tmp_path, Noisy(nn.Sequential(deep(layers), nn.Dropout(0.5))), R.vectors(), watched)
    closes(watched.last_result)


class InPlace(R.Task):
    """Normalises its batch in place, as is its right: the probe hands out copies."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.mul_(0.5).add_(1))


@pytest.mark.parametrize("layers", [2, 5])
def test_a_module_that_changes_its_batch(tmp_path: Path, layers: int) -> None:
    watched = R.callback(per_class=True)
    R.fit(tmp_path, InPlace(deep(layers)), R.vectors(), watched)
    closes(watched.last_result)


class Teacher(R.Task):
    """Part of the forward pass is hidden from gradients, but moves all the same (a momentum encoder)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.slow = R.mlp(seed=5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.slow(x)
        return self.net(x) + target

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.1)

    def on_train_batch_start(self, *_: Any) -> None:  # so that it has moved when we look
        self.on_train_batch_end()


@pytest.mark.parametrize("hidden", ["no_grad", "detach"])
def test_what_gradients_do_not_see_classes_do_not_see(tmp_path: Path, hidden: str) -> None:
    class Detached(Teacher):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.slow(x).detach()

    watched = R.callback(per_class=True)
    R.fit(tmp_path, Teacher(R.mlp()) if hidden == "no_grad" else Detached(R.mlp()), R.vectors(), watched)
    closes(watched.last_result)


# ---- kinds of modules --------------------------------------------------------------------------------------


class Tokens(Dataset[Any]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randint(0, 10, (32, 6), generator=generator)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        return self.x[index], index % 3


class Recurrent(nn.Module):
    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(10, 4, sparse=sparse)
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(10, 4)
        self.whole = whole
        self.attention = (
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            if whole
            else nn.MultiheadAttention(4, 2, batch_first=True)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.attention(x) if self.whole else self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


TOKEN_NETS: dict[str, Any] = {
    "LSTM": Recurrent,
    "sparse embedding": lambda: Recurrent(sparse=True),
    "attention": Attentive,
    "transformer": lambda: Attentive(whole=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", TOKEN_NETS)
def test_networks_on_tokens(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    sgd: Any = lambda p: torch.optim.SGD(p, 0.1)  # noqa: E731
    watched, spy = R.callback(per_class=True), R.Spy()
    module = R.Task(TOKEN_NETS[kind]().to(dtype), sgd)
    R.fit(tmp_path, module, Tokens(), watched, spy, epochs=1)
    exact = dtype == torch.float64
    closes(watched.last_result, 1e-12 if exact else 1e-6)
    loss = R.loss_on(module, watched.probe_batches)
    change = R.value(loss, spy.points[-1]) - R.value(loss, spy.points[0])
    result = watched.last_result
    assert sum(result.totals.values()) + result.total_residual == pytest.approx(change, abs=1e-12 if exact else 1e-5)
    if kind == "LSTM":
        total = result.parameter_totals
        both = total["net.lstm.weight_ih_l0"].sum(1) + total["net.lstm.bias_ih_l0"]
        R.assert_close(result.channels["net.lstm.ih_l0"], both)
    if exact and "transformer" not in kind and kind != "attention":
        events = R.path_contributions(loss, spy.points, R.SIMPSON)
        for name, value in result.parameter_totals.items():
            R.assert_close(value, torch.stack([e[name] for e in events]).sum(0), rtol=1e-8, atol=1e-12)


# ---- losses of the user's own ------------------------------------------------------------------------------


def squares(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    outputs = module(batch[0])
    return (outputs - F.one_hot(batch[1], 3)).square().mean(1), batch[1]


class Regression(R.Task):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch[0]), F.one_hot(batch[1], 3).double())


@pytest.mark.parametrize("layers", [2, 5])
def test_example_loss_fn(tmp_path: Path, layers: int) -> None:
    watched = R.callback(per_class=True, example_loss_fn=squares)
    R.fit(tmp_path, Regression(deep(layers)), R.vectors(), watched)
    closes(watched.last_result)


def test_predict_fn(tmp_path: Path) -> None:
    watched = R.callback(per_class=True, predict_fn=lambda module, batch: (module.net(batch[0]), batch[1]))
    truth = R.callback(per_class=True, name="truth")
    R.fit(tmp_path, R.Task(R.mlp()), R.vectors(), watched, truth)
    assert watched.last_result.per_class == truth.last_result.per_class


@pytest.mark.parametrize("layers", [2, 5])
@pytest.mark.parametrize(
    "kind",
    ["int64", "int32", "bool"],
)
def test_labels_of_every_kind(tmp_path: Path, kind: str, layers: int) -> None:
    """Any whole number, gaps and negative ones among them."""

    def labelled(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        labels = batch[1] > 1 if kind == "bool" else (batch[1] * 7 - 5).to(getattr(torch, kind))
        return squares(module, batch)[0], labels

    watched = R.callback(per_class=True, example_loss_fn=labelled)
    R.fit(tmp_path, Regression(deep(layers)), R.vectors(), watched)
    closes(watched.last_result)
    assert list(watched.last_result.per_class) == (["0", "1"] if kind == "bool" else ["-5", "2", "9"])


def test_losses_whose_mean_is_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`example_loss_fn"):
        R.fit(tmp_path, Regression(R.mlp()), R.vectors(), R.callback(per_class=True))


def test_per_class_is_of_the_first_probe(tmp_path: Path) -> None:
    alone, both = R.callback(per_class=True), R.callback(per_class=True, second_data=R.vectors(24, seed=9))
    R.fit(tmp_path, R.Task(R.mlp()), R.vectors(), alone, both)
    assert alone.last_result.per_class == both.last_result.per_class
    assert torch.equal(alone.last_result.per_example, both.last_result.per_example)


@pytest.mark.parametrize("kind", TOKEN_NETS)
def test_networks_on_tokens_by_parameter(tmp_path: Path, kind: str) -> None:
    """Without classes, no forward mode is needed."""
    watched, spy = R.callback(), R.Spy()
    module = R.Task(TOKEN_NETS[kind]().double(), lambda p: torch.optim.SGD(p, 0.1))
    R.fit(tmp_path, module, Tokens(), watched, spy, epochs=1)
    loss, result = R.loss_on(module, watched.probe_batches), watched.last_result
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        events = R.path_contributions(loss, spy.points, R.SIMPSON)
    for name, value in result.parameter_totals.items():
        R.assert_close(value, torch.stack([e[name] for e in events]).sum(0), rtol=1e-8, atol=1e-12)
    if kind == "attention":
        total = result.parameter_totals
        both = total["net.attention.in_proj_weight"].sum(1) + total["net.attention.in_proj_bias"]
        R.assert_close(result.channels["net.attention.in_proj"], both)
