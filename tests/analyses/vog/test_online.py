"""What the callback finds is what gradients taken one example at a time say, whatever the training around it."""

from __future__ import annotations

import copy
import math
import os
import tempfile
import warnings
from collections.abc import Callable as Function
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from lightning_dynamics import VoGCallback
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.core.lightning import ConfigurationError
from tests.analyses.vog import reference as R
from tests.house.training import assert_identical, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*has no score with fewer than two.*"),
]

CLASSES = 3
Numbers = np.ndarray[Any, Any]

# ---- training ----------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Batch statistics and dropout, which are nothing in evaluation mode."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm = nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.4), nn.Linear(36, outputs)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.norm(self.conv(x))).flatten(1)))


def cross_entropy(net: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


class Task(lightning.LightningModule):
    """Trains a network so fast that labels are learned and forgotten."""

    def __init__(self, net: nn.Module, loss: Function[[nn.Module, Any], Tensor] = cross_entropy, lr: float = 0.3):
        super().__init__()
        self.net, self.loss, self.lr = net, loss, lr

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Validated(Task):
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


def images(count: int = 22, seed: int = 2) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(0, CLASSES, (count,), generator=generator))


# ---- the same, independently: one example after the other --------------------------------------------------


def of_label(net: nn.Module, example: Any) -> tuple[Tensor, Tensor]:
    """Gradient of the label's logit by the input, and the logits, of one example alone."""
    x, y = example
    x = x[None].clone().requires_grad_()
    logits = net(x)[0]
    (gradient,) = torch.autograd.grad(logits[int(y)], x)
    return gradient[0], logits


class Spy(Callback):
    """Gradients and logits of every example of a data set at every step, from a copy of the network."""

    def __init__(self, dataset: Any, look: Any = of_label) -> None:
        self.dataset, self.look = dataset, look
        self.gradients: dict[int, list[Numbers]] = {}
        self.logits: dict[int, list[Numbers]] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._look(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: Any, pl_module: Any) -> None:
        net = copy.deepcopy(pl_module.net).eval()
        seen = [self.look(net, self.dataset[i]) for i in range(len(self.dataset))]
        self.gradients[trainer.global_step] = [gradient.numpy() for gradient, _ in seen]
        self.logits[trainer.global_step] = [logits.detach().numpy() for _, logits in seen]

    def vog(self, result: VoGResult, steps: Sequence[int], **options: Any) -> Numbers:
        rows = result.indices.tolist()
        return R.vog(np.array([[self.gradients[step][i] for i in rows] for step in steps]), **options)

    def outputs(self, result: VoGResult, steps: Sequence[int]) -> Numbers:
        return np.array([[self.logits[step][i] for i in result.indices.tolist()] for step in steps])


def same(found: Tensor, truth: Numbers) -> None:
    np.testing.assert_allclose(found.numpy(), truth, rtol=1e-9, atol=1e-12)
    assert np.isfinite(truth).any()


def fit(
    folder: Path,
    watched: Sequence[VoGCallback],
    data: Any = None,
    *,
    net: nn.Module | None = None,
    spy: Spy | None = None,
    more: Sequence[Callback] = (),
    loss: Any = cross_entropy,
    val: Any = None,
    **options: Any,
) -> Any:
    """Shuffled, six examples at a time."""
    torch.manual_seed(0)
    data = images() if data is None else data
    loader = data if isinstance(data, DataLoader) else DataLoader(data, 6, shuffle=True)
    run = trainer(folder, [*watched, *([spy] if spy else []), *more], **{"max_epochs": 4} | options)
    run.fit((Validated if val else Task)(Net() if net is None else net, loss), loader, val)
    return run


# ---- every window of one training --------------------------------------------------------------------------

WINDOWS: dict[str, dict[str, list[float | None]]] = {
    "early": {"share": [0, 0.5]},
    "late": {"share": [0.5, None]},
    "middle": {"share": [0.2, 0.8]},
    "two epochs": {"epochs": [1, 3]},
    "steps": {"steps": [3, 11]},
    "bad": {"accuracy": [None, 0.75]},
    "good": {"accuracy": [0.75, None]},
}
STEPS = [0, 2, 4, 6, 8, 10, 12, 14, 16]
TABLE = {
    "all": STEPS,
    "early": [0, 2, 4, 6, 8],
    "late": [10, 12, 14, 16],
    "middle": [s for s in STEPS if 0.2 <= max(0, s - 1) / 16 < 0.8],
    "two epochs": [6, 8, 10, 12],
    "steps": [4, 6, 8, 10],
}


