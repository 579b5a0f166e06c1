"""Several processes: who does what, sums over all of them, agreement on failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_dynamics.core.lightning import ConfigurationError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

T = TypeVar("T")

# By name: both Lightning packages have these classes, and importing some of them is slow.
_SHARDED = ("FSDPStrategy", "ModelParallelStrategy", "XLAFSDPStrategy")


def require_whole_model(trainer: Trainer) -> None:
    """Refuse strategies that give each process only a part of the parameters.

    Raises:
        ConfigurationError: FSDP, DeepSpeed ZeRO stage 3, model parallelism.
    """
    strategy = trainer.strategy
    names = {cls.__name__ for cls in type(strategy).__mro__}
    sharded = next((name for name in _SHARDED if name in names), None)
    if "DeepSpeedStrategy" in names and getattr(strategy, "zero_stage_3", False):
        sharded = "DeepSpeedStrategy (ZeRO stage 3)"
    if sharded is not None:
        raise ConfigurationError(
            f"the analyses need the whole model in every process, and {sharded} shards its parameters; use "
            "Trainer(strategy='ddp') or a single device, or analyse a checkpoint afterwards on one device"
        )


@dataclass(frozen=True)
class Ranks:
    """The processes of this training, seen from one of them. With one process every method is free.

    Args:
        rank: this process.
        size: how many there are.
        device: where tensors must lie to be exchanged.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def of(cls, trainer: Trainer) -> Ranks:
        """The processes of a Trainer."""
        return cls(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's disjoint share of a list that is the same on every rank."""
        return items[self.rank :: self.size]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in the tensor's own dtype and where it lay; with one, the tensor itself."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(total)
        return total.to(tensor.device)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        return bool(self.sum(torch.tensor([float(flag)])) > 0)
