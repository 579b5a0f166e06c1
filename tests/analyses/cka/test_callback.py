"""When CKACallback looks, what it compares with, and that processes and interruptions change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_dynamics import CKACallback
from lightning_dynamics.analyses.cka import CKAResult
from lightning_dynamics.core.lightning import ConfigurationError
from tests.analyses.cka import reference as R
from tests.analyses.cka.trainings import (
    Task,
    Watched,
    assert_same_result,
    callback,
    collected,
    fit,
    mlp,
    trainer,
    vectors,
)
from tests.house.training import Recorder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]
LAYERS = [f"net.{i}" for i in range(5)]


class Outputs(Callback):
    """Copies of all layers' outputs on the probe at the start and after every epoch, by the test's own hooks."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.kept = watched, []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.kept.append(collected(pl_module, self.watched.probe_batches, LAYERS))

    on_train_epoch_end = on_train_start


def spied(tmp_path: Path, watched: Watched, **options: Any) -> tuple[list[CKAResult], list[Any]]:
    """Train; the results, and what the layers put out at the start and after every epoch."""
    outputs = Outputs(watched)
    fit(tmp_path, Task(mlp()), vectors(), watched, outputs, **options)
    return watched.results, outputs.kept


def assert_matrix(matrix: Tensor, truth: np.ndarray) -> None:
    np.testing.assert_allclose(matrix.numpy(), truth, atol=2e-6)


# ---- when --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "events"),
    [
        ({}, [(0, 4), (1, 8), (2, 12)]),
        ({"at_start": True, "every_n_epochs": 2}, [(0, 0), (1, 8), (2, 12)]),
        ({"every_n_epochs": 2, "at_end": False}, [(1, 8)]),
        ({"every_n_epochs": None, "every_n_train_steps": 5}, [(1, 5), (2, 10), (2, 12)]),
        ({"every_n_train_steps": 4}, [(0, 4), (1, 8), (2, 12)]),
    ],
    ids=str,
)
def test_schedule(tmp_path, options, events):
    watched = callback(**options)
    fit(tmp_path, Task(mlp()), vectors(), watched, epochs=3)
    assert [(result.epoch, result.step) for result in watched.results] == events
    assert watched.last_result is watched.results[-1]


def test_every_event_shows_the_network_of_its_moment(tmp_path):
    results, outputs = spied(tmp_path, callback(at_start=True), epochs=3)
    assert len(results) == len(outputs) == 4
    for result, batches in zip(results, outputs, strict=True):
        assert_matrix(result.matrix, R.cka_map(batches))
    assert (results[0].matrix - results[3].matrix).abs().max() > 1e-3


def test_several_of_one_class(tmp_path):
    a, b, c = callback("Linear"), callback("Tanh"), callback("Linear", name="again", kernel="rbf")
    fit(tmp_path, Task(mlp()), vectors(), a, b, c, epochs=1)
    assert [x.label for x in (a, b, c)] == ["cka", "cka-2", "cka/again"]
    assert len({x.state_key for x in (a, b, c)}) == 3
    assert a.last_result.layers_x == c.last_result.layers_x == ["net.0", "net.2", "net.4"]
    assert b.last_result.layers_x == ["net.1", "net.3"]


def test_a_second_fit_goes_on(tmp_path):
    watched, module = callback(compare_to="initialization"), Task(mlp())
    outputs = Outputs(watched)
    run = fit(tmp_path, module, vectors(), watched, outputs, epochs=1)
    run.fit_loop.max_epochs = 2
    run.fit(module, DataLoader(vectors(), batch_size=16))
    assert [(r.epoch, r.step) for r in watched.results] == [(0, 0), (0, 4), (1, 8)]
    # Still against the very first weights.
    assert_matrix(watched.last_result.matrix, R.cka_map(outputs.kept[-1], outputs.kept[0]))


def test_another_model_starts_anew(tmp_path):
    watched = callback(compare_to="initialization")
    fit(tmp_path, Task(mlp()), vectors(), watched, epochs=1)
    outputs = Outputs(watched)
    fit(tmp_path, Task(mlp(seed=5)), vectors(), watched, outputs, epochs=1)
    assert len(watched.results) == 2
    assert_matrix(watched.last_result.matrix, R.cka_map(outputs.kept[-1], outputs.kept[0]))


def test_a_reference_on_other_examples_is_not_compared_with(tmp_path):
    """The second fit has other data: the first fit's reference has nothing to say about it."""
    watched, module = callback(compare_to="initialization", num_examples=1000), Task(mlp())
    run = fit(tmp_path, module, vectors(64), watched, epochs=1)
    run.fit_loop.max_epochs = 2
    with pytest.raises(ConfigurationError, match="other examples"):
        run.fit(module, DataLoader(vectors(48), batch_size=16))


