"""CriticalPointsCallback in real trainings: where searches begin, what they find, and that nothing else changes it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.analyses.critical_points import (
    CriticalPointsCallback,
    CriticalPointsResult,
    NewtonMR,
    Trajectory,
    find,
)
from lightning_dynamics.analyses.critical_points.picture import index_against_loss
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.panels import Picture, Table
from tests.analyses.critical_points import problems as P
from tests.house import training
from tests.house.training import assert_alike, assert_identical

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]
TWO = {"strategy": "ddp_fork", "devices": 2}


class Autoencoder(lightning.LightningModule):
    """The linear one, started near the saddle at 0."""

    def __init__(self, rate: float = 0.05) -> None:
        super().__init__()
        self.net, self.rate = P.Linear(torch.float32), rate
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.mul_(0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = P.reconstruction(self.net, batch[0])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def callback(**options: Any) -> CriticalPointsCallback:
    quick: dict[str, Any] = {"num_examples": 4, "batch_size": 3, "seed": 1, "on_error": "raise"}
    return CriticalPointsCallback(**quick | options)


def fit(folder: Path, *callbacks: Any, module: Any = None, epochs: int = 40, **options: Any) -> Any:
    """One step an epoch, on all four examples."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    run = training.trainer(folder, callbacks, max_epochs=epochs, **options)
    run.fit(module or Autoencoder(), DataLoader(TensorDataset(P.whitened().float()), batch_size=4))
    return run


def test_the_critical_points_near_a_training(tmp_path: Path) -> None:
    """Its beginning leads to the saddle, its end to the minimum; the index of the starts comes along."""
    watch = callback(trajectory=Trajectory(8, snapshot_every_n_steps=4), index_of_starts=True, keep_points=True)
    fit(tmp_path, watch)
    result = watch.last_result
    assert len(watch.results) == 1 and (result.epoch, result.step) == (39, 40)
    # The stride has doubled once, since 8 snapshots four steps apart reach 32 steps.
    assert result.starts == ["step 0", "step 8", "step 16", "step 24", "step 32", "step 40"]
    assert set(result.status) == {"critical"} and result.count("critical") == 6
    truth = [min(P.LINEAR_TRUTH, key=lambda one: abs(one - float(loss))) for loss in result.loss]
    # Four float32 points have a second moment that is diag(3, 1) up to rounding.
    torch.testing.assert_close(result.loss, torch.tensor(truth, dtype=torch.float64), atol=1e-6, rtol=0)
    assert truth[0] == 2.0 and truth[-1] == 0.5
    assert result.negative.tolist() == [P.LINEAR_TRUTH[one] for one in truth]
    assert result.points.shape == (6, 4) and result.eigenvalues.shape == (6, 4)
    assert result.start_index.isfinite().all() and result.losses.shape[1] == int(result.iterations.max()) + 1
    assert result.condensed().points.shape == (0, 4) and result.num_parameters == 4


def test_it_finds_what_find_finds(tmp_path: Path) -> None:
    watch, module = callback(trajectory=False, keep_points=True), Autoencoder()
    fit(tmp_path, watch, module=module, epochs=3)
    batch = P.whitened().float()
    (point,) = find(module.net, P.reconstruction, [batch], description=None)
    assert watch.last_result.starts == ["step 3"]
    torch.testing.assert_close(watch.last_result.points[0], point.point, atol=1e-9, rtol=0)


def test_searches_begin_at_checkpoints_too(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=10)
    fit(tmp_path, keeper, epochs=20, enable_checkpointing=True)
    paths = [str(tmp_path / f"step={step}.ckpt") for step in (10, 20)]
    watch = callback(trajectory=False, checkpoints=paths)
    fit(tmp_path, watch, epochs=1)
    assert watch.last_result.starts == ["step 1", "step=10", "step=20"]
    losses = watch.last_result.losses[:, 0]
    saved = Autoencoder()
    for path, loss in zip(paths, losses[1:], strict=True):
        saved.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        with torch.no_grad():
            assert float(loss) == pytest.approx(float(P.reconstruction(saved.net, P.whitened().float())), rel=1e-5)


def test_a_checkpoint_of_another_architecture_is_refused_before_training(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigurationError, match="other.ckpt.*does not fit"):
        fit(tmp_path, callback(checkpoints=[str(tmp_path / "other.ckpt")]), epochs=1)


def test_a_trajectory_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="critical_points.Trajectory"):
        callback(trajectory=8)


def test_memory_is_bounded(tmp_path: Path) -> None:
    watch = callback(trajectory=Trajectory(max_snapshots=4), at_end=False, every_n_epochs=100)
    fit(tmp_path, watch, epochs=50)
    assert watch.memory["steps"] == [0, 16, 32, 48] and len(watch.memory["snapshots"]) == 4
    assert watch.results == []


