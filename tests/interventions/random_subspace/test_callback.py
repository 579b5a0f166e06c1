"""Training in a subspace against an independent loop, and the house rules for a callback that changes training."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import ConfigurationError, LocalReport, RandomSubspaceCallback
from lightning_dynamics.interventions.random_subspace import project
from tests.house.models import Convnet, Frozen, TwoOptimizers, loaders
from tests.house.training import PACKAGES, Recorder, assert_identical, train, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
KINDS = ("dense", "sparse", "fastfood")


def data(batches: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 5, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator))
        for _ in range(batches)
    ]


def loader(batches: int = 6) -> DataLoader[Any]:
    images, labels = (torch.cat(parts) for parts in zip(*data(batches), strict=True))
    return DataLoader(TensorDataset(images, labels), 8)


class Net(pl.LightningModule):
    """Two layers in float64, one of them tied to the input's, trained by whatever ``make`` makes."""

    def __init__(self, make: Callable[[Any], Any] | None = None, precision: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.first, self.second, self.third = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.to(precision)
        self.make = make or (lambda module: torch.optim.SGD(module.parameters(), lr=0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x.to(self.dtype))))))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make(self)


def by_hand(
    callback: RandomSubspaceCallback, optimizer: Callable[[list[Tensor]], Any], *, accumulate: int = 1, clip: float = 0
) -> tuple[Tensor, Tensor]:
    """θ_d and θ after one epoch of an ordinary loop over θ_d with an explicit matrix."""
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    tensors = [parameter.detach() for parameter in net.parameters()]
    theta_0 = torch.cat([tensor.flatten() for tensor in tensors])
    matrix = project(
        callback.projection, len(theta_0), callback.dim, callback.seed, dtype=torch.float64, device=torch.device("cpu")
    )
    basis = torch.stack([matrix.up(unit) for unit in torch.eye(callback.dim, dtype=torch.float64)], 1)
    theta_d = torch.zeros(callback.dim, dtype=torch.float64, requires_grad=True)
    steps = optimizer([theta_d])

    def theta() -> dict[str, Tensor]:
        flat = theta_0 + basis @ theta_d
        pieces = flat.split([tensor.numel() for tensor in tensors])
        found = {n: p.view(t.shape) for n, p, t in zip(names, pieces, tensors, strict=True)}
        return found | {"second.weight": found["first.weight"]}

    batches = data()
    for start in range(0, len(batches), accumulate):
        steps.zero_grad()
        for images, labels in batches[start : start + accumulate]:
            loss = F.cross_entropy(functional_call(net, theta(), (images,)), labels) / accumulate
            loss.backward()
        if clip:
            nn.utils.clip_grad_norm_([theta_d], clip)
        steps.step()
    return theta_d.detach(), torch.cat([value.flatten() for n, value in theta().items() if n != "second.weight"])


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1, initial_accumulator_value=0.5),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_that_of_an_ordinary_loop_over_theta_d(kind: Any, name: str, tmp_path: Path) -> None:
    make = OPTIMIZERS[name]
    callback = RandomSubspaceCallback(7, kind, seed=3)
    net = Net(lambda module: make(module.parameters()))
    trainer(tmp_path, [callback], max_epochs=1).fit(net, loader())
    theta_d, theta = by_hand(callback, make)
    assert float(theta_d.norm()) > 0.05
    torch.testing.assert_close(callback.theta_d, theta_d)
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in net.parameters()]), theta)
    torch.testing.assert_close(callback.theta_0 + callback.matrix.up(callback.theta_d), theta)
    assert net.second.weight is net.first.weight
    assert len(callback.theta_0) == 25 + 5 + 5 + 15 + 3, "the tied weight counts once"


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_and_clipping_act_on_theta_d(accumulate: int, tmp_path: Path) -> None:
    callback = RandomSubspaceCallback(7)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 0.05, "max_epochs": 1}
    trainer(tmp_path, [callback], **options).fit(Net(lambda m: OPTIMIZERS["sgd"](m.parameters())), loader())
    theta_d, _ = by_hand(callback, OPTIMIZERS["sgd"], accumulate=accumulate, clip=0.05)
    torch.testing.assert_close(callback.theta_d, theta_d)


