"""Examples by difficulty: every order, ties, gaps, several processes, workers, resumed trainings."""

from __future__ import annotations

import copy
import math
import pickle
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import probe_for
from lightning_dynamics.interventions.difficulty_sampler import DifficultySampler
from tests.house.training import trainer

ORDERS: dict[str, dict[str, Any]] = {
    "easy_first": {},
    "hard_first": {},
    "proportional": {},
    "drop_easiest": {"share": 0.3},
    "drop_hardest": {"share": 0.3},
}
NAN = math.nan


@dataclass
class Found:
    """What the sampler reads of a result."""

    indices: Tensor
    values: Tensor
    epoch: int = 0

    def hardness(self, score: str) -> Tensor:
        return {"vog": self.values, "margin": -self.values}[score]


class Measured:
    """A callback's place: holds the latest result."""

    def __init__(self, values: list[float] | Tensor | None = None, indices: list[int] | None = None) -> None:
        self.last_result: Found | None = None
        if values is not None:
            hardness = torch.as_tensor(values, dtype=torch.float64)
            where = torch.arange(len(hardness)) if indices is None else torch.tensor(indices)
            self.last_result = Found(where, hardness)


def shuffled_values(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(5)).double()


def sampler(callback: Any, order: str, size: int = 20, **options: Any) -> DifficultySampler:
    return DifficultySampler(size, callback, order=order, **ORDERS[order] | options)  # type: ignore[arg-type]


def epochs(one: DifficultySampler, count: int) -> list[list[int]]:
    drawn = []
    for epoch in range(count):
        one.set_epoch(epoch)
        drawn.append(list(one))
    return drawn


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: size)


# ---- what each order means -----------------------------------------------------------------------------------


def test_first_orders_sort() -> None:
    values = shuffled_values(20)
    easy = list(sampler(Measured(values), "easy_first"))
    assert values[easy].tolist() == list(range(20))
    assert list(sampler(Measured(values), "hard_first")) == easy[::-1]
    assert list(sampler(Measured(values), "hard_first", score="margin")) == easy


@pytest.mark.parametrize("order", ["drop_easiest", "drop_hardest"])
@pytest.mark.parametrize("share", [0, 0.3, 0.95])
def test_drop_orders_leave_out_and_shuffle(order: str, share: float) -> None:
    values = shuffled_values(20)
    one = sampler(Measured(values), order, share=share)
    first, second = epochs(one, 2)
    dropped = round(share * 20)
    expected = set(range(dropped, 20)) if order == "drop_easiest" else set(range(20 - dropped))
    assert len(one) == len(first) == 20 - dropped
    assert {int(values[index]) for index in first} == expected and sorted(first) == sorted(second)
    if share != 0.95:
        assert first != second and first != sorted(first, key=values.__getitem__)


def counts(one: DifficultySampler, size: int, passes: int) -> Tensor:
    return torch.stack([torch.tensor(drawn).bincount(minlength=size) for drawn in epochs(one, passes)])


def test_proportional_follows_its_formula() -> None:
    size, passes = 20, 2000
    values = shuffled_values(size) - 10  # negative ones, too: only ranks count
    drawn = counts(sampler(Measured(values), "proportional"), size, passes)
    expected = 2 * (values - values.min() + 0.5) / size
    assert (drawn.sum(1) == size).all()
    assert (drawn >= expected.floor()).all() and (drawn <= expected.ceil()).all()
    # The number of one epoch is rounded: a Bernoulli draw around its fractional part.
    error = (expected.frac() * (1 - expected.frac()) / passes).sqrt()
    assert ((drawn.double().mean(0) - expected).abs() <= 5 * error).all()