def test_one_event_leaves_no_hooks_behind(tmp_path):
    module = Task(mlp())
    fit(tmp_path, module, vectors(), callback(compare_to=mlp(3), reference_layers="*"), epochs=1)
    assert not any(m._forward_hooks for m in module.modules())


def test_everything_at_once_with_a_logger(tmp_path):
    """The callback as users have it, drawing and all: no complaint, and the numbers reach any logger."""
    recorder = Recorder()
    own = CKACallback(num_examples=40, batch_size=16, on_error="raise")
    change = CKACallback("Linear", "initialization", num_examples=40, batch_size=16, on_error="raise", name="change")
    fit(tmp_path, Task(mlp()), vectors(), own, change, epochs=2, logger=recorder)
    rows = [(step, row) for step, row in recorder.rows if any(key.startswith("cka/") for key in row)]
    by_step = {step: row for step, row in rows if "cka/mean_off_diagonal" in row}
    assert sorted(by_step) == [4, 8]
    off = own.last_result.matrix[~torch.eye(5, dtype=torch.bool)]
    assert by_step[8]["cka/mean_off_diagonal"] == pytest.approx(off.mean().item())
    initial = {step: row for step, row in rows if "cka/change/similarity_to/initialization" in row}
    assert sorted(initial) == [0, 4, 8]
    assert initial[0]["cka/change/similarity_to/initialization"] == pytest.approx(1)
    assert initial[8]["cka/change/similarity_to/initialization"] < 0.9999


# ---- compared with what ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["initialization", "initialisation", "previous"])
def test_former_selves(tmp_path, word):
    results, outputs = spied(tmp_path, callback(compare_to=word), epochs=3)
    assert [r.step for r in results] == [0, 4, 8, 12]
    for i, (result, batches) in enumerate(zip(results, outputs, strict=True)):
        former = outputs[max(0, i - 1) if word == "previous" else 0]
        assert_matrix(result.matrix, R.cka_map(batches, former))
        without = [[[R.without_first(x) for x in batch] for batch in which] for which in (batches, former)]
        assert_matrix(result.matrix_without_first_pc, R.cka_map(*without))
        assert result.layers_x == result.layers_y == LAYERS
        assert np.isnan(result.block_score) and result.blocks == []
    assert not torch.allclose(results[-1].matrix, results[-1].matrix.T, atol=1e-4)  # rows are now, columns then
    label = "previous event" if word == "previous" else "initialization"
    assert results[-1].compared_to == label and list(results[-1].matrices) == [label]


def saved(folder: Path, *seeds: int, name: str = "{seed}.ckpt") -> list[Path]:
    """Checkpoints of networks trained from these seeds."""
    paths = []
    for seed in seeds:
        run = fit(folder, Task(mlp(seed)), vectors(), epochs=1)
        paths.append(folder / name.format(seed=seed))
        run.save_checkpoint(paths[-1])
    return paths


def other_outputs(watched: Watched, checkpoint: Path) -> list[list[Tensor]]:
    other = Task(mlp())
    other.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    return collected(other, watched.probe_batches, LAYERS)


@pytest.mark.parametrize("kind", [str, Path])
def test_one_checkpoint(tmp_path, kind):
    (path,) = saved(tmp_path, 3)
    watched = callback(compare_to=kind(path))
    results, outputs = spied(tmp_path, watched)
    for result, batches in zip(results, outputs[1:], strict=True):
        assert_matrix(result.matrix, R.cka_map(batches, other_outputs(watched, path)))
    assert results[-1].compared_to == "3" and list(results[-1].matrices) == ["3"]


def test_several_checkpoints(tmp_path):
    paths = saved(tmp_path, 3, 4)
    watched = callback(compare_to=[str(path) for path in paths])
    results, outputs = spied(tmp_path, watched)
    truths = [R.cka_map(outputs[-1], other_outputs(watched, path)) for path in paths]
    assert list(results[-1].matrices) == ["3", "4"]
    for matrix, truth in zip(results[-1].matrices.values(), truths, strict=True):
        assert_matrix(matrix, truth)
    assert_matrix(results[-1].matrix, np.mean(truths, axis=0))


def test_checkpoints_of_one_file_name(tmp_path):
    """As Lightning leaves them: version_0/last.ckpt, version_1/last.ckpt."""
    paths = saved(tmp_path, 3, 4, name="version_{seed}/last.ckpt")
    watched = callback(compare_to=paths)
    results, outputs = spied(tmp_path, watched, epochs=1)
    truths = [R.cka_map(outputs[-1], other_outputs(watched, path)) for path in paths]
    assert list(results[-1].matrices) == ["version_3/last", "version_4/last"]
    for matrix, truth in zip(results[-1].matrices.values(), truths, strict=True):
        assert_matrix(matrix, truth)