class ByHand(Net):
    """Manual optimisation that sums the gradients of two backward passes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        if batch_idx % 2 == 0:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx) / 2)
        if batch_idx % 2:
            optimizer.step()


def test_manual_optimisation(tmp_path: Path) -> None:
    callback = RandomSubspaceCallback(7)
    trainer(tmp_path, [callback], max_epochs=1).fit(ByHand(lambda m: OPTIMIZERS["sgd"](m.parameters())), loader())
    theta_d, _ = by_hand(callback, OPTIMIZERS["sgd"], accumulate=2)
    torch.testing.assert_close(callback.theta_d, theta_d)


def test_a_toggled_optimizer_gets_no_gradient_of_the_other(tmp_path: Path) -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.seen: list[Any] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            first, second = self.optimizers()  # type: ignore[misc]
            self.toggle_optimizer(second)
            self.manual_backward(super().training_step(batch, batch_idx))
            self.seen.append(first.param_groups[0]["params"][0].grad)
            second.step()
            second.zero_grad()
            self.untoggle_optimizer(second)

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SGD(self.first.parameters(), lr=0.1),
                torch.optim.SGD(self.third.parameters(), lr=0.1),
            ]

    net = Two()
    before = net.first.weight.detach().clone()
    trainer(tmp_path, [RandomSubspaceCallback(4, parameters="first*")], max_epochs=1).fit(net, loader())
    assert net.seen == [None] * 6
    assert torch.equal(net.first.weight, before)


def test_two_subspaces_and_a_part_trained_directly(tmp_path: Path) -> None:
    callbacks = [RandomSubspaceCallback(4, parameters="first*"), RandomSubspaceCallback(2, "dense", 1, "third.weight")]
    net = Net()
    start = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    run = trainer(tmp_path, callbacks, max_epochs=1)
    run.fit(net, loader())
    (group,) = run.optimizers[0].param_groups
    assert [tuple(p.shape) for p in group["params"]] == [(5,), (3,), (4,), (2,)]
    moved = {name: (p.detach() - start[name]).flatten() for name, p in net.named_parameters()}
    assert all(float(change.abs().max()) > 1e-4 for change in moved.values())
    torch.testing.assert_close(
        torch.cat([moved["first.weight"], moved["first.bias"]]), callbacks[0].matrix.up(callbacks[0].theta_d)
    )
    torch.testing.assert_close(moved["third.weight"], callbacks[1].matrix.up(callbacks[1].theta_d))


def test_all_dimensions_reach_what_direct_training_cannot_leave(tmp_path: Path) -> None:
    """With d = D the subspace is the whole space: training gets as far down as direct training does."""
    losses = {}
    for name, callbacks in (("direct", []), ("subspace", [RandomSubspaceCallback(53, "dense")])):
        net = Net(lambda m: torch.optim.SGD(m.parameters(), lr=0.5))
        trainer(tmp_path, callbacks, max_epochs=60).fit(net, loader())
        losses[name] = sum(float(net.training_step(batch, 0).detach()) for batch in data()) / 6
    start = sum(float(Net().training_step(batch, 0).detach()) for batch in data()) / 6
    assert losses["subspace"] < 0.75 * start and losses["direct"] < 0.75 * start


SETTINGS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "plain": (Convnet, {}, {}),
    "frozen part, Adam": (Frozen, {}, {}),
    "accumulation and clipping": (Convnet, {}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}),
    "persistent workers": (Convnet, {"workers": 1}, {}),
    "bf16": (Convnet, {}, {"precision": "bf16-mixed"}),
    "validation in mid-epoch": (Convnet, {}, {"val_check_interval": 2}),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_but_the_weights_is_changed(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate of zero, training with and without it is the same to the bit: streams, buffers, metrics, logs."""
    model, source, options = SETTINGS[setting]

    class Still(model):  # type: ignore[misc, valid-type]
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.0)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    without = train(tmp_path, Still(), loaders(**source), [], **options)
    with_it = train(tmp_path, Still(), loaders(**source), [RandomSubspaceCallback(10)], **options)
    for found in (without, with_it):
        for its_own in ("gradients", "optimizers"):
            found.pop(its_own)
    assert_identical(without, with_it)


def test_gradients_and_optimizer_of_parts_not_chosen(tmp_path: Path) -> None:
    found = train(tmp_path, TwoOptimizers(), loaders(), [RandomSubspaceCallback(3, parameters="head*")])
    assert [len(state["param_groups"][0]["params"]) for state in found["optimizers"]] == [2, 1]


