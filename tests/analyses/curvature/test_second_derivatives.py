"""What has no second derivative, or a wrong one, is refused; what has one is not; both before anything is measured."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.analyses.critical_points import CriticalPointsCallback, find
from lightning_dynamics.analyses.curvature import CurvatureCallback, extreme_eigenvalues, hessian_vector_product
from lightning_dynamics.analyses.curvature.double_precision import in_double
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import flatten
from tests.analyses.curvature import reference as R
from tests.house import training
from tests.house.training import assert_identical

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]

# ---- functions with a backward of their own ----------------------------------------------------------------


class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0]


class Once(Exp):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0]


class Numpy(Exp):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return torch.from_numpy(g.detach().numpy() * ctx.saved_tensors[0].detach().numpy())


class Constant(Exp):
    """Differentiable by g, but not by its input: what is missing is symmetric."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.saved_tensors[0].detach()


class Rectifier(Exp):
    """A kink, and a backward that is right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * (ctx.saved_tensors[0] > 0)


class Narrow(Exp):
    """Computes in float32, whatever it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.float().exp().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return (g.float() * ctx.saved_tensors[0].float().exp()).to(g.dtype)


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = nn.Linear(4, width), nn.Linear(width, R.CLASSES), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class Summed(Net):
    """Linear in what the function returns: a detached backward leaves a Hessian of zeros, which is symmetric."""

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x)).sum(1)


def summed(module: nn.Module, batch: Any) -> Tensor:
    return module(batch[0]).mean()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", [Once, Numpy, Constant])
@pytest.mark.parametrize(("make", "loss"), [(Net, R.cross_entropy), (Summed, summed)], ids=["network", "linear"])
def test_a_backward_that_cannot_be_differentiated(make: Any, loss: Any, kind: Any, dtype: torch.dtype) -> None:
    net = make(kind.apply).to(dtype)
    batch = R.data(4, dtype=dtype)
    before = R.snapshot(net)
    for call in (extreme_eigenvalues, find):
        with pytest.raises(ConfigurationError, match=f"`{kind.__name__}`.*`parameters`"):
            call(net, loss, [batch])
    assert_identical(R.snapshot(net), before)
    if make is Net:  # the remedy: no gradient of these passes the function
        found = extreme_eigenvalues(net, loss, [batch], parameters="last.*", tolerance=0)
        matrix = R.exact_hessian(Net(torch.exp).double(), *batch, names=["last.weight", "last.bias"])
        assert float(found.largest) == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("width", [8, 200])
@pytest.mark.parametrize(("kind", "plain"), [(Exp, torch.exp), (Rectifier, torch.relu), (Narrow, torch.exp)])
def test_a_backward_that_can(kind: Any, plain: Any, width: int, dtype: torch.dtype) -> None:
    batch = R.data(4, dtype=dtype)
    net, other = Net(kind.apply, width).to(dtype), Net(plain, width).to(dtype)
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    found, truth = (flatten(hessian_vector_product(one, R.cross_entropy, [batch], v)) for one in (net, other))
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_a_reversed_gradient_is_no_gradient() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return -g

    with pytest.raises(ConfigurationError, match="`Reversed`"):
        extreme_eigenvalues(Net(Reversed.apply).double(), R.cross_entropy, [R.data(4)])


def test_a_hook_that_changes_gradients() -> None:
    def hooked(x: Tensor) -> Tensor:
        y = x.tanh()
        y.register_hook(lambda g: g.detach())
        return y

    with pytest.raises(ConfigurationError, match="a hook changes gradients"):
        extreme_eigenvalues(Net(hooked).double(), R.cross_entropy, [R.data(4)])


def test_a_stopped_gradient_is_meant() -> None:
    """The target is a constant, as the loss says: that is the Hessian which is asked for."""
    net = Net(torch.tanh).double()
    x, _ = R.data(4)
    target = net(x + 0.1).detach()
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    found = hessian_vector_product(net, lambda m, b: F.mse_loss(m(b), m(b + 0.1).detach()), [x], v)
    matrix = R.exact_hessian(net, x, target, F.mse_loss)
    torch.testing.assert_close(flatten(found), matrix @ flatten(v))


