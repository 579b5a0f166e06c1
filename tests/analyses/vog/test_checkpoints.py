"""Checkpoints afterwards say what the callback said at the time; the module comes back as it was."""

from __future__ import annotations

import math
import random
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_dynamics import VoGCallback
from lightning_dynamics.analyses.vog import IntegratedGradients, SmoothGrad, VoGResult, checkpoints, score_checkpoints
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Probe
from tests.analyses.vog import reference as R
from tests.analyses.vog.test_online import Net, Task, fit, images
from tests.house.training import assert_identical

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*has no score with fewer than two.*"),
]

EXAMPLES = {"num_examples": 17, "batch_size": 5}
WINDOWS: dict[str, Any] = {
    "early": {"share": [0, 0.5]},
    "epochs": {"epochs": [1, 4]},
    "steps": {"steps": [9, None]},
    "bad": {"accuracy": [None, 0.75]},
    "good": {"accuracy": [0.75, None]},
}
KINDS: dict[str, dict[str, Any]] = {
    "label": {"windows": WINDOWS},
    "prediction": {"target": "prediction", "windows": {"two": {"epochs": [1, 3]}}},
    "default windows, variance, ddof": {"variant": "variance", "ddof": 1},
    "all channels": {"channel": "none", "variant": "literal"},
    "smoothgrad": {"attribution": SmoothGrad(3)},
    "integrated gradients": {"attribution": IntegratedGradients(3), "target": "prediction"},
    "a layer": {"with_respect_to": "net.conv", "channels_last": True},
    "another seed": {"seed": 5, "attribution": SmoothGrad(2)},
}


@dataclass
class Trained:
    """A training with a callback of each kind, and a checkpoint of each epoch."""

    folder: Path
    online: dict[str, VoGResult]
    paths: list[Path]
    module: Task


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    keeper = ModelCheckpoint(
        dirpath=folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True, save_weights_only=True
    )
    watched = {kind: VoGCallback(**EXAMPLES | options, on_error="raise", name=kind) for kind, options in KINDS.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        run = fit(folder, list(watched.values()), more=[keeper], enable_checkpointing=True, max_epochs=6)
    paths = sorted(folder.glob("*.ckpt"))
    assert len(paths) == 6
    return Trained(folder, {kind: one.last_result for kind, one in watched.items()}, paths, run.lightning_module)


def score(trained: Trained, paths: Any = None, module: Any = None, data: Any = None, **options: Any) -> VoGResult:
    return score_checkpoints(
        trained.module if module is None else module,
        trained.paths if paths is None else paths,
        images() if data is None else data,
        **EXAMPLES | {"show_progress": False} | options,
    )


def assert_same(found: VoGResult, truth: VoGResult) -> None:
    """Bit for bit, but for the name of the data."""
    assert_identical(found.to_state() | {"data": ""}, truth.to_state() | {"data": ""})


# ---- online and afterwards ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_say_what_the_callback_said(trained: Trained, kind: str) -> None:
    online = trained.online[kind]
    found = score(trained, **KINDS[kind])
    assert online.windows["all"] == {"events": 6, "first_step": 4, "last_step": 24}
    assert_same(found, online)
    assert found.data == "TensorDataset"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 2500], ids=["a minibatch", "some minibatches"])
def test_groups_of_any_size(trained: Trained, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise, thumbnails and windows by accuracy are those of all examples together."""
    sizes = sizes_of_groups(monkeypatch)
    found = score(trained, memory_limit=limit, **KINDS[kind])
    assert_same(found, trained.online[kind])
    assert len(sizes) > 1, "there was one group"


def sizes_of_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled while checkpoints are scored."""
    sizes: list[int] = []
    real = checkpoints._Scorer._groups

    def spied(self: Any, *args: Any) -> Any:
        groups = real(self, *args)
        sizes.extend(len(group) for group in groups)
        return groups

    monkeypatch.setattr(checkpoints._Scorer, "_groups", spied)
    return sizes


def test_windows_by_accuracy_hold_what_they_should(trained: Trained) -> None:
    windows = trained.online["label"].windows
    assert windows["bad"]["events"] >= 2 and windows["good"]["events"] >= 2
    assert windows["bad"]["events"] + windows["good"]["events"] == 6


def test_checkpoints_with_all_of_a_training_s_state(trained: Trained, tmp_path: Path) -> None:
    """As most are: with optimizers, loops and callbacks."""
    keeper = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, save_on_train_epoch_end=True)
    watched = VoGCallback(**EXAMPLES, on_error="raise")
    run = fit(tmp_path, [watched], more=[keeper], enable_checkpointing=True, max_epochs=3)
    assert_same(score(trained, list(tmp_path.glob("*.ckpt")), run.lightning_module), watched.last_result)


