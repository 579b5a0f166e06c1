"""Several processes: who does what, sums over all of them, agreement on failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

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


class CollectiveFailure(Exception):
    """Work that all processes do together failed, and every one of them knows.

    Args:
        own: what failed in this process; None if another one's work did.
    """

    def __init__(self, own: Exception | None) -> None:
        """See the class."""
        super().__init__("the analysis failed in another process" if own is None else str(own))
        self.own = own


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

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's disjoint share of a list that is the same on every rank."""
        return items[self.rank :: self.size]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in the tensor's own dtype and where it lay; with one, the tensor itself."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(total)
        return total.to(tensor.device)

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """The owner's tensor, in every process; the others give one of the same shape and dtype, to be filled."""
        if self.size == 1:
            return tensor
        shared = tensor.detach().to(self.device, copy=True).contiguous()
        dist.broadcast(shared, src=owner)
        return shared.to(tensor.device)

    def broadcast_object(self, value: T | None) -> T:
        """Rank zero's value, in every process: tensors on the CPU, plain values, and classes of them."""
        box = [value if self.rank == 0 else None]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return cast(T, box[0])

    def all_gather_object(self, value: T) -> list[T]:
        """Every process's value, in every process."""
        gathered: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(gathered, value)
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        return flag if self.size == 1 else bool(self.all_reduce(torch.tensor([float(flag)], dtype=torch.float32)) > 0)

    def run_checked(self, work: Callable[[], T]) -> T:
        """Do this process's own work, and go on only if it went well in all of them.

        What exchanges tensors in the midst of a measurement does the work before each exchange in here: then no
        process waits for one that has failed.

        Raises:
            CollectiveFailure: in every process, if the work failed in any.
        """
        error: Exception | None = None
        try:
            done = work()
        except Exception as caught:
            error = caught
        if self.any(error is not None):
            raise CollectiveFailure(error) from error
        return done

    def synchronize_buffers(self, module: nn.Module) -> None:
        """Give every process's module rank zero's buffers: those that a checkpoint would hold.

        Under DDP, running statistics follow each process's own data between one forward pass and the next.
        """
        if self.size > 1:
            for buffer in module.buffers():
                if buffer.numel():
                    buffer.data.copy_(self.broadcast(buffer, owner=0))
