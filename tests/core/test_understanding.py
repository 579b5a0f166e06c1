"""What experiments find out about modules and data of many kinds, against what is true of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import preflight
from lightning_dynamics.core.batch_tree import Path
from lightning_dynamics.core.probe import probe_without_trainer
from lightning_dynamics.core.task import Task
from lightning_dynamics.core.understanding import understand
from tests.kinds.kind import BATCH, CLASSES, Net, batches, doubled, integers, labelled, loader_of, numbers
from tests.kinds.modules import KINDS, WITH_LOSS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


NO_MEAN = {name for name, kind in KINDS.items() if kind.expected.loss_unit in ("batch", "sum")}


def plain(paths: tuple[Path, ...]) -> tuple[Any, ...]:
    return tuple(path[0] if len(path) == 1 else path for path in paths)


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_read_as_what_they_are(name: str) -> None:
    kind = KINDS[name]
    task, true = preflight(kind.make_module(), kind.make_loader()).task, kind.expected
    assert (task.kind, task.output, task.loss_unit) == (true.kind, true.output, true.loss_unit)
    assert plain(task.inputs) == true.inputs
    assert (None if task.targets is None else plain((task.targets,))[0]) == true.targets
    assert task.eval_differs == true.eval_differs


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.correct is not None])
def test_accuracy_is_the_true_one(name: str) -> None:
    kind = KINDS[name]
    module: Any = kind.make_module()
    task = preflight(module, kind.make_loader()).task
    if task.kind == "unknown":
        assert not task.classifies
        return
    module.double().train(kind.expected.eval_differs)
    found = []
    for batch in map(doubled, kind.make_loader()):
        output, targets = task.predictions(module, batch)
        share = task.accuracy(output, targets)
        assert share is not None
        found.append((float(share), task.counted(module, batch, task.examples_in(batch))))
    mean = sum(share * counted for share, counted in found) / sum(counted for _, counted in found)
    assert mean == pytest.approx(kind.true_accuracy(module, kind.make_loader()), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in KINDS if name in WITH_LOSS and name not in NO_MEAN])
def test_losses_weighted_by_terms_give_the_mean_over_everything(name: str) -> None:
    """However the examples are cut into minibatches."""
    kind = KINDS[name]
    module: Any = kind.make_module()
    loader = kind.make_loader()
    task = preflight(module, loader).task
    module.double().train(kind.expected.eval_differs)
    losses = []
    with torch.no_grad():
        for batch in map(doubled, batches(loader)):
            terms = task.terms(batch, task.examples_in(batch))
            losses.append((float(module.training_step(batch, 0)), terms))
    mean = sum(loss * terms for loss, terms in losses) / sum(terms for _, terms in losses)
    assert mean == pytest.approx(kind.true_loss(module, kind.make_loader()), rel=1e-6)


# ---- what is not among the kinds


class Module(Net):
    """A net and a loss of its outputs and the batch."""

    def __init__(self, net: nn.Module, loss: Any) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self, batch)


def task_of(net: nn.Module, loss: Any, *tensors: Tensor, batch_size: int = 22, **words: Any) -> Task:
    module = Module(net, loss)
    words_of_probe = {"num_examples": 22, "batch_size": batch_size, "seed": 0}
    return understand(module, probe_without_trainer(module, TensorDataset(*tensors), **words_of_probe), **words)


def cross_entropy(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def test_a_last_layer_of_zeros_hides_nothing() -> None:
    net = nn.Linear(5, CLASSES)
    nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
    weights = torch.tensor([1.0, 5.0, 0.2])
    task = task_of(net, lambda m, b: F.cross_entropy(m(b[0]), b[1], weight=weights), *labelled())
    assert (task.kind, task.loss_unit, plain(task.inputs), task.targets) == ("multiclass", "weights", (0,), (1,))
    assert not net.weight.any()  # and nothing has moved


def test_custom_losses_are_read_by_the_direction_in_which_they_pull() -> None:
    def focal(module: Any, batch: Any) -> Tensor:
        p = module(batch[0]).softmax(1).gather(1, batch[1][:, None])[:, 0]
        return (-((1 - p) ** 2) * p.log()).mean()

    assert task_of(nn.Linear(5, CLASSES), focal, *labelled()).kind == "multiclass"

    def of_one_output(module: Any, batch: Any) -> Tensor:  # whole numbers, but no classes
        return (module(batch[0])[:, 0] - batch[1]).square().mean()

    assert not task_of(nn.Linear(5, CLASSES), of_one_output, *labelled()).classifies


def test_weights_in_the_batch_are_counted() -> None:
    x, y = labelled()

    def weighted(module: Any, batch: Any) -> Tensor:
        losses = F.cross_entropy(module(batch[0]), batch[1], reduction="none")
        return (batch[2] * losses).sum() / batch[2].sum()

    task = task_of(nn.Linear(5, CLASSES), weighted, x, y, numbers(len(x)).square())
    assert task.loss_unit == "weights"
    assert task.terms([x, y, torch.full((22,), 0.5)], 22) == pytest.approx(11)


def test_batchnorm_and_dropout_are_told_apart() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    task = task_of(net, cross_entropy, *labelled())
    assert task.differing == ("BatchNorm1d",) and task.eval_differs and not task.as_trained_only
    only_dropout = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    assert not task_of(only_dropout, cross_entropy, *labelled()).eval_differs


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


def test_noise_in_train_mode_is_named_and_makes_no_other_function() -> None:
    task = task_of(nn.Sequential(nn.Linear(5, CLASSES), Noise()), cross_entropy, *labelled())
    assert task.random == ("Noise",) and not task.eval_differs


def test_a_running_centre_does_not_disturb_the_experiments() -> None:
    def centred(module: Any, batch: Any) -> Tensor:
        out = module(batch[0])
        loss = F.cross_entropy(out - module.centre, batch[1])
        module.centre = 0.5 * module.centre + 0.5 * out.detach().mean(0)
        return loss

    module = Module(nn.Linear(5, CLASSES), centred)
    module.centre = torch.zeros(CLASSES)
    data = TensorDataset(*labelled())
    task = understand(module, probe_without_trainer(module, data, num_examples=22, batch_size=22, seed=0))
    assert (task.kind, task.loss_unit, task.carries_state, task.keeps_state) == ("multiclass", "examples", True, False)
    assert not module.centre.any()


HIDDEN = [0.0]


def test_what_cannot_be_put_back_is_detected() -> None:
    def counting(module: Any, batch: Any) -> Tensor:
        HIDDEN[0] += 1  # a global variable
        return cross_entropy(module, batch) * (1 + HIDDEN[0])

    assert task_of(nn.Linear(5, CLASSES), counting, *labelled()).keeps_state


def test_flags_beside_the_targets_are_a_mask() -> None:
    x, y = labelled()
    flags = torch.arange(len(x)) % 3 > 0

    def masked(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0])[batch[2]], batch[1][batch[2]])

    task = task_of(nn.Linear(5, CLASSES), masked, x, y, flags)
    assert (task.targets, task.mask, task.kind) == ((1,), (2,), "multiclass")
    assert task.terms([x, y, flags], 22) == float(flags.sum())
    output = F.one_hot(torch.where(flags, y, (y + 1) % CLASSES), CLASSES).float()
    assert task.accuracy(output, task.targets_of([x, y, flags])) == 1


def test_predict_fn_is_taken_at_its_word() -> None:
    x, y = labelled()
    task = task_of(
        nn.Linear(5, CLASSES),
        lambda m, b: m(b[0]).square().mean(),
        x,
        y,
        predict_fn=lambda module, batch: (module(batch[0]), batch[1]),
    )
    assert (task.kind, task.output) == ("multiclass", "logits")


def test_nothing_is_changed() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    module = Module(net, cross_entropy)
    probe = probe_without_trainer(module, TensorDataset(*labelled()), num_examples=22, batch_size=22, seed=0)
    state = torch.get_rng_state()
    assert understand(module, probe).kind == "multiclass"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and net[1].training


def test_nan_targets_are_left_out() -> None:
    x, y = numbers(22, 5), numbers(22, 3, seed=4)
    y[::3, 0], y[1::4, 2] = float("nan"), float("nan")

    def masked(module: Any, batch: Any) -> Tensor:
        known = ~batch[1].isnan()
        return (module(batch[0]) - batch[1])[known].square().mean()

    task = task_of(nn.Linear(5, 3), masked, x, y)
    assert task.kind == "regression"
    assert task.terms([x, y], 22) == float((~y.isnan()).sum())


def test_one_integer_target_too_many_is_no_label() -> None:
    """Lengths may look like classes: what the loss depends on decides."""
    x, lengths, y = numbers(22, 6, 5), integers(CLASSES, 22), integers(CLASSES, 22, seed=9)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, CLASSES)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.layer(x.sum(1) / (1 + lengths[:, None]))

    def loss(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module.net(batch[0], batch[1]), batch[2])

    task = task_of(Pooled(), loss, x, lengths, y)
    assert (plain(task.inputs), task.targets) == ((0, 1), (2,))


def test_the_line_that_users_see() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    assert str(task_of(net, cross_entropy, *labelled())) == (
        "read Module as: 3-class classification, outputs = logits, inputs = item 0, targets = item 1, loss = mean over "
        "examples, eval differs from train by BatchNorm1d"
    )


def test_a_list_of_loaders_is_no_data_set() -> None:
    report = preflight(KINDS["a dict of two loaders"].make_module(), KINDS["a dict of two loaders"].make_loader())
    assert report.task.to_dict()["inputs"] == [["clinic", 0], ["survey", 0]]
    assert loader_of(torch.zeros(4, 1)).batch_size == BATCH


@pytest.mark.parametrize("collate", [list, lambda items: tuple(zip(*items, strict=True))], ids=["examples", "items"])
def test_lists_with_one_item_per_example(collate: Any) -> None:
    """As detectors have them: a list of examples, or a tuple of pictures and a tuple of targets."""
    x, y = labelled()

    class Listed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(5, CLASSES)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, classes = zip(*batch, strict=True) if collate is list else batch
            return F.cross_entropy(self.net(torch.stack(inputs)), torch.stack(classes))

    data: Any = list(zip(x, y, strict=True))
    task = preflight(Listed(), DataLoader(data, BATCH, collate_fn=collate)).task
    batch = collate(data[:6])
    assert task.loss_unit == "examples" and not task.classifies
    assert task.examples_in(batch) == task.terms(batch, 6) == 6
