"""Which item is the input, which the label, and whose they are: found out from what the loss does, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, StackDataset, TensorDataset

from lightning_dynamics import VoGCallback
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.core.lightning import ConfigurationError
from tests.house.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*has no score with fewer than two.*"),
    pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`.*"),
]

COUNT, WIDTH, CLASSES, TIME = 24, 6, 3, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = drawn(COUNT, WIDTH, seed=1)
LABELS = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(2))
SERIES = drawn(COUNT, TIME, WIDTH, seed=3)


class Net(nn.Module):
    """Of numbers, or of series ``(n, TIME, WIDTH)`` by their mean over time."""

    def __init__(self, outputs: int = CLASSES, last: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.hidden, self.head, self.last = nn.Linear(WIDTH, 5), nn.Linear(5, outputs), last or nn.Identity()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(x))
        return self.last(self.head(hidden.mean(1) if hidden.ndim == 3 else hidden))


class Model(lightning.LightningModule):
    """A network and its loss of a batch."""

    def __init__(self, net: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, *args: Any) -> Tensor:
        return self.net(*args)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.3)


def vog(
    folder: Path,
    data: Dataset[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    net: nn.Module | None = None,
    collate: Any = None,
    **options: Any,
) -> VoGResult:
    """The scores after three epochs, every minibatch holding all examples: a training that no order of rows changes."""
    loader = DataLoader(data, COUNT, collate_fn=collate)
    watched = VoGCallback(**{"batch_size": 5, "windows": {}, "on_error": "raise"} | options)
    run = trainer(folder, [watched], max_epochs=3)
    run.fit(Model(Net() if net is None else net, loss), loader)
    result = watched.last_result
    assert result is not None
    return result


def usual(net: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def labelled(result: VoGResult, labels: Tensor = LABELS) -> None:
    """Every example has its own label."""
    assert sorted(result.indices.tolist()) == list(range(COUNT))
    assert torch.equal(result.labels, labels[result.indices])


def assert_as(found: VoGResult, truth: VoGResult) -> None:
    """Labels, scores and dynamics of two results, but for rounding."""
    assert torch.equal(found.indices, truth.indices) and torch.equal(found.labels, truth.labels)
    torch.testing.assert_close(found.scores["all"], truth.scores["all"], rtol=1e-9, atol=1e-12)
    assert truth.scores["all"].isfinite().all() and truth.dynamics["all"].keys() == found.dynamics["all"].keys()
    for name, values in truth.dynamics["all"].items():
        torch.testing.assert_close(found.dynamics["all"][name], values, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> VoGResult:
    """With pairs ``(x, label)`` and the default collate function."""
    return vog(tmp_path_factory.mktemp("plain"), TensorDataset(X, LABELS), usual)


def test_the_usual_pairs(plain: VoGResult) -> None:
    labelled(plain)
    assert len(plain.scores["all"].unique()) == COUNT


# ---- which item is what ------------------------------------------------------------------------------------


@dataclass
class Record:
    name: list[str]
    label: Tensor
    image: Tensor


def records(items: list[Any]) -> Record:
    xs, ys = zip(*items, strict=True)
    return Record(["a name"] * len(items), torch.stack(ys), torch.stack(xs))


LENGTHS = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(9))

KINDS: dict[str, tuple[Dataset[Any], Any, Callable[[Any], tuple[Any, Any]]]] = {
    "inputs as the second item": (TensorDataset(LABELS, X), None, lambda b: (b[1], b[0])),
    "something like labels between": (TensorDataset(X, LENGTHS, LABELS), None, lambda b: (b[0], b[2])),
    "a dict": (StackDataset(image=X, label=LABELS), None, lambda b: (b["image"], b["label"])),
    "a dict with odd names": (
        StackDataset(label=LENGTHS, answer=LABELS, z=X),
        None,
        lambda b: (b["z"], b["answer"]),
    ),
    "a dataclass": (TensorDataset(X, LABELS), records, lambda b: (b.image, b.label)),
    "nested": (
        TensorDataset(X, LABELS),
        lambda items: {"of": records(items)},
        lambda b: (b["of"].image, b["of"].label),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_batches(kind: str, plain: VoGResult, tmp_path: Path) -> None:
    data, collate, items = KINDS[kind]

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x, y = items(batch)
        return F.cross_entropy(net(x), y)

    assert_as(vog(tmp_path, data, loss, collate=collate), plain)


def test_time_first(tmp_path: Path) -> None:
    """Series ``(TIME, n, WIDTH)``: the gradients are those of ``(n, TIME, WIDTH)``."""

    def collate(items: list[Any]) -> Any:
        xs, ys = zip(*items, strict=True)
        return torch.stack(xs, dim=1), torch.stack(ys)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0].transpose(0, 1)), batch[1])

    data = TensorDataset(SERIES, LABELS)
    truth = vog(tmp_path / "batch first", data, usual)
    labelled(truth)
    assert_as(vog(tmp_path / "time first", data, loss, collate=collate), truth)
    # As many examples in a minibatch as there are moments.
    assert_as(vog(tmp_path / "square", data, loss, collate=collate, batch_size=TIME), truth)


# ---- which row is whose ------------------------------------------------------------------------------------


def by_label(items: list[Any]) -> Any:
    """Sorted, as padded sequences are by their lengths."""
    xs, ys = zip(*sorted(items, key=lambda item: (-int(item[1]), float(item[0].sum()))), strict=True)
    return torch.stack(xs), torch.stack(ys)


@pytest.mark.parametrize("size", [1, 5, COUNT])
def test_a_collate_function_that_sorts(size: int, plain: VoGResult, tmp_path: Path) -> None:
    found = vog(tmp_path, TensorDataset(X, LABELS), usual, collate=by_label, batch_size=size)
    labelled(found)
    assert_as(found, plain)


def test_thumbnails_of_a_collate_function_that_sorts(tmp_path: Path) -> None:
    words = {"render_fn": lambda x: f"{float(x.sum()):.6f}", "class_names": ["a", "b", "c"]}
    found = vog(tmp_path, TensorDataset(X, LABELS), usual, collate=by_label, **words)
    texts = dict(zip(found.shown["indices"].tolist(), found.shown["texts"], strict=True))
    assert len(texts) > CLASSES and texts == {i: f"{float(X[i].sum()):.6f}" for i in texts}


def without_negatives(items: list[Any]) -> Any:
    """As those do that leave out broken files."""
    kept = [item for item in items if item[0][0] > -0.5]
    return torch.stack([x for x, _ in kept]), torch.stack([y for _, y in kept])


def halves(items: list[Any]) -> Any:
    """Pairs of examples become one, as in mixup."""
    x, y = torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])
    half = max(1, len(items) // 2)
    return 0.5 * (x[:half] + x[-half:]), y[:half]


@pytest.mark.parametrize(
    ("collate", "told"),
    [(without_negatives, r"leaves out \d+ of 24"), (halves, "merges examples")],
    ids=["drops", "merges"],
)
def test_a_collate_function_whose_rows_are_not_the_examples(collate: Any, told: str, tmp_path: Path) -> None:
    assert 0 < int((X[:, 0] <= -0.5).sum()) < COUNT
    with pytest.raises(ConfigurationError, match=f"VoGCallback: the collate function {told}.*`data=DataLoader"):
        vog(tmp_path, TensorDataset(X, LABELS), usual, collate=collate, batch_size=COUNT)


# ---- what targets and outputs are --------------------------------------------------------------------------

ONE_HOT = F.one_hot(LABELS, CLASSES).double()


def test_one_hot_targets(plain: VoGResult, tmp_path: Path) -> None:
    assert_as(vog(tmp_path, TensorDataset(X, ONE_HOT), usual), plain)


@pytest.mark.parametrize("shape", ["(N,)", "(N, 1)"])
def test_a_logit_for_yes_or_no(shape: str, tmp_path: Path) -> None:
    """Scores are those of two logits, 0 and z, but for the sign of the gradient."""
    answers = (LABELS > 0).double()
    targets = answers if shape == "(N,)" else answers[:, None]
    net = nn.Sequential(Net(1), nn.Flatten(0)) if shape == "(N,)" else Net(1)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])

    found = vog(tmp_path / "binary", TensorDataset(X, targets), loss, net=net)
    labelled(found, answers.long())

    def two(net: nn.Module, batch: Any) -> Tensor:
        z = net(batch[0])
        return F.cross_entropy(torch.cat([0 * z, z], 1), batch[1])

    predict_fn = lambda m, b: (m(b[0]).expand(-1, 2) * torch.tensor([-1, 1]), b[1])  # noqa: E731
    truth = vog(tmp_path / "two", TensorDataset(X, answers.long()), two, net=Net(1), predict_fn=predict_fn)
    torch.testing.assert_close(found.scores["all"], truth.scores["all"], rtol=1e-9, atol=1e-12)


def nll(net: nn.Module, batch: Any) -> Tensor:
    return F.nll_loss(net(batch[0]).log(), batch[1])


def logs(net: nn.Module, batch: Any) -> Tensor:
    return F.nll_loss(net(batch[0]), batch[1])


def binary(net: nn.Module, batch: Any) -> Tensor:
    return F.binary_cross_entropy(net(batch[0])[:, 0], (batch[1] > 0).double())


def squares(net: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(net(batch[0]), batch[1])


REFUSED: dict[str, tuple[nn.Module, Any, Any, str]] = {
    "probabilities": (Net(last=nn.Softmax(1)), LABELS, nll, "outputs of Model are probabilities.*logit before them"),
    "their logarithms": (Net(last=nn.LogSoftmax(1)), LABELS, logs, "outputs of Model are log-probabilities.*before"),
    "a probability": (
        Net(1, last=nn.Sequential(nn.Sigmoid(), nn.Flatten(0))),
        (LABELS > 0).double(),
        lambda net, batch: F.binary_cross_entropy(net(batch[0]), batch[1]),
        "outputs of Model are probabilities",
    ),
    "regression": (Net(2), drawn(COUNT, 2, seed=6), squares, "the task is another .read Model as: regression"),
    "an autoencoder": (
        Net(WIDTH),
        LABELS,
        lambda net, batch: F.mse_loss(net(batch[0]), batch[0]),
        "`target='label'`, but the loss of Model depends on item 0 alone, so there are no labels",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_classification_by_logits(kind: str, tmp_path: Path) -> None:
    net, targets, loss, told = REFUSED[kind]
    with pytest.raises(ConfigurationError, match=f"VoGCallback: .*{told}.*predict_fn=lambda module, batch"):
        vog(tmp_path, TensorDataset(X, targets), loss, net=net)


def test_probabilities_by_their_logits(plain: VoGResult, tmp_path: Path) -> None:
    """The way out that the refusal names."""
    predict_fn = lambda module, batch: (module.net[0](batch[0]), batch[1])  # noqa: E731
    data = TensorDataset(X, LABELS)
    assert_as(vog(tmp_path, data, nll, net=nn.Sequential(Net(), nn.Softmax(1)), predict_fn=predict_fn), plain)


def test_two_inputs(tmp_path: Path) -> None:
    """There is no one gradient; of a layer that has both there is."""

    class Both(Net):
        def forward(self, x: Any, other: Any = None) -> Tensor:
            return super().forward(x + 2 * other)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0], batch[1]), batch[2])

    data = TensorDataset(X, drawn(COUNT, WIDTH, seed=7), LABELS)
    told = r"several inputs \(item 0, item 1\).*name the layer.*`with_respect_to='layer.name'`"
    with pytest.raises(ConfigurationError, match=told):
        vog(tmp_path, data, loss, net=Both())
    found = vog(tmp_path, data, loss, net=Both(), with_respect_to="net.hidden")
    labelled(found)
    assert found.scores["all"].isfinite().all()


# ---- the mode ----------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """Another function in train mode, for every example by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x) if self.training else x


