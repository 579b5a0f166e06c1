"""The search for the intrinsic dimension: which trainings it does, and what it makes of them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import ConfigurationError, IntrinsicDimension, intrinsic_dimension
from lightning_dynamics.studies.intrinsic_dimension import search
from lightning_dynamics.studies.intrinsic_dimension.result import Crossing, _bracket
from lightning_dynamics.studies.intrinsic_dimension.search import _middle
from tests.house.training import PACKAGES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Scripted:
    """Trainings of an invented task instead of real ones: performance is a function of dimension and seed."""

    def __init__(self, performance: Any, size: int = 1000) -> None:
        self.performance, self.size = performance, size
        self.done: list[tuple[int | None, int]] = []

    def __call__(self, trainings: Any, dim: int | None, seed: int) -> dict[str, Any]:
        self.done.append((dim, seed))
        return {"performance": self.performance(dim, seed), "size": self.size}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(performance: Any, size: int = 1000) -> Scripted:
        script = Scripted(performance, size)
        monkeypatch.setattr(search._Trainings, "_train", lambda self, dim, seed: script(self, dim, seed))
        return script

    return use


def find(**options: Any) -> IntrinsicDimension:
    return intrinsic_dimension(lambda: None, None, **{"show_progress": False} | options)  # type: ignore[arg-type]


def step_at(*thresholds: int, direct: float = 0.95) -> Any:
    """Seed s learns the task from ``thresholds[s]`` dimensions on."""
    return lambda dim, seed: direct if dim is None else 0.92 if dim >= thresholds[seed] else 0.1


@pytest.mark.parametrize("edge", [1, 2, 3, 7, 8, 9, 31, 32, 100, 101, 777, 999, 1000])
def test_the_edge_is_found_within_the_resolution(edge: int, scripted: Any) -> None:
    scripted(step_at(edge))
    found = find(seeds=[0], resolution=1.05).by_global_baseline
    assert found is not None and found.dim is not None
    assert found.below < edge <= found.dim
    assert found.dim <= 1.05 * found.below or found.dim - found.below == 1 or found.dim == 1


def test_a_fine_resolution_finds_the_very_dimension(scripted: Any) -> None:
    script = scripted(step_at(123))
    found = find(seeds=[0], resolution=1.0001)
    assert found.by_global_baseline is not None
    assert (found.by_global_baseline.below, found.by_global_baseline.dim) == (122, 123)
    assert len(script.done) == len(set(script.done)) < 18


def test_both_baselines(scripted: Any) -> None:
    """Performance grows with log₂ d: 0.9 at 512 dimensions; the network's own 0.5 is reached at 90 % of it."""
    scripted(lambda dim, seed: 0.5 if dim is None else 0.1 * math.log2(dim))
    found = find(seeds=[0, 1], resolution=1.001)
    by_global, own = found.by_global_baseline, found.by_own_baseline
    assert by_global is not None
    assert by_global.target == 0.9 and by_global.dim == 512
    assert found.own_baseline == 0.5 and own.target == pytest.approx(0.45) and own.dim == 23  # 2^4.5 = 22.6


def test_seeds_make_the_interval_and_the_mean_the_dimension(scripted: Any) -> None:
    scripted(lambda dim, seed: 1.0 if dim is None else min(1.0, dim / (50, 100, 200)[seed]))
    found = find(resolution=1.01).by_own_baseline
    # (d/50 + d/100 + d/200)/3 with the first two full: (2 + d/200)/3 >= 0.9 from d = 140.
    assert found.below < 140 <= found.dim  # type: ignore[operator]
    low, high = found.interval
    assert low < 45 and high >= 180, "one seed reaches 0.9 at 45, another at 180"


def test_a_task_that_is_not_learned(scripted: Any) -> None:
    script = scripted(lambda dim, seed: 0.5)
    found = find(seeds=[0, 1])
    assert found.by_global_baseline == Crossing(0.9, None, 1000, (1000, math.inf))
    assert found.by_own_baseline.dim == 1
    assert (1000, 1) in script.done, "the whole space is tried"


def test_a_dimension_that_fails_beyond_one_that_suffices_counts(scripted: Any) -> None:
    scripted(lambda dim, seed: 1.0 if dim is None or (dim >= 16 and dim != 64) else 0.0)
    found = find(seeds=[0], dims=[8, 16, 32, 64, 128], resolution=1.9).by_own_baseline
    assert found.below >= 64 and found.dim is not None and 64 < found.dim <= 128


def test_nan_is_a_failure(scripted: Any) -> None:
    scripted(lambda dim, seed: 1.0 if dim is None or dim >= 40 else float("nan"))
    found = find(seeds=[0], resolution=1.01)
    assert found.by_own_baseline.dim == 40 and found.by_own_baseline.interval == (39, 40)


def test_given_dimensions_are_all_tried(scripted: Any) -> None:
    script = scripted(step_at(5))
    find(seeds=[0], dims=[2, 10, 50], baseline=None, resolution=1.5)
    assert {(2, 0), (10, 0), (50, 0), (None, 0)} <= set(script.done)


def test_without_a_global_baseline(scripted: Any) -> None:
    scripted(step_at(5))
    assert find(seeds=[0], baseline=None).by_global_baseline is None


@pytest.mark.parametrize(
    ("dims", "reached", "expected"),
    [
        ([8, 16], [False, True], (8, 16)),
        ([8, 16], [True, True], (0, 8)),
        ([8, 16], [False, False], (16, None)),
        ([8, 16, 32], [True, False, True], (16, 32)),
        ([], [], (0, None)),
    ],
    ids=str,
)
def test_bracket(dims: list[int], reached: list[bool], expected: Any) -> None:
    assert _bracket(dims, reached) == expected


