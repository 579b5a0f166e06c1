"""Data without an index: the first minibatches of training are recorded, and analyses are those of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_dynamics import (
    AnalysisCallback,
    CKACallback,
    CurvatureCallback,
    LandscapeCallback,
    LossContributionCallback,
    VoGCallback,
)
from lightning_dynamics.core.recording import Recording
from lightning_dynamics.core.schedule import Never
from tests.analyses.cka.reference import cka_map
from tests.analyses.vog.reference import vog
from tests.house.training import assert_identical, trainer
from tests.kinds.kind import CLASSES, FEATURES

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Lightning's advice about workers and lengths
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
BATCH, SIZE = 8, 30  # so the last minibatch of an epoch has 6 examples


def examples(size: int = SIZE) -> Iterator[tuple[Tensor, Tensor]]:
    """They differ in every pass: training's stream of random numbers decides."""
    for _ in range(size):
        label = torch.randint(CLASSES, ())
        yield torch.randn(FEATURES) + label, label


class Counted:
    """Counts passes begun, and items handed out."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make, self.begun, self.drawn = make, 0, 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        for item in self.make():
            self.drawn += 1
            yield item


class Stream(Counted, IterableDataset[Any]):
    """The same, for a DataLoader."""


def minibatches(size: int = SIZE) -> Iterator[list[Tensor]]:
    held = list(examples(size))
    for start in range(0, size, BATCH):
        yield [torch.stack(parts) for parts in zip(*held[start : start + BATCH], strict=True)]


class Net(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Two(Net):
    """Two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        parts = list(batch.values()) if isinstance(batch, dict) else batch
        return F.cross_entropy(self(parts[0][0]), parts[0][1]) + 0.5 * F.cross_entropy(self(parts[1][0]), parts[1][1])


class Graphs:
    """A batch object."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any, **_: Any) -> Graphs:
        return Graphs(self.x.to(device), self.y.to(device))


class OfObjects(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch.x), batch.y)


Form = tuple[type[Net], Any, list[Counted]]


def stream() -> Form:
    data = Stream(examples)
    return Net, DataLoader(data, BATCH), [data]


def two_loaders() -> Form:
    data = [Stream(examples), Stream(lambda: examples(2 * SIZE))]
    return Two, {"a": DataLoader(data[0], BATCH), "b": DataLoader(data[1], BATCH)}, list(data)


def combined() -> Form:
    data = [Stream(examples), Stream(examples)]
    return Two, CombinedLoader([DataLoader(one, BATCH) for one in data], "min_size"), list(data)


def no_loader() -> Form:
    data = Counted(minibatches)
    return Net, data, [data]


def whole_batches() -> Form:
    data = Stream(minibatches)
    return Net, DataLoader(data, batch_size=None), [data]


def objects() -> Form:
    data = Counted(lambda: (Graphs(*batch) for batch in minibatches()))
    return OfObjects, data, [data]


FORMS = {form.__name__: form for form in (stream, two_loaders, combined, no_loader, whole_batches, objects)}
of_labelled = pytest.mark.parametrize("form", [stream, no_loader, whole_batches, objects])


class Watch(Callback):
    """What training receives, and the parameters after each step."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.points: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.points.append({name: p.detach().double().clone() for name, p in pl_module.named_parameters()})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append([batch.x, batch.y] if isinstance(batch, Graphs) else batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.on_train_start(trainer, pl_module)


def quick(callback: Any) -> Any:
    callback.shows = Never()  # no pictures
    return callback


def analyses(num_examples: int = 20, **options: Any) -> dict[str, Any]:
    words: dict[str, Any] = {"num_examples": num_examples, "every_n_train_steps": 2, "on_error": "raise"} | options
    made = {
        "cka": CKACallback(layers=["net.0", "net.2"], at_start=True, **words),
        "vog": VoGCallback(with_respect_to="input", at_start=True, **words),
        "contribution": LossContributionCallback(**words),
        "landscape": LandscapeCallback(resolution=3, slice="random_line", **words),
        "curvature": CurvatureCallback(k=1, trace_samples=0, density_samples=0, tolerance=1e-7, **words),
    }
    return {name: quick(callback) for name, callback in made.items()}


