"""Which optimizers train a subspace, and which are refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import ConfigurationError, RandomSubspaceCallback
from tests.house.training import trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Net(pl.LightningModule):
    """An embedding and a linear layer, trained by what ``make`` makes of the parameters."""

    def __init__(self, make: Callable[[Any], Any], *, sparse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.EmbeddingBag(20, 6, sparse=sparse), nn.Linear(6, 3, bias=False))
        self.make = make

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make(list(self.parameters()))


def loader() -> Any:
    generator = torch.Generator().manual_seed(1)
    words, labels = torch.randint(20, (32, 5), generator=generator), torch.randint(3, (32,), generator=generator)
    return DataLoader(TensorDataset(words, labels), 8)


def fit(folder: Path, net: Net, **options: Any) -> RandomSubspaceCallback:
    callback = RandomSubspaceCallback(**{"dim": 4, "announce": False} | options)
    trainer(folder, [callback], max_epochs=2).fit(net, loader())
    return callback


REFUSED = {"LBFGS", "SparseAdam", "Muon"}
KINDS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD, Nesterov, foreach": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True}),
    "SGD, fused": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "Adam, fused": (torch.optim.Adam, {"fused": True}),
    "AdamW, amsgrad, foreach": (torch.optim.AdamW, {"amsgrad": True, "foreach": True}),
    "Adam, rate as a tensor": (torch.optim.Adam, {"lr": torch.tensor(0.01)}),
    "Adagrad, fused": (torch.optim.Adagrad, {"fused": True, "initial_accumulator_value": 0.1}),
    "RMSprop, centred": (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
    "NAdam, decoupled": (torch.optim.NAdam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_optimizer_trains_or_is_refused_before_training(name: str, tmp_path: Path) -> None:
    net = Net(lambda parameters: KINDS[name](parameters, lr=0.01))
    before = net.net[1].weight.detach().clone()
    if name in REFUSED:
        with pytest.raises(ConfigurationError, match=f"^RandomSubspaceCallback: {name} .*torch.optim.Adam"):
            fit(tmp_path, net)
        assert torch.equal(net.net[1].weight, before)
    else:
        callback = fit(tmp_path, net)
        assert callback.theta_d.any() and callback.theta_d.isfinite().all()
        assert not torch.equal(net.net[1].weight, before)


@pytest.mark.parametrize("case", OPTIONS)
def test_every_way_of_stepping_trains(case: str, tmp_path: Path) -> None:
    kind, options = OPTIONS[case]
    callback = fit(tmp_path, Net(lambda parameters: kind(parameters, **{"lr": 0.01} | options)))
    assert callback.theta_d.any() and callback.theta_d.isfinite().all()


def test_sparse_gradients_are_those_of_a_dense_embedding(tmp_path: Path) -> None:
    found = [
        fit(tmp_path, Net(lambda p: torch.optim.SGD(p, lr=0.1), sparse=sparse)).theta_d for sparse in (False, True)
    ]
    torch.testing.assert_close(*found)


def test_sparse_adam_of_a_part_that_is_not_chosen_stays(tmp_path: Path) -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__(lambda _: None, sparse=True)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            optimizers: Any = self.optimizers()
            loss = super().training_step(batch, batch_idx)
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SparseAdam([self.net[0].weight]), torch.optim.SGD([self.net[1].weight], lr=0.1)]

    net = Two()
    before = net.net[0].weight.detach().clone()
    assert fit(tmp_path, net, parameters="net.1.*").theta_d.any()
    assert not torch.equal(net.net[0].weight, before)


class Wrapped(torch.optim.Optimizer):
    """Has an optimizer of its own; its groups are other objects, as in ``ZeroRedundancyOptimizer``, or the same."""

    def __init__(self, parameters: Any, *, shared: bool) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.inner = torch.optim.SGD(parameters, lr=0.1)
        if shared:
            self.param_groups = self.inner.param_groups

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return self.inner.step(closure)


def test_an_optimizer_that_trains_by_another_one(tmp_path: Path) -> None:
    assert fit(tmp_path, Net(lambda parameters: Wrapped(parameters, shared=True))).theta_d.any()
    with pytest.raises(ConfigurationError, match="RandomSubspaceCallback: Wrapped trains.*return the SGD itself"):
        fit(tmp_path, Net(lambda parameters: Wrapped(parameters, shared=False)))


def test_what_is_no_optimizer_of_torch_is_refused(tmp_path: Path) -> None:
    class Duck:
        def __init__(self, parameters: Any) -> None:
            self.own = torch.optim.SGD(parameters, lr=0.1)
            self.param_groups, self.defaults, self.state = self.own.param_groups, self.own.defaults, self.own.state
            self.state_dict, self.load_state_dict = self.own.state_dict, self.own.load_state_dict

        def step(self, closure: Any = None) -> Any:
            return self.own.step(closure)

    with pytest.raises(ConfigurationError, match="^RandomSubspaceCallback: Duck is no torch.optim.Optimizer"):
        fit(tmp_path, Net(Duck))


class Lazy(Net):
    """A head that learns its shape from the first batch."""

    def __init__(self) -> None:
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.net = nn.Sequential(nn.EmbeddingBag(20, 6), nn.LazyLinear(3))


def test_lazy_modules_have_to_run_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="^RandomSubspaceCallback: .*net.1.weight, net.1.bias.*run the module"):
        fit(tmp_path, Lazy())
    assert fit(tmp_path, Lazy(), parameters="net.0.*").theta_d.any()
    ran = Lazy()
    ran.net(next(iter(loader()))[0])
    callback = fit(tmp_path, ran)
    assert callback.theta_d.any() and len(callback.theta_0) == 120 + 18 + 3


def test_complex_parameters_are_refused(tmp_path: Path) -> None:
    net = Net(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    net.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(ConfigurationError, match="^RandomSubspaceCallback: .*phase are complex"):
        fit(tmp_path, net)
    assert fit(tmp_path, net, parameters="net.*").theta_d.any()