def test_proportional_draws_any_examples_together() -> None:
    """No two examples are always, or never, drawn in the same epoch."""
    size, passes = 12, 2000
    drawn = counts(sampler(Measured(torch.arange(size)), "proportional", size), size, passes)
    easier = (drawn[:, : size // 2] > 0).double()  # these come once or not at all
    together, alone = easier.T @ easier / passes, easier.mean(0)
    different = ~torch.eye(size // 2, dtype=torch.bool)
    assert (together[different] > 0).all()
    assert (together[different] < 3 * torch.outer(alone, alone)[different] + 0.01).all()


def test_proportional_scatters_what_comes_twice() -> None:
    distances = []
    for drawn in epochs(sampler(Measured(shuffled_values(20)), "proportional"), 100):
        twice = [index for index in set(drawn) if drawn.count(index) == 2]
        distances += [len(drawn) - drawn[::-1].index(index) - 1 - drawn.index(index) for index in twice]
    assert sum(distance == 1 for distance in distances) < 0.2 * len(distances) and max(distances) == 19


def test_proportional_without_differences_is_every_example_once() -> None:
    for callback in (Measured(), Measured([1.0] * 20), Measured([NAN] * 20), Measured([3.0], [7])):
        first, second = epochs(sampler(callback, "proportional"), 2)
        assert sorted(first) == sorted(second) == list(range(20)) and first != second


# ---- ties, gaps, nothing -------------------------------------------------------------------------------------


def test_unscored_examples_are_at_the_median() -> None:
    """10 examples: of 6 scored ones, one is NaN; the other five are 1 to 5, and 3 is in the middle."""
    callback = Measured([5.0, 1.0, NAN, 4.0, 2.0, 3.0], [9, 0, 4, 7, 3, 5])
    drawn = epochs(sampler(callback, "easy_first", size=10), 50)
    for order in drawn:
        assert (order[:2], order[-2:]) == ([0, 3], [7, 9])
        assert set(order[2:-2]) == {1, 2, 4, 5, 6, 8}
    assert len({tuple(order) for order in drawn}) > 40
    often = counts(sampler(callback, "proportional", size=10), 10, 50)
    assert (often[:, [1, 2, 4, 5, 6, 8]] == 1).all()


def test_ties_are_in_random_order() -> None:
    drawn = epochs(sampler(Measured([1.0] * 10 + [0.0] * 10), "easy_first"), 30)
    assert all(set(order[:10]) == set(range(10, 20)) for order in drawn)
    places = torch.tensor([order.index(10) for order in drawn])
    assert len(places.unique()) > 5


def test_infinite_hardness_is_hardest() -> None:
    assert list(sampler(Measured([math.inf, 1.0, -math.inf]), "hard_first", size=3)) == [0, 1, 2]


@pytest.mark.parametrize("order", ORDERS)
def test_before_there_are_scores(order: str) -> None:
    callback = Measured()
    one = sampler(callback, order)
    drawn = epochs(one, 3)
    assert {len(indices) for indices in drawn} == {len(one)} and len(set(map(tuple, drawn))) == 3
    assert all(len(set(indices)) == len(indices) for indices in drawn)
    if order.startswith("drop"):
        assert set(drawn[0]) != set(drawn[1])
    callback.last_result = Measured(shuffled_values(20)).last_result
    one.set_epoch(2)
    assert list(one) != drawn[2] and len(list(one)) == len(one) == len(drawn[0])


def test_the_first_epochs_are_random_if_asked_to() -> None:
    callback = Measured(torch.arange(20))
    drawn = epochs(sampler(callback, "easy_first", warmup_epochs=2), 4)
    assert drawn[2] == drawn[3] == list(range(20))
    assert drawn[:2] == epochs(sampler(Measured(), "easy_first"), 2)


def test_scores_are_those_at_the_beginning_of_the_epoch() -> None:
    callback = Measured(torch.arange(20))
    drawn = iter(sampler(callback, "easy_first"))
    assert next(drawn) == 0
    callback.last_result = Measured(-torch.arange(20)).last_result
    assert list(drawn) == list(range(1, 20))


# ---- chance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_chance_is_in_seed_and_epoch_alone(order: str) -> None:
    callback = Measured([0.0] * 10 + [1.0] * 10)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    drawn = epochs(sampler(callback, order), 3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    torch.rand(7)
    again = sampler(callback, order)
    again.set_epoch(2)
    assert list(again) == drawn[2] and len(set(map(tuple, drawn))) == 3
    assert not set(map(tuple, epochs(sampler(callback, order, seed=1), 3))) & set(map(tuple, drawn))


def test_without_set_epoch_every_pass_is_an_epoch() -> None:
    one = sampler(Measured(), "easy_first")
    told = epochs(sampler(Measured(), "easy_first"), 3)
    assert [list(one) for _ in range(3)] == told
    one.set_epoch(1)
    assert [list(one), list(one)] == told[1:]


# ---- several processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("size", [60, 61])
def test_processes_share_one_order(order: str, processes: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = Measured(shuffled_values(size))
    one = sampler(callback, order, size)
    one.set_epoch(3)
    whole = list(one)
    shares = []
    for rank in range(processes):
        as_process(monkeypatch, rank, processes)
        # Built before the processes were known, as in a forked training.
        mine = copy.copy(one)
        mine.set_epoch(3)
        shares.append(list(mine))
        assert len(shares[-1]) == len(mine) == mine.num_samples == len(whole) // processes
        assert (mine.num_replicas, mine.rank, mine.total_size) == (processes, rank, len(mine) * processes)
    merged = [index for step in zip(*shares, strict=True) for index in step]
    if len(merged) == len(whole):
        assert merged == whole
    elif order != "proportional":
        assert len(set(merged)) == len(merged) and set(merged) < set(whole)
        if order in ("easy_first", "hard_first"):
            assert merged == [index for index in whole if index in merged]


def test_the_remainder_left_out_is_another_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = []
    for epoch in range(40):
        drawn: set[int] = set()
        for rank in range(4):
            as_process(monkeypatch, rank, 4)
            one = sampler(Measured(torch.arange(11)), "easy_first", size=11)
            one.set_epoch(epoch)
            drawn |= set(one)
        missing.append(frozenset(range(11)) - drawn)
    assert {len(left) for left in missing} == {3} and frozenset.union(*missing) == set(range(11))


# ---- in loaders and trainings --------------------------------------------------------------------------------


class Numbers(Dataset[Any]):
    """Example i is i."""

    def __init__(self, size: int = 20) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_in_a_loader_without_lightning(workers: int) -> None:
    callback = Measured()
    data = Numbers()
    one = DifficultySampler(data, callback, order="easy_first")
    loader = DataLoader(data, 8, sampler=one, num_workers=workers, persistent_workers=workers > 0)
    first, second = ([int(index) for batch in loader for index in batch] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(20)) and first != second
    callback.last_result = Measured(torch.arange(20)).last_result
    assert [int(index) for batch in loader for index in batch] == list(range(20))
    assert len(loader) == 3


def test_copies_listen_to_the_same_callback() -> None:
    callback = Measured()
    loader = DataLoader(Numbers(), 8, sampler=sampler(callback, "easy_first"))
    copied = copy.deepcopy(loader)
    callback.last_result = Measured(torch.arange(20)).last_result
    assert copied.sampler is not loader.sampler and list(copied.sampler) == list(range(20))
    pickled, its_callback = pickle.loads(pickle.dumps((loader, callback)))
    its_callback.last_result = Measured(-torch.arange(20)).last_result
    assert list(pickled.sampler) == list(range(19, -1, -1))


class Measures(lightning.Callback):
    """Scores every example at the end of each epoch, otherwise each time; checks the loader it finds."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.last_result: Found | None = None
        self.sampler: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert trainer.train_dataloader.sampler is self.sampler
        probe = probe_for(trainer, pl_module, "train", num_examples=1000, batch_size=8, seed=0)
        assert sorted(sum(probe.batches, ())) == list(range(self.size))  # whatever this process's sampler draws

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        values = (torch.arange(self.size) * (7 + trainer.current_epoch)) % 8  # with ties
        self.last_result = Found(torch.arange(self.size), values.double(), trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.last_result is None else vars(self.last_result)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_result = Found(**state_dict)


class Model(lightning.LightningModule):
    """Notes the examples it gets, and brings them out of its process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.folder = folder
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).extend(batch.tolist())
        return self.weight * batch.float().mean()

    def on_train_end(self) -> None:
        torch.save(self.seen, self.folder / f"{self.trainer.world_size}-{self.trainer.global_rank}.pt")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(
    folder: Path,
    order: str = "hard_first",
    size: int = 20,
    workers: int = 0,
    checkpoint: Path | None = None,
    **options: Any,
) -> Any:
    callback = Measures(size)
    callback.sampler = sampler(callback, order, size)
    data = DataLoader(Numbers(size), 4, sampler=callback.sampler, num_workers=workers, persistent_workers=workers > 0)
    run = trainer(folder, [callback], **{"max_epochs": 4} | options)
    run.fit(Model(folder), data, ckpt_path=checkpoint)
    return run


in_trainings = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@in_trainings
@pytest.mark.parametrize("order, size", [("hard_first", 20), ("easy_first", 21), ("drop_easiest", 31)])
def test_two_processes_share_one_training(order: str, size: int, tmp_path: Path) -> None:
    fit(tmp_path, order, size)
    fit(tmp_path, order, size, strategy="ddp_fork", devices=2)
    whole, *shares = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    kept = size - round(ORDERS[order].get("share", 0) * size)
    assert len({tuple(drawn) for drawn in whole.values()}) == 4
    for epoch, drawn in whole.items():
        assert len(drawn) == len(set(drawn)) == kept
        merged = [index for step in zip(*(share[epoch] for share in shares), strict=True) for index in step]
        assert len(merged) == len(set(merged)) == kept - kept % 2
        if kept % 2 == 0:
            assert merged == drawn
        elif order == "easy_first":
            assert merged == [index for index in drawn if index in merged]
        if epoch and order == "hard_first":
            hardness = (torch.tensor(drawn) * (6 + epoch)) % 8
            assert (hardness.diff() <= 0).all()


@in_trainings
@pytest.mark.parametrize("order", ["hard_first", "proportional", "drop_hardest"])
@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_equals_uninterrupted(order: str, workers: int, tmp_path: Path) -> None:
    fit(tmp_path, order, workers=workers)
    whole = torch.load(tmp_path / "1-0.pt")
    cut = fit(tmp_path, order, workers=workers, max_epochs=2)
    cut.save_checkpoint(tmp_path / "cut.ckpt")
    first = torch.load(tmp_path / "1-0.pt")
    fit(tmp_path, order, workers=workers, checkpoint=tmp_path / "cut.ckpt")
    assert first | torch.load(tmp_path / "1-0.pt") == whole
    assert list(whole) == [0, 1, 2, 3] and len(set(map(tuple, whole.values()))) == 4


# ---- complaints ----------------------------------------------------------------------------------------------


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(int, 1)


class Counted(Endless):
    """Has a length, and yet no i-th example."""

    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"order": "hardest"}, "`order` must be one of 'easy_first'"),
        ({"score": ""}, "`score`"),
        ({"order": "drop_easiest"}, "needs `share`"),
        ({"share": 0.2}, "remove `share`"),
        ({"order": "proportional", "share": 0.0}, "remove `share`"),
        ({"order": "drop_hardest", "share": 1}, "`share` must be"),
        ({"order": "drop_hardest", "share": -0.1}, "`share` must be"),
        ({"order": "drop_hardest", "share": NAN}, "`share` must be"),
        ({"order": "drop_hardest", "share": "half"}, "`share` must be"),
        ({"order": "drop_hardest", "share": 0.9, "dataset": 3}, "leaves nothing"),
        ({"warmup_epochs": -1}, "`warmup_epochs`"),
        ({"warmup_epochs": 1.5}, "`warmup_epochs`"),
        ({"seed": -1}, "`seed`"),
        ({"dataset": 0}, "`dataset`"),
        ({"dataset": True}, "`dataset`"),
        ({"dataset": Endless()}, "i-th example"),
        ({"dataset": Counted()}, "Counted.*i-th example"),
        ({"callback": None}, "`callback`"),
    ],
)
def test_complaints(arguments: dict[str, Any], word: str) -> None:
    given = {"dataset": 20, "callback": Measured(), "order": "easy_first"} | arguments
    with pytest.raises(ConfigurationError, match=f"^DifficultySampler: .*{word}"):
        DifficultySampler(given.pop("dataset"), given.pop("callback"), **given)


