"""The callback end to end: every number against brute force along a recorded path."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.analyses.loss_contribution import LossContributionResult
from tests.analyses.loss_contribution import reference as R
from tests.house.training import Recorder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]


def run(
    tmp_path: Any, net: nn.Module, optimizer: Any = None, *, data: Any = None, fit: Any = None, **options: Any
) -> tuple[R.Watched, R.Spy, R.Loss]:
    """Train; the callback, the path, and the loss that it was to split."""
    watched, spy, module = R.callback(**options), R.Spy(), R.Task(net, optimizer)
    R.fit(tmp_path, module, data or R.vectors(), watched, spy, **(fit or {}))
    return watched, spy, R.loss_on(module, watched.probe_batches)


def check(
    result: LossContributionResult, events: list[R.Point], points: list[R.Point], loss: R.Loss, **tol: Any
) -> None:
    """Everything in a result that can be added up by brute force, but what comes from bins."""
    losses = np.array([R.value(loss, point) for point in points])
    R.assert_close(result.losses, losses[1:])
    assert result.initial_loss == pytest.approx(losses[0], rel=1e-12)
    names = list(points[0])
    assert list(result.totals) == names == list(result.parameter_totals)
    for name in names:
        total = torch.stack([event[name] for event in events]).sum(0)
        assert result.parameter_totals[name].shape == total.shape
        R.assert_close(result.parameter_totals[name], total, **tol)
        assert result.totals[name] == pytest.approx(float(total.sum()), abs=1e-9)
    per_step = np.array([[float(event[name].sum()) for name in names] for event in events])
    R.assert_close(result.per_step, per_step, **tol)
    R.assert_close(result.residuals, np.diff(losses) - per_step.sum(1), rtol=1e-6, atol=tol.get("atol", 1e-12) * 10)
    layers: dict[str, float] = {}
    for name in names:
        layer = name.rpartition(".")[0] or name
        layers[layer] = layers.get(layer, 0.0) + result.totals[name]
    assert result.per_layer == pytest.approx(layers, abs=1e-12)
    change = losses[-1] - losses[0]
    assert sum(result.per_layer.values()) + result.total_residual == pytest.approx(change, abs=1e-12)
    R.assert_close(result.layer_steps().sum(1), per_step.sum(1), **tol)
    assert result.absolute_change == pytest.approx(np.abs(np.diff(losses)).sum(), rel=1e-9)
    assert result.absolute_residual == pytest.approx(float(result.residuals.abs().sum()), rel=1e-9, abs=1e-15)
    assert result.events.tolist() == [1] * len(events)
    assert not result.buffers.any() and result.total_buffers == 0


def check_statistics(result: LossContributionResult, events: list[R.Point]) -> None:
    """Shares, flips, moments, counts."""
    flat = R.flat(events)
    R.assert_close(result.helping_share, (flat < 0).mean(1))
    R.assert_close(result.hurting_share, (flat > 0).mean(1))
    for name in events[0]:
        one = np.stack([event[name].numpy().ravel() for event in events])
        assert result.tensor_helping[name] == pytest.approx((one < 0).mean())
        assert result.tensor_hurting[name] == pytest.approx((one > 0).mean())
        flips, chances = 0, 0
        for column in np.sign(one).T:
            signs = column[column != 0]
            flips += int((signs[1:] != signs[:-1]).sum())
            chances += max(0, len(signs) - 1)
        truth = flips / chances if chances else math.nan
        assert result.flip_rate[name] == pytest.approx(truth, nan_ok=True)
    values = flat.ravel()
    centred = values - values.mean()
    assert result.kurtosis == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2, rel=1e-6)
    edges = result.magnitude_edges.numpy()
    for counts, chosen in ((result.helping_counts, -values[values < 0]), (result.hurting_counts, values[values > 0])):
        R.assert_close(counts, np.histogram(chosen, edges)[0], rtol=0, atol=0)
    assert result.zero_count == (values == 0).sum()
    for found, chosen in ((result.top_helping, -values[values < 0]), (result.top_hurting, values[values > 0])):
        ordered = np.sort(chosen)[::-1]
        count = 0.01 * len(ordered)
        whole = int(count)
        top = ordered[:whole].sum() + (count - whole) * ordered[whole]
        assert found == pytest.approx(top / ordered.sum(), rel=0.13)
    hurts = np.minimum((flat > 0).sum(0) * 20 // len(flat), 19)
    R.assert_close(result.hurting_steps, np.bincount(hurts, minlength=20), rtol=0, atol=0)


OPTIMIZERS: dict[str, Any] = {
    "momentum and weight decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.5),
}
FITS: dict[str, Any] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "clipping": {"gradient_clip_val": 0.1},
}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tanh_against_gauss(tmp_path: Any, optimizer: str, fit: str) -> None:
    watched, spy, loss = run(tmp_path, R.mlp(), OPTIMIZERS[optimizer], fit=FITS[fit], **R.EXACT)
    result = watched.last_result
    assert result.steps.tolist() == spy.steps[1:] == list(range(1, len(spy.points)))
    assert len(spy.points) == (5 if fit == "accumulation" else 9)
    events = R.path_contributions(loss, spy.points)
    check(result, events, spy.points, loss, rtol=1e-7, atol=1e-9)
    check_statistics(result, events)
    assert result.unresolved == 0 and result.residuals.abs().max() <= 1e-12


@pytest.mark.parametrize("rule", ["left", "trapezoid", "simpson"])
@pytest.mark.parametrize("act", [nn.Tanh, nn.ReLU])
def test_every_rule_node_by_node(tmp_path: Any, act: type[nn.Module], rule: str) -> None:
    """With kinks no integration is exact, but every rule is what it is."""
    net = R.mlp(act, seed=3)
    watched, spy, loss = run(tmp_path, net, OPTIMIZERS["momentum and weight decay"], rule=rule)
    nodes = {"left": R.LEFT, "trapezoid": R.TRAPEZOID, "simpson": R.SIMPSON}[rule]
    events = R.path_contributions(loss, spy.points, nodes)
    check(watched.last_result, events, spy.points, loss, rtol=1e-9, atol=1e-13)
    check_statistics(watched.last_result, events)
    if act is nn.ReLU:
        assert watched.last_result.residuals.abs().max() > 1e-9


def test_scheduler_and_small_steps_with_simpson(tmp_path: Any) -> None:
    """Against the integral itself, with the default rule."""

    class Scheduled(R.Task):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    watched, spy, module = R.callback(), R.Spy(), Scheduled(R.mlp())
    R.fit(tmp_path, module, R.vectors(), watched, spy)
    loss = R.loss_on(module, watched.probe_batches)
    truth = R.path_contributions(loss, spy.points)
    found = watched.last_result
    R.assert_close(found.per_step, [[float(v.sum()) for v in e.values()] for e in truth], rtol=1e-5, atol=1e-9)
    assert found.relative_residual < 1e-7


def test_float32_as_people_train(tmp_path: Any) -> None:
    watched, spy, _ = run(tmp_path, R.mlp().float(), data=R.vectors(dtype=torch.float32))
    module = R.Task(R.mlp())
    loss = R.loss_on(module, watched.probe_batches)
    events = R.path_contributions(loss, spy.points, R.SIMPSON)
    result = watched.last_result
    for name, total in result.parameter_totals.items():
        assert total.dtype == torch.float64
        R.assert_close(total, torch.stack([e[name] for e in events]).sum(0), rtol=1e-3, atol=1e-7)
    R.assert_close(result.residuals, np.zeros(8), rtol=0, atol=2e-6)


def test_channels(tmp_path: Any) -> None:
    watched, spy, loss = run(tmp_path, R.mlp(), **R.EXACT)
    events = R.path_contributions(loss, spy.points)
    total = {name: torch.stack([event[name] for event in events]).sum(0) for name in events[0]}
    result = watched.last_result
    for found, truth in ((result.channels, total), (result.latest_channels, events[-1])):
        assert list(found) == ["net.0", "net.2", "net.4"]
        for layer, sums in found.items():
            R.assert_close(sums, truth[f"{layer}.weight"].sum(1) + truth[f"{layer}.bias"], rtol=1e-7, atol=1e-9)


def test_shares_over_all_events(tmp_path: Any) -> None:
    watched, spy, loss = run(tmp_path, R.mlp(), **R.EXACT)
    each = torch.cat([value.flatten() for event in R.path_contributions(loss, spy.points) for value in event.values()])
    result = watched.last_result
    assert result.overall_helping_share == pytest.approx(float((each < 0).double().mean()), abs=1e-3)
    assert result.overall_hurting_share == pytest.approx(float((each > 0).double().mean()), abs=1e-3)
    assert 0 < result.overall_hurting_share < result.overall_helping_share < 1  # so the two are not mixed up


def test_probe_and_its_indices(tmp_path: Any) -> None:
    watched, _, _ = run(tmp_path, R.mlp(), per_class=True)
    data = R.vectors()
    result = watched.last_result
    assert result.num_examples == 20 == len(result.example_indices)
    assert result.example_indices.tolist() == watched.indices and len(set(watched.indices)) == 20
    x = torch.cat([batch[0] for batch in watched.probe_batches])
    assert torch.equal(x, data.tensors[0][result.example_indices])


# ---- segments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_n_train_steps": 3}, [3, 6, 8]),
        ({"every_n_train_steps": 3, "at_end": False}, [3, 6]),
        ({"every_n_train_steps": 3, "every_n_epochs": 1}, [3, 4, 6, 8]),
        ({"every_n_train_steps": None, "every_n_epochs": 1}, [4, 8]),
        ({"every_n_train_steps": None, "at_end": True}, [8]),
    ],
    ids=str,
)
def test_segments_telescope(tmp_path: Any, options: Any, steps: list[int]) -> None:
    watched, spy, loss = run(tmp_path, R.mlp(), OPTIMIZERS["Adam"], **(R.EXACT | options))
    result = watched.last_result
    assert result.steps.tolist() == steps and result.initial_step == 0
    points = [spy.points[step] for step in [0, *steps]]
    check(result, R.path_contributions(loss, points), points, loss, rtol=1e-7, atol=1e-9)
    assert [r.step for r in watched.results] == [0, *steps]
    assert all(not r.parameter_totals and len(r.steps) <= 1 for r in watched.results[:-1])


def test_earlier_results_are_what_they_were(tmp_path: Any) -> None:
    watched, spy, loss = run(tmp_path, R.mlp(), **R.EXACT)
    events = R.path_contributions(loss, spy.points)
    for number, result in enumerate(watched.results):
        for name in result.totals:
            truth = sum(float(event[name].sum()) for event in events[:number])
            assert result.totals[name] == pytest.approx(truth, abs=1e-9)
        if number:
            assert float(result.losses[-1]) == result.loss == pytest.approx(R.value(loss, spy.points[number]))


# ---- options -----------------------------------------------------------------------------------------------


def test_scalars_are_logged(tmp_path: Any) -> None:
    recorder = Recorder()
    watched, _, _ = run(tmp_path, R.mlp(), fit={"logger": recorder})
    rows = {step: row for step, row in recorder.rows if "loss_contribution/residual" in row}
    assert sorted(rows) == list(range(1, 9))
    for (step, row), result in zip(sorted(rows.items()), watched.results[1:], strict=True):
        assert result.step == step
        assert row["loss_contribution/loss"] == pytest.approx(float(result.losses[-1]))
        assert row["loss_contribution/residual"] == pytest.approx(float(result.residuals[-1]))
        assert row["loss_contribution/helping_share"] == pytest.approx(float(result.helping_share[-1]))
        for layer, total in result.per_layer.items():
            assert row[f"loss_contribution/layer/{layer}"] == pytest.approx(total)


def test_per_parameter_can_be_left_out(tmp_path: Any) -> None:
    a, _, _ = run(tmp_path, R.mlp())
    b, _, _ = run(tmp_path, R.mlp(), per_parameter=False)
    assert b.last_result.parameter_totals == {} == b.last_result.mosaic and not len(b.last_result.hurting_steps)
    for name in ("totals", "per_layer", "kurtosis", "zero_count", "tensor_helping"):
        assert getattr(a.last_result, name) == getattr(b.last_result, name)
    assert all(math.isnan(rate) for rate in b.last_result.flip_rate.values())
    size = sum(t.numel() for t in R.mlp().parameters())
    assert not [t for t in b.memory["accumulators"][0].values() if isinstance(t, Tensor) and t.shape == (size,)]


def test_second_data_is_a_second_callback(tmp_path: Any) -> None:
    other = R.vectors(24, seed=9)
    both, alone, spy = R.callback(second_data=other), R.callback(data=other), R.Spy()
    module = R.Task(R.mlp())
    R.fit(tmp_path, module, R.vectors(), both, alone, spy)
    contrast, truth = both.last_result.contrast, alone.last_result
    assert contrast["num_examples"] == 20 and contrast["initial_loss"] == truth.initial_loss
    assert contrast["totals"] == truth.totals and contrast["per_layer"] == truth.per_layer
    for name in ("losses", "residuals", "per_step"):
        assert torch.equal(contrast[name], getattr(truth, name))
    loss = R.loss_on(module, both.all_batches[1])
    R.assert_close(contrast["losses"], [R.value(loss, point) for point in spy.points[1:]])


def test_loss_fn_by_name_and_itself(tmp_path: Any) -> None:
    a, _, _ = run(tmp_path, R.mlp(), loss_fn="tests.house.models.cross_entropy")
    b, _, _ = run(tmp_path, R.mlp(), loss_fn=lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]))
    c, _, _ = run(tmp_path, R.mlp())
    assert a.last_result.totals == b.last_result.totals == c.last_result.totals


def test_a_penalty_in_training_step_is_part_of_the_loss_unless_left_out(tmp_path: Any) -> None:
    class Penalised(R.Task):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss + 0.01 * sum(p.square().sum() for p in self.parameters())}

    whole, bare = R.callback(**R.EXACT), R.callback(loss_fn="tests.house.models.cross_entropy", name="bare", **R.EXACT)
    module, spy = Penalised(R.mlp()), R.Spy()
    R.fit(tmp_path, module, R.vectors(), whole, bare, spy)
    loss = R.loss_on(module, whole.probe_batches)

    def penalised(point: R.Point) -> Tensor:
        return loss(point) + 0.01 * torch.stack([p.square().sum() for p in point.values()]).sum()

    for watched, truth in ((whole, penalised), (bare, loss)):
        events = R.path_contributions(truth, spy.points)
        check(watched.last_result, events, spy.points, truth, rtol=1e-7, atol=1e-9)


def test_dropout_is_off_and_noise_is_frozen(tmp_path: Any) -> None:
    class Noisy(R.Task):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.3 * torch.randn(x.shape, dtype=x.dtype))

    net = nn.Sequential(R.mlp(), nn.Dropout(0.5))
    watched, spy = R.callback(**R.EXACT), R.Spy()
    module = Noisy(net)
    R.fit(tmp_path, module, R.vectors(), watched, spy)
    result = watched.last_result
    assert result.unresolved == 0, "the loss is a smooth function of the parameters, the same at every node"
    assert result.residuals.abs().max() <= 1e-12
    for number, point in enumerate(spy.points[1:]):
        parts = []
        for place, batch in enumerate(watched.probe_batches):
            torch.manual_seed(place)
            noise = 0.3 * torch.randn(batch[0].shape, dtype=torch.float64)
            parts.append((R.loss_on(R.Task(R.mlp()), [[batch[0] + noise, batch[1]]]), len(batch[0]) / 20))
        named = {name.replace("net.0.", "net."): p for name, p in point.items()}
        assert float(result.losses[number]) == pytest.approx(sum(w * R.value(f, named) for f, w in parts), rel=1e-12)


def test_two_callbacks_for_two_losses(tmp_path: Any) -> None:
    a, b = R.callback(), R.callback(loss_fn="tests.house.models.cross_entropy")
    R.fit(tmp_path, R.Task(R.mlp()), R.vectors(), a, b)
