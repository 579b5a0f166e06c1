"""Two processes find what one finds while the weights really move; a failure in one of them harms nobody."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import VoGCallback
from lightning_dynamics.analyses.vog import SmoothGrad
from tests.analyses.vog import reference as R
from tests.house.training import assert_alike, assert_identical, trainer

TWO = {"strategy": "ddp_fork", "devices": 2}

# Gloo and Lightning have advice of their own about processes, samplers and thread counts.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.timeout(120),
]

PER_EPOCH, CLASSES = 2, 3


def images(count: int = 23) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(0, CLASSES, (count,), generator=generator))


def net(step: int) -> nn.Module:
    """The network after so many steps: a path that no data and no process has a say in."""
    generator = torch.Generator().manual_seed(7)
    made = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, CLASSES)).double()
    start, way = ([torch.randn(p.shape, generator=generator).double() for p in made.parameters()] for _ in range(2))
    with torch.no_grad():
        for parameter, a, b in zip(made.parameters(), start, way, strict=True):
            parameter.copy_(0.5 * a * np.cos(step / 3) + 0.5 * b * np.sin(step / 2))
    return made


class Moving(lightning.LightningModule):
    """Optimizer steps of size zero; :class:`Moves` does the rest."""

    fails: tuple[int, int] | None = None
    """Step and process of an analysis that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.fails == (self.trainer.global_step, self.trainer.global_rank):
            raise RuntimeError("broken in one process")
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Moves(Callback):
    """To the next point of the path; the first of all callbacks, as the module's own hooks come last."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.net.load_state_dict(net(trainer.global_step).state_dict())


class Saves(Callback):
    """Brings results out of processes that end with the training."""

    def __init__(self, watched: dict[str, VoGCallback], folder: Path) -> None:
        self.watched, self.folder = watched, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = {
            name: {
                "results": [result.to_state() for result in one.results],
                "patterns": sorted(one.memory["gradients"]) if one.memory else None,
            }
            for name, one in self.watched.items()
        }
        torch.save(found, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def fit(
    folder: Path,
    watched: dict[str, VoGCallback],
    *,
    data: Any = None,
    module: Moving | None = None,
    checkpoint: Path | None = None,
    more: tuple[Callback, ...] = (),
    **options: Any,
) -> tuple[Any, ...]:
    """Four epochs of two steps in every process; what each process found."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    data = images() if data is None else data
    keeper = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
    callbacks = [Moves(), *more, *watched.values(), keeper, Saves(watched, folder)]
    run = trainer(folder, callbacks, max_epochs=4, limit_train_batches=PER_EPOCH, enable_checkpointing=True, **options)
    run.fit(Moving() if module is None else module, DataLoader(data, 2, shuffle=True), ckpt_path=checkpoint)
    return tuple(torch.load(folder / f"{run.world_size}-{rank}.pt") for rank in range(run.world_size))


def of_label(network: nn.Module, x: Tensor, y: Tensor) -> Any:
    x = x[None].clone().requires_grad_()
    return torch.autograd.grad(network(x)[0, y], x)[0][0].numpy()


def words(x: Tensor) -> str:
    return f"sum {float(x.sum()):.9f} — é"


CASES: dict[str, dict[str, Any]] = {
    "windows and thumbnails": {
        "every_n_train_steps": 1,
        "at_start": True,
        "num_examples": 17,
        "batch_size": 3,
        "windows": {
            "early": {"share": [0, 0.5]},
            "epochs": {"epochs": [1, 3]},
            "steps": {"steps": [2, 6]},
            "bad": {"accuracy": [None, 0.34]},
            "good": {"accuracy": [0.34, None]},
        },
    },
    "texts": {"render_fn": words, "batch_size": 4},
    "noise": {"attribution": SmoothGrad(2), "target": "prediction", "batch_size": 5},
    "files, all channels": {"memory_limit": 0, "channel": "none", "batch_size": 7},
    "a process without work": {"batch_size": 100},
}