def fit(folder: Path, form: Form, callbacks: Any, **options: Any) -> Any:
    kind, loader, _ = form
    torch.manual_seed(0)
    module = kind()
    run = trainer(folder, callbacks, **{"max_epochs": 2, **options})
    run.fit(module, loader)
    return module, run


# ---- do no harm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_training_is_bit_identical_and_nothing_is_read_twice(name: str, tmp_path: Path) -> None:
    def trained(callbacks: list[Any]) -> Any:
        form = FORMS[name]()
        watch = Watch()
        module, run = fit(tmp_path, form, [watch, *callbacks])
        read = [(data.begun, data.drawn) for data in form[2]]
        states = [optimizer.state_dict() for optimizer in run.optimizers]
        batches = [[batch.values() if isinstance(batch, dict) else batch] for batch in watch.batches]
        return [list(module.state_dict().values()), states, torch.get_rng_state(), read, watch.points, len(batches)]

    callbacks = analyses(on_error="warn")
    with_them = trained(list(callbacks.values()))
    assert_identical(trained([]), with_them)
    resting = {key for key, callback in callbacks.items() if callback.refusal is not None}
    assert resting <= ({"vog"} if name in ("two_loaders", "combined") else set()), callbacks["vog"].refusal
    assert all(len(callback.results) >= 2 for key, callback in callbacks.items() if key not in resting)


def test_minibatches_that_cannot_be_copied_are_left_alone(tmp_path: Path) -> None:
    def uncopyable() -> Form:
        data = Counted(lambda: ([*batch, iter([])] for batch in ([*one, (x for x in "a")] for one in minibatches())))
        return Net, data, [data]

    callbacks = analyses(on_error="warn")
    module, _ = fit(tmp_path, uncopyable(), list(callbacks.values()))
    without, _ = fit(tmp_path, uncopyable(), [])
    assert_identical(dict(module.state_dict()), dict(without.state_dict()))
    for callback in callbacks.values():
        assert "cannot be copied" in callback.refusal and "`data=Dataset`" in callback.refusal and not callback.results


# ---- the numbers of the recorded minibatches ----------------------------------------------------------------


