"""A module at a checkpoint's weights, and back bit for bit."""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_dynamics.core.checkpoints import at_checkpoint
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from tests.house.training import trainer


def net(seed: int, width: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    module.train()
    module(torch.randn(8, 2)).sum().backward()
    return module


def bits(module: nn.Module) -> list[Any]:
    state = [(name, id(value), value.data_ptr(), value.tolist()) for name, value in module.state_dict().items()]
    grads = [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in module.parameters()]
    return [state[0][0], *(s[2:] for s in state), grads, [m.training for m in module.modules()]]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save({"state_dict": net(1).state_dict(), "epoch": 3}, tmp_path / "one.ckpt")
    return tmp_path / "one.ckpt"


@pytest.mark.parametrize("fails", [False, True])
def test_there_and_back(saved: Path, fails: bool) -> None:
    module, other = net(0).eval(), net(1).eval()
    x = torch.randn(4, 2)
    before, own = bits(module), module(x)
    try:
        with at_checkpoint(module, saved, argument="compare_to"):
            assert torch.equal(module(x), other(x))
            module.train()(x)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert bits(module) == before
    assert torch.equal(module(x), own)


@pytest.mark.parametrize("compiled", ["module", "checkpoint", "both"])
def test_names_match_with_and_without_compile(saved: Path, compiled: str) -> None:
    module = net(0).eval()
    if compiled in ("checkpoint", "both"):
        torch.save({"state_dict": torch.compile(net(1), backend="eager").state_dict()}, saved)
    if compiled in ("module", "both"):
        module[2] = torch.compile(module[2], backend="eager")  # type: ignore[index, operator]
    with at_checkpoint(module, str(saved), argument="compare_to"):
        assert torch.equal(module[0].weight, net(1)[0].weight)  # type: ignore[index]
        assert torch.equal(list(module.parameters())[-1], list(net(1).parameters())[-1])


def refused(module: nn.Module, path: Any, text: str) -> None:
    before = bits(module)
    with pytest.raises(ConfigurationError, match=re.escape(f"`compare_to={str(path)!r}` {text}")):
        with at_checkpoint(module, path, argument="compare_to"):
            raise AssertionError("entered")
    assert bits(module) == before


def test_another_architecture(saved: Path) -> None:
    refused(net(0, width=5), saved, "does not fit Sequential: ")
    refused(nn.Sequential(*net(0), nn.Linear(1, 1)), saved, "does not fit Sequential: ")
    refused(nn.Linear(1, 1), saved, "does not fit Linear: ")


class Unsafe:
    def __reduce__(self) -> Any:
        return (print, ("code has run",))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no pickle at all",
        pickle.dumps({"state_dict": {}}, protocol=4)[:-3],
        torch.zeros(3),
        {"weights": {}},
        {"state_dict": None},
        {"state_dict": {}, "hyper_parameters": Namespace(lr=1)},
        {"state_dict": {}, "callbacks": Unsafe()},
        [1],
    ],
    ids=lambda content: type(content).__name__,
)
def test_what_is_no_checkpoint(content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    refused(net(0), path, "is no Lightning checkpoint that loads with `weights_only=True`: ")
    assert capsys.readouterr().out == ""


def test_the_users_own_errors_are_not_dressed_up(saved: Path) -> None:
    with pytest.raises(RuntimeError, match="^mine$"), at_checkpoint(net(0), saved, argument="compare_to"):
        raise RuntimeError("mine")


def test_gradients_can_be_taken_at_a_checkpoint(saved: Path) -> None:
    module = net(0)
    with isolated(module, grad=True), at_checkpoint(module, saved, argument="compare_to"):
        loss = module(torch.ones(2, 2)).sum()
        assert torch.autograd.grad(loss, list(module.parameters()))[0].shape == (3, 2)
    with torch.no_grad(), at_checkpoint(module, saved, argument="compare_to"):
        assert not module(torch.ones(2, 2)).requires_grad


def test_a_real_lightning_checkpoint(tmp_path: Path) -> None:
    class Model(LightningModule):
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = nn.Linear(width, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self.layer(batch).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.1)

    module = Model()
    run = trainer(tmp_path, [], max_steps=2)
    run.fit(module, torch.utils.data.DataLoader(torch.randn(4, 2), batch_size=2))
    run.save_checkpoint(tmp_path / "real.ckpt")
    fresh = Model()
    with at_checkpoint(fresh, tmp_path / "real.ckpt", argument="compare_to"):
        assert torch.equal(fresh.layer.weight, module.layer.weight)
    assert not torch.equal(fresh.layer.weight, module.layer.weight)