def test_checkpoints_in_any_order(trained: Trained) -> None:
    paths = [str(trained.paths[i]) for i in (3, 0, 5, 1, 4, 2)]
    assert_same(score(trained, paths, windows=WINDOWS), trained.online["label"])


def test_some_of_the_checkpoints(trained: Trained) -> None:
    """A share is one of the last checkpoint's step."""
    found = score(trained, trained.paths[:3])
    assert (found.epoch, found.step) == (2, 12)
    assert [found.windows[w]["events"] for w in ("all", "early", "late")] == [3, 1, 2]
    assert found.scores["all"].isfinite().all() and found.scores["early"].isnan().all()


def test_a_data_loader_gives_its_data_and_how_to_collate_it(trained: Trained) -> None:
    def collate(examples: Any) -> Any:
        return [
            torch.stack([x for x, _ in examples]),
            torch.stack([y for _, y in examples]),
            ["a name"] * len(examples),
        ]

    loader = DataLoader(images(), 3, shuffle=True, collate_fn=collate)
    assert_same(score(trained, data=loader, windows=WINDOWS), trained.online["label"])


def named(examples: Any) -> Any:
    return {"x": torch.stack([x for x, _ in examples]), "label": torch.stack([y for _, y in examples])}


def test_batches_that_training_step_cannot_take(trained: Trained) -> None:
    """Names are no evidence of what is a label; `predict_fn` says it."""
    loader = DataLoader(images(), 3, collate_fn=named)
    told = "the loss of Task could not be computed on these examples.*KeyError.*pass `predict_fn=lambda module, batch"
    refused(trained, told, data=loader)
    predict_fn = lambda module, batch: (module(batch["x"]), batch["label"])  # noqa: E731
    found = score(trained, data=loader, predict_fn=predict_fn, windows=WINDOWS)
    assert_same(found, trained.online["label"])


def test_a_collate_function_that_sorts(trained: Trained) -> None:
    def collate(examples: Any) -> Any:
        ordered = sorted(examples, key=lambda example: -float(example[0].sum()))
        return torch.stack([x for x, _ in ordered]), torch.stack([y for _, y in ordered])

    loader = DataLoader(images(), 3, collate_fn=collate)
    for limit in (1, 2**28):
        found = score(trained, data=loader, windows=WINDOWS, memory_limit=limit)
        assert torch.equal(found.labels, trained.online["label"].labels)
        for window, scores in trained.online["label"].scores.items():
            torch.testing.assert_close(found.scores[window], scores, rtol=1e-9, atol=1e-12)
        final = {"target": "final_prediction", "memory_limit": limit}
        found, truth = score(trained, data=loader, **final), score(trained, **final)
        assert torch.equal(found.predictions, truth.predictions)
        torch.testing.assert_close(found.scores["all"], truth.scores["all"], rtol=1e-9, atol=1e-12)


def test_a_collate_function_that_leaves_examples_out(trained: Trained) -> None:
    def collate(examples: Any) -> Any:
        return torch.utils.data.default_collate([example for example in examples if example[0].sum() > 0])

    refused(
        trained,
        "the collate function leaves out . of 5, .*`data=DataLoader",
        data=DataLoader(images(), 3, collate_fn=collate),
    )


def test_all_examples_by_default(trained: Trained) -> None:
    found = score(trained, num_examples=None)
    assert found.indices.tolist() == list(range(22))


def gradients_by_hand(trained: Trained, choose: Any) -> list[list[Any]]:
    """``[checkpoint][example]`` of the logit of the class that ``choose(example, logits)`` names."""
    found = []
    for path in trained.paths:
        module = Task(Net())
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        module.eval()
        rows = []
        for i in range(22):
            x = images()[i][0][None].requires_grad_()
            logits = module(x)[0]
            rows.append(torch.autograd.grad(logits[choose(i, logits)], x)[0][0].numpy())
        found.append(rows)
    return found


def test_the_final_prediction(trained: Trained) -> None:
    final: dict[int, int] = {}
    last = Task(Net())
    last.load_state_dict(torch.load(trained.paths[-1], weights_only=True)["state_dict"])
    last.eval()
    for i in range(22):
        final[i] = int(last(images()[i][0][None]).argmax())
    truth = R.vog(np.array(gradients_by_hand(trained, lambda i, logits: final[i])))
    for limit in (1, 2**28):
        found = score(trained, target="final_prediction", num_examples=None, memory_limit=limit)
        np.testing.assert_allclose(found.scores["all"].numpy(), truth, rtol=1e-9)
    assert found.predictions.tolist() == list(final.values())
    other = score(trained, target="label", num_examples=None)
    assert not torch.allclose(found.scores["all"], other.scores["all"]), "the target changed nothing"