def net_at(point: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Both layers' outputs, in float64."""

    def hidden(x: Tensor) -> Tensor:
        return x.double() @ point["net.0.weight"].T + point["net.0.bias"]

    def run(x: Tensor) -> Tensor:
        return torch.tanh(hidden(x)) @ point["net.2.weight"].T + point["net.2.bias"]

    run.hidden = hidden  # type: ignore[attr-defined]
    return run


def mean_loss(point: dict[str, Tensor], batches: list[Any]) -> Tensor:
    """Over all examples alike."""
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return F.cross_entropy(net_at(point)(x), y)


@of_labelled
@pytest.mark.parametrize(("num_examples", "first"), [(20, 3), (30, 4)], ids=["full ones", "the last is smaller"])
def test_numbers_are_those_of_recorded_minibatches(form: Any, num_examples: int, first: int, tmp_path: Path) -> None:
    watch, callbacks = Watch(), analyses(num_examples)
    fit(tmp_path, form(), [watch, *callbacks.values()])
    batches, count = watch.batches[:first], 24 if first == 3 else 30
    assert [len(batch[1]) for batch in batches] == [8, 8, 8, 6][:first]

    for callback in callbacks.values():
        assert {result.num_examples for result in callback.results} == {count}
        assert callback.last_result.step == 8
    begun = first - 1

    # Representations, minibatch by minibatch.
    for result in callbacks["cka"].results:
        net: Any = net_at(watch.points[result.step])
        outputs = [[net.hidden(x), net(x)] for x, _ in batches]
        np.testing.assert_allclose(result.matrix, cka_map(outputs), rtol=1e-4)
    assert [result.step for result in callbacks["cka"].results] == sorted({begun, *range(begun + begun % 2, 9, 2)})

    # Difficulty, in the order of the stream.
    scores = callbacks["vog"].last_result
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert scores.indices.tolist() == list(range(count)) and torch.equal(scores.labels, y)
    gradients = []
    for result in callbacks["vog"].results:
        point, inputs = watch.points[result.step], x.double().requires_grad_()
        net_at(point)(inputs).gather(1, y[:, None]).sum().backward()
        gradients.append(inputs.grad)
        right = (net_at(point)(x).argmax(1) == y).double().mean()
        assert result.accuracy == pytest.approx(float(right))
    np.testing.assert_allclose(scores.scores["all"], vog(torch.stack(gradients).numpy()), rtol=1e-4)

    # The loss, and what moved it.
    path = callbacks["contribution"].last_result
    losses = [float(mean_loss(point, batches)) for point in watch.points]
    assert path.initial_step == begun and path.initial_loss == pytest.approx(losses[begun], rel=1e-6)
    np.testing.assert_allclose(path.losses, [losses[step] for step in path.steps.tolist()], rtol=1e-6)
    assert sum(path.totals.values()) + path.total_residual == pytest.approx(losses[-1] - losses[begun], rel=1e-4)
    assert path.absolute_residual < 1e-2 * path.absolute_change
    assert callbacks["landscape"].last_result.center == pytest.approx(losses[-1], rel=1e-6)

    # Curvature, from the whole matrix.
    last = callbacks["curvature"].last_result
    point, names = watch.points[-1], list(watch.points[-1])
    sizes = [point[name].numel() for name in names]

    def of_vector(vector: Tensor) -> Tensor:
        parts = zip(names, vector.split(sizes), strict=True)
        return mean_loss({name: part.reshape(point[name].shape) for name, part in parts}, batches)

    vector = torch.cat([point[name].flatten() for name in names])
    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(of_vector, vector))
    assert last.loss == pytest.approx(losses[-1], rel=1e-6)
    assert float(last.largest[0]) == pytest.approx(float(eigenvalues[-1]), rel=1e-4)
    assert float(last.smallest[0]) == pytest.approx(float(eigenvalues[0]), rel=1e-3)


def test_of_two_loaders_the_minibatches_are_those_of_training_step(tmp_path: Path) -> None:
    watch, callbacks = Watch(), analyses(20)
    chosen = {name: callbacks[name] for name in ("contribution", "landscape", "curvature")}
    fit(tmp_path, two_loaders(), [watch, *chosen.values()])
    assert watch.batches[0].keys() == {"a", "b"}

    def loss(point: dict[str, Tensor]) -> float:
        both = [
            float(mean_loss(point, [watch.batches[place]["a"]]) + 0.5 * mean_loss(point, [watch.batches[place]["b"]]))
            for place in range(3)
        ]
        return sum(both) / 3

    assert chosen["contribution"].last_result.initial_loss == pytest.approx(loss(watch.points[2]), rel=1e-6)
    for callback, found in [
        (chosen["landscape"], chosen["landscape"].last_result.center),
        (chosen["curvature"], chosen["curvature"].last_result.loss),
    ]:
        assert found == pytest.approx(loss(watch.points[callback.last_result.step]), rel=1e-6)


# ---- when it begins -----------------------------------------------------------------------------------------


def test_it_says_at_which_step_it_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    callback = quick(CKACallback(num_examples=20, at_start=True))
    fit(tmp_path, stream(), [callback])
    said = [record.getMessage() for record in caplog.records if "no index" in record.getMessage()]
    assert said == [
        "CKACallback: the training data have no index, so the examples are those of the first 3 minibatches; "
        "it begins at step 2"
    ]
    assert callback.results[0].step == 2


