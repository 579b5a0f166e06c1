"""Sums and agreement over processes, for one and for two; which strategies are refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_dynamics.core.distributed import CollectiveFailure, Ranks, require_whole_model
from lightning_dynamics.core.lightning import ConfigurationError


def trainer_with(strategy: Any) -> Any:
    return SimpleNamespace(strategy=strategy)


class DeepSpeedStrategy:
    """By name alone, as ours looks: the real one needs the deepspeed package to be made."""

    def __init__(self, stage: int) -> None:
        self.zero_stage_3 = stage == 3


class TheirStrategy(DeepSpeedStrategy): ...


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (lambda: FSDPStrategy(), "FSDPStrategy"),
        (lambda: type("Mine", (FSDPStrategy,), {})(), "FSDPStrategy"),
        (lambda: ModelParallelStrategy(), "ModelParallelStrategy"),
        (lambda: type("XLAFSDPStrategy", (), {})(), "XLAFSDPStrategy"),
        (lambda: DeepSpeedStrategy(3), r"DeepSpeedStrategy \(ZeRO stage 3\)"),
        (lambda: TheirStrategy(3), r"DeepSpeedStrategy \(ZeRO stage 3\)"),
    ],
)
def test_sharded_models_are_refused(strategy: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} shards its parameters; use Trainer\(strategy='ddp'\)"):
        require_whole_model(trainer_with(strategy()))


def test_deepspeed_still_says_its_stage() -> None:
    from lightning.pytorch.strategies import DeepSpeedStrategy as Real

    assert isinstance(Real.zero_stage_3, property)


@pytest.mark.parametrize("options", [{}, {"strategy": "ddp", "devices": 2}, {"strategy": "ddp_fork", "devices": 2}])
def test_whole_models_pass(options: dict[str, Any]) -> None:
    require_whole_model(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options))
    require_whole_model(trainer_with(DeepSpeedStrategy(2)))


@pytest.mark.parametrize(("size", "count"), list(itertools.product([1, 2, 3, 5], [0, 1, 2, 7])))
def test_shares_are_disjoint_complete_and_in_order(size: int, count: int) -> None:
    shares = [list(Ranks(rank, size).shard(range(count))) for rank in range(size)]
    assert sorted(itertools.chain(*shares)) == list(range(count))
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_needs_no_process_group() -> None:
    assert not dist.is_initialized()
    tensor = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert torch.equal(Ranks().all_reduce(tensor), tensor)
    assert Ranks().any(True) is True and Ranks().any(False) is False


def test_ranks_of_a_trainer() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert Ranks.of(trainer) == Ranks(0, 1, torch.device("cpu"))


def _in_two_processes(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ranks = Ranks(rank, 2)
    own = torch.tensor([[1.0, 2.0]], dtype=torch.float64) * (rank + 1)
    column = torch.arange(6.0).view(2, 3).t() + rank  # not contiguous
    found = {
        "sum": ranks.all_reduce(own),
        "exact": ranks.all_reduce(torch.tensor(2.0**-40 if rank else 1.0, dtype=torch.float64)),
        "whole": ranks.all_reduce(torch.tensor([2**40 + rank])),
        "column": ranks.all_reduce(column),
        "own": own,
        "empty": ranks.all_reduce(torch.zeros(0, 3)),
        "any": [ranks.any(rank == 1), ranks.any(rank == 0), ranks.any(False), ranks.any(True)],
        "grad": ranks.all_reduce(torch.ones(1, requires_grad=True)).requires_grad,
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_two_processes(tmp_path: Path) -> None:
    mp.start_processes(_in_two_processes, (str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["sum"].tolist() == [[3.0, 6.0]] and found["sum"].dtype == torch.float64
        assert found["exact"] == 1 + 2.0**-40
        assert found["whole"].tolist() == [2**41 + 1]
        assert torch.equal(found["column"], 2 * torch.arange(6.0).view(2, 3).t() + 1)
        assert found["own"].tolist() == [[1.0 + rank, 2.0 + 2 * rank]], "the tensor itself is left alone"
        assert found["empty"].shape == (0, 3)
        assert found["any"] == [True, True, False, True]
        assert found["grad"] is False


def test_alone_together() -> None:
    assert Ranks().run_checked(lambda: 7) == 7
    own = ValueError("mine")

    def fails() -> None:
        raise own

    with pytest.raises(CollectiveFailure, match="mine") as caught:
        Ranks().run_checked(fails)
    assert caught.value.own is own and caught.value.__cause__ is own


def test_alone_buffers_are_the_own() -> None:
    module = nn.BatchNorm1d(2)
    module.running_mean.fill_(3)
    Ranks().synchronize_buffers(module)
    assert module.running_mean.tolist() == [3, 3]


class Buffers(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.norm.running_mean.fill_(rank + 1)
        self.norm.num_batches_tracked.fill_(rank + 5)
        self.register_buffer("flags", torch.tensor([rank == 0, True]))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("column", (torch.arange(6.0).view(2, 3) + rank).t())  # not contiguous
        self.register_buffer("secret", torch.tensor(float(rank)), persistent=False)
        self.register_buffer("none", None)


def _agree_in_two_processes(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ranks = Ranks(rank, 2)
    found: dict[str, Any] = {"done": ranks.run_checked(lambda: rank)}

    def fails() -> int:
        if rank == 1:
            raise ValueError("broken on rank one")
        return rank

    for name, work in (("one", fails), ("both", lambda: 1 / 0)):
        try:
            ranks.run_checked(work)
        except CollectiveFailure as error:
            found[name] = (str(error), type(error.own).__name__)
    module = Buffers(rank)
    places = [buffer.data_ptr() for buffer in module.buffers()]
    ranks.synchronize_buffers(module)
    assert places == [buffer.data_ptr() for buffer in module.buffers()]
    found["buffers"] = {name: buffer.clone() for name, buffer in module.named_buffers()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.timeout(60)
def test_two_processes_agree_on_failures_and_buffers(tmp_path: Path) -> None:
    mp.start_processes(_agree_in_two_processes, (str(tmp_path),), nprocs=2, start_method="fork")
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (zero["done"], one["done"]) == (0, 1)
    assert zero["one"] == ("the analysis failed in another process", "NoneType")
    assert one["one"] == ("broken on rank one", "ValueError")
    assert zero["both"] == one["both"] == ("division by zero", "ZeroDivisionError")
    truth = dict(Buffers(0).named_buffers())
    for found in (zero["buffers"], one["buffers"]):
        assert found.keys() == truth.keys()
        assert all(torch.equal(found[name], truth[name]) for name in truth)