def callbacks(*names: str, **options: Any) -> dict[str, VoGCallback]:
    settings = {"on_error": "raise"} | options
    return {name: VoGCallback(**settings | CASES[name], name=name) for name in names or CASES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, Any]:
    """The same callbacks in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (one,) = fit(folder / "one", callbacks())
        first, second = fit(folder / "two", callbacks(), **TWO)
    return folder, one, first, second


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(runs: Any, case: str) -> None:
    _, one, first, second = (run if isinstance(run, Path) else run[case] for run in runs)
    assert len(one["results"]) == (9 if case == "windows and thumbnails" else 4)
    assert_alike(one["results"], first["results"])
    assert_identical(first["results"], second["results"])
    last = one["results"][-1]
    assert last["scores"]["all"].isfinite().all() and (last["shown"]["indices"].numel() > 5)


def test_one_process_equals_the_formula(runs: Any) -> None:
    """So that none of the comparisons is of two runs that stand still."""
    last = runs[1]["windows and thumbnails"]["results"][-1]
    gradients = [[of_label(net(step), *images()[i]) for i in last["indices"].tolist()] for step in range(9)]
    inside = {"all": range(9), "early": range(5), "epochs": range(3, 7), "steps": range(2, 6)}
    for window, steps in inside.items():
        truth = R.vog(np.array([gradients[step] for step in steps]))
        np.testing.assert_allclose(last["scores"][window].numpy(), truth, rtol=1e-9)
        assert min(truth) > 1e-3
    assert min(last["windows"][name]["events"] for name in ("bad", "good")) >= 2


def test_moments_lie_in_process_zero_alone(runs: Any) -> None:
    _, one, first, second = runs
    for case in CASES:
        assert first[case]["patterns"] == one[case]["patterns"] != []
        assert second[case]["patterns"] == []


@pytest.mark.parametrize("before, after", [("two", {}), ("one", TWO)], ids=["two, then one", "one, then two"])
def test_another_number_of_processes_goes_on(runs: Any, before: str, after: Any, tmp_path: Path) -> None:
    folder, one, *_ = runs
    found = fit(tmp_path, callbacks(), checkpoint=folder / before / "step=4.ckpt", **after)
    for process in found:
        for case in CASES:
            assert_alike(one[case]["results"], process[case]["results"])
    assert [process["noise"]["patterns"] != [] for process in found] == [True, False][: len(found)]


def test_the_checkpoint_of_two_processes_is_that_of_one(runs: Any) -> None:
    states = [torch.load(runs[0] / name / "step=4.ckpt")["callbacks"] for name in ("one", "two")]
    keys = [key for key in states[0] if "VoGCallback" in key]
    assert len(keys) == len(CASES)
    for key in keys:
        assert_alike(states[0][key]["memory"], states[1][key]["memory"])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_example_once_although_a_sampler_would_pad(size: int, tmp_path: Path) -> None:
    """Seven examples in two processes: DistributedSampler takes one twice."""
    for found in fit(tmp_path, {"one": VoGCallback(batch_size=size, on_error="raise")}, data=images(7), **TWO):
        last = found["one"]["results"][-1]
        assert last["indices"].tolist() == list(range(7)) and last["num_examples"] == 7
        assert last["labels"].tolist() == images(7).tensors[1].tolist()
        assert last["scores"]["all"].isfinite().all()


# ---- failures ----------------------------------------------------------------------------------------------


class Brittle:
    """Cannot show anything in one process after one step."""

    step = 0

    def __init__(self, steps: tuple[int, ...], rank: int) -> None:
        self.steps, self.rank = steps, rank

    def __call__(self, x: Tensor) -> str:
        if self.step in self.steps and dist.is_initialized() and dist.get_rank() == self.rank:
            raise RuntimeError("broken in one process")
        return words(x)


class Clock(Callback):
    """Tells the function the step, until the epoch's end has been looked at."""

    def __init__(self, brittle: Brittle) -> None:
        self.brittle = brittle

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.brittle.step = trainer.global_step

    def on_train_epoch_start(self, *_: Any) -> None:
        self.brittle.step = 0

    def on_train_end(self, *_: Any) -> None:
        self.brittle.step = 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_render_fn_that_fails_in_one_process(runs: Any, rank: int, tmp_path: Path) -> None:
    """All agree that there is no result; the event counts all the same, and once although it is tried again."""
    brittle = Brittle((4, 8), rank)
    watched = VoGCallback(render_fn=brittle, batch_size=4, on_error="warn", name="texts")
    found = fit(tmp_path, {"texts": watched}, more=(Clock(brittle),), **TWO)
    whole = runs[1]["texts"]["results"]
    for process in found:
        results = process["texts"]["results"]
        assert [result["step"] for result in results] == [2, 6, 8]
        assert_alike(whole[-1], results[-1])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_model_that_fails_in_one_process(rank: int, tmp_path: Path) -> None:
    """An event that none could finish counts for none."""

    class Fails(Moving):
        fails = (4, rank)

    found = fit(tmp_path, callbacks("texts", on_error="warn"), module=Fails(), **TWO)
    gradients = [[of_label(net(step), *images()[i]) for i in range(23)] for step in (2, 6, 8)]
    for process in found:
        results = process["texts"]["results"]
        assert [result["step"] for result in results] == [2, 6, 8]
        assert results[-1]["windows"]["all"]["events"] == 3
        np.testing.assert_allclose(results[-1]["scores"]["all"].numpy(), R.vog(np.array(gradients)), rtol=1e-9)
    assert_identical(found[0]["texts"]["results"], found[1]["texts"]["results"])


def test_a_failure_that_is_to_end_training_does(tmp_path: Path) -> None:
    class Fails(Moving):
        fails = (4, 1)

    with pytest.raises(Exception, match="broken in one process|another process"):
        fit(tmp_path, callbacks("noise"), module=Fails(), **TWO)