def test_float16_loss_scaling_skips_a_step_with_infinities(tmp_path: Path) -> None:
    """The scaler unscales θ_d's gradient; where it is infinite, neither θ_d nor the weights move."""
    from lightning.pytorch.plugins import MixedPrecision

    class Overflows(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx).float() * (float("inf") if batch_idx == 2 else 1.0)

    class Watch(pl.Callback):
        weights: list[Tensor] = []

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self.weights.append(module.first.weight.detach().clone())

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    watch, callback = Watch(), RandomSubspaceCallback(6)
    net = Net(lambda m: OPTIMIZERS["sgd"](m.parameters()), torch.float32)
    net.__class__ = Overflows
    trainer(tmp_path, [callback, watch], max_epochs=1, plugins=[plugin]).fit(net, loader())
    moved = [not torch.equal(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)]
    assert moved == [True, False, True, True, True]
    assert bool(callback.theta_d.isfinite().all())


def test_half_precision_weights_keep_a_precise_theta(tmp_path: Path) -> None:
    callback = RandomSubspaceCallback(6)
    net = Net(precision=torch.bfloat16)
    trainer(tmp_path, [callback], max_epochs=1).fit(net, loader())
    assert callback.theta_d.dtype is callback.theta_0.dtype is torch.float32
    reached = callback.theta_0 + callback.matrix.up(callback.theta_d)
    weights = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    assert weights.dtype is torch.bfloat16
    assert torch.equal(weights, reached.bfloat16())


def test_gradients_are_passed_on(tmp_path: Path) -> None:
    seen = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append([parameter.grad for parameter in module.parameters()])
            seen.append(optimizer.param_groups[0]["params"][0].grad.shape)

    trainer(tmp_path, [RandomSubspaceCallback(6), Watch()], max_epochs=1, limit_train_batches=1).fit(Net(), loader())
    assert seen == [[None] * 5, (6,)]


def test_unused_parameters_have_no_gradient(tmp_path: Path) -> None:
    net = Net()
    net.unused = nn.Linear(2, 2).double()
    before = net.unused.weight.detach().clone()
    trainer(tmp_path, [RandomSubspaceCallback(6, "dense")], max_epochs=1).fit(net, loader())
    assert not torch.equal(net.unused.weight, before), "it is part of the space that θ_d moves in"


def save_and_resume(folder: Path, net: Callable[[], Any], **options: Any) -> tuple[Any, Any, Any, Any]:
    def fit(name: str, epochs: int, checkpoint: str | None = None) -> tuple[Any, Any]:
        torch.manual_seed(0)
        callback, module = RandomSubspaceCallback(6, **options), net()
        run = trainer(folder, [callback], max_epochs=epochs)
        run.fit(module, loader(), ckpt_path=checkpoint)
        run.save_checkpoint(folder / f"{name}.ckpt")
        return callback, module

    whole = fit("whole", 4)
    fit("first", 2)
    return *whole, *fit("second", 4, str(folder / "first.ckpt"))


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_uninterrupted(kind: str, tmp_path: Path) -> None:
    whole, net, resumed, again = save_and_resume(
        tmp_path, lambda: Net(lambda m: OPTIMIZERS["adam"](m.parameters())), projection=kind
    )
    assert_identical(dict(net.state_dict()), dict(again.state_dict()))
    assert_identical(whole.state_dict(), resumed.state_dict())
    checkpoint = torch.load(tmp_path / "second.ckpt", weights_only=True)
    state = checkpoint["callbacks"][whole.state_key]
    assert state["theta_d"].shape == (6,) and state["theta_0"].shape == (53,) and state["seed"] == 0
    assert not any(value.numel() > 53 for value in state.values() if isinstance(value, Tensor)), "P is not stored"
    # Usable without the callback.
    plain = Net()
    plain.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(plain.third.weight, net.third.weight)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"dim": 5}, "dim"), ({"seed": 1}, "seed"), ({"projection": "dense"}, "projection")],
    ids=["dim", "seed", "projection"],
)
def test_a_checkpoint_of_another_subspace_is_refused(wrong: dict[str, Any], word: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, [RandomSubspaceCallback(6)], max_epochs=1)
    run.fit(Net(), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    callback = RandomSubspaceCallback(**{"dim": 6} | wrong)
    with pytest.raises(ConfigurationError, match=word):
        trainer(tmp_path, [callback]).fit(Net(), loader(), ckpt_path=str(tmp_path / "a.ckpt"))


def test_a_checkpoint_without_a_subspace_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, [], max_epochs=1)
    run.fit(Net(), loader())
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ConfigurationError, match="ckpt_path"):
        trainer(tmp_path, [RandomSubspaceCallback(6)]).fit(Net(), loader(), ckpt_path=str(tmp_path / "a.ckpt"))