@dataclass
class Trained:
    """One training, watched in several ways."""

    spy: Spy
    plain: VoGCallback
    others: list[VoGCallback] = field(default_factory=list)

    def steps(self, window: str) -> list[int]:
        """Of the events in a window, counted by hand."""
        if window in TABLE:
            return TABLE[window]
        result = self.plain.last_result
        labels = [int(self.spy.dataset[i][1]) for i in result.indices.tolist()]
        right = self.spy.outputs(result, STEPS).argmax(-1) == np.array(labels)
        good = [step for step, share in zip(STEPS, right.mean(1), strict=True) if share >= 0.75]
        return good if window == "good" else [step for step in STEPS if step not in good]


COMMON: dict[str, Any] = {"num_examples": 17, "batch_size": 5, "windows": WINDOWS, "on_error": "raise"}
COMMON |= {"every_n_train_steps": 2, "at_start": True}
OTHERS: list[dict[str, Any]] = [
    {"variant": "variance"},
    {"variant": "literal", "channel": "none"},
    {"ddof": 1},
    {"channel": "none", "channels_last": True},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    found = Trained(Spy(images()), VoGCallback(**COMMON), [VoGCallback(**COMMON | other) for other in OTHERS])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        fit(tmp_path_factory.mktemp("trained"), [found.plain, *found.others], spy=found.spy)
    return found


@pytest.mark.parametrize("window", ["all", *WINDOWS])
def test_the_score_of_every_window(trained: Trained, window: str) -> None:
    result, steps = trained.plain.last_result, trained.steps(window)
    assert len(steps) >= 2, "the window tests nothing"
    assert result.windows[window] == {"events": len(steps), "first_step": steps[0], "last_step": steps[-1]}
    same(result.scores[window], trained.spy.vog(result, steps))
    same(result.class_normalized[window], R.normalized(trained.spy.vog(result, steps), result.labels.tolist()))
    outputs = trained.spy.outputs(result, steps)
    assert result.window_predictions[window].tolist() == outputs[-1].argmax(1).tolist()
    for name, truth in R.dynamics(outputs, result.labels.tolist()).items():
        if name != "forgetting":
            same(result.dynamics[window][name], truth)


def test_one_event_is_no_score_and_yet_all_else(tmp_path: Path) -> None:
    watched, spy = simple(), Spy(images())
    fit(tmp_path, [watched], spy=spy, max_epochs=2)
    result = watched.last_result
    for window, step in (("early", 4), ("late", 8)):
        assert result.windows[window]["events"] == 1
        assert result.scores[window].isnan().all() and result.class_normalized[window].isnan().all()
        same(result.dynamics[window]["aum"], R.dynamics(spy.outputs(result, [step]), result.labels.tolist())["aum"])
        assert result.dynamics[window]["variability"].isnan().all()
    same(result.scores["all"], spy.vog(result, [4, 8]))


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_every_variant(trained: Trained, number: int) -> None:
    result = trained.others[number].last_result
    formula = {name: value for name, value in OTHERS[number].items() if name != "channels_last"}
    for window in ("all", "steps"):
        same(result.scores[window], trained.spy.vog(result, TABLE[window], **formula))
    if formula != {}:
        assert not torch.allclose(result.scores["all"], trained.plain.last_result.scores["all"])


def test_forgetting_over_all_events(trained: Trained) -> None:
    result = trained.plain.last_result
    truth = R.dynamics(trained.spy.outputs(result, STEPS), result.labels.tolist())["forgetting"]
    assert result.forgetting.tolist() == truth.tolist()
    assert max(truth[np.isfinite(truth)]) >= 1, "nothing was forgotten"


def test_the_state_of_things_now(trained: Trained) -> None:
    result = trained.plain.last_result
    now = trained.spy.outputs(result, [16])[0].argmax(1)
    assert result.predictions.tolist() == now.tolist()
    assert result.accuracy == pytest.approx(np.mean(now == result.labels.numpy()))
    assert (result.step, result.epoch, result.num_examples, result.undefined) == (16, 3, 17, 0)
    assert result.data == "train"


def test_scores_go_by_the_data_set_s_index(trained: Trained) -> None:
    """Although the loader shuffles; sorted, once each, and a choice, not the first 17."""
    result = trained.plain.last_result
    indices = result.indices.tolist()
    assert indices == sorted(set(indices)) and len(indices) == 17 and indices != list(range(17))
    assert result.labels.tolist() == [int(images()[i][1]) for i in indices]


def test_windows_merge_to_all_events(trained: Trained) -> None:
    """Mean and variance of each half say those of the whole."""
    result = trained.plain.last_result
    for name, spread in (("confidence", "variability"), ("loss", "loss_spread")):
        counts = [len(TABLE[half]) for half in ("early", "late")]
        means, spreads = ([result.dynamics[half][x] for half in ("early", "late")] for x in (name, spread))
        mean = sum(n * m for n, m in zip(counts, means, strict=True)) / sum(counts)
        square = sum(n * (s**2 + m**2) for n, m, s in zip(counts, means, spreads, strict=True)) / sum(counts)
        same(result.dynamics["all"][name], mean.numpy())
        same(result.dynamics["all"][spread], (square - mean**2).sqrt().numpy())


def test_every_earlier_event_is_told(trained: Trained) -> None:
    results = trained.plain.results
    assert [result.step for result in results] == STEPS
    assert [result.windows["all"]["events"] for result in results] == list(range(1, 10))
    accuracies = (trained.spy.outputs(results[-1], STEPS).argmax(-1) == results[-1].labels.numpy()).mean(1)
    assert [result.accuracy for result in results] == pytest.approx(accuracies.tolist())


def test_earlier_results_hold_no_examples(trained: Trained) -> None:
    """Nor a tensor that all examples hide behind: it would go into every checkpoint."""
    for result in trained.plain.results[:-1]:
        tensors = [value for value in vars(result).values() if isinstance(value, Tensor)]
        assert len(tensors) >= 4 and all(len(tensor) == 0 for tensor in tensors)
        assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == 0
        assert result.scores == result.dynamics == result.shown == {} and result.num_examples == 17


# ---- which examples ----------------------------------------------------------------------------------------


def simple(**options: Any) -> VoGCallback:
    return VoGCallback(**{"on_error": "raise", "batch_size": 4} | options)


@pytest.mark.parametrize("kind", ["Subset", "SubsetRandomSampler"])
def test_a_part_of_the_data_set(kind: str, tmp_path: Path) -> None:
    """A Subset counts its own examples; a sampler chooses from the data set's."""
    chosen = [20, 3, 11, 4, 9, 14, 6, 1]
    whole, part = images(), Subset(images(), chosen)
    watched, other = simple(), simple(data=part)
    if kind == "Subset":
        data: Any = DataLoader(part, 3, shuffle=True)
    else:
        data = DataLoader(whole, 3, sampler=SubsetRandomSampler(chosen))
    spy = Spy(whole)
    fit(tmp_path, [watched, other], data, spy=spy)
    result = watched.last_result
    assert result.indices.tolist() == (list(range(8)) if kind == "Subset" else sorted(chosen))
    steps = [3, 6, 9, 12]
    truth = R.vog(np.array([[spy.gradients[step][i] for i in sorted(chosen)] for step in steps]))
    by_index = dict(zip(result.indices.tolist(), result.scores["all"].tolist(), strict=True))
    where = {i: chosen.index(i) if kind == "Subset" else i for i in chosen}
    np.testing.assert_allclose([by_index[where[i]] for i in sorted(chosen)], truth, rtol=1e-9)
    assert other.last_result.indices.tolist() == list(range(8))


def test_validation_data(tmp_path: Path) -> None:
    held_out = images(9, seed=5)
    watched, spy = simple(data="val"), Spy(held_out)
    fit(tmp_path, [watched], spy=spy, val=DataLoader(held_out, 2))
    assert watched.last_result.data == "val" and watched.last_result.indices.tolist() == list(range(9))
    same(watched.last_result.scores["all"], spy.vog(watched.last_result, [4, 8, 12, 16]))


def test_the_size_of_minibatches_means_nothing(trained: Trained, tmp_path: Path) -> None:
    one, many = (VoGCallback(**COMMON | {"batch_size": size}) for size in (1, 100))
    fit(tmp_path, [one, many])
    for other in (one, many):
        for window, scores in trained.plain.last_result.scores.items():
            torch.testing.assert_close(other.last_result.scores[window], scores, rtol=1e-9, atol=0, equal_nan=True)


# ---- gradients that are not finite -------------------------------------------------------------------------

MARKED = {1, 4, 5, 12}


class Poisoned(Net):
    """In evaluation mode, in some epochs, the logits of marked examples have no gradient, or are none."""

    epoch = 0
    kind = "gradient"

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        rows = torch.nonzero(x[:, 0, 0, 0] == 7)[:, 0]
        if self.training or self.epoch not in (1, 2) or not len(rows):
            return logits
        total = x.flatten(1).sum(1)[rows]
        # NaN; or 0, and its derivative 0 · ∞.
        poison = math.nan * total if self.kind == "logits" else (0 * total).sqrt()
        return logits.index_add(0, rows, poison[:, None].expand(-1, CLASSES))


class Clock(Callback):
    """Tells the network the epoch, before anybody looks."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net.epoch = trainer.current_epoch


def marked() -> TensorDataset:
    x, y = images().tensors
    x[sorted(MARKED), 0, 0, 0] = 7
    return TensorDataset(x, y)


@pytest.mark.parametrize("kind", ["gradient", "logits"])
def test_what_is_not_finite_is_left_out(kind: str, tmp_path: Path) -> None:
    net = Poisoned()
    net.kind = kind
    watched, spy = simple(windows={"middle": {"epochs": [1, 3]}}), Spy(marked())
    fit(tmp_path, [watched], marked(), net=net, spy=spy, more=[Clock()])
    result, steps = watched.last_result, [4, 8, 12, 16]
    assert result.undefined == 2 * len(MARKED)
    same(result.scores["all"], spy.vog(result, steps))  # which leaves those events out
    assert result.scores["all"].isfinite().all()
    assert torch.nonzero(result.scores["middle"].isnan())[:, 0].tolist() == sorted(MARKED)
    outputs = spy.outputs(result, steps)
    for i in range(22):
        course = outputs[[0, 3] if kind == "logits" and i in MARKED else [0, 1, 2, 3], i : i + 1]
        truth = R.dynamics(course, result.labels[i : i + 1].tolist())
        for name in ("aum", "el2n", "variability", "correctness"):
            same(result.dynamics["all"][name][i : i + 1], truth[name])
    # Logits that are none are wrong.
    correct = (outputs.argmax(-1) == result.labels.numpy()) & np.isfinite(outputs).all(-1)
    assert result.forgetting.tolist() == [R.forgetting_events(list(map(bool, course))) for course in correct.T]


def test_a_training_that_has_come_to_nothing(tmp_path: Path) -> None:
    """Weights that are NaN: no score, no crash."""

    class Diverges(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.net.head.weight.data.fill_(math.nan)

    watched = simple()
    fit(tmp_path, [watched], more=[Diverges()])
    result = watched.last_result
    assert result.scores["all"].isnan().all() and result.undefined == 3 * 22
    assert result.windows["all"]["events"] == 4


# ---- other models ------------------------------------------------------------------------------------------


class Words(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(4)
        self.words = torch.randint(0, 12, (15, 5), generator=generator)
        self.labels = torch.randint(0, CLASSES, (15,), generator=generator)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"labels": self.labels[index], "input_ids": self.words[index]}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.rnn, self.head = nn.Embedding(12, 4), nn.GRU(4, 6, batch_first=True), nn.Linear(6, CLASSES)
        self.double()

    def read(self, vectors: Tensor) -> Tensor:
        return self.head(self.rnn(vectors)[0][:, -1])

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.read(self.embedding(input_ids))


class TextTask(Task):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.net(input_ids)


def of_embedding(net: Any, example: Any) -> tuple[Tensor, Tensor]:
    vectors = net.embedding(example["input_ids"][None]).detach().requires_grad_()
    logits = net.read(vectors)[0]
    (gradient,) = torch.autograd.grad(logits[int(example["labels"])], vectors)
    return gradient[0], logits


def test_text_by_its_embedding(tmp_path: Path) -> None:
    """Batches are mappings of integers; every number of every word's vector counts by itself."""
    torch.manual_seed(0)
    watched, spy = simple(with_respect_to="net.embedding"), Spy(Words(), of_embedding)
    task = TextTask(Reader(), lambda net, batch: F.cross_entropy(net(batch["input_ids"]), batch["labels"]))
    trainer(tmp_path, [watched, spy], max_epochs=3).fit(task, DataLoader(Words(), 5, shuffle=True))
    result = watched.last_result
    same(result.scores["all"], spy.vog(result, [3, 6, 9]))
    same(result.aum, R.dynamics(spy.outputs(result, [3, 6, 9]), result.labels.tolist())["aum"])


def squared_error(output: Tensor, targets: Tensor) -> Tensor:
    return (output[:, 0] - targets).square()


def test_regression(tmp_path: Path) -> None:
    x, y = images(12).tensors
    data = TensorDataset(x, y.double() / 2 + 0.25)

    def look(net: nn.Module, example: Any) -> tuple[Tensor, Tensor]:
        point = example[0][None].clone().requires_grad_()
        output = net(point)
        return torch.autograd.grad((output[0, 0] - example[1]) ** 2, point)[0][0], output[0]

    watched, spy = simple(target="tests.analyses.vog.test_online.squared_error"), Spy(data, look)
    loss = lambda net, batch: squared_error(net(batch[0]), batch[1]).mean()  # noqa: E731
    fit(tmp_path, [watched], data, net=Net(1), spy=spy, loss=loss)
    result = watched.last_result
    same(result.scores["all"], spy.vog(result, [2, 4, 6, 8]))
    assert (result.labels == -1).all() and (result.predictions == -1).all()
    assert math.isnan(result.accuracy) and result.aum.isnan().all() and result.forgetting.isnan().all()


@pytest.mark.parametrize("shape", ["(N,)", "(N, 1)"])
def test_one_logit_for_two_classes(shape: str, tmp_path: Path) -> None:
    """z is the logit of class 1, and −z that of class 0, of logits 0 and z."""
    x, y = images(12).tensors
    data = TensorDataset(x, (y > 0).double())

    def look(net: nn.Module, example: Any) -> tuple[Tensor, Tensor]:
        point = example[0][None].clone().requires_grad_()
        z = net(point).sum()
        own = z if example[1] else -z
        return torch.autograd.grad(own, point)[0][0], torch.stack([torch.zeros_like(z), z])

    class Single(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 0] if shape == "(N,)" else super().forward(x)

    watched, spy = simple(), Spy(data, look)
    loss = lambda net, batch: F.binary_cross_entropy_with_logits(net(batch[0]).reshape(-1), batch[1])  # noqa: E731
    fit(tmp_path, [watched], data, net=Single(1), spy=spy, loss=loss)
    result = watched.last_result
    same(result.scores["all"], spy.vog(result, [2, 4, 6, 8]))
    for name, truth in R.dynamics(spy.outputs(result, [2, 4, 6, 8]), result.labels.tolist()).items():
        np.testing.assert_allclose(result.score(name).numpy(), truth, rtol=1e-9)


def test_the_class_that_is_predicted_at_each_event(tmp_path: Path) -> None:
    """Without labels, which are then not known."""

    def look(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        point = x[None].clone().requires_grad_()
        logits = net(point)[0]
        return torch.autograd.grad(logits.max(), point)[0][0], logits

    pictures = list(images(10).tensors[0])
    watched, spy = simple(target="prediction", data=pictures), Spy(pictures, look)
    fit(tmp_path, [watched], spy=spy)
    result, steps = watched.last_result, [4, 8, 12, 16]
    assert len({tuple(row) for row in spy.outputs(result, steps).argmax(-1)}) > 1, "predictions never changed"
    same(result.scores["all"], spy.vog(result, steps))
    assert (result.labels == -1).all() and result.aum.isnan().all()
    same(result.class_normalized["all"], R.normalized(spy.vog(result, steps), result.predictions.tolist()))


# ---- labels out of range -----------------------------------------------------------------------------------


def with_label(label: int, index: int, count: int = 8) -> TensorDataset:
    x, y = images(count).tensors
    y[index] = label
    return TensorDataset(x, y)


class Starts(Callback):
    """Counts the minibatches that are begun."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.count += 1


@pytest.mark.parametrize("label", [-1, CLASSES, 255])
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_labels_that_the_loss_does_not_take_are_seen_before_training(label: int, on_error: Any, tmp_path: Path) -> None:
    """`training_step` would fail on them: the complaint says how."""
    watched, starts = VoGCallback(data=with_label(label, 3), on_error=on_error), Starts()
    told = (
        rf"VoGCallback.*loss of Task could not be computed.*IndexError: Target {label} is out of bounds.*`predict_fn="
    )
    expected = pytest.raises(ConfigurationError, match=told) if on_error == "raise" else pytest.warns(match=told)
    with expected:
        fit(tmp_path, [watched], more=[starts])
    assert starts.count == (0 if on_error == "raise" else 16) and watched.last_result is None


@pytest.mark.parametrize("label", [-100, 7])
def test_labels_out_of_range_are_seen_before_training(label: int, tmp_path: Path) -> None:
    """The loss passes over them, so nothing else complains."""

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0]), batch[1], ignore_index=label)

    watched, starts = VoGCallback(data=with_label(label, 3), on_error="raise"), Starts()
    with pytest.raises(ConfigurationError, match=f"VoGCallback: label {label} is out of range.*3 classes"):
        fit(tmp_path, [watched], more=[starts], loss=loss)
    assert not starts.count


def test_labels_out_of_range_in_a_later_minibatch_warn_once(tmp_path: Path) -> None:
    """Later than the examples that are tried before training."""
    chosen = torch.randperm(72, generator=torch.Generator().manual_seed(0))
    watched = VoGCallback(data=with_label(9, int(chosen[-1]), 72), batch_size=4, on_error="warn")
    with pytest.warns(UserWarning, match="label 9 is out of range") as told:
        run = fit(tmp_path, [watched])
    assert len([one for one in told if "VoGCallback" in str(one.message)]) == 1
    assert run.global_step == 16 and watched.last_result is None


# ---- files instead of memory, checkpoints ------------------------------------------------------------------


class Files:
    """Counts the files that are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, real = 0, tempfile.TemporaryFile

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(tempfile, "TemporaryFile", counted)


class Stops(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


def in_order(folder: Path, watched: VoGCallback, *more: Callback, **options: Any) -> None:
    """Without what Lightning does not resume: shuffling and dropout."""
    net = Net()
    net.drop.p = 0.0
    keeper = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
    run = trainer(folder, [watched, keeper, *more], max_epochs=4, enable_checkpointing=True)
    run.fit(Task(net), DataLoader(images(), 6), **options)


@pytest.mark.parametrize("first, second", [(2**30, 0), (0, 2**30), (0, 0)], ids=["into files", "out of files", "files"])
def test_files_hold_what_memory_would(first: int, second: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also where a training that is resumed has less memory."""
    whole = VoGCallback(**COMMON)
    in_order(tmp_path / "whole", whole)
    files = Files(monkeypatch)
    in_order(tmp_path / "cut", VoGCallback(**COMMON | {"memory_limit": first}), Stops(8))
    assert (files.count > 0) == (first == 0)
    files.count, resumed = 0, VoGCallback(**COMMON | {"memory_limit": second, "memory_folder": str(tmp_path)})
    in_order(tmp_path / "cut", resumed, ckpt_path=tmp_path / "cut" / "step=8.ckpt")
    assert (files.count > 0) == (second == 0)
    assert_identical(resumed.last_result.to_state(), whole.last_result.to_state())
    assert not [name for name in os.listdir(tmp_path) if name not in ("whole", "cut")], "files were left behind"


def test_moments_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of gigabytes are not written anew at every event: only those of the event itself are new."""
    files, counts = Files(monkeypatch), []

    class Counts(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            counts.append(files.count)

    fit(tmp_path, [simple(memory_limit=0, windows={})], more=[Counts()], max_epochs=5)
    new = [after - before for before, after in zip(counts[:-1], counts[1:], strict=True)]
    assert counts[0] == new[-1] + 2, "mean and squares"
    assert len(set(new)) == 1


def test_checkpoints_do_not_grow_with_events(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 1, 2, 2, generator=generator, dtype=torch.float64)
    data = TensorDataset(x, torch.arange(1000) % CLASSES)
    sizes: dict[int, int] = {}

    class Weighs(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step in (10, 60):
                trainer.save_checkpoint(tmp_path / "one.ckpt")
                sizes[trainer.global_step] = (tmp_path / "one.ckpt").stat().st_size

    net = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double()
    watched = simple(every_n_train_steps=1, batch_size=1000, windows={})
    fit(tmp_path, [watched], data, net=net, more=[Weighs()], max_epochs=1, limit_train_batches=60)
    assert len(watched.results) == 60
    per_event = (sizes[60] - sizes[10]) / 50
    assert per_event < 3_000, "an index of all examples alone is 8,000 bytes"


# ---- again and again ---------------------------------------------------------------------------------------


def test_a_training_that_is_continued_goes_on(tmp_path: Path) -> None:
    watched, spy = simple(), Spy(images())
    run = fit(tmp_path, [watched], spy=spy, max_epochs=2)
    assert watched.last_result.windows["all"]["events"] == 2
    run.fit_loop.max_epochs = 4
    run.fit(run.lightning_module, DataLoader(images(), 6, shuffle=True))
    assert watched.last_result.windows["all"] == {"events": 4, "first_step": 4, "last_step": 16}
    same(watched.last_result.scores["all"], spy.vog(watched.last_result, [4, 8, 12, 16]))


def test_another_model_starts_anew(tmp_path: Path) -> None:
    watched, fresh = simple(), simple(name="fresh")
    fit(tmp_path, [watched], net=Net())
    fit(tmp_path, [watched, fresh], net=Net())
    assert len(watched.results) == 4
    assert_identical(watched.last_result.to_state(), fresh.last_result.to_state())


def test_other_examples_are_refused(tmp_path: Path) -> None:
    """The moments are of those there were."""
    watched = simple()
    run = fit(tmp_path, [watched], max_epochs=2)
    run.fit_loop.max_epochs = 4
    with pytest.raises(ConfigurationError, match="other examples.*`data`"):
        run.fit(run.lightning_module, DataLoader(images(30), 6))


# ---- thumbnails --------------------------------------------------------------------------------------------


class Brittle:
    """Shows an example, except while it is broken."""

    broken = False

    def __call__(self, x: Tensor) -> str:
        if self.broken:
            raise RuntimeError("nothing to be seen")
        return f"{float(x[0, 0, 0]):.6f}"


def test_a_broken_render_fn_counts_no_event_twice(tmp_path: Path) -> None:
    """The last epoch's end is the training's end too: it is measured again, and must not count again."""
    show = Brittle()

    class Breaks(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            show.broken = trainer.global_step in (8, 16)

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            show.broken = False

    watched, spy = VoGCallback(render_fn=show, on_error="warn", windows={}), Spy(images())
    with pytest.warns(UserWarning, match="nothing to be seen"):
        torch.manual_seed(0)
        run = trainer(tmp_path, [watched, spy, Breaks()], max_epochs=4)
        run.fit(Task(Net()), DataLoader(images(), 6, shuffle=True))
    result = watched.last_result
    assert [one.step for one in watched.results] == [4, 12, 16]
    assert result.windows["all"]["events"] == 4
    same(result.scores["all"], spy.vog(result, [4, 8, 12, 16]))
    shown = dict(zip(result.shown["indices"].tolist(), result.shown["texts"], strict=True))
    assert shown == {i: show(images()[i][0]) for i in shown} and len(shown) > 5


def test_thumbnails_are_those_of_their_examples(trained: Trained) -> None:
    result = trained.plain.last_result
    shown = result.shown
    assert shown["images"].shape == (len(shown["indices"]), 4, 4, 3) and len(shown["indices"]) > 5
    for index, image in zip(shown["indices"].tolist(), shown["images"], strict=True):
        x = images()[index][0].numpy()
        # Each channel from its minibatch's darkest to its brightest: in the same order.
        order = np.argsort(x.reshape(3, -1), axis=1)
        for channel in range(3):
            assert (np.diff(image[..., channel].flatten()[order[channel]].numpy().astype(int)) >= 0).all()