def test_final_prediction_with_points_around_the_examples(trained: Trained) -> None:
    """The classes are those predicted for the examples at the last checkpoint, not for noisy copies."""
    options = {"target": "final_prediction", "attribution": SmoothGrad(2)}
    whole = score(trained, **options)
    assert_same(score(trained, memory_limit=1, **options), whole)
    assert whole.settings["target"] == "final_prediction"
    # With the labels overwritten by the final predictions, "label" means the same.
    x, y = images().tensors
    y[whole.indices] = whole.predictions
    relabelled = torch.utils.data.TensorDataset(x, y)
    label = score(trained, data=relabelled, **options | {"target": "label"})
    assert_identical(label.scores, whole.scores)


def broken_logits(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """NaN for examples that are predicted to be of class 0: wrong, whatever ``argmax`` makes of it."""
    logits = module(batch[0])
    nan = torch.where(logits.argmax(1, keepdim=True) == 0, float("nan"), 0.0)
    return logits + nan, batch[1]


def test_logits_that_are_nan_are_wrong_in_groups_too(trained: Trained) -> None:
    options = {"predict_fn": broken_logits, "windows": {"good": {"accuracy": [0.5, None]}}}
    whole = score(trained, **options)
    assert 0 < whole.windows["good"]["events"] < 6, "the threshold tests nothing"
    assert score(trained, memory_limit=1, **options).windows == whole.windows


def test_the_data_of_earlier_groups_are_let_go(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing grows with the data set."""
    held: list[Any] = []
    most = 0
    real = Probe._read

    def spied(self: Probe, number: int) -> Any:
        nonlocal most
        kept = real(self, number)
        held.append(weakref.ref(kept))
        most = max(most, sum(one() is not None for one in held))
        return kept

    monkeypatch.setattr(Probe, "_read", spied)
    monkeypatch.setattr(checkpoints, "renderings", lambda *_: {})  # which look at a few examples of many
    score(trained, memory_limit=1, batch_size=2, windows=WINDOWS)
    assert len(held) > 9 and most <= 3, f"{most} of 9 minibatches were kept"


# ---- the module --------------------------------------------------------------------------------------------


class Troubled(lightning.LightningModule):
    """Everything that a pass can change."""

    passes: Iterator[int] = count(1)
    fails_from = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.seen: list[int] = []
        self.net.norm.eval()  # as its author wants it
        self.net.conv.weight.requires_grad_(False)
        for number, parameter in enumerate(self.net.parameters()):
            parameter.grad = torch.full_like(parameter, number) if number % 2 else None

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if next(Troubled.passes) >= self.fails_from:
            raise RuntimeError("broken on the way")
        return self.net(x) + 0 * torch.rand(()).item() + 0 * np.random.rand() + 0 * random.random()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def state(module: Troubled) -> dict[str, Any]:
    tensors = module.state_dict()
    return {
        "weights and buffers": {name: value.clone() for name, value in tensors.items()},
        "where they are": {name: value.data_ptr() for name, value in tensors.items()},
        "flags": [one.training for one in module.modules()],
        "requires_grad": [one.requires_grad for one in module.parameters()],
        "grad": [None if one.grad is None else one.grad.clone() for one in module.parameters()],
        "which grad": [id(one.grad) for one in module.parameters() if one.grad is not None],
        "attributes": list(module.seen),
        "hooks": [len(one._forward_hooks) for one in module.modules()],
        "torch": torch.get_rng_state(),
        "numpy": [np.asarray(part) for part in np.random.get_state()],
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
    }


OUTCOMES = {
    "success": {},
    "groups": {"memory_limit": 1, "target": "final_prediction", "windows": WINDOWS},
    "a layer": {"with_respect_to": "net.conv", "attribution": SmoothGrad(2)},
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("training", [True, False])
def test_the_module_comes_back(trained: Trained, outcome: str, training: bool) -> None:
    module = Troubled().train(training)
    module.net.norm.eval()
    before = state(module)
    score(trained, module=module, **OUTCOMES[outcome])
    assert_identical(state(module), before)


def passes_of(trained: Trained) -> int:
    Troubled.passes = count(1)
    score(trained, module=Troubled(), **OUTCOMES["groups"])
    return next(Troubled.passes) - 1


@pytest.mark.parametrize("share", [0, 0.05, 0.6, 0.99])
def test_the_module_comes_back_from_a_failure(trained: Trained, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of experiments, and of the passes after them; it says what failed."""
    first = 1 + int(share * passes_of(trained))
    Troubled.passes = count(1)
    monkeypatch.setattr(Troubled, "fails_from", first)
    module = Troubled()
    before = state(module)
    with pytest.raises((RuntimeError, ConfigurationError), match="broken on the way"):
        score(trained, module=module, **OUTCOMES["groups"])
    assert_identical(state(module), before)


def test_the_module_comes_back_from_a_checkpoint_of_another(trained: Trained, tmp_path: Path) -> None:
    checkpoint = torch.load(trained.paths[1], weights_only=True)
    head = checkpoint["state_dict"].pop("net.head.weight")
    torch.save(checkpoint | {"global_step": 5}, tmp_path / "less.ckpt")
    checkpoint["state_dict"]["net.head.weight"] = head[:, :-1]
    torch.save(checkpoint | {"global_step": 6}, tmp_path / "narrow.ckpt")
    module = Troubled()
    before = state(module)
    for name, told in (("less.ckpt", "Missing key.*net.head.weight"), ("narrow.ckpt", "size mismatch")):
        with pytest.raises(ConfigurationError, match=rf"(?s)checkpoints.*{name}.*does not fit Troubled.*{told}"):
            score(trained, [trained.paths[0], tmp_path / name, trained.paths[2]], module=module)
        assert_identical(state(module), before)


# ---- complaints --------------------------------------------------------------------------------------------


def refused(trained: Trained, told: str, paths: Any = None, **options: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?s){told}"):
        score(trained, paths, **options)


def test_one_checkpoint(trained: Trained) -> None:
    refused(trained, "`checkpoints`.*two or more, got 1.*save_top_k", trained.paths[:1])
    refused(trained, "`checkpoints`.*two or more, got 0", [])


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_for_a_list(trained: Trained, kind: Any) -> None:
    refused(trained, "`checkpoints` must be a list.*got 1", kind(trained.paths[0]))


def test_two_of_one_step(trained: Trained, tmp_path: Path) -> None:
    copied = tmp_path / "copy.ckpt"
    copied.write_bytes(trained.paths[1].read_bytes())
    refused(trained, "both of step 8: leave one out", [trained.paths[0], copied, *trained.paths[1:]])


def test_what_is_no_checkpoint(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save(Net().state_dict(), tmp_path / "weights.ckpt")
    torch.save({"state_dict": Net().state_dict()}, tmp_path / "nowhen.ckpt")
    for name in ("text", "weights", "missing"):
        refused(
            trained,
            f"`checkpoints=.*{name}.ckpt.*no Lightning checkpoint",
            [trained.paths[0], tmp_path / f"{name}.ckpt"],
        )
    refused(trained, "nowhen.ckpt.*does not say its epoch and step", [trained.paths[0], tmp_path / "nowhen.ckpt"])


def test_windows_with_too_few_checkpoints(trained: Trained) -> None:
    refused(trained, r"`windows\['late'\]` \(epochs from 5\) holds 1 of 6", windows={"late": {"epochs": [5, None]}})
    refused(trained, "holds 0 of 6", windows={"late": {"steps": [25, None]}})
    refused(trained, "larger", windows={"late": {"steps": [5, 1]}})


@pytest.mark.parametrize("word", ["train", "val"])
def test_words_for_data(trained: Trained, word: str) -> None:
    refused(trained, f"`data='{word}'`: there is no Trainer here", data=word)


BAD = {
    "target": {"target": "truth"},
    "variant": {"variant": "std"},
    "channel": {"channel": "max"},
    "ddof": {"ddof": 3},
    "attribution": {"attribution": "lrp"},
    "attribution=SmoothGrad": {"attribution": SmoothGrad(samples=0)},
    "with_respect_to": {"with_respect_to": "no_such_layer"},
    "predict_fn": {"predict_fn": "nowhere.nothing"},
    "render_fn": {"render_fn": "nowhere.nothing"},
}


@pytest.mark.parametrize("argument", BAD)
def test_arguments_as_of_the_callback(trained: Trained, argument: str) -> None:
    refused(trained, f"`{argument}", **BAD[argument])


def test_a_step_after_the_last_epoch(trained: Trained) -> None:
    """Epochs and steps are those of the checkpoint, so that windows mean what they meant in training."""
    told = score(trained, windows={"two": {"epochs": [4, None]}}).windows["two"]
    assert told == {"events": 2, "first_step": 20, "last_step": 24}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_plain_module(trained: Trained) -> None:
    """It has no loss, which would tell what the labels are; `predict_fn` does."""
    predict_fn = lambda module, batch: (module(batch[0]), batch[1])  # noqa: E731
    assert_same(score(trained, module=Plain(), windows=WINDOWS, predict_fn=predict_fn), trained.online["label"])
    refused(
        trained,
        "the loss of Plain could not be computed.*pass `predict_fn=lambda module, batch: .module.batch.0.., batch.1..`",
        module=Plain(),
    )


def test_predictions_of_a_plain_module_need_no_labels(trained: Trained) -> None:
    found = score(trained, module=Plain(), target="prediction", windows=KINDS["prediction"]["windows"])
    truth = trained.online["prediction"]
    assert torch.equal(found.predictions, truth.predictions)
    assert_identical(found.scores, truth.scores)