def test_a_second_fit_goes_on_and_other_weights_begin_anew(tmp_path: Path) -> None:
    callback, net = RandomSubspaceCallback(6), Net()
    run = trainer(tmp_path, [callback], max_epochs=1)
    run.fit(net, loader())
    start, reached = callback.theta_0.clone(), callback.theta_d.clone()
    run.fit_loop.max_epochs = 2
    run.fit(net, loader())
    assert torch.equal(callback.theta_0, start) and not torch.equal(callback.theta_d, reached)
    other = Net()
    other.third.weight.data.mul_(2)
    trainer(tmp_path, [callback], max_epochs=1).fit(other, loader())
    assert not torch.equal(callback.theta_0, start)
    assert float(callback.theta_0[-18:].norm()) > 1.2 * float(start[-18:].norm())


def test_the_optimizer_is_let_go(tmp_path: Path) -> None:
    callback, net = RandomSubspaceCallback(6), Net()
    run = trainer(tmp_path, [callback], max_epochs=1)
    run.fit(net, loader())
    before = net.third.weight.detach().clone()
    callback._theta_d.data.add_(1)  # type: ignore[union-attr]
    run.optimizers[0].step()
    assert torch.equal(net.third.weight, before)


class Fails(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 2:
            raise RuntimeError("planted")
        return super().training_step(batch, batch_idx)


def test_the_optimizer_is_let_go_when_training_fails(tmp_path: Path) -> None:
    callback = RandomSubspaceCallback(6)
    with pytest.raises(RuntimeError, match="planted"):
        trainer(tmp_path, [callback], max_epochs=1).fit(Fails(), loader())
    assert callback._hook is None


def groups(**second: Any) -> Callable[[Any], Any]:
    def make(module: Any) -> Any:
        biases = [p for n, p in module.named_parameters() if n.endswith("bias")]
        weights = [p for n, p in module.named_parameters() if n.endswith("weight")]
        return torch.optim.SGD([{"params": weights}, {"params": biases, **second}], lr=0.1)

    return make


BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "no dimension": ({"dim": 0}, None, "dim"),
    "half a dimension": ({"dim": 1.5}, None, "dim"),
    "too many dimensions": ({"dim": 54}, None, "dim"),
    "unknown projection": ({"projection": "haar"}, None, "projection"),
    "seed": ({"seed": "0"}, None, "seed"),
    "no such parameters": ({"parameters": "fourth*"}, None, "parameters"),
    "parameters nobody trains": (
        {"parameters": "third*", "dim": 2},
        lambda m: torch.optim.SGD(m.first.parameters(), lr=0.1),
        "no optimizer",
    ),
    "two optimizers": (
        {},
        lambda m: OPTIMIZERS["sgd"](m.parameters()),
        "RandomSubspaceCallback",
    ),
    "different groups": ({}, groups(weight_decay=0.1), "weight_decay"),
    "lbfgs": ({}, lambda m: torch.optim.LBFGS(m.parameters()), "LBFGS"),
}