# ---- PyTorch's own -----------------------------------------------------------------------------------------


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.weight_norm(nn.Linear(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated.*")
@pytest.mark.parametrize("make", [lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), Old])
def test_weight_norm(make: Any) -> None:
    """PyTorch's second derivative of it is wrong: it leaves out how the norm changes."""
    torch.manual_seed(0)
    net = nn.Sequential(make(), nn.Tanh(), nn.Linear(6, R.CLASSES)).double()
    x, y = R.data(4)
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    found = flatten(hessian_vector_product(net, R.cross_entropy, [(x, y)], v))
    parameters = list(net.parameters())
    start = [p.detach().clone() for p in parameters]

    def gradient(shift: float) -> Tensor:
        for p, at, piece in zip(parameters, start, v.values(), strict=True):
            p.data.copy_(at + shift * piece)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(R.cross_entropy(net, (x, y)), parameters)])

    torch.testing.assert_close(found, (gradient(1e-6) - gradient(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-8)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.EmbeddingBag(9, 4, mode="max"), nn.Linear(4, R.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(x)))


def test_an_operation_without_a_second_derivative() -> None:
    x, y = torch.arange(40).reshape(20, 2) % 9, torch.arange(20) % R.CLASSES
    with pytest.raises(ConfigurationError, match="second derivatives.*embedding_bag.*`parameters`"):
        extreme_eigenvalues(Bag(), R.cross_entropy, [(x, y)])
    assert extreme_eigenvalues(Bag(), R.cross_entropy, [(x, y)], parameters="head.*").converged


def connectionist(module: nn.Module, batch: Any) -> Tensor:
    lengths = torch.full((2,), 6), torch.full((2,), 2)
    return F.ctc_loss(module(batch[0]).transpose(0, 1).log_softmax(-1), batch[1], *lengths)


def test_ctc() -> None:
    with pytest.raises(ConfigurationError, match="second derivatives.*ctc_loss"):
        extreme_eigenvalues(nn.Linear(3, 5), connectionist, [(torch.randn(2, 6, 3), torch.tensor([[1, 2], [3, 1]]))])


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, hidden_first: bool) -> None:
        super().__init__()
        self.net, self.reentrant, self.hidden_first = R.mlp(torch.float32), reentrant, hidden_first

    def forward(self, x: Tensor) -> Tensor:
        begin = 0 if self.hidden_first else 2
        x = self.net[:begin](x.clone().requires_grad_())
        return self.net[4:](checkpoint(self.net[begin:4], x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("hidden_first", [True, False])
def test_checkpointing(hidden_first: bool) -> None:
    x, y = R.data(4, dtype=torch.float32)
    with pytest.raises(ConfigurationError, match="use_reentrant=False"):
        extreme_eigenvalues(Checkpointed(True, hidden_first), R.cross_entropy, [(x, y)])
    found = extreme_eigenvalues(Checkpointed(False, hidden_first), R.cross_entropy, [(x, y)])
    truth = torch.linalg.eigvalsh(R.exact_hessian(R.mlp(torch.float32).double(), x, y))
    assert float(found.largest) == pytest.approx(float(truth[-1]), rel=1e-3)


def test_complex_parameters() -> None:
    net = nn.Sequential(R.mlp(), nn.Linear(R.CLASSES, 2, dtype=torch.complex128))
    for call in (extreme_eigenvalues, find):
        with pytest.raises(ConfigurationError, match="complex128"):
            call(net, R.cross_entropy, [R.data(4)])


# ---- a loss that is no function ----------------------------------------------------------------------------


class Counting(Net):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


def test_a_loss_that_changes_by_itself() -> None:
    unseeded = random.SystemRandom()
    for net, loss in (
        (Counting(torch.tanh), R.cross_entropy),
        (Net(torch.tanh), lambda m, b: R.cross_entropy(m, b) * unseeded.random()),
    ):
        with pytest.raises(ConfigurationError, match="no function of the weights"):
            hessian_vector_product(net, loss, [R.data(4, dtype=torch.float32)], {})


def test_dropout_and_noise_are_functions() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, R.CLASSES))

    def noisy(module: nn.Module, batch: Any) -> Tensor:
        return R.cross_entropy(module, (batch[0] + torch.randn_like(batch[0]), batch[1]))

    assert extreme_eigenvalues(net, noisy, [R.data(4, dtype=torch.float32)], mode="train").converged


