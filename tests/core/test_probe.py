"""The probe: which examples, frozen how, for whom, and without touching training's own data."""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from lightning_dynamics.core import probe as module_under_test
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.lightning import Callback, ConfigurationError
from lightning_dynamics.core.precision import default_dtype
from lightning_dynamics.core.probe import Batch, Probe, probe_for, probe_of, release_probes
from lightning_dynamics.core.probe_sources import NoIndex
from tests.house.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]
WORDS = {"num_examples": 7, "batch_size": 3, "seed": 0}


class Numbers(Dataset[Any]):
    """Example i is ``(i, i % 2)``; counts what is read."""

    def __init__(self, size: int = 20) -> None:
        self.size = size
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        assert 0 <= index < self.size
        self.reads.append(index)
        return torch.tensor([float(index)]), index % 2


class Noisy(Numbers):
    """Augments with every stream there is, its own generators among them."""

    def __init__(self, size: int = 20) -> None:
        super().__init__(size)
        self.transform = SimpleNamespace(transforms=[torch.Generator().manual_seed(3), np.random.default_rng(4)])

    def __getitem__(self, index: int) -> Tensor:
        own, numpy_own = self.transform.transforms
        draws = [torch.rand(1, generator=own).item(), numpy_own.random()]
        return torch.tensor([index, torch.rand(1).item(), np.random.rand(), random.random(), *draws])