@pytest.mark.parametrize(
    ("bracket", "expected"),
    [
        ((8, 16), 11),
        ((8, 9), None),
        ((0, 1), None),
        ((0, 8), 4),
        ((10, 11), None),
        ((100, 110), None),
        ((8, None), None),
    ],
    ids=str,
)
def test_middle(bracket: Any, expected: int | None) -> None:
    assert _middle(*bracket, 1.1) == expected


def test_an_interrupted_search_goes_on(scripted: Any, tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.jsonl"
    whole = scripted(step_at(70, 90))
    expected = find(seeds=[0, 1])

    def dies(dim: int | None, seed: int) -> float:
        if (dim, seed) == (64, 1):
            raise KeyboardInterrupt
        return step_at(70, 90)(dim, seed)

    first = scripted(dies)
    with pytest.raises(KeyboardInterrupt):
        find(seeds=[0, 1], log=log)
    log.write_text(log.read_text() + '{"dim": 64, "se')  # and a line that was cut off
    second = scripted(step_at(70, 90))
    found = find(seeds=[0, 1], log=log)
    assert first.done[:-1] + second.done == whole.done
    for name in ("dims", "performance", "direct"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    third = scripted(step_at(70, 90))
    find(seeds=[0, 1], log=log)
    assert third.done == []
    again = IntrinsicDimension.from_log(log)
    assert torch.equal(again.performance, found.performance) and again.by_own_baseline == found.by_own_baseline
    assert again.by_global_baseline == found.by_global_baseline and again.size == 1000


def test_more_seeds_and_a_finer_resolution_use_the_log(scripted: Any, tmp_path: Path) -> None:
    scripted(step_at(70, 90))
    find(seeds=[0], log=tmp_path / "log")
    script = scripted(step_at(70, 90))
    found = find(seeds=[0, 1], log=tmp_path / "log", resolution=1.02, threshold=0.8)
    assert (None, 0) not in script.done and (8, 0) not in script.done and (8, 1) in script.done
    assert found.performance.shape[1] == 2


def test_a_log_of_another_search_is_refused(scripted: Any, tmp_path: Path) -> None:
    scripted(step_at(70))
    find(seeds=[0], log=tmp_path / "log")
    for wrong in ({"max_epochs": 3}, {"metric": "acc"}, {"projection": "sparse"}, {"trainer_options": {"x": 1}}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            find(seeds=[0], log=tmp_path / "log", **wrong)


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no log of a search"):
        IntrinsicDimension.from_log(tmp_path / "nothing")
    (tmp_path / "begun").write_text(json.dumps({"settings": {"seeds": [0]}}) + "\n")
    with pytest.raises(ValueError, match="direct training"):
        IntrinsicDimension.from_log(tmp_path / "begun")


@pytest.mark.parametrize(
    "bad",
    [
        {"baseline": 0.0},
        {"baseline": float("nan")},
        {"threshold": 0.0},
        {"threshold": 1.1},
        {"seeds": []},
        {"seeds": [1, 1]},
        {"dims": []},
        {"dims": [0]},
        {"dims": [1.5]},
        {"resolution": 1.0},
        {"max_epochs": 0},
    ],
    ids=str,
)
def test_complaints(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        find(**bad)


def test_dimensions_beyond_the_parameters(scripted: Any) -> None:
    scripted(step_at(5))
    with pytest.raises(ConfigurationError, match="1001"):
        find(seeds=[0], dims=[10, 1001])


def blobs() -> tuple[DataLoader[Any], DataLoader[Any]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.randn(96, 4, generator=generator) + 2.5 * F.one_hot(labels, 4)
    data = TensorDataset(images, labels)
    return DataLoader(data, 16, shuffle=True), DataLoader(data, 96)


def net(package: Any = pl) -> Any:
    class Net(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.1)

    return Net()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_real_search(package: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 8, "seeds": [0, 1], "trainer_options": {"accelerator": "cpu"}}
    options |= {"resolution": 1.5, "show_progress": False}
    found = intrinsic_dimension(lambda: net(PACKAGES[package]), blobs(), **options, log=tmp_path / "log")
    assert found.size == 4 * 16 + 16 + 16 * 3 + 3
    assert found.own_baseline > 0.9
    assert found.by_own_baseline.dim is not None and 1 < found.by_own_baseline.dim < 131
    again = intrinsic_dimension(lambda: net(PACKAGES[package]), blobs(), **options)
    assert torch.equal(again.performance, found.performance) and torch.equal(again.direct, found.direct)


def test_the_callers_streams_are_left_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(3), np.random.rand(3), [random.random() for _ in range(3)]
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    intrinsic_dimension(net, blobs(), max_epochs=1, seeds=[7], dims=[4], resolution=99, show_progress=False)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert [random.random() for _ in range(3)] == expected[2]


def test_a_data_module(tmp_path: Path) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return blobs()[0]

        def val_dataloader(self) -> Any:
            return blobs()[1]

    found = intrinsic_dimension(net, Data(), max_epochs=1, seeds=[0], dims=[2, 4], resolution=99, show_progress=False)
    assert found.dims.tolist() == [2, 4]


def test_a_metric_that_is_not_logged() -> None:
    with pytest.raises(ConfigurationError, match=r"metric='acc'.*val/accuracy"):
        intrinsic_dimension(net, blobs(), metric="acc", max_epochs=1, seeds=[0], show_progress=False)


def test_no_lightning_module() -> None:
    with pytest.raises(ConfigurationError, match="LightningModule, got Linear"):
        intrinsic_dimension(lambda: nn.Linear(1, 1), blobs(), max_epochs=1, show_progress=False)  # type: ignore
