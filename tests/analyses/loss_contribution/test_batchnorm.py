"""Batch normalisation along the path: whose statistics, and that everything adds up with each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.analyses.loss_contribution import Adaptive
from lightning_dynamics.analyses.loss_contribution import batchnorm as B
from lightning_dynamics.core.lightning import ConfigurationError
from tests.analyses.loss_contribution import reference as R

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),  # dynamo's own
]
EXACT: dict[str, Any] = {"rule": Adaptive(tolerance=1e-11, max_splits=256)}
MOMENTUM: Any = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)  # noqa: E731


class NormAct(nn.BatchNorm2d):
    """Like timm's BatchNormAct2d: a subclass whose forward calls the function itself, and does more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            0.1,
            self.eps,
        )
        return self.act(x)


def net(kind: str) -> nn.Sequential:
    module = R.normed()
    layers: dict[str, Any] = {
        "plain": lambda: nn.BatchNorm2d(3),
        "not affine": lambda: nn.BatchNorm2d(3, affine=False),
        "cumulative": lambda: nn.BatchNorm2d(3, momentum=None),
        "other eps and momentum": lambda: nn.BatchNorm2d(3, eps=0.1, momentum=0.5),
        "subclass": lambda: NormAct(3),
        "synchronised": lambda: nn.SyncBatchNorm(3),
        "compiled": lambda: torch.compile(nn.BatchNorm2d(3).double(), backend="eager"),
    }
    module[1] = layers[kind]().double()
    return module


KINDS = ["plain", "not affine", "cumulative", "other eps and momentum", "subclass", "compiled"]


def run(tmp_path: Path, module: nn.Module, **options: Any) -> tuple[R.Watched, R.Spy, R.Task]:
    watched, spy, task = R.callback(**options), R.Spy(), R.Task(module, MOMENTUM)
    R.fit(tmp_path, task, R.images(), watched, spy, epochs=1)
    return watched, spy, task


def plain(points: list[R.Point]) -> list[R.Point]:
    """Without what ``torch.compile`` puts into names."""
    return [{name.replace("._orig_mod", ""): value for name, value in point.items()} for point in points]