class Model(lightning.pytorch.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Look(Callback):
    """Calls a function at the start of training and keeps what it returns."""

    def __init__(self, look: Any, each_batch: Any = None) -> None:
        self.look, self.each_batch, self.batches = look, each_batch, 0
        self.seen: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen = self.look(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        if self.each_batch is not None:
            self.each_batch(trainer, pl_module)


def fit(callback: Any, train: Any, val: Any = None, *, module: Any = None, package: Any = None, **options: Any) -> Any:
    run = trainer(Path("unused"), [callback], package=package or lightning.pytorch, **{"max_epochs": 1, **options})
    run.fit(module or Model(), train, val)
    return run


def look_at(data: Any, train: Any = None, val: Any = None, **options: Any) -> Probe:
    words = {**WORDS, **options.pop("words", {})}
    look = Look(lambda trainer, module: probe_for(trainer, module, data, **words))
    val = DataLoader(Numbers(4), batch_size=2) if val is None else val
    fit(look, DataLoader(Numbers(), batch_size=4) if train is None else train, val, **options)
    return look.seen


def everything(probe: Probe) -> list[Batch]:
    return [probe.batch(number) for number in range(len(probe.batches))]


def plain_probe(dataset: Any, size: int = 8, batch_size: int = 2, collate: Any = torch.stack, seed: int = 0) -> Probe:
    batches = tuple(tuple(part.tolist()) for part in torch.arange(size).split(batch_size))
    return Probe(dataset, "train", batches, collate, lambda batch: batch, seed=seed)


# ---- which examples -----------------------------------------------------------------------------------------


def test_the_choice() -> None:
    data = Numbers()
    probe = look_at(data)
    assert len(probe) == 7 and [len(batch) for batch in everything(probe)] == [3, 3, 1]
    indices = [index for batch in probe.batches for index in batch]
    assert len(set(indices)) == 7
    assert all(batch.data[0].squeeze(1).tolist() == list(batch.indices) for batch in everything(probe))
    assert sorted(data.reads) == sorted(indices), "each example is read once, and no other"
    assert look_at(Numbers()).batches == probe.batches
    assert look_at(Numbers(), words={"seed": 1}).batches != probe.batches
    assert sorted(i for b in look_at(Numbers(), words={"num_examples": 99}).batches for i in b) == list(range(20))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_of_several_processes_make_up_the_whole(size: int) -> None:
    probe = plain_probe(Noisy(), 9)
    whole = [batch.data for batch in everything(probe)]
    numbers: list[int] = []
    for rank in range(size):
        own = plain_probe(Noisy(), 9)
        for number in Ranks(rank, size).shard(range(len(own.batches))):
            numbers.append(number)
            assert torch.equal(own.batch(number).data, whole[number]), "augmented alike whoever reads it"
    assert sorted(numbers) == list(range(len(whole)))


# ---- where from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning])
def test_train_and_val(package: Any) -> None:
    class Same(package.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        training_step, validation_step = Model.training_step, Model.validation_step
        configure_optimizers = Model.configure_optimizers

    train, val = Numbers(20), Numbers(4)
    for data, dataset in (("train", train), ("val", val)):
        loaders = DataLoader(train, batch_size=4), DataLoader(val, batch_size=2)
        probe = look_at(data, *loaders, module=Same(), package=package)
        assert probe.dataset is dataset and probe.name == data


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("own_hook", [False, True])
def test_val_is_there_before_the_first_validation(every: int, own_hook: bool) -> None:
    module, loader = Model(), DataLoader(Numbers(4), batch_size=2)
    if own_hook:
        module.val_dataloader = lambda: loader  # type: ignore[method-assign]
    look = Look(lambda trainer, module: probe_for(trainer, module, "val", **WORDS))
    options = {"check_val_every_n_epoch": every, "num_sanity_val_steps": 0}  # a sanity check sets the loader up
    fit(look, DataLoader(Numbers(), batch_size=4), None if own_hook else loader, module=module, **options)
    assert look.seen.dataset is loader.dataset


def test_a_random_split_in_val_dataloader_does_not_move_training() -> None:
    """Lightning has not asked for it yet, so we must, and its draws must not be felt."""

    class Splits(Model):
        def val_dataloader(self) -> Any:
            return DataLoader(torch.utils.data.random_split(Numbers(), [10, 10])[0])

    def final(look: bool) -> tuple[Any, ...]:
        torch.manual_seed(0)
        callback = Look(lambda trainer, module: look and probe_for(trainer, module, "val", **WORDS))
        module = Splits()
        train = DataLoader(Numbers(), batch_size=4, shuffle=True)
        fit(callback, train, module=module, max_epochs=3, check_val_every_n_epoch=2, num_sanity_val_steps=0)
        return *module.layer.weight.tolist(), torch.rand(1).item()

    assert final(True) == final(False)


def test_a_loaders_collate_function_is_used() -> None:
    def collate(examples: list[Any]) -> UserDict[str, Any]:
        return UserDict(x=torch.stack([x for x, _ in examples]), y=[y for _, y in examples])

    data = DataLoader(Numbers(), batch_size=4, collate_fn=collate, shuffle=True, drop_last=True)
    batch = look_at(data).batch(0)
    assert isinstance(batch.data, UserDict)
    assert batch.data["y"] == [index % 2 for index in batch.indices]


@pytest.mark.parametrize("wrap", [lambda loader: [loader], lambda loader: {"only": loader}])
def test_one_loader_in_a_container_is_that_loader(wrap: Any) -> None:
    class First(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer.weight.sum()

    train = Numbers()
    assert look_at("train", wrap(DataLoader(train, batch_size=4)), module=First()).dataset is train


@pytest.mark.parametrize("data", ["train", "val"])
def test_only_what_a_subset_sampler_draws_is_chosen(data: str) -> None:
    """Train and validation split of one data set by samplers: "val" must not show training examples."""
    numbers = Numbers()
    samplers = {"train": SubsetRandomSampler(range(15)), "val": SubsetRandomSampler(torch.arange(15, 20))}  # type: ignore[arg-type]
    loaders = [DataLoader(numbers, batch_size=5, sampler=sampler) for sampler in samplers.values()]
    probe = look_at(data, *loaders, words={"num_examples": 99})
    chosen = sorted(index for batch in probe.batches for index in batch)
    assert chosen == {"train": list(range(15)), "val": list(range(15, 20))}[data]
    assert type(chosen[0]) is int


def test_a_loader_that_samples_whole_batches_by_index() -> None:
    numbers = Numbers()
    data = DataLoader(numbers, batch_size=None, sampler=BatchSampler(RandomSampler(numbers), 4, False))
    assert look_at(data).batch(0).data[0].shape == (3, 1)


def test_datasets_of_datasets() -> None:
    parts = [TensorDataset(torch.arange(5.0)), TensorDataset(torch.arange(5.0, 9))]
    batch = look_at(Subset(ConcatDataset(parts), [8, 0, 5])).batch(0)
    assert dict(zip(batch.indices, batch.data[0].tolist(), strict=True)) == {0: 8.0, 1: 0.0, 2: 5.0}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(1), 0)] * 8)


class LongStream(Stream):
    def __len__(self) -> int:
        return 8


class Unindexed:
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(2, 1), torch.zeros(2))])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("test", "`data` must be 'train', 'val', a Dataset or a DataLoader; got 'test'"),
        (Stream(), "`data='Stream'` is a Stream: its examples have no index"),
        (LongStream(), "`data='LongStream'` is a LongStream: its examples have no index"),
        (DataLoader(Stream()), "`data='DataLoader'` is a Stream: its examples have no index"),
        (DataLoader(Stream(), batch_size=None), "`data='DataLoader'` is a Stream: its examples have no index"),
        (Unindexed(), "`data='Unindexed'` is a Unindexed: its examples have no index"),
        (Numbers(0), "`data='Numbers'` is an empty data set"),
        (None, "`data='NoneType'` is a NoneType"),
        (5, "`data='int'` is a int"),
        (DataLoader(Numbers(), batch_size=None), "`data='DataLoader'`: with `batch_size=None`"),
    ],
)
def test_data_that_cannot_work(data: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        look_at(data)
    assert text in str(error.value)


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize("make", [lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}])
def test_several_loaders_are_told_by_the_word_data(name: str, make: Any) -> None:
    class Any_(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer.weight.sum()

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    both = make(DataLoader(Numbers(), batch_size=4), DataLoader(Numbers(), batch_size=4))
    with pytest.raises(ConfigurationError, match=f"`data='{name}'` stands for 2 loaders: pass the Dataset"):
        look_at(name, module=Any_(), **{name: both})


def test_training_on_a_stream_or_without_validation() -> None:
    with pytest.raises(ConfigurationError, match="`data='train'` is a Stream: its examples have no index"):
        look_at("train", DataLoader(Stream(), batch_size=2))
    look = Look(lambda trainer, module: probe_for(trainer, module, "val", **WORDS))
    with pytest.raises(ConfigurationError, match="`data='val'`, but there is no validation data"):
        fit(look, DataLoader(Numbers()))


def test_arrays_are_data_sets_too() -> None:
    """Comparing an array with the word "train" gives no single answer."""
    assert look_at(np.arange(12.0).reshape(6, 2)).batch(0).data.shape == (3, 2)
    assert look_at([torch.tensor([i]) for i in range(5)]).batch(0).data.shape == (3, 1)
    assert look_at([torch.tensor([7])]).batch(0).data.tolist() == [[7]]


# ---- frozen, and apart from training ------------------------------------------------------------------------


def test_augmentation_is_frozen_and_leaves_no_trace() -> None:
    def streams() -> Any:
        own, numpy_own = data.transform.transforms
        return (
            *(torch.get_rng_state().tolist(), repr(np.random.get_state(legacy=False)), random.getstate()),
            *(own.get_state().tolist(), repr(numpy_own.bit_generator.state)),
        )

    data = Noisy()
    probe = plain_probe(data)
    before = streams()
    first = [batch.data for batch in everything(probe)]
    assert streams() == before
    for index in range(5):
        data[index]  # training goes on drawing
    again = plain_probe(data)
    for number in reversed(range(4)):
        assert torch.equal(probe.batch(number).data, first[number])
        assert torch.equal(again.batch(number).data, first[number]), "from its own seed, not from where streams are"
    rows = torch.cat(first)[:, 1:]
    assert all(column.unique().numel() > 4 for column in rows.T), "examples are not all augmented alike"
    assert not torch.equal(plain_probe(data, seed=9).batch(0).data, first[0])


def test_a_collate_function_that_draws() -> None:
    class Masking:
        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)

        def collate(self, examples: list[Any]) -> Tensor:
            return torch.stack(examples) * torch.rand(1, generator=self.generator) * torch.rand(1)

    masking = Masking()
    before = masking.generator.get_state()
    first = plain_probe(torch.ones(8, 1), collate=masking.collate).batch(1).data
    assert torch.equal(masking.generator.get_state(), before)
    torch.rand(3, generator=masking.generator)
    assert torch.equal(plain_probe(torch.ones(8, 1), collate=masking.collate).batch(1).data, first)


