"""``isolated``: whatever happens inside, module and random streams come back bit for bit."""

from __future__ import annotations

import random
import time
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_dynamics.core.isolation import isolated


class Net(nn.Module):
    """A bit of everything that a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.spectral = parametrizations.spectral_norm(nn.Linear(6, 6))
        self.weight_normed = parametrizations.weight_norm(nn.Linear(6, 4))
        self.frozen = nn.BatchNorm1d(4).eval()
        self.frozen.weight.requires_grad_(False)
        self.tied = nn.Linear(4, 6)
        self.tied.weight = self.first.weight
        self.lstm = nn.LSTM(2, 3)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=4)
        self.cat = torchmetrics.CatMetric()
        self.many = torchmetrics.MetricCollection([torchmetrics.MeanMetric(), torchmetrics.SumMetric()])
        self.register_buffer("expanded", torch.ones(1).expand(3))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("bf16", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
        self.register_buffer("odd", torch.tensor([float("nan"), -0.0, 0.0, float("inf")]))
        self.register_buffer("none", None)
        self.log_of_steps: list[Any] = [1, torch.zeros(2), [torch.ones(1)]]
        self.table: dict[str, Any] = {"a": 1, "b": {"c": torch.zeros(1)}}
        self.ordered = OrderedDict(x=1, y=2)
        self.default: defaultdict[str, list[int]] = defaultdict(list, k=[1])
        self.counter = Counter("hello")
        self.recent: deque[int] = deque([1, 2, 3], maxlen=3)
        self.names = {"a", "b"}
        self.state = (torch.zeros(2), [1, 2])
        self.array = np.arange(4.0)
        self.fixed_array = np.arange(4.0)
        self.fixed_array.flags.writeable = False
        self.plain_tensor = torch.arange(3.0)
        self.step = 7
        self.torch_rng = torch.Generator().manual_seed(1)
        self.numpy_rng = np.random.default_rng(2)
        self.legacy_rng = np.random.RandomState(3)
        self.python_rngs = [random.Random(4), random.SystemRandom()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x)).relu())
        return self.frozen(self.weight_normed(self.spectral(x)))


def bits(value: Any) -> Any:
    """``value`` as something that ``==`` compares bit for bit."""
    if isinstance(value, Tensor):
        raw = value.detach().contiguous().view(-1).view(torch.uint8).tolist() if value.numel() else []
        return "tensor", value.dtype, tuple(value.shape), value.stride(), raw
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, torch.Generator):
        return bits(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False))
    if isinstance(value, random.SystemRandom):
        return "system"
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, dict):
        return type(value).__name__, [(key, bits(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value).__name__, [bits(item) for item in value]
    if isinstance(value, set):
        return "set", sorted(map(repr, value))
    return "object", id(value) if not isinstance(value, str | int | float | bool) else repr(value)


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything about a module and the random streams, as comparable bits, identities included."""
    seen: dict[str, Any] = {
        "streams": (bits(torch.get_rng_state()), repr(np.random.get_state(legacy=False)), random.getstate()),
        "grad mode": torch.is_grad_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
    }
    for name, sub in module.named_modules(remove_duplicate=False):
        for key, value in vars(sub).items():
            seen[f"{name}:{key}"] = (id(value) if not isinstance(value, int | float | str) else None, bits(value))
        seen[f"{name}:training"] = sub.training
        for key, parameter in sub._parameters.items():
            if parameter is not None:
                grad = parameter.grad
                seen[f"{name}:{key}:parameter"] = (
                    *(id(parameter), parameter.data_ptr(), parameter.requires_grad, bits(parameter)),
                    (id(grad), None if grad is None else bits(grad)),
                )
        for key, buffer in sub._buffers.items():
            if buffer is not None:
                seen[f"{name}:{key}:buffer"] = (id(buffer), buffer.data_ptr(), bits(buffer))
    return seen


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(5, 4)).sum().backward()
    net.cat.update(torch.tensor([1.0]))
    net.accuracy.update(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    net.many.update(torch.tensor([2.0]))
    return net


def _hidden_state(net: Net) -> None:
    net.state[0].add_(1)
    net.state[1].append(3)


def _swap_shape(net: Net) -> None:
    net.first.weight.data = torch.zeros(2, 2)


def _swap_dtype(net: Net) -> None:
    net.bf16.data = net.bf16.data.view(torch.int16)
    net.double()


def _transpose(net: Net) -> None:
    net.spectral.parametrizations.weight.original.data = net.spectral.parametrizations.weight.original.data.t()


def _delete(net: Net) -> None:
    del net.step, net.array, net.first.bias, net.lstm
    net.drop = nn.Identity()


def _rename(net: Net) -> None:
    net.first, net.tied = net.tied, net.first


def _registered(net: Net) -> None:
    net.register_buffer("new_buffer", torch.zeros(1))
    net.register_parameter("new_parameter", nn.Parameter(torch.zeros(1)))
    net.add_module("new_module", nn.ReLU())
    net.new_list = [1]


def _hooks(net: Net) -> None:
    for module in net.modules():
        module.register_forward_hook(lambda *_: None)
        module.register_forward_pre_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)