# ---- before training ---------------------------------------------------------------------------------------


class Task(lightning.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.trained = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return R.cross_entropy(self.net, batch)

    def on_train_batch_end(self, *_: Any) -> None:
        self.trained += 1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [CurvatureCallback, CriticalPointsCallback])
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Net(Numpy.apply), "`Numpy`"),
        (lambda: Net(lambda x: x.tanh() * random.SystemRandom().random()), "no function of the weights"),
        (lambda: Checkpointed(True, True), "use_reentrant=False"),
        (lambda: nn.Sequential(nn.Linear(4, R.CLASSES), nn.Hardsigmoid()), "hardsigmoid"),
    ],
    ids=["numpy", "unseeded", "checkpointed", "hardsigmoid"],
)
def test_callbacks_refuse_it_before_training(tmp_path: Path, make: Any, word: str, kind: Any) -> None:
    task = Task(make())
    run = training.trainer(tmp_path, [kind(num_examples=20, batch_size=8, on_error="raise")], max_epochs=1)
    with pytest.raises(ConfigurationError, match=word):
        run.fit(task, DataLoader(TensorDataset(*R.data(4, n=20, dtype=torch.float32)), batch_size=10))
    assert task.trained == 0


# ---- float64 for a while -----------------------------------------------------------------------------------


def test_a_module_is_its_own_again_after_float64() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(4, 3)
            self.tied = self.cell.weight_ih_l0
            self.register_buffer("scale", torch.ones(3))
            self.plain = torch.ones(3)

    net = Recurrent()
    held = [*net.parameters(), net.scale, net.plain, *net.cell._flat_weights]
    with in_double(net):
        assert all(t.dtype is torch.float64 for t in (*net.parameters(), net.scale, net.plain, *net.cell._flat_weights))
        assert net.tied is net.cell.weight_ih_l0 and torch.get_default_dtype() is torch.float64
    after = [*net.parameters(), net.scale, net.plain, *net.cell._flat_weights]
    assert all(a is b for a, b in zip(after, held, strict=True)) and torch.get_default_dtype() is torch.float32


class Tied(nn.Module):
    """The output layer shares the weight of an embedding that shortens its rows where they are too long."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 4, max_norm=0.5), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.mix(self.embed(x))), self.embed.weight)


@pytest.mark.parametrize("size", [64, 16])
@pytest.mark.parametrize("keep_graphs", [None, True, False])
def test_rows_that_are_still_too_long(size: int, keep_graphs: bool | None) -> None:
    """Those of later minibatches are shortened before the graph of an earlier one needs the weight."""
    torch.manual_seed(0)
    x, y = torch.arange(64) % 7, torch.arange(64) * 3 % 7
    net, short = Tied().double(), Tied().double()
    short.load_state_dict(net.state_dict())
    short(x)
    short.embed.max_norm = None
    rows = hessian(short, lambda module: F.cross_entropy(module(x), y))
    found = extreme_eigenvalues(
        net,
        lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]),
        [(x[i : i + size], y[i : i + size]) for i in range(0, 64, size)],
        keep_graphs=keep_graphs,
    )
    true = torch.linalg.eigvalsh(rows)
    assert float(found.largest) == pytest.approx(float(true[-1]), rel=1e-6)
    assert bool((net.embed.weight.norm(dim=1) > 0.5).any())  # and the module's own are as they were


def hessian(module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    """Row by row."""
    weights = list(module.parameters())
    gradient = flat(torch.autograd.grad(loss(module), weights, create_graph=True))
    return torch.stack([flat(torch.autograd.grad(one, weights, retain_graph=True)) for one in gradient])


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
