"""CurvatureCallback in real trainings: what it measures, when, and that processes and interruptions change nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.analyses.curvature import CurvatureCallback, CurvatureResult
from lightning_dynamics.analyses.curvature.figures import eigenvalues, spectrum
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.figures.result import closing_panels
from tests.analyses.curvature import reference as R
from tests.house import training
from tests.house.training import Recorder, assert_alike, assert_identical

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]
TWO = {"strategy": "ddp_fork", "devices": 2}


class Task(lightning.LightningModule):
    def __init__(self, net: nn.Module, rate: float = 0.1) -> None:
        super().__init__()
        self.net, self.rate = net, rate

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Watched(CurvatureCallback):
    """Shows the tests the examples and the exact Hessian of every event."""

    truths: list[Tensor]

    def measure(self, context: Context) -> CurvatureResult:
        if not hasattr(self, "truths"):
            self.truths = []
        batches = [context.probe.batch(number).data for number in range(len(context.probe.batches))]
        x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
        self.truths.append(R.exact_hessian(context.module.net, x, y))
        return super().measure(context)


def callback(kind: type[CurvatureCallback] = CurvatureCallback, **options: Any) -> Any:
    """On 40 examples in minibatches of 16, 16 and 8."""
    quick = {"num_examples": 40, "batch_size": 16, "trace_samples": 4, "density_samples": 2, "density_iterations": 10}
    return kind(**quick | {"on_error": "raise"} | options)


def fit(folder: Path, module: Any, *callbacks: Any, epochs: int = 2, n: int = 64, **options: Any) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y = R.data(*module.shape if hasattr(module, "shape") else (4,), n=n, dtype=torch.float32)
    run = training.trainer(folder, callbacks, max_epochs=epochs, **options)
    run.fit(module, DataLoader(TensorDataset(x, y), batch_size=16))
    return run


def test_every_event_measures_the_network_of_its_moment(tmp_path: Path) -> None:
    watched = callback(Watched, at_start=True, k=2, trace_samples=30, tolerance=1e-5)
    recorder = Recorder()
    fit(tmp_path, Task(R.mlp(torch.float32)), watched, logger=recorder)
    results = watched.results
    assert [(r.epoch, r.step) for r in results] == [(0, 0), (0, 4), (1, 8)]
    rows = {step: row for step, row in recorder.rows if "curvature/largest" in row}
    assert sorted(rows) == [0, 4, 8]
    for result, matrix in zip(results, watched.truths, strict=True):
        truth = torch.linalg.eigvalsh(matrix)
        assert result.num_parameters == len(truth) and result.num_examples == 40 and result.converged
        allowed = 2e-5 * float(truth.abs().max())
        np.testing.assert_allclose(result.largest, truth.flip(0)[:2], atol=allowed)
        np.testing.assert_allclose(result.smallest, truth[:2], atol=allowed)
        assert abs(result.trace - float(truth.sum())) < 4 * result.trace_standard_error
        assert float(torch.trapezoid(result.density, result.grid)) == pytest.approx(1, abs=1e-5)
        row = rows[result.step]
        assert row["curvature/largest"] == pytest.approx(float(truth[-1]), abs=allowed)
        assert row["curvature/smallest_2"] == pytest.approx(float(truth[1]), abs=allowed)
        assert row["curvature/non_convexity"] == pytest.approx(abs(float(truth[0] / truth[-1])), rel=1e-3)
        assert row["curvature/converged"] == 1
        assert {"curvature/trace", "curvature/gradient_norm", "curvature/flatness", "curvature/loss"} <= row.keys()
    assert abs(float(results[0].largest[0] - results[-1].largest[0])) > 1e-3


def test_what_it_shows(tmp_path: Path) -> None:
    watched = callback(k=2, at_start=True, max_iterations=12)
    fit(tmp_path, Task(R.mlp(torch.float32)), watched, logger=Recorder())
    panels = watched.last_result.panels()
    assert list(panels) == ["spectrum", "eigenvalues", "values"] and watched.last_result.plots == (
        "spectrum",
        "eigenvalues",
    )
    for name in ("spectrum", "eigenvalues"):
        for word in ("40 examples of train", "all parameters (83)", "epoch 1, step 8"):
            assert word in panels[name].caption
    assert "NOT CONVERGED after 12 products" in panels["eigenvalues"].caption
    table = {row[0]: row[1:] for row in panels["values"].rows}
    assert table["largest eigenvalue"][0] == float(watched.last_result.largest[0])
    assert table["2nd smallest eigenvalue"][2] == "residual"
    assert table["condition number"] == [None, None, ""]
    closing = closing_panels(watched.last_result, watched.results)
    assert list(closing) == ["spectrum_film"] and len(closing["spectrum_film"]().frames) == 3
    assert closing_panels(watched.last_result, watched.results[:1]) == {}
    assert (spectrum(watched.results[0]) != spectrum(watched.results[-1])).any()


def test_the_eigenvalues_of_earlier_events_are_drawn_with_the_latest(tmp_path: Path) -> None:
    """Also from a file; what is kept of earlier results does not grow with training."""
    watched = callback(k=2, at_start=True, max_iterations=12)
    fit(tmp_path, Task(R.mlp(torch.float32)), watched)
    results, last = watched.results, watched.last_result
    assert last.course_steps.tolist() == [0, 4, 8]
    assert torch.equal(last.course_largest, torch.stack([result.largest for result in results]))
    assert torch.equal(last.course_smallest, torch.stack([result.smallest for result in results]))
    assert last.course_converged.tolist() == [result.converged for result in results]
    one, whole = eigenvalues(last.condensed()), eigenvalues(last)
    assert one.shape == whole.shape and (one != whole).any()
    last.save(tmp_path / "result.npz")
    assert (eigenvalues(CurvatureResult.load(tmp_path / "result.npz")) == whole).all()
    assert all(not len(result.course_steps) for result in results[:-1])
    other = replace(results[0], largest=torch.zeros(3), smallest=torch.zeros(3))
    assert last.after([other, *results[1:]]).course_steps.tolist() == [4, 8]  # another k


def test_what_is_left_out(tmp_path: Path) -> None:
    watched = callback(trace_samples=0, density_samples=0, parameters="net.4.*", name="head")
    recorder = Recorder()
    fit(tmp_path, Task(R.mlp(torch.float32)), watched, epochs=1, logger=recorder)
    assert list(watched.last_result.panels()) == ["eigenvalues", "values"]
    assert watched.last_result.num_parameters == 18
    assert closing_panels(watched.last_result, [watched.last_result] * 2) == {}
    row = next(row for _, row in recorder.rows if "curvature/head/largest" in row)
    assert "curvature/head/trace" not in row
    assert "parameters net.4.* (18)" in watched.last_result.panels()["values"].caption


def test_all_eigenvalues_give_a_condition_number(tmp_path: Path) -> None:
    watched = callback(Watched, tolerance=0.0, max_iterations=83, trace_samples=0)
    part = callback(parameters="net.0.*", tolerance=0.0, trace_samples=0)
    fit(tmp_path, Task(R.mlp()), watched, part, epochs=1, precision="64-true")
    assert watched.last_result.overlooked == part.last_result.overlooked == 0
    assert watched.last_result.condition_number == math.inf  # adding the same to all logits changes nothing
    truth = torch.linalg.eigvalsh(watched.truths[-1][:30, :30]).abs()
    assert part.last_result.condition_number == pytest.approx(float(truth.max() / truth.min()), rel=1e-6)


def test_a_result_survives_a_file(tmp_path: Path) -> None:
    watched = callback()
    fit(tmp_path, Task(R.mlp(torch.float32)), watched, epochs=1)
    watched.last_result.save(tmp_path / "result.npz")
    assert_identical(CurvatureResult.load(tmp_path / "result.npz").to_state(), watched.last_result.to_state())


def test_a_diverged_network_has_no_curvature(tmp_path: Path) -> None:
    watched = callback(k=2)
    fit(tmp_path, Task(R.mlp(torch.float32), rate=float("inf")), watched, logger=Recorder())
    result = watched.last_result
    assert math.isnan(result.loss) and result.largest.isnan().all() and not result.converged
    panels = result.panels()
    assert list(panels) == ["eigenvalues", "values"]
    assert "not finite" in panels["values"].caption
    assert result.scalars() == {"converged": 0.0}


def test_train_mode_has_one_mask_for_all_products(tmp_path: Path) -> None:
    class Images(Task):
        shape = (1, 6, 6)

    watched = callback(mode="train", tolerance=1e-5, max_iterations=400)
    module = Images(R.cnn(torch.float32))
    fit(tmp_path, module, watched, epochs=1)
    assert watched.last_result.converged  # a Hessian that changed between products would not


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's, about the checkpoint's folder
def test_interrupted_equals_uninterrupted(tmp_path: Path) -> None:
    whole = callback(every_n_train_steps=2)
    fit(tmp_path / "whole", Task(R.mlp(torch.float32)), whole)
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="first", every_n_epochs=1, save_top_k=-1)
    fit(
        tmp_path / "cut",
        Task(R.mlp(torch.float32)),
        callback(every_n_train_steps=2),
        keeper,
        epochs=1,
        enable_checkpointing=True,
    )
    resumed = callback(every_n_train_steps=2)
    module = Task(R.mlp(torch.float32, seed=9))
    x, y = R.data(4, n=64, dtype=torch.float32)
    run = training.trainer(tmp_path, [resumed], max_epochs=2)
    run.fit(module, DataLoader(TensorDataset(x, y), batch_size=16), ckpt_path=str(tmp_path / "first.ckpt"))
    assert [r.step for r in resumed.results] == [2, 4, 6, 8]
    for a, b in zip(whole.results, resumed.results, strict=True):
        assert_identical(a.to_state(), b.to_state())


# ---- two processes -----------------------------------------------------------------------------------------

ddp = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Saves(Callback):
    """Brings results out of processes that end with the training."""

    def __init__(self, watched: Any, folder: Path) -> None:
        self.watched, self.folder = watched, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = [result.to_state() for result in self.watched.results]
        torch.save(found, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@ddp
@pytest.mark.parametrize("num_examples", [40, 10], ids=["ragged", "a rank without work"])
def test_two_processes_equal_one(tmp_path: Path, num_examples: int) -> None:
    for options in ({}, TWO):
        watched = callback(k=2, num_examples=num_examples, at_start=True, every_n_epochs=None, max_iterations=60)
        fit(tmp_path, Task(R.mlp(torch.float32), rate=0.0), watched, Saves(watched, tmp_path), epochs=1, **options)
    one, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert len(one) == len(first) == 2
    assert_identical(first, second)
    assert_alike(one[0], first[0])


def broken(module: Any, batch: Any) -> Tensor:
    if module.trainer.global_step and module.trainer.global_rank:
        raise RuntimeError("broken in one process")
    return R.cross_entropy(module, batch)


@ddp
def test_a_failure_in_mid_measurement_harms_nobody(tmp_path: Path) -> None:
    watched = callback(at_start=True, loss_fn=broken, on_error="warn")
    fit(tmp_path, Task(R.mlp(torch.float32)), watched, Saves(watched, tmp_path), epochs=2, **TWO)
    for rank in (0, 1):
        assert [state["step"] for state in torch.load(tmp_path / f"2-{rank}.pt")] == [0]


def not_a_number(module: Any, batch: Any) -> Tensor:
    return R.cross_entropy(module, batch) * (math.nan if module.trainer.global_rank else 1)


@ddp
def test_nan_in_one_process_is_nan_in_all(tmp_path: Path) -> None:
    watched = callback(loss_fn=not_a_number)
    fit(tmp_path, Task(R.mlp(torch.float32)), watched, Saves(watched, tmp_path), epochs=1, **TWO)
    for rank in (0, 1):
        (state,) = torch.load(tmp_path / f"2-{rank}.pt")
        assert math.isnan(state["loss"]) and state["largest"].isnan().all()


# ---- complaints --------------------------------------------------------------------------------------------


def detached(module: Any, batch: Any) -> Tensor:
    return R.cross_entropy(module, batch).detach()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"k": 84}, "only 83"),
        ({"k": 0}, "`k`"),
        ({"k": 5, "max_iterations": 4}, "max_iterations"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"trace_samples": -1}, "trace_samples"),
        ({"density_samples": 1.5}, "density_samples"),
        ({"density_iterations": 0}, "density_iterations"),
        ({"parameters": "decoder.*"}, "parameters"),
        ({"loss_fn": "nowhere.nothing"}, "loss_fn"),
        ({"loss_fn": detached}, "loss_fn"),
        ({"loss_fn": lambda module, batch: module(batch[0])}, "scalar"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else str(value),  # functions have addresses
)
def test_bad_arguments_are_refused_before_training(tmp_path: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        fit(tmp_path, Task(R.mlp(torch.float32)), callback(**options))


def test_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="half precision"):
        fit(tmp_path, Task(R.mlp(torch.float32)), callback(), precision="bf16-true")