@pytest.mark.parametrize("index", [20, -1])
def test_scores_of_another_data_set(index: int) -> None:
    with pytest.raises(
        ConfigurationError, match=f"^DifficultySampler: .*example {index}.*another data set.*data='train'"
    ):
        list(sampler(Measured([1.0, 2.0], [3, index]), "easy_first"))


def test_a_score_that_the_callback_does_not_know() -> None:
    one = sampler(Measured([1.0]), "easy_first", score="el2n")
    with pytest.raises(ConfigurationError, match="^DifficultySampler: `score='el2n'`.*'vog'"):
        list(one)


def test_scores_of_the_validation_data_are_not_taken_for_those_of_the_training_data() -> None:
    """Their indices would fit."""
    callback = Measured(torch.arange(20))
    callback.last_result.data = "val"  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="^DifficultySampler: .*validation data.*data='train'"):
        list(sampler(callback, "easy_first"))
    callback.last_result.data = "train"  # type: ignore[union-attr]
    assert list(sampler(callback, "easy_first")) == list(range(20))


def test_a_list_is_a_data_set_and_so_is_a_number_of_numpy() -> None:
    data = [(torch.tensor([float(i)]), i) for i in range(6)]
    for dataset in (data, np.int64(6)):
        one = DifficultySampler(dataset, Measured(-torch.arange(6)), order="easy_first")  # type: ignore[arg-type]
        loader: Any = DataLoader(data, 4, sampler=one)  # type: ignore[arg-type]
        assert [int(label) for _, labels in loader for label in labels] == [5, 4, 3, 2, 1, 0]