def test_callbacks_share_one_recording(tmp_path: Path) -> None:
    held: list[Any] = []

    class Look(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            held.extend(Recording.of(trainer).batches)

    sizes = {4: 0, 8: 0, 9: 1, 20: 2}  # num_examples -> where it begins
    callbacks = {size: quick(CKACallback(num_examples=size, at_start=True)) for size in reversed(sizes)}
    fit(tmp_path, stream(), [Look(), *callbacks.values()])
    assert len(held) == 3, "nothing is copied once all have what they need"
    for size, step in sizes.items():
        assert callbacks[size].results[0].step == step
        assert callbacks[size].results[0].num_examples == BATCH * (step + 1)


def test_a_short_epoch_has_to_do(tmp_path: Path) -> None:
    data = Stream(lambda: examples(14))
    callbacks = analyses(500, every_n_train_steps=1)
    fit(tmp_path, (Net, DataLoader(data, BATCH), [data]), list(callbacks.values()), max_epochs=3)
    for name, callback in callbacks.items():
        assert callback.last_result.num_examples == 14 and callback.last_result.step == 6, name
        assert callback.results[0].step == (3 if name == "landscape" else 2), name
    assert callbacks["contribution"].last_result.initial_step == 2


def test_a_second_training_records_its_own(tmp_path: Path) -> None:
    callback = quick(LossContributionCallback(num_examples=20))
    for _ in range(2):
        watch = Watch()
        fit(tmp_path, stream(), [watch, callback])
        torch.manual_seed(1)
        expected = float(mean_loss(watch.points[-1], watch.batches[:3]))
        assert float(callback.last_result.losses[-1]) == pytest.approx(expected, rel=1e-6)


# ---- interrupted, and in several processes ------------------------------------------------------------------


def fixed(place: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(place)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    return [torch.randn(BATCH, FEATURES, generator=generator) + y[:, None], y]


class Stops(Callback):
    """An interruption: the Trainer was meant to go on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


class Continues:
    """Each pass goes on where the one before it ended, as a stream with a memory of its place would."""

    def __init__(self, place: int) -> None:
        self.place = place

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        for _ in range(4):
            self.place += 1
            yield fixed(self.place)


@pytest.mark.parametrize("stop", [1, 2, 3, 8], ids=["while it waits", "just before", "just begun", "later"])
def test_resumed_equals_uninterrupted(stop: int, tmp_path: Path) -> None:
    """Three minibatches are recorded: it begins at step 2."""

    def run(folder: str, *, stop: int = -1, checkpoint: Path | None = None, place: int = 0) -> dict[str, Any]:
        callbacks = analyses(24)
        keeper = ModelCheckpoint(dirpath=tmp_path / folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        torch.manual_seed(0)
        made = trainer(tmp_path, [*callbacks.values(), keeper, Stops(stop)], max_epochs=4, enable_checkpointing=True)
        for callback in callbacks.values():
            callback.schedule = type(callback.schedule)(None, 1, True, True)
        made.fit(Net(), Continues(place), ckpt_path=checkpoint)
        return callbacks

    whole = run("whole")
    run("cut", stop=stop)
    torch.load(tmp_path / "cut" / f"step={stop}.ckpt", weights_only=True)
    resumed = run("cut", checkpoint=tmp_path / "cut" / f"step={stop}.ckpt", place=stop)
    for name, callback in whole.items():
        one, other = callback.results, resumed[name].results
        assert [result.step for result in one] == [result.step for result in other] != [], name
        assert one[0].step == 2 and one[0].num_examples == 24
        for a, b in zip(one, other, strict=True):
            assert_identical(a.to_state(), b.to_state(), name)


class Shares:
    """Minibatches 0, 1, 2, … or of several processes each one's share, in turns."""

    def __iter__(self) -> Iterator[Any]:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        step = torch.distributed.get_world_size() if distributed else 1
        for place in range(rank, 8, step):
            yield fixed(place)


class NoLearning(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Saves(Callback):
    """Brings results out of processes that end with the training."""

    def __init__(self, callbacks: dict[str, AnalysisCallback[Any]], folder: Path) -> None:
        self.callbacks, self.folder = callbacks, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        state = {name: callback.last_result.to_state() for name, callback in self.callbacks.items()}
        torch.save(state, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_two_processes_equal_one_that_is_given_the_same_minibatches(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for options in ({}, {"strategy": "ddp_fork", "devices": 2}):
        callbacks = analyses(32)
        saves = Saves(callbacks, tmp_path)
        fit(tmp_path, (NoLearning, Shares(), []), [*callbacks.values(), saves], max_epochs=1, **options)
    one, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for name in one:
        a, b, c = (_numbers(state[name]) for state in (one, first, second))
        assert one[name]["num_examples"] == first[name]["num_examples"] == 32
        compared = [key for key in a if "step" not in key and a[key].shape == b[key].shape]
        assert compared, name
        for key in compared:
            torch.testing.assert_close(b[key], a[key], rtol=1e-9, atol=1e-9, equal_nan=True, msg=f"{name}: {key}")
            torch.testing.assert_close(c[key], b[key], rtol=0, atol=0, equal_nan=True, msg=f"{name}: {key}")


def _numbers(value: Any, path: str = "") -> dict[str, Tensor]:
    if isinstance(value, dict):
        return {key: one for name, inner in value.items() for key, one in _numbers(inner, f"{path}/{name}").items()}
    return {path: torch.as_tensor(value)} if isinstance(value, Tensor | float) else {}


# ---- which axis is that of the examples --------------------------------------------------------------------


class Steps(lightning.LightningModule):
    """``(T, N, F)`` steps to classes, by a recurrent layer whose weight is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, BATCH))  # as many rows as examples
        self.recurrent, self.head = nn.GRU(BATCH, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.inner(x))[0][-1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Walks(IterableDataset[Any]):
    def __init__(self, length: int) -> None:
        self.items = [(torch.randn(length, FEATURES), torch.tensor(i % CLASSES)) for i in range(4 * BATCH)]

    def __iter__(self) -> Iterator[Any]:
        yield from self.items


def time_first(items: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in items], 1), torch.stack([y for _, y in items])


def similarities(tmp_path: Path, length: int, **words: Any) -> CKACallback:
    callback = CKACallback(num_examples=4 * BATCH, batch_size=BATCH, components=False, **words)
    trainer(tmp_path, [callback], max_epochs=2).fit(Steps(), DataLoader(Walks(length), BATCH, collate_fn=time_first))
    return callback


def test_layers_of_a_stream_are_those_whose_axis_moves(tmp_path: Path) -> None:
    """All recorded minibatches are of one size: they are cut, and a weight with as many rows does not follow."""
    result = similarities(tmp_path, 5, on_error="raise").last_result
    assert result is not None and result.layers_x == ["inner", "recurrent", "head"]


def test_an_axis_that_only_its_length_would_tell_is_not_taken(tmp_path: Path) -> None:
    """As many steps as examples: either axis might be theirs."""
    with pytest.warns(UserWarning, match="which row is which example cannot be told.*`data`"):
        callback = similarities(tmp_path, BATCH)
    assert callback.last_result is None and callback.refusal


def test_an_axis_of_time_is_not_taken_for_that_of_the_examples() -> None:
    """It is the only one of that length, but the loss changes with its order."""
    from lightning_dynamics.core.probe import probe_of
    from lightning_dynamics.core.understanding import understand

    class Last(Steps):
        """Its batches have no axis of examples at all: one walk each."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, None])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1][:1])

    walk = torch.randn(BATCH, FEATURES), torch.zeros(BATCH, dtype=torch.int64)
    task = understand(Last(), probe_of([(walk, BATCH)], seed=0))
    assert not task.axes and any("not known" in note for note in task.notes)
