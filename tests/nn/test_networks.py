"""The networks of the paper, which examples/07_coordconv.py builds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("coordconv_example", EXAMPLES / "07_coordconv.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def size(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_coordconv_has_7553_parameters(example: ModuleType) -> None:
    """1 x 1 convolutions from 2 + 2 channels to 32, 32, 64, 64 and 1: the paper's count."""
    channels = [4, 32, 32, 64, 64, 1]
    assert sum((a + 1) * b for a, b in zip(channels, channels[1:], strict=False)) == 7553
    net = example.network("coordconv", "classification", 1)
    assert size(net) == 7553
    assert net(torch.rand(3, 2)).shape == (3, 1, 64, 64)


def test_the_other_networks(example: ModuleType) -> None:
    assert size(example.network("coordconv", "regression", 1)) == 906
    assert example.network("conv", "classification", 1)(torch.rand(3, 2)).shape == (3, 1, 64, 64)
    # The paper's largest deconvolution has 1.6 million parameters, with kernels of 4 x 4; ours have 3 x 3.
    assert size(example.network("conv", "rendering", 3)) < 1_000_000
    for kind in ("conv", "coordconv"):
        assert example.network(kind, "regression", 1)(torch.rand(3, 1, 64, 64)).shape == (3, 2)


def test_scores_of_a_perfect_painter(example: ModuleType) -> None:
    """An oracle in the network's place gets everything right; one pixel off, nothing but an IoU of 8/10."""
    from lightning_dynamics.data import NotSoClevr

    for task, off in (("classification", 0.0), ("rendering", 0.8), ("regression", 1.0)):
        data = NotSoClevr(task)
        x, target = next(iter(data.val_dataloader()))
        learner = example.TASKS[task](torch.nn.Identity(), 0.1, "oracle")
        perfect = {
            "classification": lambda t: 50 * torch.nn.functional.one_hot(t, 4096).view(-1, 1, 64, 64).float(),
            "rendering": lambda t: 2 * t - 1,
            "regression": lambda t: t,
        }[task](target)
        right, score = learner.scores(learner(perfect), target)
        assert right.all()
        torch.testing.assert_close(score, torch.full_like(score, float(task != "regression")), rtol=0, atol=1e-4)
        shifted = perfect + torch.tensor([2 / 63, 0]) if task == "regression" else perfect.roll(1, 3)
        right, score = learner.scores(learner(shifted), target)
        assert not right.any()
        expected = 72 / 90 if task == "rendering" else off
        torch.testing.assert_close(score, torch.full_like(score, expected), rtol=0, atol=1e-4)