def test_two_processes_share_out_the_starts_and_find_what_one_finds(tmp_path: Path) -> None:
    """With a learning rate of 0 snapshots of one process and of two are the same."""
    states = []
    for options in ({}, TWO):
        watch = callback(trajectory=Trajectory(max_snapshots=4), keep_points=True, index_of_starts=True)
        keeper = Keeper(watch, tmp_path)
        fit(tmp_path, watch, keeper, module=Autoencoder(0.0), epochs=4, **options)
        states += [torch.load(tmp_path / f"{rank}.pt") for rank in range(options.get("devices", 1))]
    assert len(states) == 3 and len(states[0]["starts"]) == 5
    for state in states[1:]:
        assert_identical(state, states[0])


class Keeper(lightning.Callback):
    """Brings results out of processes that end with the training."""

    def __init__(self, watched: Any, folder: Path) -> None:
        self.watched, self.folder = watched, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(self.watched.last_result.to_state(), self.folder / f"{trainer.global_rank}.pt")


def test_training_goes_on_as_without_it(tmp_path: Path) -> None:
    """Searches in its midst, for which other parameters stand in the module's places."""
    models = []
    for callbacks in ([], [callback(every_n_train_steps=3, method=NewtonMR(max_iterations=3))]):
        model = Autoencoder()
        fit(tmp_path, *callbacks, module=model, epochs=8)
        models.append(model)
    assert_identical(models[1].state_dict(), models[0].state_dict())


def test_ddp_goes_on_after_a_search(tmp_path: Path) -> None:
    """Gradients are still averaged: both processes end with the same weights, those of a run without searches."""
    for name, callbacks in (
        ("without", []),
        ("with", [callback(every_n_train_steps=1, method=NewtonMR(max_iterations=1))]),
    ):
        (tmp_path / name).mkdir()
        fit(tmp_path, *callbacks, WeightsOut(tmp_path / name), module=Autoencoder(), epochs=3, **TWO)
    weights = [torch.load(tmp_path / name / f"{rank}.pt") for name in ("without", "with") for rank in (0, 1)]
    for other in weights[1:]:
        assert_identical(other, weights[0])


class WeightsOut(lightning.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


# ---- how it looks ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> CriticalPointsResult:
    watch = callback(trajectory=Trajectory(snapshot_every_n_steps=10), index_of_starts=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice: marks do not reach fixtures
        fit(tmp_path_factory.mktemp("run"), watch, epochs=30)
    return watch.last_result


def test_panels_say_what_they_show(result: CriticalPointsResult) -> None:
    shown = result.panels()
    assert list(shown) == ["index_against_loss", "convergence", "values"]
    assert result.plots == ("index_against_loss", "convergence")
    for panel in shown.values():
        assert isinstance(panel, Picture | Table)
        for words in ("4 examples", "step 30", "all parameters (4)", "eval mode, all eigenvalues"):
            assert words in panel.caption
    table = shown["values"]
    assert isinstance(table, Table) and [row[0] for row in table.rows] == result.starts
    assert all(cell is None or not isinstance(cell, float) or math.isfinite(cell) for row in table.rows for cell in row)


def test_scalars_are_the_counts_and_the_best(result: CriticalPointsResult) -> None:
    found = result.scalars()
    assert found["critical"] == len(result.starts) and found["gradient_flat"] == found["unfinished"] == 0.0
    assert found["lowest_loss"] == float(result.loss.min())
    assert found["lowest_gradient"] <= math.log10(result.tolerance)


def test_a_result_survives_a_file(result: CriticalPointsResult, tmp_path: Path) -> None:
    result.save(tmp_path / "points.npz")
    loaded = CriticalPointsResult.load(tmp_path / "points.npz")
    assert_identical(loaded.to_state(), result.to_state())
    assert_alike(loaded.scalars(), result.scalars())


WORDS = {"title": "t", "footer": "f"}


def test_each_status_has_a_mark_of_its_own() -> None:
    statuses = ["critical", "gradient-flat", "unfinished"]
    images = [index_against_loss([1.0, 2.0], [0.1, 0.2], [status, "critical"], **WORDS) for status in statuses]
    assert len({image.tobytes() for image in images}) == 3 and len({image.shape for image in images}) == 1


def test_starts_and_errors_are_drawn_where_they_are_known() -> None:
    plain = index_against_loss([1.0], [0.1], ["critical"], **WORDS)
    unknown = {"start_loss": [2.0], "start_index": [math.nan], "errors": [0.0]}
    assert (index_against_loss([1.0], [0.1], ["critical"], **unknown, **WORDS) == plain).all()
    for known in ({"errors": [0.05]}, {"start_loss": [1.0], "start_index": [0.1]}):
        assert (index_against_loss([1.0], [0.1], ["critical"], **known, **WORDS) != plain).any()


def test_points_that_are_not_finite_are_left_out() -> None:
    image = index_against_loss([math.nan, math.inf], [0.1, math.nan], ["unfinished"] * 2, **WORDS)
    assert image.shape == index_against_loss([1.0], [0.0], ["critical"], **WORDS).shape
    with pytest.raises(ValueError, match="status"):
        index_against_loss([1.0], [0.0], ["good"], **WORDS)
    with pytest.raises(ValueError, match="points"):
        index_against_loss([1.0], [0.0], [], **WORDS)