def loss_by_running_statistics(task: R.Task, batches: Any) -> R.Loss:
    """Of parameters and statistics, with normalisation written out: torch's own has no gradient for them."""

    def of(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1])

    class Written(nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            layer = getattr(layer, "_orig_mod", layer)
            self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
            self.after = getattr(layer, "act", nn.Identity())
            self.register_buffer("running_mean", layer.running_mean)
            self.register_buffer("running_var", layer.running_var)

        def forward(self, x: Tensor) -> Tensor:
            shape = (1, -1, 1, 1)
            y = (x - self.running_mean.view(shape)) / (self.running_var.view(shape) + self.eps).sqrt()
            if self.weight is not None:
                y = y * self.weight.view(shape) + self.bias.view(shape)
            return self.after(y)

    twin = copy.deepcopy(task)
    twin.net[1] = Written(twin.net[1])
    return R.loss_on(twin, batches, of)


# ---- attributed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_with_attributed_statistics_everything_adds_up(tmp_path: Path, kind: str) -> None:
    watched, spy, task = run(tmp_path, net(kind), batchnorm="attributed", **EXACT)
    result = watched.last_result
    loss, points = loss_by_running_statistics(task, watched.probe_batches), plain(spy.everything)
    change = R.value(loss, points[-1]) - R.value(loss, points[0])
    assert sum(result.totals.values()) == pytest.approx(change, abs=1e-10)
    assert result.residuals.abs().max() <= 1e-11 and result.total_buffers == 0 and not result.buffers.any()
    events = R.path_contributions(loss, points)
    assert set(result.totals) == set(points[0]) and "net.1.running_var" in result.totals
    for name in result.totals:
        truth = torch.stack([event[name] for event in events]).sum(0)
        R.assert_close(result.parameter_totals[name], truth, rtol=1e-6, atol=1e-9)
    assert abs(result.totals["net.1.running_mean"]) > 1e-4 and abs(result.totals["net.1.running_var"]) > 1e-4
    assert result.batchnorm == "attributed"
    R.assert_close(result.channels["net.1.running_mean"], result.parameter_totals["net.1.running_mean"])
    if kind != "not affine":
        both = result.parameter_totals["net.1.weight"] + result.parameter_totals["net.1.bias"]
        R.assert_close(result.channels["net.1"], both)


def test_attributed_by_class(tmp_path: Path) -> None:
    watched, _, _ = run(tmp_path, net("plain"), batchnorm="attributed", per_class=True)
    result = watched.last_result
    assert sum(result.per_class.values()) == pytest.approx(sum(result.totals.values()), abs=1e-12)
    R.assert_close(result.per_class_layer.sum(0), list(result.per_layer.values()), rtol=1e-9)


# ---- frozen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["simpson", "adaptive"])
def test_frozen_statistics_have_a_line_of_their_own(tmp_path: Path, kind: str, rule: Any) -> None:
    options = EXACT if rule == "adaptive" else {"rule": rule}
    watched, spy, task = run(tmp_path, net(kind), batchnorm="frozen", **options)
    result, loss = watched.last_result, loss_by_running_statistics(task, watched.probe_batches)
    parameters, buffers = plain(spy.points), plain(spy.buffers)
    for number in range(4):
        before, moved, after = (
            {**parameters[number], **buffers[number]},
            {**parameters[number + 1], **buffers[number]},
            {**parameters[number + 1], **buffers[number + 1]},
        )
        nodes = R.SIMPSON if rule == "simpson" else R.GAUSS
        truth = R.contributions(loss, before, moved, nodes)
        for column, name in enumerate(result.totals):
            assert float(result.per_step[number, column]) == pytest.approx(float(truth[name].sum()), abs=1e-9)
        jump = R.value(loss, after) - R.value(loss, moved)
        assert float(result.buffers[number]) == pytest.approx(jump, abs=1e-11)
        assert float(result.losses[number]) == pytest.approx(R.value(loss, after), rel=1e-11)
    closed = result.per_step.sum(1) + result.buffers + result.residuals
    before = torch.cat([torch.tensor([result.initial_loss], dtype=torch.float64), result.losses[:-1]])
    R.assert_close(closed, result.losses - before, atol=1e-14)
    assert result.total_buffers == pytest.approx(float(result.buffers.sum())) and abs(result.total_buffers) > 1e-4
    assert "net.1.running_mean" not in result.totals


def test_frozen_is_the_loss_of_the_deployed_network(tmp_path: Path) -> None:
    watched, _, task = run(tmp_path, net("plain"), batchnorm="frozen")
    task.eval()
    with torch.no_grad():
        parts = [F.cross_entropy(task(x), y) * (len(x) / 20) for x, y in watched.probe_batches]
    assert watched.last_result.loss == pytest.approx(float(torch.stack(parts).sum()), rel=1e-14)


# ---- batch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "synchronised"])
def test_batch_statistics(tmp_path: Path, kind: str) -> None:
    """The minibatches' own, biased ones; the running ones are neither used nor changed."""
    if kind == "synchronised":  # its training needs a GPU
        module = net("plain")
        watched, spy, task = R.callback(**EXACT), R.Spy(), R.Task(module, MOMENTUM)
        R.fit(tmp_path, task, R.images(), watched, spy)
        found = evaluated(R.Task(net(kind)), watched.probe_batches)
        truth = evaluated(R.Task(net("plain")), watched.probe_batches)
        assert found == truth == pytest.approx(watched.last_result.initial_loss, rel=1e-14)
        return
    watched, spy, task = run(tmp_path, net(kind), **EXACT)
    result, points = watched.last_result, plain(spy.points)

    def of(module: Any, batch: Any) -> Tensor:
        layer = getattr(module.net[1], "_orig_mod", module.net[1])
        x = module.net[0](batch[0])
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / (var + layer.eps).sqrt()
        if layer.weight is not None:
            x = x * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
        x = getattr(layer, "act", nn.Identity())(x)
        return F.cross_entropy(module.net[2:](x), batch[1])

    twin = copy.deepcopy(task)
    twin.net[1] = getattr(twin.net[1], "_orig_mod", twin.net[1])
    loss = R.loss_on(twin, watched.probe_batches, of)
    R.assert_close(result.losses, [R.value(loss, point) for point in points[1:]], rtol=1e-10)
    events = R.path_contributions(loss, points)
    for name in result.totals:
        truth = torch.stack([event[name] for event in events]).sum(0)
        R.assert_close(result.parameter_totals[name], truth, rtol=1e-6, atol=1e-9)
    assert result.total_buffers == 0 and result.batchnorm == "batch"


def evaluated(task: R.Task, batches: Any) -> float:
    task.eval()
    with torch.no_grad(), B.normalising(task, "batch"):
        return float(torch.stack([F.cross_entropy(task(x), y) * (len(x) / 20) for x, y in batches]).sum())


@pytest.mark.parametrize("mode", B.BATCHNORM_MODES)
def test_training_has_the_statistics_that_it_would_have(tmp_path: Path, mode: Any) -> None:
    alone = R.Task(net("plain"), MOMENTUM)
    R.fit(tmp_path, alone, R.images(), epochs=1)
    _, _, task = run(tmp_path, net("plain"), batchnorm=mode, per_class=True)
    for name, value in alone.state_dict().items():
        assert torch.equal(task.state_dict()[name], value), name
    assert task.net[1].track_running_stats and not any(b.requires_grad for b in task.buffers())
    assert int(task.net[1].num_batches_tracked) == 4


@pytest.mark.parametrize("mode", B.BATCHNORM_MODES)
def test_layers_that_track_nothing(tmp_path: Path, mode: Any) -> None:
    """There is but one way to normalise them."""
    watched, _, _ = run(tmp_path, R.normed(track_running_stats=False), batchnorm=mode)
    truth, _, _ = run(tmp_path, R.normed(), batchnorm="batch")
    assert watched.last_result.totals == pytest.approx(truth.last_result.totals, rel=1e-12)
    assert watched.last_result.batchnorm == "" and watched.last_result.total_buffers == 0


def test_a_rest_that_is_too_small_is_named(tmp_path: Path) -> None:
    class Flat(nn.Sequential):
        pass

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    with pytest.raises(ConfigurationError, match="`batch_size`"):
        R.fit(tmp_path, R.Task(module), R.vectors(), R.callback(num_examples=17))
    R.fit(tmp_path, R.Task(module), R.vectors(), R.callback(num_examples=17, batchnorm="frozen"))


# ---- the parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 4), (6, 3, 2, 2, 2)])
def test_written_out_is_the_same_function(shape: tuple[int, ...], affine: bool) -> None:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    torch.manual_seed(0)
    layer = kinds[len(shape)](3, affine=affine).double()
    layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    layer.eval()
    x = torch.randn(shape, dtype=torch.float64)
    truth = layer(x)
    layer.running_mean.requires_grad_(), layer.running_var.requires_grad_()
    with B.normalising(layer, "attributed"):
        R.assert_close(layer(x).detach(), truth.detach(), rtol=1e-12)
        assert torch.autograd.gradcheck(
            lambda m, v: F.batch_norm(x, m, v, layer.weight, layer.bias, eps=layer.eps),
            (layer.running_mean, layer.running_var),
        )
        assert torch.autograd.gradcheck(
            lambda m, v: torch.batch_norm(x, layer.weight, layer.bias, m, v, False, 0.1, 1e-5, False),
            (layer.running_mean, layer.running_var),
        )


def test_in_training_torch_normalises_itself() -> None:
    layer, x = nn.BatchNorm1d(3).double(), torch.randn(6, 3, dtype=torch.float64)
    truth = copy.deepcopy(layer)
    with B.normalising(layer, "attributed"):
        found = layer(x)
    assert torch.equal(found, truth(x)) and torch.equal(layer.running_mean, truth.running_mean)


def test_names() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    module.append(module[2])
    assert list(B.running_statistics(module)) == [f"{i}.{s}" for i in (0, 2) for s in ("running_mean", "running_var")]
    assert list(B.running_statistics(module[0])) == ["running_mean", "running_var"]
    assert B.without_influence(module, "batch") >= set(B.running_statistics(module))
    assert not B.without_influence(module, "frozen") & set(B.running_statistics(module))


def _in_place(task: Any, mean: Tensor) -> None:
    if not task.centre.numel():
        task.centre.resize_(len(mean)).zero_()
    task.centre.mul_(0.9).add_(mean, alpha=0.1)


def _replaced(task: Any, mean: Tensor) -> None:
    task.centre = 0.9 * (task.centre if task.centre.numel() else torch.zeros_like(mean)) + 0.1 * mean


@pytest.mark.parametrize("update", [_in_place, _replaced])
def test_buffers_that_every_pass_moves(tmp_path: Path, update: Any) -> None:
    """Without a size before the first, like an observer's range: each minibatch begins with training's own."""

    class Centred(R.Task):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.register_buffer("centre", torch.zeros(0, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            scale = 1 + self.centre.clone() if self.centre.numel() else 1.0
            update(self, out.detach().mean(0))
            return out * scale

    def trained(*callbacks: Any) -> Any:
        task = Centred(R.mlp(), MOMENTUM)
        R.fit(tmp_path, task, R.vectors(), *callbacks)
        return task

    watched, spy = R.callback(**EXACT), R.Spy()
    task, alone = trained(watched, spy), trained()
    assert all(torch.equal(a, b) for a, b in zip(task.state_dict().values(), alone.state_dict().values(), strict=True))
    result, count = watched.last_result, sum(len(batch[0]) for batch in watched.probe_batches)
    losses = []
    for point in spy.everything[1:]:
        task.load_state_dict(point)
        parts = []
        for batch in watched.probe_batches:
            task.centre = point["centre"].clone()
            parts.append(float(task.training_step(batch, 0).detach()) * len(batch[0]) / count)
        losses.append(sum(parts))
    R.assert_close(result.losses, torch.tensor(losses, dtype=torch.float64))
    R.assert_close(result.residuals, torch.zeros(8), atol=1e-9)
    assert abs(result.total_buffers) > 1e-4


def test_other_buffers_are_a_line_of_their_own(tmp_path: Path) -> None:
    """A buffer that moves beside the parameters, whatever it is: everything adds up."""

    class Scaled(R.Task):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.register_buffer("scale", torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

        def on_train_batch_start(self, *_: Any) -> None:
            self.scale += 0.05

    watched, spy, task = R.callback(**EXACT), R.Spy(), Scaled(R.mlp(), MOMENTUM)
    R.fit(tmp_path, task, R.vectors(), watched, spy)
    result, loss = watched.last_result, R.loss_on(task, watched.probe_batches)
    assert float(task.scale) == pytest.approx(1.4)
    R.assert_close(result.losses, [R.value(loss, point) for point in spy.everything[1:]])
    R.assert_close(result.residuals, torch.zeros(8), atol=1e-11)
    total = sum(result.totals.values()) + result.total_buffers
    assert total == pytest.approx(result.loss - result.initial_loss, abs=1e-10)
    assert abs(result.total_buffers) > 1e-3