def gated() -> nn.Module:
    net = Net()
    return nn.Sequential(Gated(), net)


def test_what_is_trained_is_scored_and_it_is_said(tmp_path: Path) -> None:
    data = TensorDataset(X, LABELS)
    with pytest.warns(UserWarning, match=r"VoGCallback: in eval mode.*\(Gated differ\).*`mode='eval'`"):
        found = vog(tmp_path / "open", data, usual, net=gated())
    assert_as(found, vog(tmp_path / "train", data, usual, net=gated(), mode="train"))


def test_mode_train_is_the_function_that_is_trained(tmp_path: Path) -> None:
    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(3 * x)

    data = TensorDataset(X, LABELS)
    truth = vog(tmp_path / "always", data, usual, net=nn.Sequential(Always(), Net()))
    assert_as(vog(tmp_path / "train", data, usual, net=gated(), mode="train"), truth)
    other = vog(tmp_path / "eval", data, usual, net=gated(), mode="eval")
    labelled(other)
    assert not torch.allclose(other.scores["all"], truth.scores["all"], rtol=0.1)


def test_batch_statistics_in_mode_train_are_refused(tmp_path: Path) -> None:
    norm = nn.Sequential(nn.BatchNorm1d(WIDTH).double(), Net())
    told = "VoGCallback: the examples of a minibatch influence each other.*batch statistics of net.0: use `mode='eval'`"
    with pytest.raises(ConfigurationError, match=told):
        vog(tmp_path, TensorDataset(X, LABELS), usual, net=norm, mode="train")