def test_a_checkpoint_of_the_same_weights_is_the_network_itself(tmp_path):
    (path,) = saved(tmp_path, 0)
    watched, itself = callback(compare_to=path), callback()
    fit(tmp_path, Task(mlp(0)), vectors(), watched, itself, epochs=1)
    # Against its own last epoch: saved() trained the same way.
    torch.testing.assert_close(watched.last_result.matrix, itself.last_result.matrix, atol=1e-12, rtol=0)


def test_training_mode_compares_like_with_like(tmp_path):
    """Dropout draws the same masks in a reference as in the network: equal weights are equal."""

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 5), nn.Dropout(0.5))

    start = trainer(tmp_path, epochs=0)
    start.fit(module := Task(net()), DataLoader(vectors(), batch_size=16))
    start.save_checkpoint(tmp_path / "start.ckpt")
    watched = callback("net.*", compare_to=tmp_path / "start.ckpt", mode="train", at_start=True)
    fit(tmp_path, module, vectors(), watched, epochs=1)
    assert watched.results[0].step == 0
    torch.testing.assert_close(watched.results[0].matrix.diagonal(), torch.ones(4, dtype=torch.float64))


class Wider(Task):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(6, 50), nn.Linear(50, 3)))


def test_a_checkpoint_that_does_not_fit(tmp_path):
    run = fit(tmp_path, Wider(), vectors(), epochs=1)
    run.save_checkpoint(path := tmp_path / "wider.ckpt")
    with pytest.raises(ConfigurationError, match="(?s)`compare_to=.*wider.ckpt.*does not fit Task.*net.0.weight"):
        fit(tmp_path, Task(mlp()), vectors(), callback(compare_to=path, on_error="raise"))