def _draw(net: Net) -> None:
    torch.rand(3), np.random.rand(), random.random(), torch.rand(1, generator=net.torch_rng)
    net.numpy_rng.random(), net.legacy_rng.rand(), net.python_rngs[0].random()


def _backward(net: Net) -> None:
    with torch.enable_grad():
        net(torch.randn(5, 4)).sum().backward()


HARM: dict[str, Callable[[Net], Any]] = {
    "forward in train mode": lambda net: net.train()(torch.randn(5, 4)),
    "backward": _backward,
    "metric update": lambda net: net.accuracy.update(torch.randn(3, 4), torch.tensor([0, 1, 2])),
    "metric forward": lambda net: net.accuracy(torch.randn(3, 4), torch.tensor([0, 1, 2])),
    "metric list state": lambda net: net.cat(torch.tensor([1.0, 2.0])),
    "metric collection": lambda net: (net.many(torch.tensor([1.0])), net.many.reset()),
    "metric compute": lambda net: net.accuracy.compute(),
    "list": lambda net: (net.log_of_steps[1].add_(1), net.log_of_steps[2][0].add_(1), net.log_of_steps.pop(0)),
    "dict": lambda net: (net.table["b"]["c"].add_(1), net.table["b"].update(d=1), net.table.pop("a")),
    "ordered dict": lambda net: net.ordered.move_to_end("x"),
    "renamed key": lambda net: net.ordered.update(z=net.ordered.pop("y")),
    "default dict": lambda net: (net.default["k"].append(2), net.default["new"]),
    "counter": lambda net: net.counter.update("hello"),
    "deque": lambda net: net.recent.append(4),
    "set": lambda net: (net.names.add("c"), net.names.discard("a")),
    "tuple": _hidden_state,
    "array": lambda net: net.array.fill(9),
    "tensor attribute": lambda net: net.plain_tensor.fill_(9),
    "attribute": lambda net: setattr(net, "step", 8),
    "generators": _draw,
    "buffer replaced": lambda net: setattr(net, "odd", torch.zeros(2)),
    "buffers written": lambda net: [b.zero_() for b in net.buffers() if b is not net.expanded],
    "data swapped, other shape": _swap_shape,
    "data swapped, other type": _swap_dtype,
    "data swapped, other strides": _transpose,
    "parameter replaced": lambda net: setattr(net.first, "weight", nn.Parameter(torch.zeros(1))),
    "parameters written": lambda net: [p.data.add_(1) for p in net.parameters()],
    "requires_grad": lambda net: [p.requires_grad_(not p.requires_grad) for p in net.parameters()],
    "grad written": lambda net: [setattr(p, "grad", torch.ones_like(p)) for p in net.parameters()],
    "deleted": _delete,
    "submodules swapped": _rename,
    "registered": _registered,
    "hooks": _hooks,
    "train flags": lambda net: (net.eval(), net.norm.train()),
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("harm", HARM)
def test_everything_comes_back(net: Net, harm: str, mode: Any) -> None:
    before = snapshot(net)
    with torch.no_grad(), isolated(net, mode=mode, seed=3):
        HARM[harm](net)
        assert differences(before, snapshot(net)), "the harm must be visible inside, or this tests nothing"
    assert differences(before, snapshot(net)) == []


@pytest.mark.parametrize("harm", ["forward in train mode", "deleted", "generators", "data swapped, other shape"])
def test_everything_comes_back_after_an_exception(net: Net, harm: str) -> None:
    before = snapshot(net)
    with pytest.raises(ZeroDivisionError), isolated(net):
        HARM[harm](net)
        raise ZeroDivisionError
    assert differences(before, snapshot(net)) == []


def test_all_harm_at_once_and_nested(net: Net) -> None:
    before = snapshot(net)
    with isolated(net, mode="train", grad=True):
        HARM["forward in train mode"](net)
        inside = snapshot(net)
        with isolated(net, seed=5):
            for name in ("backward", "list", "registered", "hooks", "requires_grad", "deleted"):
                HARM[name](net)
        assert differences(inside, snapshot(net)) == []
    assert differences(before, snapshot(net)) == []


def test_training_goes_on_as_if_nothing_had_happened() -> None:
    """The same two steps, with and without an analysis between backward and step."""

    def train(analyse: bool) -> list[Any]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(net.parameters(), 0.1)
        for _ in range(3):
            net(torch.randn(8, 4)).square().mean().backward()
            if analyse:
                with isolated(net, mode="train", seed=1, grad=True):
                    net(torch.randn(8, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [bits(value) for value in net.state_dict().values()]

    assert train(True) == train(False)


def test_a_live_graph_can_still_be_walked_back(net: Net) -> None:
    """With ``retain_graph`` or truncated backpropagation, training's own graph is alive during an analysis."""
    net.eval()
    loss = net(torch.randn(5, 4)).sum()
    with isolated(net, grad=True):
        net(torch.randn(5, 4))
    loss.backward()  # raises if a tensor it saved has been written to


def test_flags_inside(net: Net) -> None:
    with isolated(net, mode="eval"):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
        assert all(parameter.grad is None for parameter in net.parameters())
    with torch.no_grad(), isolated(net, grad=True):
        assert torch.is_grad_enabled()


def test_what_is_kept_in_eval_mode_while_training_stays_so(net: Net) -> None:
    """A frozen BatchNorm: with its flag on, the analysis would be one of another function than the one trained."""
    assert net.training and not net.frozen.training
    flags = {name: module.training for name, module in net.named_modules()}
    with isolated(net, mode="train"):
        assert {name: module.training for name, module in net.named_modules()} == flags


class Backbone(nn.Sequential):
    """Keeps its first layer in eval mode, in the way that people write it."""

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self[0].eval()
        self.calls = getattr(self, "calls", 0) + 1
        return self


def test_a_module_in_eval_mode_is_trained_by_its_own_train() -> None:
    net = Backbone(nn.BatchNorm1d(2), nn.Dropout()).eval()
    calls = net.calls
    with isolated(net, mode="train"):
        assert net.training and net[1].training and not net[0].training
    assert not any(module.training for module in net.modules()) and net.calls == calls


def test_train_is_not_called_in_training_mode() -> None:
    """Flags that were set since the last ``train()`` stay, too."""
    net = Backbone(nn.BatchNorm1d(2), nn.Dropout()).train()
    net[1].eval()
    calls = net.calls
    for mode in ("train", "eval"):
        with isolated(net, mode=mode):  # type: ignore[arg-type]
            assert net.calls == calls and not net[1].training
    assert net.training and not net[1].training


def test_eval_is_not_called() -> None:
    class Loud(nn.Linear):
        def eval(self) -> Loud:
            raise AssertionError("called")

    with isolated(net := Loud(2, 2)):
        assert not net.training


def test_a_live_graph_survives_what_is_written_inside() -> None:
    """Its tensors have their values again, so autograd must not take them for others."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval(), nn.Linear(2, 2))
    x = torch.randn(3, 2, requires_grad=True)
    net(x).sum().backward()
    alone, x.grad = x.grad, None
    loss = net(x).sum()
    with isolated(net, mode="train", grad=True):
        for tensor in (*net.parameters(), *net.buffers()):
            with torch.no_grad():
                tensor.add_(1)
    loss.backward()
    assert torch.equal(x.grad, alone)


def test_buffers_that_get_another_size() -> None:
    """Observers of quantisation-aware training do that in their first forward pass."""
    net = nn.Linear(2, 2)
    net.register_buffer("low", torch.zeros(0))
    net.register_buffer("high", torch.tensor([1.0, 2.0]))
    low, high = net.low, net.high
    with isolated(net):
        net.low.resize_(3).fill_(7)
        net.high.resize_(40).fill_(7)
    assert net.low is low and low.shape == (0,)
    assert net.high is high and high.tolist() == [1, 2]


def test_transformer_encoders_put_out_ordinary_tensors(net: Net) -> None:
    """In eval mode, with a padding mask, their fast path hands nested tensors from layer to layer."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    padding = torch.tensor([[False, False, True], [False, True, True]])
    shapes: list[Any] = []
    before = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ZeroDivisionError), isolated(encoder):
        encoder.layers[0].register_forward_hook(lambda *args: shapes.append((args[2].is_nested, args[2].shape)))
        encoder(torch.randn(2, 3, 8), src_key_padding_mask=padding)
        raise ZeroDivisionError
    assert shapes == [(False, (2, 3, 8))]
    assert torch.backends.mha.get_fastpath_enabled() == before


class Tied(nn.Module):
    def __init__(self, bag: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed: Any = (nn.EmbeddingBag if bag else nn.Embedding)(5, 3, max_norm=0.5)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.embed(x), self.embed.weight).square().sum()


@pytest.mark.parametrize("bag", [False, True])
def test_max_norm_is_training_s_own(bag: bool) -> None:
    """Loss and gradient where rows are too long, shared with another layer; then the weight comes back."""
    x = torch.tensor([[0, 1], [3, 1]])
    trained, net = Tied(bag), Tied(bag)
    loss = trained(x)
    (gradient,) = torch.autograd.grad(loss, [trained.embed.weight])
    before = snapshot(net)
    assert (net.embed.weight.norm(dim=1) > 0.5).any()
    with isolated(net, grad=True):
        found = net(x)
        assert torch.equal(found, loss)
        assert torch.equal(torch.autograd.grad(found, [net.embed.weight])[0], gradient)
    assert differences(before, snapshot(net)) == []


@pytest.mark.parametrize("bag", [False, True])
def test_max_norm_that_is_kept_to_breaks_no_graph(bag: bool) -> None:
    net, free = Tied(bag), Tied(bag)
    everything = torch.arange(5)[None]
    net(everything)
    free.load_state_dict(net.state_dict())
    free.embed.max_norm = None
    first, second = torch.tensor([[0, 1]]), torch.tensor([[3, 1]])
    with isolated(net, grad=True):
        loss = net(first)
        net(second)
        (found,) = torch.autograd.grad(loss, [net.embed.weight])
    (expected,) = torch.autograd.grad(free(first), [free.embed.weight])
    assert torch.equal(found, expected)
    renormalise = nn.functional._no_grad_embedding_renorm_
    with pytest.raises(ZeroDivisionError), isolated(net):
        raise ZeroDivisionError
    assert nn.functional._no_grad_embedding_renorm_ is renormalise


def test_a_graph_that_max_norm_would_falsify_is_refused() -> None:
    net = Tied(False)
    with isolated(net, grad=True):
        loss = net(torch.tensor([[0, 1]]))
        net(torch.tensor([[3, 4]]))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, [net.embed.weight])


def test_autocast_is_off_inside_and_back_afterwards() -> None:
    net = nn.Linear(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with isolated(net):
            assert net(torch.randn(1, 2)).dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
        assert net(torch.randn(1, 2)).dtype == torch.bfloat16


def test_nothing_is_computed_in_less_than_float32() -> None:
    """Whatever training has asked for, and that comes back, after an exception too."""

    def reduced() -> bool:
        if hasattr(torch.backends, "fp32_precision"):
            return torch.backends.mkldnn.matmul.fp32_precision not in ("ieee", "none")
        return torch.get_float32_matmul_precision() != "highest"

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert reduced()
        with pytest.raises(ZeroDivisionError), isolated(nn.Linear(2, 2)):
            assert not reduced()
            raise ZeroDivisionError
        assert reduced() and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_seed_repeats_draws_from_every_stream(net: Net) -> None:
    def draws(seed: int | None) -> list[Any]:
        with isolated(net, seed=seed):
            return [
                *(torch.rand(1).item(), np.random.rand(), random.random()),
                torch.rand(1, generator=net.torch_rng).item(),
                *(net.numpy_rng.random(), net.legacy_rng.rand(), net.python_rngs[0].random()),
            ]

    first = draws(5)
    _draw(net)
    assert draws(5) == first
    assert all(a != b for a, b in zip(draws(6), first, strict=True))
    assert all(a != b for a, b in zip(draws(None), first, strict=True))


def test_generators_inside_lists_of_the_module_are_found() -> None:
    class Augment:
        def __init__(self) -> None:
            self.transforms = [{"noise": np.random.default_rng(0)}]

    net = nn.Linear(1, 1)
    net.augment = Augment()  # type: ignore[assignment]
    rng = net.augment.transforms[0]["noise"]  # type: ignore[union-attr, index]
    state = repr(rng.bit_generator.state)
    with isolated(net):
        rng.random()
        assert repr(rng.bit_generator.state) != state
    assert repr(rng.bit_generator.state) == state


def test_a_dict_that_refuses_update() -> None:
    """Hugging Face's ModelOutput does."""

    class Output(OrderedDict):  # type: ignore[type-arg]
        def update(self, *_: Any, **__: Any) -> None:
            raise TypeError("You cannot use ``update``")

    net = nn.Linear(1, 1)
    output = Output()
    output["logits"] = torch.zeros(1)
    net.last_output = output  # type: ignore[assignment]
    with isolated(net):
        output["loss"] = 1
        output["logits"].add_(1)
    assert dict(output) == {"logits": torch.zeros(1)}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_submodules() -> None:
    net = nn.Sequential(torch.jit.script(nn.BatchNorm1d(2)), nn.Linear(2, 2))
    before = [bits(value) for value in net.state_dict().values()]
    for mode in ("train", "eval"):
        with isolated(net, mode=mode):  # type: ignore[arg-type]
            assert net[0].training == (mode == "train")
            net(torch.randn(4, 2))
        assert net[0].training
        assert [bits(value) for value in net.state_dict().values()] == before


def test_old_weight_norm_whose_weight_is_no_leaf() -> None:
    with pytest.warns(FutureWarning):
        net = nn.utils.weight_norm(nn.Linear(2, 2))
    net(torch.randn(1, 2))
    before = snapshot(net)
    with isolated(net, grad=True):
        net(torch.randn(1, 2)).sum().backward()
    assert differences(before, snapshot(net)) == []


def test_leftovers_of_inference_mode() -> None:
    """``trainer.validate`` before ``fit`` leaves inference tensors on modules and metrics."""
    net = nn.Linear(1, 1)
    net.metric = torchmetrics.MeanMetric()
    with torch.inference_mode():
        net.seen = torch.zeros(2)  # type: ignore[assignment]
        net.metric.update(torch.ones(1))
        net.metric.reset()
    assert net.metric.mean_value.is_inference()
    before = snapshot(net)
    with isolated(net):
        net.seen = torch.ones(2)  # type: ignore[assignment]
        net.metric.mean_value = net.metric.mean_value + 1
    assert differences(before, snapshot(net)) == []


def test_meta_sparse_and_overlapping_buffers_do_no_harm() -> None:
    net = nn.Linear(1, 1)
    net.register_buffer("meta", torch.zeros(2, device="meta"))
    net.register_buffer("sparse", torch.eye(3).to_sparse())
    net.register_buffer("windows", torch.arange(5.0).unfold(0, 3, 1))
    identities = [id(buffer) for buffer in net.buffers()]
    with isolated(net):
        net.windows.mul_(2)
        net.sparse = None
    assert [id(buffer) for buffer in net.buffers()] == identities
    assert torch.equal(net.windows, torch.tensor([[0.0, 1, 2], [1, 2, 3], [2, 3, 4]]))


class Lit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1, "nested": {"a": [1]}})
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("loss", 0.0)
        return self.layer(batch).mean()


