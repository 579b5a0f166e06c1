"""Train mode and eval mode: whether they are one function, and whose doing it is if they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynamics.core.modes import Modes, compare_modes, dropouts

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Doubles(nn.Module):
    """Another function in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class OnlyTrains(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            raise RuntimeError("boxes, not losses")
        return x


class OnlyEvals(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("wants targets")
        return x


class Never(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("never")


class Grows(nn.Module):
    """More outputs in train mode: auxiliary heads."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x]) if self.training else x


def compare(module: nn.Module, loss: Callable[[Tensor], Tensor] = lambda out: out.square().mean()) -> Modes:
    """As the experiments do."""
    offset = [0]

    def run() -> Tensor:
        torch.manual_seed(offset[0])
        return loss(module(X))

    def output() -> Tensor | None:
        torch.manual_seed(offset[0])
        try:
            found: Tensor = module(X)
        except RuntimeError:
            return None
        return found

    modes = compare_modes(module, run, output, lambda number: offset.__setitem__(0, number))
    assert offset == [0]
    return modes


def net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.Linear(4, 2))


CASES: dict[str, tuple[tuple[nn.Module, ...], Modes]] = {
    "nothing": ((nn.ReLU(),), Modes()),
    "dropout": ((nn.Dropout(0.5), nn.Dropout1d(0.5)), Modes()),
    "batch normalisation": ((nn.BatchNorm1d(4),), Modes(("BatchNorm1d",))),
    "batch normalisation without statistics": ((nn.BatchNorm1d(4, track_running_stats=False),), Modes()),
    "one's own layer": ((Doubles(),), Modes(("Doubles",), as_trained=True)),
    "batch normalisation and one's own": (
        (nn.BatchNorm1d(4), Doubles()),
        Modes(("BatchNorm1d", "Doubles"), as_trained=True),
    ),
    "noise": ((Noise(),), Modes(random=("Noise",))),
    "noise and dropout": ((Noise(), nn.Dropout(0.5)), Modes(random=("Noise",))),
    "noise and batch normalisation": ((Noise(), nn.BatchNorm1d(4)), Modes(("BatchNorm1d",), random=("Noise",))),
    "more outputs": ((Grows(),), Modes(("Grows",), as_trained=True)),
    "fails in eval mode": ((OnlyTrains(),), Modes(eval_fails="RuntimeError: boxes, not losses", as_trained=True)),
    "fails in both": ((Never(),), Modes()),
}


@pytest.mark.parametrize("name", CASES)
def test_whose_doing_it_is(name: str) -> None:
    layers, expected = CASES[name]
    loss = (lambda out: out.sum(0)) if name == "more outputs" else (lambda out: out.square().mean())
    module = net(*layers).train()
    buffers = [buffer.clone() for buffer in module.buffers()]
    layers[0].eval()  # a part that its author keeps so
    flags = [sub.training for sub in module.modules()]
    assert compare(module, loss) == expected
    assert [sub.training for sub in module.modules()] == flags
    assert all(torch.equal(now, before) for now, before in zip(module.buffers(), buffers, strict=True))


def test_what_fails_in_train_mode_alone() -> None:
    modes = compare(net(OnlyEvals()))
    assert modes.differing == ("OnlyEvals",) and not modes.eval_fails


def test_the_output_stands_in_for_a_loss_that_fails() -> None:
    def fails(out: Tensor) -> Tensor:
        raise RuntimeError("no loss at all")

    assert compare(net(Doubles()), fails) == Modes(("Doubles",), as_trained=True)
    assert compare(net(nn.ReLU()), fails) == Modes()


def test_flags_and_buffers_are_put_back_after_an_error() -> None:
    module = net(nn.BatchNorm1d(4), nn.Dropout()).train()
    module[2].eval()
    flags = [sub.training for sub in module.modules()]

    def interrupted() -> Tensor:
        module(X)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_modes(module, interrupted, lambda: None, lambda number: None)
    assert [sub.training for sub in module.modules()] == flags
    norm: Any = module[1]
    assert not norm.running_mean.any() and norm.num_batches_tracked == 0


@pytest.mark.parametrize("seed", range(8))
def test_little_noise_is_noise(seed: int) -> None:
    """In a loss that hardly depends on the outputs, other random numbers give nearly the same."""
    module = nn.Sequential(net(), Noise())
    scale = 1e-5 * (1 + seed)
    modes = compare(module, lambda out: 1 + scale * out.sum())
    assert modes.differing == () and not modes.as_trained


def test_what_is_not_finite_in_train_mode_alone_is_no_noise() -> None:
    class Overflows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float("nan") if self.training else x

    assert compare(net(Overflows())).differing == ("Overflows",)


def test_nan_is_equal_to_nan() -> None:
    assert compare(net(nn.ReLU()), lambda out: out.sum() * float("nan")) == Modes()


# ---- the flags of experiments -----------------------------------------------------------------------------------


def trains(module: nn.Module, modes: Modes) -> list[str]:
    modes.apply(module)
    return [type(sub).__name__ for sub in module.modules() if sub.training]


def test_experiments_run_in_eval_mode_unless_it_is_another_function() -> None:
    module = net(nn.BatchNorm1d(4), nn.Dropout(), Noise(), Doubles()).train()
    assert trains(module, Modes(("BatchNorm1d",), random=("Noise",))) == []
    as_trained = Modes(("BatchNorm1d", "Doubles"), random=("Noise",), as_trained=True)
    assert trains(module, as_trained) == ["Sequential", "Linear", "Doubles", "Linear"]


def test_dropouts() -> None:
    plain, deep = nn.LSTM(4, 4, 2), nn.LSTM(4, 4, 2, dropout=0.5)
    attention = nn.MultiheadAttention(4, 1, dropout=0.5)
    module = nn.ModuleList([nn.Dropout2d(), plain, deep, attention, nn.Linear(1, 1)])
    assert dropouts(module) == [module[0], deep, attention]