@pytest.mark.parametrize("limit", [2**30, -1])
def test_what_a_module_does_to_its_batch_is_not_seen_by_the_next(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "_CACHE_LIMIT", limit)
    source = torch.ones(8, 2)
    probe = plain_probe(TensorDataset(source), collate=lambda examples: {"x": [x for (x,) in examples], "y": 1})
    for _ in range(3):
        data = probe.batch(0).data
        assert data.pop("y") == 1
        assert all(x.tolist() == [1, 1] for x in data["x"])
        for x in data["x"]:
            x.zero_()
    assert source.sum() == 16, "the data set itself"


@pytest.mark.parametrize("limit", [2**30, -1])
def test_random_transfer_hooks_are_frozen(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmentation on the device runs in the hooks; what does not fit the cache is placed each time."""
    monkeypatch.setattr(module_under_test, "_CACHE_LIMIT", limit)
    probe = plain_probe(Noisy())
    placed: list[int] = []
    probe.place = lambda batch: (placed.append(1), batch + torch.rand(1))[1]
    first = [batch.data for batch in everything(probe)]
    torch.rand(5)
    for number in (2, 0, 3, 1):
        assert torch.equal(probe.batch(number).data, first[number])
    assert (len(placed) == 4) == (limit > 0)


def test_transfer_hooks_of_the_module_are_run() -> None:
    class Hooks(Model):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] + 100, batch[1]]

    seen: list[Any] = []

    def look(trainer: Any, module: Any) -> None:
        seen.append(probe_for(trainer, module, Numbers(), **WORDS).batch(0))

    fit(Look(look), DataLoader(Numbers(), batch_size=4), module=Hooks())
    assert (seen[0].data[0].squeeze(1) - 100).tolist() == list(seen[0].indices)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("persistent", [False, True])
def test_training_loses_no_batch_and_moves_by_no_bit(persistent: bool) -> None:
    """One more pass over a loader with persistent workers would end the running epoch, silently."""

    def run(probing: bool) -> tuple[int, list[float], float]:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)

        def read(trainer: Any, module: Any) -> None:
            if probing:
                for data in ("train", "val"):
                    everything(probe_for(trainer, module, data, **WORDS))
                release_probes(trainer)

        look = Look(read, each_batch=read)
        workers = {"num_workers": 1, "persistent_workers": persistent, "multiprocessing_context": "fork"}
        module = Model()
        train = DataLoader(Numbers(16), batch_size=2, shuffle=True, **workers)  # type: ignore[arg-type]
        fit(look, train, DataLoader(Numbers(4), batch_size=2), module=module, max_epochs=2)
        return look.batches, module.layer.weight.flatten().tolist(), torch.rand(1).item()

    assert run(True) == run(False)
    assert run(True)[0] == 16


# ---- shared -------------------------------------------------------------------------------------------------


def test_callbacks_that_say_the_same_share_one_probe() -> None:
    seen: dict[str, Probe] = {}
    one, other = DataLoader(Numbers(), collate_fn=list), DataLoader(Numbers(), collate_fn=tuple)
    other_of_one = DataLoader(one.dataset, collate_fn=tuple)

    def look(trainer: Any, module: Any) -> None:
        for name, data, more in [
            *(("train", "train", {}), ("again", "train", {}), ("seed", "train", {"seed": 1})),
            *(("size", "train", {"num_examples": 6}), ("batch", "train", {"batch_size": 2}), ("val", "val", {})),
            *(("one", one, {}), ("one again", one, {}), ("other", other, {}), ("other collate", other_of_one, {})),
        ]:
            seen[name] = probe_for(trainer, module, data, **{**WORDS, **more})  # type: ignore[arg-type]
        release_probes(trainer)
        seen["forgotten"] = probe_for(trainer, module, "train", **WORDS)

    fit(Look(look), DataLoader(Numbers(), batch_size=4), DataLoader(Numbers(4), batch_size=2))
    groups: dict[int, list[str]] = {}
    for name, probe in seen.items():
        groups.setdefault(id(probe), []).append(name)
    assert [names for names in groups.values() if len(names) > 1] == [["train", "again"], ["one", "one again"]]
    assert isinstance(seen["other collate"].batch(0).data, tuple) and isinstance(seen["one"].batch(0).data, list)


def test_trainers_share_nothing() -> None:
    data = Numbers()
    assert look_at(data) is not look_at(data)


def test_the_cache_limit_counts_what_lies_on_the_device() -> None:
    size = module_under_test._bytes
    meta = torch.zeros(3, 2, device="meta")
    assert size(torch.zeros(5)) == 0, "on the CPU nothing is gained by reading again"
    assert size(meta) == 24
    assert size({"a": [meta, (meta, "text")], "b": None}) == 48
    assert size(UserDict(a=meta)) == 24


# ---- what is handed out ------------------------------------------------------------------------------------


def numbers() -> Probe:
    data = TensorDataset(torch.arange(16.0).reshape(8, 2), torch.arange(8))
    return plain_probe(data, collate=default_collate)


def test_a_caller_that_leaves_its_copy_alone_is_handed_the_tensors_themselves() -> None:
    probe = numbers()
    first, second, third = (probe.batch(0).data for _ in range(3))
    assert first[0].data_ptr() != second[0].data_ptr() == third[0].data_ptr()
    assert second is not third, "containers are always the caller's own"
    second.pop()
    assert len(probe.batch(0).data) == 2


@pytest.mark.parametrize("calls_before", [0, 1, 2, 5])
def test_whenever_a_caller_changes_its_batch_the_next_one_is_as_read(calls_before: int) -> None:
    probe = numbers()
    expected = numbers().batch(0).data
    for _ in range(calls_before):
        probe.batch(0)
    for _ in range(3):
        images, labels = probe.batch(0).data
        assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
        assert not images.requires_grad
        images.mul_(2.0)
        labels.add_(1)
        images.requires_grad_()


def test_what_cannot_be_compared_is_copied_every_time() -> None:
    class Custom:
        def __init__(self, images: Any) -> None:
            self.images = torch.stack([image for image, _ in images])

    probe = plain_probe(TensorDataset(torch.ones(8, 2), torch.arange(8)), collate=Custom)
    for _ in range(3):
        batch = probe.batch(0).data
        assert bool((batch.images == 1).all())
        batch.images.data.zero_()  # unseen by torch's count of changes


def test_examples_do_not_depend_on_the_dtype_of_the_analysis_that_reads_them_first() -> None:
    class Augmented(Numbers):
        def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
            return torch.rand(3)

    single, double = look_at(Augmented()), look_at(Augmented())
    with default_dtype(torch.float64):
        drawn = double.batch(0).data
    assert drawn.dtype is torch.float32 and torch.equal(drawn, single.batch(0).data)


def test_a_recorded_minibatch_survives_what_trusted_callers_do_to_it() -> None:
    recorded = [([torch.ones(4, 2), torch.arange(4)], 4), ([torch.zeros(3, 2), torch.arange(3)], 3)]
    probe = probe_of(recorded, seed=0)
    assert probe.batches == ((0, 1, 2, 3), (4, 5, 6)) and len(probe) == 7
    for _ in range(5):
        batch = probe.batch(0)
        assert bool((batch.data[0] == 1).all()) and batch.indices == batch.order == (0, 1, 2, 3)
        if _ >= 2:  # after it has been left alone, and is handed out itself
            batch.data[0].zero_()
    assert bool((recorded[0][0][0] == 1).all())
    assert probe.cut(2) is probe and probe.few(2) == (None, 4)


# ---- minibatches as training has them -----------------------------------------------------------------------


class Buckets(Sampler[list[int]]):
    """Minibatches of examples that belong together, in an order that is drawn."""

    def __init__(self, buckets: list[list[int]], data: Any = None, shuffle: bool = True) -> None:
        self.buckets, self.data, self.shuffle = buckets, data, shuffle
        self.generator, self.begun = torch.Generator().manual_seed(1), 0

    def __len__(self) -> int:
        return len(self.buckets)

    def __iter__(self) -> Iterator[list[int]]:
        self.begun += 1
        shift = int(torch.randint(len(self), (), generator=self.generator)) + int(torch.rand(()) < 0.5)
        for place in range(len(self)):
            yield self.buckets[(place + shift if self.shuffle else place) % len(self)]


EVENS_AND_ODDS = [[0, 2, 4, 6], [1, 3, 5, 7, 9], [8, 10, 12], [11, 13, 15, 17]]


@pytest.mark.parametrize("num_examples", [3, 7, 99])
def test_minibatches_of_a_batch_sampler_stay_together(num_examples: int) -> None:
    data = Numbers()
    sampler = Buckets(EVENS_AND_ODDS, data)
    loader = DataLoader(data, batch_sampler=sampler)
    torch.manual_seed(3)
    states = torch.get_rng_state(), sampler.generator.get_state()
    probe = look_at(loader, train=DataLoader(Numbers(4)), words={"num_examples": num_examples})
    assert torch.equal(sampler.generator.get_state(), states[1]) and sampler.begun == 0
    for batch in everything(probe):
        assert any(set(batch.indices) <= set(bucket) for bucket in EVENS_AND_ODDS) and len(batch) <= 3
        assert batch.data[0].squeeze(1).tolist() == list(batch.indices)
    assert len(probe) == min(num_examples, 16)
    assert probe.dataset is data, "which is not copied with the sampler"
    torch.manual_seed(99)
    list(sampler)
    again = look_at(loader, train=DataLoader(Numbers(4)), words={"num_examples": num_examples})
    assert again.batches == probe.batches, "whatever the streams, and however far the sampler"


def test_looking_at_buckets_does_not_move_training() -> None:
    def trained(look: bool) -> Any:
        torch.manual_seed(0)
        data = Numbers()
        callback = Look(lambda trainer, module: look and probe_for(trainer, module, "train", **WORDS))  # type: ignore[arg-type]
        fit(callback, DataLoader(data, batch_sampler=Buckets(EVENS_AND_ODDS)), max_epochs=3)
        return data.reads, torch.rand(1).item()

    assert trained(True) == trained(False)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("option", [{"overfit_batches": 2}, {"limit_train_batches": 2}, {"overfit_batches": 0.4}])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("sampler", ["plain", "subset", "buckets"])
def test_the_probe_is_what_is_trained_on(option: dict[str, Any], shuffle: bool, sampler: str) -> None:
    data = Numbers()
    if sampler == "plain":
        loader = DataLoader(data, 4, shuffle=shuffle)
    elif sampler == "subset":
        indices = SubsetRandomSampler(range(5, 13)) if shuffle else SequentialSampler(data)  # type: ignore[arg-type]
        loader = DataLoader(data, 4, sampler=indices)
    else:
        loader = DataLoader(data, batch_sampler=Buckets(EVENS_AND_ODDS, shuffle=shuffle))
    words = {**WORDS, "num_examples": 99}
    look = Look(lambda trainer, module: probe_for(trainer, module, "train", **words))
    fit(look, loader, max_epochs=8, **option)
    trained_on, probed = set(data.reads), {index for batch in look.seen.batches for index in batch}
    if shuffle:  # over the epochs more than two minibatches, unless Lightning stops the shuffling
        assert trained_on <= probed
        assert trained_on == probed or "limit_train_batches" in option or sampler != "plain"
    else:
        assert trained_on == probed and len(probed) < 20


def test_smaller_minibatches_of_the_same_examples_are_collated_anew() -> None:
    def padded(items: list[Any]) -> Tensor:
        longest = max(len(x) for x in items)
        return torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x in items])

    data = [torch.full((i + 1,), float(i)) for i in range(7)]
    probe = plain_probe(data, size=7, batch_size=5, collate=padded)
    cut = probe.cut(2)
    assert [len(batch) for batch in cut.batches] == [2, 2, 1, 2]
    assert [index for batch in cut.batches for index in batch] == list(range(7))
    assert [tuple(batch.data.shape) for batch in everything(cut)] == [(2, 2), (2, 4), (1, 5), (2, 7)]
    assert probe.cut(5) is probe and [len(batch) for batch in probe.batches] == [5, 2]


def test_a_few_examples_to_collate_as_one_likes() -> None:
    collated, size = numbers().few(5)
    assert collated is not None and size == 5
    assert collated([1, 0, 1])[1].tolist() == [1, 0, 1]
    collated([0])[0].zero_()
    assert collated([0])[0].tolist() == [[0.0, 1.0]]
    one_by_one, size = plain_probe(TensorDataset(torch.arange(8)), batch_size=1, collate=default_collate).few(5)
    assert one_by_one is not None and size == 5 and one_by_one([4, 2])[0].tolist() == [4, 2]


def test_a_few_examples_are_those_that_are_not_dropped_and_draw_the_same() -> None:
    def collate(items: list[Any]) -> Tensor:
        kept = torch.stack([item for item in items if item[0] != 1])
        return kept + torch.rand(kept.shape)

    state = torch.get_rng_state()
    collated, size = plain_probe(torch.arange(4.0)[:, None], batch_size=4, collate=collate).few(4)
    assert collated is not None and size == 3
    first = collated([0, 1, 2])
    assert first.long().flatten().tolist() == [0, 2, 3]
    assert torch.equal(collated([0, 1, 2]), first) and torch.equal(torch.get_rng_state(), state)


def test_rows_are_named_by_their_examples() -> None:
    def collate(items: list[Any]) -> list[Tensor]:
        items = sorted((item for item in items if item[0] != 3), key=lambda item: -float(item[0]))
        return default_collate(items)

    probe = plain_probe(Numbers(), collate=collate, batch_size=4)
    batch = probe.batch(0)
    assert batch.indices == batch.order == (2, 1, 0) and len(batch) == 3
    assert batch.data[0].squeeze(1).tolist() == [2, 1, 0]
    assert probe.batch(1).indices == (7, 6, 5, 4) and probe.batch(1).order == (3, 2, 1, 0)
    merged = plain_probe(Numbers(), collate=lambda items: sum(x for x, _ in items), batch_size=4).batch(1)
    assert merged.order is None and merged.indices == (4, 5, 6, 7)


def test_a_loader_that_hands_out_minibatches_by_index_has_no_examples() -> None:
    """As Keras's sequences do; ``default_collate`` would stack its minibatches."""

    class Sequence:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, place: int) -> Any:
            if place >= 3:
                raise IndexError
            return [torch.zeros(4, 1), torch.zeros(4)]

    with pytest.raises(NoIndex, match="`data='train'` is a Sequence, which hands out whole minibatches"):
        look_at("train", Sequence())
