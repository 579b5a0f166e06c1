"""LandscapeCallback in real trainings: its slices against weights that the tests keep themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import ConfigurationError, LandscapeCallback, LandscapeResult
from lightning_dynamics.analyses.landscape import RandomPlane, Through, TrajectoryPlane, evaluate_plane
from lightning_dynamics.analyses.landscape.estimator import inner
from lightning_dynamics.figures.result import closing_panels
from lightning_dynamics.panels import Download, Film, Page, Picture, Table
from tests.house.models import Convnet, loaders
from tests.house.test_ddp import TWO, NoLearning
from tests.house.test_resume import fit as fit_and_stop
from tests.house.training import assert_alike, assert_identical, train, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Classifier(lightning.LightningModule):
    def __init__(self, rate: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def data(size: int = 40) -> DataLoader[Any]:
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(2))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()), 8)


class KeepsWeights(lightning.Callback):
    def __init__(self) -> None:
        self.weights: dict[int, dict[str, Tensor]] = {}

    def _keep(self, trainer: Any, module: nn.Module) -> None:
        self.weights[trainer.global_step] = {n: p.detach().clone() for n, p in module.named_parameters()}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._keep(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._keep(trainer, pl_module)


def fit(folder: Path, module: Any = None, epochs: int = 3, **settings: Any) -> tuple[LandscapeCallback, Any, Any]:
    callback = LandscapeCallback(
        **{"resolution": [5, 4], "num_examples": 40, "explorer": False, "on_error": "raise"} | settings
    )
    module, keeper = module or Classifier(), KeepsWeights()
    trainer(folder, [callback, keeper], max_epochs=epochs).fit(module, data())
    return callback, module, keeper.weights


def loss_at(module: nn.Module, weights: dict[str, Tensor]) -> float:
    x, y = data().dataset.tensors  # type: ignore[attr-defined]
    with torch.no_grad():
        return float(F.cross_entropy(torch.func.functional_call(module, weights, (x,)), y))


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([p.flatten() for p in weights.values()]).double()


def test_the_trajectory_and_its_plane(tmp_path: Path) -> None:
    callback, module, kept = fit(tmp_path, slice=TrajectoryPlane(max_snapshots=8))
    result: LandscapeResult = callback.last_result
    assert result.trajectory_steps.tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 15] and result.step == 15
    path = torch.stack([flat(kept[step]) for step in result.trajectory_steps.tolist()])
    centred = path - path.mean(0)
    _, sizes, right = torch.linalg.svd(centred, full_matrices=False)
    assert torch.allclose(result.explained_variance, (sizes**2)[:2] / (sizes**2).sum(), rtol=1e-4)
    places = (path - path[-1]) @ right[:2].T
    assert torch.allclose(result.trajectory.abs(), places.abs(), atol=1e-4)
    rest = (path - path[-1]) - places @ right[:2]
    assert torch.allclose(result.residual_distance, rest.norm(dim=1), atol=1e-4)
    assert result.trajectory[-1].tolist() == [0, 0]
    for step, value in zip(result.trajectory_steps.tolist(), result.trajectory_loss.tolist(), strict=True):
        assert value == pytest.approx(loss_at(module, kept[step]), rel=1e-5)
    assert result.trajectory_slice_loss[-1] == result.trajectory_loss[-1]
    low, high = result.trajectory.amin(0), result.trajectory.amax(0)
    for axis, coordinates in enumerate((result.xs, result.ys)):
        assert coordinates[0] < low[axis] and coordinates[-1] > high[axis]


def test_the_plane_is_that_of_the_pure_function(tmp_path: Path) -> None:
    callback, module, kept = fit(tmp_path, slice="random", seed=3, span=0.7, resolution=[3, 5])
    from lightning_dynamics.analyses.landscape import random_directions

    x, y = data().dataset.tensors  # type: ignore[attr-defined]
    alone = evaluate_plane(
        module,
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        [(x, y)],
        random_directions({n: p.detach() for n, p in module.named_parameters()}, seed=3),
        callback.last_result.xs,
        callback.last_result.ys,
    )
    result = callback.last_result
    assert torch.allclose(result.loss, alone.loss, rtol=1e-6) and torch.allclose(result.accuracy, alone.accuracy)
    assert result.xs.tolist() == pytest.approx([-0.7, 0, 0.7]) and result.loss.shape == (5, 3)
    assert result.loss[2, 1].item() == pytest.approx(loss_at(module, kept[15]), rel=1e-6)
    assert abs(result.directions["cosine"]) < 0.5 and result.num_examples == 40


def test_a_line_from_initialization(tmp_path: Path) -> None:
    callback, module, kept = fit(tmp_path, slice=["initialization", "current"], resolution=7)
    result = callback.last_result
    ends = [loss_at(module, kept[0]), loss_at(module, kept[15])]
    ts = result.xs
    assert ts[0] == -0.25 and ts[-1] == 1.25
    for t, value in zip(ts.tolist(), result.loss.tolist(), strict=True):
        there = {n: kept[0][n] + t * (kept[15][n] - kept[0][n]) for n in kept[0]}
        assert value == pytest.approx(loss_at(module, there), rel=1e-5)
    between = [(t, v) for t, v in zip(ts.tolist(), result.loss.tolist(), strict=True) if 0 <= t <= 1]
    above = [v - ((1 - t) * ends[0] + t * ends[1]) for t, v in between]
    assert result.barrier == pytest.approx(max(0, *above), abs=1e-6)


def checkpoints(folder: Path, *seeds: int, module: Any = Classifier) -> list[str]:
    paths = []
    for seed in seeds:
        own = module()
        torch.manual_seed(seed)
        for p in own.parameters():
            nn.init.normal_(p)
        run = trainer(folder, [ModelCheckpoint(dirpath=folder / str(seed))], enable_checkpointing=True, max_epochs=0)
        run.fit(own, data())
        run.save_checkpoint(folder / f"{seed}.ckpt")
        paths.append(str(folder / f"{seed}.ckpt"))
    return paths


def test_a_plane_through_checkpoints(tmp_path: Path) -> None:
    paths = checkpoints(tmp_path, 1, 2, 3)
    callback, module, _ = fit(tmp_path, slice=Through(*paths), resolution=[4, 3], trajectory=True)
    result = callback.last_result
    saved = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
    places = torch.tensor([mark[1:] for mark in result.marks])
    for i in range(3):
        for j in range(3):
            true = (flat(saved[i]) - flat(saved[j])).norm()
            assert float((places[i] - places[j]).norm()) == pytest.approx(float(true), rel=1e-5)
    assert [mark[0] for mark in result.marks] == ["1", "2", "3"] and result.directions["cosine"] == pytest.approx(
        0, abs=1e-6
    )
    assert len(result.trajectory) == 16 and (result.residual_distance > 0.1).all()


@pytest.mark.parametrize("which", ["equal", "on a line", "another architecture"])
def test_points_that_cannot_work_are_refused_before_training(which: str, tmp_path: Path) -> None:
    a, b = checkpoints(tmp_path, 1, 2)
    c = str(tmp_path / "c.ckpt")
    saved = torch.load(a, weights_only=True)
    other = torch.load(b, weights_only=True)["state_dict"]
    if which == "on a line":
        saved["state_dict"] = {n: 2 * other[n] - p for n, p in saved["state_dict"].items()}
    if which == "another architecture":
        saved["state_dict"] = {"net.0.weight": torch.ones(2, 2)}
    torch.save(saved, c)
    with pytest.raises(ConfigurationError, match="`points"):
        fit(tmp_path, slice=[a, b, c])


def test_the_generator_of_a_gan(tmp_path: Path) -> None:
    """Manual optimisation, a loss of the user's, and only some parameters move."""

    class Gan(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.discriminator = nn.Linear(4, 4), nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(generator_loss(self, batch))
            optimizer.step()

    def generator_loss(module: Any, batch: Any) -> Tensor:
        return F.softplus(-module.discriminator(module.generator(batch[0]))).mean()

    callback, module, _ = fit(tmp_path, Gan(), parameters="generator.*", loss_fn=generator_loss, quantities=[])
    result = callback.last_result
    assert result.settings["parameters"] == "generator.*" and result.loss.std() > 0
    assert result.directions["norms"][0] == pytest.approx(float(module.generator.weight.detach().norm()), rel=1e-5)
    with pytest.raises(ConfigurationError, match="loss_fn"):
        fit(tmp_path, Gan())


def test_leading_hessian_directions_curve_as_their_eigenvalues_say(tmp_path: Path) -> None:
    step = 1e-2
    callback, module, _ = fit(tmp_path, slice="hessian", resolution=3, span=step)
    result = callback.last_result
    unit = step * result.directions["norms"][0]
    for values, eigenvalue in zip((result.loss[1], result.loss[:, 1]), result.directions["eigenvalues"], strict=True):
        second = float(values[0] - 2 * values[1] + values[2]) / unit**2
        assert second == pytest.approx(eigenvalue, rel=0.02)
    assert result.settings["batchnorm"] == "frozen"


def test_the_gradient_leads_uphill(tmp_path: Path) -> None:
    callback, *_ = fit(tmp_path, slice="gradient", resolution=3, span=1e-2)
    loss = callback.last_result.loss[1]
    assert loss[0] < loss[1] < loss[2]


def test_the_same_directions_throughout(tmp_path: Path) -> None:
    """The draws are the same at every event; with ``renormalize=False`` the vectors, too."""
    for renormalize in (True, False):
        callback, *_ = fit(tmp_path, every_n_epochs=1, slice=RandomPlane(renormalize=renormalize))
        norms = [result.directions["norms"][0] for result in callback.results]
        assert len(norms) == 3 and (len(set(norms)) == 1) is not renormalize


@pytest.mark.parametrize(
    "settings", [{"slice": TrajectoryPlane(max_snapshots=4)}, {"slice": ["initialization", "current"]}]
)
def test_training_does_not_notice(settings: dict[str, Any], tmp_path: Path) -> None:
    callback = LandscapeCallback(
        **settings, resolution=2, num_examples=8, batch_size=8, every_n_train_steps=3, explorer=False, on_error="raise"
    )
    with_it, without = (
        train(tmp_path / str(len(callbacks)), Convnet(), loaders(), callbacks) for callbacks in ([callback], [])
    )
    assert len(callback.results) > 1
    assert_identical(with_it, without)


@pytest.mark.parametrize(
    "settings", [{"slice": TrajectoryPlane(max_snapshots=4)}, {"slice": ["initialization", "current"]}]
)
def test_resumed_equals_uninterrupted(settings: dict[str, Any], tmp_path: Path) -> None:
    def make() -> LandscapeCallback:
        return LandscapeCallback(
            **settings, resolution=3, num_examples=24, batch_size=8, every_n_train_steps=2, on_error="raise"
        )

    whole, first, resumed = make(), make(), make()
    fit_and_stop(tmp_path / "whole", {"": whole})
    fit_and_stop(tmp_path / "cut", {"": first}, stop=6)
    fit_and_stop(tmp_path / "cut", {"": resumed}, checkpoint=str(tmp_path / "cut" / "step=6.ckpt"))
    assert [r.step for r in resumed.results] == [r.step for r in whole.results]
    for a, b in zip(whole.results, resumed.results, strict=True):
        assert_alike(a.to_state(), b.to_state())  # the last bit of a decomposition may differ


class Saves(lightning.Callback):
    def __init__(self, callback: Any, folder: Path) -> None:
        self.callback, self.folder = callback, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(self.callback.last_result.to_state(), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_two_processes_equal_one_bit_for_bit(tmp_path: Path) -> None:
    states = []
    for options in ({}, TWO):
        torch.manual_seed(0)
        callback = LandscapeCallback(resolution=[5, 4], num_examples=24, batch_size=8, on_error="raise")
        trainer(tmp_path, [callback, Saves(callback, tmp_path)], **options).fit(NoLearning(), **loaders())
    states = [torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]
    for state in states[1:]:
        assert_identical(state["loss"], states[0]["loss"])
        assert_identical(state["accuracy"], states[0]["accuracy"])


def test_the_trajectory_of_two_processes(tmp_path: Path) -> None:
    callback = LandscapeCallback("pca", resolution=3, num_examples=24, batch_size=8, on_error="raise")
    trainer(tmp_path, [callback, Saves(callback, tmp_path)], **TWO).fit(Convnet(), **loaders())
    first, second = (torch.load(tmp_path / f"2-{rank}.pt") for rank in (0, 1))
    assert len(first["trajectory_steps"]) > 3
    assert_identical(first, second)


def test_everything_that_is_shown(tmp_path: Path) -> None:
    callback, *_ = fit(tmp_path, slice="pca", every_n_epochs=1, explorer=True, curvature_resolution=2)
    shown = callback.last_result.panels()
    kinds = {key: type(panel) for key, panel in shown.items()}
    assert kinds == {
        "contour": Picture, "surface": Picture, "non_convexity": Picture, "trajectory": Picture, "values": Table
    }  # fmt: skip
    table = shown["values"]
    result = callback.last_result
    assert isinstance(table, Table) and list(table.columns) == ["x", "y", "loss", "accuracy"]
    assert table.rows[7] == (
        result.xs[2].item(), result.ys[1].item(), result.loss[1, 2].item(), result.accuracy[1, 2].item()
    )  # fmt: skip
    last = {name: make() for name, make in closing_panels(result, callback.results).items()}
    film, page, files = (last[name] for name in ("film", "explorer", "files"))
    assert isinstance(film, Film) and len(film.frames) == 3 and isinstance(page, Page) and isinstance(files, Download)
    assert set(files.files) == {"landscape.npz", "landscape.vtp", "trajectory.vtp"}
    (tmp_path / "again.npz").write_bytes(files.files["landscape.npz"])
    again = LandscapeResult.load(tmp_path / "again.npz")
    assert_identical(again.to_state(), result.to_state())
    with np.load(tmp_path / "again.npz") as arrays:
        assert arrays["loss"].shape == (4, 5)
    assert {"explained_variance"} == set(result.scalars())


def test_nan_is_a_hole_and_not_an_error(tmp_path: Path) -> None:
    class Breaks(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * math.nan if self.net[0].weight[0, 0] > 1.5 * first else loss

    module = Breaks()
    first = float(module.net[0].weight.detach()[0, 0].abs())
    callback, *_ = fit(tmp_path, module, span=3.0)
    result = callback.last_result
    assert result.loss.isnan().any() and not result.loss.isnan().all()
    assert result.panels()["contour"].image.ndim == 3  # type: ignore[union-attr]
    table = result.panels()["values"]
    assert any(row[2] is None for row in table.rows)  # type: ignore[union-attr]


def test_a_rehearsal_takes_place_though_there_is_no_trajectory_yet(tmp_path: Path) -> None:
    callback = LandscapeCallback("pca", resolution=3, num_examples=8, on_error="raise")
    trainer(tmp_path, [callback], fast_dev_run=True).fit(Classifier(), data())
    assert callback.last_result.loss.shape == (3, 3)
    with pytest.raises(ConfigurationError, match="2 training steps"):
        callback = LandscapeCallback("pca", resolution=3, num_examples=8, on_error="raise")
        trainer(tmp_path, [callback], max_steps=1).fit(Classifier(), data())


def test_second_data_and_metrics_by_name(tmp_path: Path) -> None:
    callback = LandscapeCallback(
        resolution=3,
        num_examples=8,
        second_data="val",
        quantities=["accuracy", "tests.analyses.landscape.test_callback.largest"],
    )
    trainer(tmp_path, [callback]).fit(_WithValidation(), data(), data(24))
    others = callback.last_result.others
    assert set(others) == {"largest", "val/loss", "val/accuracy", "val/largest"}
    assert not torch.equal(others["val/loss"], callback.last_result.loss)


class _WithValidation(Classifier):
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


def largest(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.amax(1).mean()


def test_random_directions_do_not_depend_on_the_process() -> None:
    from lightning_dynamics.analyses.landscape import random_directions

    module = Classifier()
    parameters = {n: p.detach() for n, p in module.named_parameters()}
    torch.manual_seed(99)
    a = random_directions(parameters, seed=1)
    torch.manual_seed(7)
    assert inner(a[0], random_directions(parameters, seed=1)[0]) == inner(a[0], a[0])