@pytest.mark.parametrize("case", BAD)
def test_complaints_before_training(case: str, tmp_path: Path) -> None:
    arguments, make, word = BAD[case]
    net: Any = Net(make)
    if case == "two optimizers":
        net = TwoOptimizers()
    taken = []

    class Watch(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            taken.append(1)

    with pytest.raises(ConfigurationError, match=f"^RandomSubspaceCallback: .*{word}"):
        callback = RandomSubspaceCallback(**{"dim": 3} | arguments)
        trainer(tmp_path, [callback, Watch()]).fit(net, loader())
    assert not taken


def test_groups_alike_become_one(tmp_path: Path) -> None:
    callback = RandomSubspaceCallback(6)
    run = trainer(tmp_path, [callback], max_epochs=1)
    run.fit(Net(groups()), loader())
    assert [len(group["params"]) for group in run.optimizers[0].param_groups] == [1, 0]
    assert float(callback.theta_d.norm()) > 0


def test_named_parameters_in_the_optimizer(tmp_path: Path) -> None:
    run = trainer(tmp_path, [RandomSubspaceCallback(3, parameters="first*")], max_epochs=1)
    run.fit(Net(lambda m: torch.optim.SGD(m.named_parameters(), lr=0.1)), loader())
    (group,) = run.optimizers[0].param_groups
    assert group["param_names"] == ["second.bias", "third.weight", "third.bias", "subspace"]


def test_sharded_strategies_are_refused() -> None:
    class DeepSpeedStrategy:
        root_device = torch.device("cpu")

    class Fake:
        strategy = DeepSpeedStrategy()

    with pytest.raises(ConfigurationError, match="DeepSpeed"):
        RandomSubspaceCallback().setup(Fake(), Net(), "fit")  # type: ignore[arg-type]


def test_before_training_there_is_no_subspace() -> None:
    for name in ("theta_d", "theta_0", "matrix"):
        with pytest.raises(RuntimeError, match="trainer.fit"):
            getattr(RandomSubspaceCallback(), name)
    assert RandomSubspaceCallback().state_dict() == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_both_packages_from_yaml(package: str, tmp_path: Path) -> None:
    lightning = PACKAGES[package]

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3).double()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.layer(batch[0]), batch[1])

        def train_dataloader(self) -> Any:
            return loader()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    cli = importlib.import_module(f"{lightning.__name__}.cli").LightningCLI
    arguments = {"dim": 5, "projection": "sparse", "seed": 2, "parameters": ["layer*"], "name": "own"}
    report = {"class_path": "lightning_dynamics.LocalReport", "init_args": {"save_dir": str(tmp_path)}}
    config: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": report,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "default_root_dir": str(tmp_path),
        "callbacks": [{"class_path": "lightning_dynamics.RandomSubspaceCallback", "init_args": arguments}],
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"trainer": config}))
    run = cli(Model, args=["fit", "--config", str(path)], save_config_callback=None)
    callback = next(c for c in run.trainer.callbacks if isinstance(c, RandomSubspaceCallback))
    assert (callback.dim, callback.projection, callback.seed, callback.name) == (5, "sparse", 2, "own")
    assert float(callback.theta_d.norm()) > 0
    assert isinstance(run.trainer.logger, LocalReport) and run.trainer.logger.index.is_file()


def test_the_distance_is_logged_after_each_epoch(tmp_path: Path) -> None:
    recorder, net, callback = Recorder(), Net(), RandomSubspaceCallback(6, "dense", name="own")
    start = torch.cat([p.detach().clone().flatten() for p in net.parameters()])
    trainer(tmp_path, [callback], logger=recorder).fit(net, loader())
    rows = [(step, row) for step, row in recorder.rows if "subspace/own/dim" in row]
    assert [row["subspace/own/dim"] for _, row in rows] == [6, 6]
    distance = float((torch.cat([p.detach().flatten() for p in net.parameters()]) - start).norm())
    assert rows[1][1]["subspace/own/distance"] == pytest.approx(distance, rel=1e-12)


def test_it_says_loudly_that_it_changes_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, [RandomSubspaceCallback(6)], fast_dev_run=True).fit(Net(), loader())
    assert "changes this training, on purpose: 53 parameters move only in" in capsys.readouterr().out


class Saves(pl.Callback):
    def __init__(self, callback: RandomSubspaceCallback, folder: Path) -> None:
        self.callback, self.folder = callback, folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = {"theta_d": self.callback.theta_d, "state": dict(pl_module.state_dict())}
        torch.save(found, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


class Shared(Net):
    """Every process has its share of each eight examples."""

    def train_dataloader(self) -> Any:
        images, labels = (torch.cat(parts) for parts in zip(*data(), strict=True))
        own = slice(self.trainer.global_rank, None, self.trainer.world_size)
        return DataLoader(TensorDataset(images[own], labels[own]), 8 // self.trainer.world_size)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_train_the_same_theta_d(accumulate: int, tmp_path: Path) -> None:
    """Each of two processes has half of every minibatch; they find what one finds on the whole."""
    torch.set_num_threads(1)
    for options in ({}, {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}):
        callback = RandomSubspaceCallback(7)
        run = trainer(tmp_path, [callback, Saves(callback, tmp_path)], accumulate_grad_batches=accumulate, **options)
        run.fit(Shared(lambda m: OPTIMIZERS["sgd"](m.parameters())))
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert_identical(first, second)
    torch.testing.assert_close(first["theta_d"], one["theta_d"])
    assert float(one["theta_d"].norm()) > 0.05