def test_a_lightning_module_keeps_its_trainer(tmp_path: Any) -> None:
    module = Lit()
    trainer = Trainer(logger=False, enable_checkpointing=False, default_root_dir=tmp_path, accelerator="cpu")
    trainer.strategy.connect(module)
    module.trainer = trainer
    before = snapshot(module)
    with isolated(module):
        module.trainer = None
        module._current_fx_name = "analysis"
        module.hparams["lr"] = 0.2
        module.hparams["nested"]["a"].append(2)
    assert module.trainer is trainer
    assert module.hparams == {"lr": 0.1, "nested": {"a": [1]}}
    assert differences(before, snapshot(module)) == []


def test_a_dead_proxy_among_the_attributes() -> None:
    """``LightningModule.fabric`` is a weak proxy; what it stood for may be gone."""

    class Thing: ...

    net = nn.Linear(1, 1)
    thing = Thing()
    net.gone = weakref.proxy(thing)  # type: ignore[assignment]
    net.gone_too = [net.gone]  # type: ignore[assignment]
    del thing
    with isolated(net):
        net.step = 1  # type: ignore[assignment]
    assert not hasattr(net, "step")


def test_data_on_a_module_costs_little() -> None:
    net = nn.Linear(1, 1)
    net.ids = list(range(1_000_000))  # type: ignore[assignment]
    net.vocabulary = {f"word {i}": i for i in range(200_000)}  # type: ignore[assignment]
    net.tokens = [list(range(500)) for _ in range(500)]  # type: ignore[assignment]
    start = time.perf_counter()
    with isolated(net):
        net.ids.append(1)  # type: ignore[union-attr, operator]
    assert time.perf_counter() - start < 0.5  # 0.1 s on 2 cores; 3 s if every item is looked at
    assert len(net.ids) == 1_000_000  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo's own