def test_a_callback_that_does_not_measure_is_asked_after_once() -> None:
    callback = Measured()
    callback.every_n_epochs = 2  # type: ignore[attr-defined]
    one = sampler(callback, "easy_first", warmup_epochs=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epochs(one, 3)
    with pytest.warns(UserWarning, match=r"^DifficultySampler: epoch 3 .*Measured in `Trainer\(callbacks") as caught:
        epochs(one, 6)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epochs(sampler(Measured(torch.arange(20)), "easy_first"), 6)


@in_trainings
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("order", ["hard_first", "proportional"])
def test_a_tuner_before_training_changes_no_epoch(order: str, workers: int, tmp_path: Path) -> None:
    class Own(Model):
        lr, batch_size = 0.0, 4

        def __init__(self, callback: Measures) -> None:
            super().__init__(tmp_path)
            self.callback = callback

        def train_dataloader(self) -> Any:
            self.callback.sampler = sampler(self.callback, order)
            options: Any = {"num_workers": workers, "persistent_workers": workers > 0}
            return DataLoader(Numbers(), self.batch_size, sampler=self.callback.sampler, **options)

    drawn = []
    for tuners in (
        [],
        [LearningRateFinder(num_training_steps=13, update_attr=False, early_stop_threshold=None)],
        [BatchSizeFinder(max_trials=1, steps_per_trial=2, init_val=4)],
    ):
        callback = Measures(20)
        module = Own(callback)
        trainer(tmp_path, [callback, *tuners], max_epochs=3).fit(module)
        drawn.append({epoch: seen[-20:] for epoch, seen in module.seen.items()})
    assert drawn[0] == drawn[1] == drawn[2] and len(drawn[0]) == 3
