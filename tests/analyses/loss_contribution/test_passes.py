"""Weights of minibatches by the terms of the loss; what is refused before training; products without forward mode."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from lightning_dynamics.analyses.loss_contribution.classes import ExampleLosses
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Batch, Probe
from tests.analyses.loss_contribution import reference as R
from tests.analyses.loss_contribution.test_classes import agrees, closes, deep

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]

# ---- weights -----------------------------------------------------------------------------------------------

CLASS_WEIGHTS = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)


class Weighted(R.Task):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], CLASS_WEIGHTS)


def class_weights(context: Context, batch: Batch, probe: Probe | None = None) -> float:
    return float(CLASS_WEIGHTS[batch.data[1]].sum())


def test_minibatches_weigh_by_their_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "terms", class_weights)
    whole, parts = R.callback(batch_size=20, name="whole"), R.callback(batch_size=3)
    other = R.callback(batch_size=5, second_data=R.vectors(9, seed=5), name="two")
    R.fit(tmp_path, Weighted(R.mlp()), R.vectors(), whole, parts, other)
    result = whole.last_result
    for found in (parts.last_result, other.last_result):
        R.assert_close(found.losses, result.losses, rtol=1e-12)
        R.assert_close(list(found.totals.values()), list(result.totals.values()), rtol=1e-10, atol=1e-13)
    x, y = (torch.cat(items) for items in zip(*whole.probe_batches, strict=True))
    module = Weighted(R.mlp())
    assert result.initial_loss == pytest.approx(float(module.training_step((x, y), 0).detach()), rel=1e-12)


def test_a_minibatch_without_a_term_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of weight 0: the mean over them is NaN."""
    left_out = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)

    class Task(R.Task):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1], left_out)

    monkeypatch.setattr(Context, "terms", lambda self, batch, probe=None: float(left_out[batch.data[1]].sum()))
    watched = R.callback(batch_size=1)
    R.fit(tmp_path, Task(R.mlp()), R.vectors(), watched)
    assert watched.last_result.losses.isfinite().all() and watched.last_result.undefined_events == 0
    assert not all(
        torch.isnan(F.cross_entropy(torch.ones(1, 3).double(), b[1], left_out)) for b in watched.probe_batches
    )
    assert any(torch.isnan(F.cross_entropy(torch.ones(1, 3).double(), b[1], left_out)) for b in watched.probe_batches)


def shared_out(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Losses whose mean is that over class weights."""
    weights = CLASS_WEIGHTS[batch[1]]
    return F.cross_entropy(module(batch[0]), batch[1], reduction="none") * weights / weights.mean(), batch[1]


@pytest.mark.parametrize("layers", [2, 5], ids=["per layer", "per class"])
def test_classes_add_up_to_the_mean_over_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    monkeypatch.setattr(Context, "terms", class_weights)
    watched = R.callback(per_class=True, example_loss_fn=shared_out)
    R.fit(tmp_path, Weighted(deep(layers)), R.vectors(), watched)
    closes(watched.last_result)
    with pytest.raises(ConfigurationError, match="whose mean is the loss.*terms; pass `example_loss_fn"):
        R.fit(tmp_path, Weighted(R.mlp()), R.vectors(), R.callback(per_class=True))


# ---- what is refused before training -----------------------------------------------------------------------


class Unseeded(R.Task):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + random.SystemRandom().random())


class Checkpointed(R.Task):
    """The parameters before the second layer are hidden from ``torch.autograd.grad``, which says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.net[:2], x.clone().requires_grad_(), use_reentrant=True)
        return self.net[2:](hidden)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Unseeded, "no function of the weights"),
        (Checkpointed, "use_reentrant=False"),
    ],
)
def test_a_loss_that_cannot_be_split(tmp_path: Path, kind: Any, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        R.fit(tmp_path, kind(R.mlp()), R.vectors(), R.callback())


def test_complex_parameters(tmp_path: Path) -> None:
    net = R.mlp()
    net.phase = nn.Parameter(torch.ones(2, dtype=torch.complex128))
    with pytest.raises(ConfigurationError, match="complex"):
        R.fit(tmp_path, R.Task(net), R.vectors(), R.callback())


# ---- no forward mode, no second derivative -----------------------------------------------------------------


class Tanh(torch.autograd.Function):
    """No ``jvp``: there is no forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * (1 - ctx.saved_tensors[0] ** 2)


class Once(Tanh):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * (1 - ctx.saved_tensors[0] ** 2)


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def own_function(layers: int, kind: Any = Tanh) -> nn.Module:
    net = deep(layers)
    net[1] = Applied(kind.apply)
    return net


def weight_norm(layers: int) -> nn.Module:
    net = deep(layers)
    nn.utils.parametrizations.weight_norm(net[0])
    return net


@pytest.mark.parametrize("layers", [2, 5], ids=["per layer", "per class"])
@pytest.mark.parametrize("make", [own_function, weight_norm])
def test_two_backward_passes_instead_of_forward_mode(tmp_path: Path, make: Any, layers: int) -> None:
    watched, spy, module = R.callback(per_class=True), R.Spy(), R.Task(make(layers))
    R.fit(tmp_path, module, R.vectors(), watched, spy, max_steps=2)
    assert not watched._forward_mode
    closes(watched.last_result)
    if make is own_function:
        agrees(watched.last_result, spy.points, module, watched.probe_batches)


def test_both_ways_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = R.callback(per_class=True), R.callback(per_class=True)
    R.fit(tmp_path, R.Task(deep(3)), R.vectors(), forward)
    monkeypatch.setattr(ExampleLosses, "works_forward", lambda self, batch: False)
    R.fit(tmp_path, R.Task(deep(3)), R.vectors(), backward)
    assert forward._forward_mode and not backward._forward_mode
    R.assert_close(backward.last_result.per_example, forward.last_result.per_example, rtol=1e-10, atol=1e-14)
    R.assert_close(backward.last_result.per_class_layer, forward.last_result.per_class_layer, rtol=1e-10, atol=1e-14)


def test_what_has_neither_is_refused_with_classes_alone(tmp_path: Path) -> None:
    """A backward that cannot be differentiated says nothing: its products do not add up."""
    watched, spy, module = R.callback(), R.Spy(), R.Task(own_function(3, Once))
    with pytest.raises(ConfigurationError, match="`per_class=True`.*two backward passes: they do not add up"):
        R.fit(tmp_path, module, R.vectors(), R.callback(per_class=True))
    R.fit(tmp_path, module, R.vectors(), watched, spy)
    plain = R.Task(deep(3))
    events = R.path_contributions(R.loss_on(plain, watched.probe_batches), spy.points, R.SIMPSON)
    for name, value in watched.last_result.parameter_totals.items():
        R.assert_close(value, torch.stack([event[name] for event in events]).sum(0), rtol=1e-8, atol=1e-12)


def test_ctc_needs_no_second_derivative(tmp_path: Path) -> None:
    class Task(R.Task):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            lengths = torch.full((len(batch[0]),), 6), torch.full((len(batch[0]),), 2)
            return F.ctc_loss(self.net(batch[0]).transpose(0, 1).log_softmax(-1), batch[1], *lengths)

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(32, 6, 5, generator=generator, dtype=torch.float64),
        torch.randint(1, 4, (32, 2), generator=generator),
    )
    watched = R.callback(loss_fn=lambda module, batch: module.training_step(batch, 0))
    R.fit(tmp_path, Task(nn.Linear(5, 4).double()), data, watched)
    assert watched.last_result.losses.isfinite().all() and watched.last_result.undefined_events == 0