@pytest.mark.parametrize("content", ["text", "weights"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "file.ckpt"
    if content == "text":
        path.write_text("no checkpoint")
    else:
        torch.save({"net.0.weight": torch.zeros(3)}, path)
    with pytest.raises(ConfigurationError, match="`compare_to=.*file.ckpt.*no Lightning checkpoint"):
        fit(tmp_path, Task(mlp()), vectors(), callback(compare_to=path, on_error="raise"))


def test_a_checkpoint_removed_before_training(tmp_path):
    (path,) = saved(tmp_path, 3)
    watched = callback(compare_to=path)
    path.unlink()
    with pytest.raises(ConfigurationError, match="compare_to"):
        fit(tmp_path, Task(mlp()), vectors(), watched)


class Teacher(nn.Module):
    """Another architecture with other names, in training mode, partly frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.embed = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.3)
        self.top = nn.Linear(16, 4)
        self.embed.requires_grad_(False)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.drop(self.norm(self.embed(x)).relu()))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_another_architecture(tmp_path, mode):
    teacher = Teacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    flags = [(m.training, m._forward_hooks.copy()) for m in teacher.modules()]
    grads = [p.requires_grad for p in teacher.parameters()]
    watched = callback("Linear", compare_to=teacher, reference_layers=["embed", "top"], mode=mode)
    module = Task(mlp())
    fit(tmp_path, module, vectors(), watched, epochs=1)
    result = watched.last_result
    assert result.layers_x == ["net.0", "net.2", "net.4"] and result.layers_y == ["embed", "top"]
    assert result.matrix.shape == result.matrix_without_first_pc.shape == result.first_pc_cosine.shape == (3, 2)
    assert result.first_pc_variance.shape == (3,) and result.compared_to == "Teacher"
    if mode == "eval":
        xs = collected(module, watched.probe_batches, result.layers_x)
        ys = collected(teacher.eval(), watched.probe_batches, result.layers_y)
        assert_matrix(result.matrix, R.cka_map(xs, ys))
    else:
        assert flags == [(m.training, m._forward_hooks) for m in teacher.modules()]
    assert grads == [p.requires_grad for p in teacher.parameters()]
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_another_module_with_the_same_layer_names(tmp_path):
    other = Task(mlp(4))
    watched = callback(compare_to=other)
    results, outputs = spied(tmp_path, watched, epochs=1)
    assert_matrix(results[-1].matrix, R.cka_map(outputs[-1], collected(other, watched.probe_batches, LAYERS)))


# ---- several processes -------------------------------------------------------------------------------------


class Save(Callback):
    """What each process found, for the test to read."""

    def __init__(self, folder: Path, watched: list[CKACallback]) -> None:
        self.folder, self.watched = folder, watched

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        states = [[result.to_state() for result in each.results] for each in self.watched]
        torch.save(states, self.folder / f"{trainer.global_rank}.pt")


DDP_CASES: dict[str, dict[str, Any]] = {
    "itself": {},
    "initialization": {"compare_to": "initialization"},
    "previous": {"compare_to": "previous"},
    "one minibatch": {"num_examples": 16, "compare_to": "initialization"},
    "dropout": {"mode": "train"},
}


def ddp_callbacks(checkpoint: Path, precision: str) -> list[Watched]:
    other = mlp(9).double() if precision == "64-true" else mlp(9)
    cases = DDP_CASES | {
        "checkpoint": {"compare_to": checkpoint},
        "another module": {"compare_to": other, "components": False},
    }
    return [callback(name=name, **options) for name, options in cases.items()]


class InEveryProcess(Task):
    """Full batches in every process, so that the weights do not depend on how many there are."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.2), nn.Linear(9, 7), nn.Tanh()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = vectors().tensors[0].to(batch[0].dtype)
        return self.net[2](self.net[0](x)).square().mean()


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_two_processes_equal_one(tmp_path, precision):
    """To 1e-10: one thread everywhere, so float32 products are the same bits, and the sums are float64.

    The gradients are the same in every process and their mean exact, so the weights are the same bits too.
    """
    start = trainer(tmp_path, epochs=0)
    start.fit(InEveryProcess(), DataLoader(vectors(), batch_size=16))
    start.save_checkpoint(tmp_path / "start.ckpt")
    found: dict[str, list[Any]] = {}
    for name, options in {
        "one": {},
        "two": {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        callbacks = ddp_callbacks(tmp_path / "start.ckpt", precision)
        fit(
            folder,
            InEveryProcess(),
            vectors(),
            *callbacks,
            Save(folder, callbacks),  # type: ignore[arg-type]
            epochs=2,
            precision=precision,
            **options,
        )
        found[name] = [torch.load(path) for path in sorted(folder.glob("*.pt"))]
    assert len(found["one"]) == 1 and len(found["two"]) == 2
    for states in found["two"]:
        for ours, theirs in zip(states, found["one"][0], strict=True):
            assert len(ours) == len(theirs) >= 2
            for a, b in zip(ours, theirs, strict=True):
                assert_same_result(CKAResult.from_state(a), CKAResult.from_state(b), tolerance=1e-10)


# ---- interrupted training ----------------------------------------------------------------------------------


RESUMED: dict[str, dict[str, Any]] = {
    "itself": {"at_start": True},
    "initialization": {"compare_to": "initialization"},
    "previous": {"compare_to": "previous", "every_n_train_steps": 3},
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty.*")
def test_resumed_equals_uninterrupted(tmp_path):
    def callbacks() -> list[Watched]:
        return [callback(name=name, **options) for name, options in RESUMED.items()]

    whole, first, second = callbacks(), callbacks(), callbacks()
    fit(tmp_path, Task(mlp()), vectors(), *whole, epochs=4)

    first_checkpoint = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=1, save_top_k=-1)
    fit(tmp_path, Task(mlp()), vectors(), *first, first_checkpoint, epochs=4, enable_checkpointing=True)
    again = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=1, save_top_k=-1)
    run = trainer(tmp_path, *second, again, epochs=4, enable_checkpointing=True)
    run.fit(Task(mlp(seed=77)), DataLoader(vectors(), batch_size=16), ckpt_path=tmp_path / "epoch=1.ckpt")

    for a, b in zip(whole, second, strict=True):
        assert len(a.results) == len(b.results) >= 4
        for x, y in zip(a.results, b.results, strict=True):
            assert_same_result(x, y)


def test_the_checkpoint_holds_plain_values(tmp_path):
    watched = callback(compare_to="initialization")
    run = fit(tmp_path, Task(mlp()), vectors(), watched, epochs=1)
    run.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"][watched.state_key]
    assert list(state["memory"]["reference"]["batches"]) == [0, 1, 2]


def test_a_result_survives_a_file(tmp_path):
    watched = callback(compare_to=Teacher(), reference_layers="*", layers="Linear")
    fit(tmp_path, Task(mlp()), vectors(), watched, epochs=1)
    watched.last_result.save(tmp_path / "result.npz")
    assert_same_result(CKAResult.load(tmp_path / "result.npz"), watched.last_result)


def test_lightning_modules_of_both_packages(tmp_path):
    import pytorch_lightning

    class Twin(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        forward, training_step = Task.forward, Task.training_step
        configure_optimizers = Task.configure_optimizers

    ours, theirs = callback(), callback()
    fit(tmp_path, Task(mlp()), vectors(), ours, epochs=1)
    torch.manual_seed(0)
    run = trainer(tmp_path, theirs, package=pytorch_lightning, epochs=1)
    run.fit(Twin(), DataLoader(vectors(), batch_size=16))
    assert_same_result(ours.last_result, theirs.last_result)
    assert isinstance(Task(mlp()), lightning.LightningModule)