def test_compiled_submodules_run_their_hooks_and_training_is_not_compiled_again() -> None:
    compilations = 0

    def backend(graph: Any, example_inputs: Any) -> Any:
        nonlocal compilations
        compilations += 1
        return graph.forward

    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    class Block(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    in_place = Block(2, 2)
    whole = nn.Sequential(torch.compile(net, backend=backend), in_place)
    in_place.compile(backend=backend)
    x = torch.randn(4, 2)
    whole(x).sum().backward()
    whole(x).sum().backward()
    compiled = compilations
    assert compiled == 2
    calls: list[str] = []
    with isolated(whole):
        net[0].register_forward_hook(lambda *_: calls.append("inside"))
        whole[0].register_forward_hook(lambda *_: calls.append("compiled"))
        in_place.register_forward_hook(lambda *_: calls.append("compiled in place"))
        whole(torch.randn(7, 2))
    assert calls == ["inside", "compiled", "compiled in place"]
    assert compilations == compiled, "the analysis compiled something"
    whole(x).sum().backward()
    assert compilations == compiled, "training was compiled again"
    assert len(calls) == 3
    torch._dynamo.reset()


def test_cuda_is_not_started() -> None:
    with isolated(nn.Linear(1, 1), seed=0):
        pass
    assert not torch.cuda.is_initialized()


def test_tensors_kept_from_inside_a_transform_are_left_alone(net: Net) -> None:
    """``torch.func`` leaves wrappers that nobody can read: an attention map kept for a picture, say."""

    def kept(weight: Tensor) -> Tensor:
        net.kept = weight.tanh()  # type: ignore[assignment]
        return net.kept.sum()

    torch.func.grad(kept)(torch.ones(3))
    held = net.kept
    with isolated(net):
        net.kept = None  # type: ignore[assignment]
    assert net.kept is held
