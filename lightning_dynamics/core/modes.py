"""Train mode and eval mode: whether they are one function, and which modules make the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_dynamics.core.batchnorm import batchnorms


@dataclass(frozen=True)
class Modes:
    """What the training flag changes.

    Args:
        differing: classes of modules that compute something else in eval mode, by name; dropout aside.
        eval_fails: the error in eval mode; "" if there is none.
        random: classes of modules that draw random numbers in train mode.
        as_trained: whether experiments run in train mode (but for dropout and batch normalisation), since eval mode
            is another function, and not only in that it uses estimates which train mode takes: running statistics,
            singular vectors, ranges.
    """

    differing: tuple[str, ...] = ()
    eval_fails: str = ""
    random: tuple[str, ...] = ()
    as_trained: bool = False

    def apply(self, module: nn.Module) -> None:
        """Set the flags for experiments."""
        still = {id(sub) for sub in (*dropouts(module), *batchnorms(module))}
        for sub in module.modules():
            sub.training = self.as_trained and id(sub) not in still and type(sub).__name__ not in self.random


def compare_modes(
    module: nn.Module,
    loss: Callable[[], Tensor],
    output: Callable[[], Tensor | None],
    reseed: Callable[[int], None],
) -> Modes:
    """Run the loss in both modes; where it differs, find out which classes of modules it is.

    Args:
        module: isolated; flags and buffers are as before afterwards.
        loss: of a few examples, from the same random streams every time; raises what the module raises.
        output: of ``forward`` on them, where there is no loss; None where that is unknown too.
        reseed: to others, by a number; 0 goes back.
    """
    subs = list(module.modules())
    flags = [sub.training for sub in subs]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]

    def value(train: Callable[[nn.Module], bool]) -> Any:
        for sub in subs:
            sub.training = train(sub)
        found: Tensor | Exception
        try:
            found = loss().detach()
        except Exception as error:
            tensor = output()
            found = error if tensor is None else tensor.detach()
        finally:
            moved[0] = any(buffer.shape != saved.shape or not torch.equal(buffer, saved) for buffer, saved in buffers)
            for buffer, saved in buffers:
                if buffer.shape == saved.shape:
                    buffer.data.copy_(saved)
        return found

    moved = [False]  # whether the latest run changed a buffer
    aside = {id(sub) for sub in dropouts(module)}
    try:
        in_eval = value(lambda sub: False)
        in_train = value(lambda sub: id(sub) not in aside)
        if _same(in_eval, in_train):
            return Modes()
        if isinstance(in_eval, Exception):
            fails = "" if isinstance(in_train, Exception) else f"{type(in_eval).__name__}: {in_eval}"
            return Modes(eval_fails=fails, as_trained=bool(fails))
        differing: list[str] = []
        random: list[str] = []
        estimating: set[str] = set()
        for kind in dict.fromkeys(type(sub) for sub in subs if id(sub) not in aside):
            alone = value(lambda sub, kind=kind: type(sub) is kind and id(sub) not in aside)  # type: ignore[misc]
            if _same(in_eval, alone):
                continue
            if moved[0]:  # in train mode it takes an estimate, which eval mode uses
                estimating.add(kind.__name__)
            reseed(1)
            other = value(lambda sub, kind=kind: type(sub) is kind and id(sub) not in aside)  # type: ignore[misc]
            reseed(0)
            (random if _depends_on_seed(alone, other, in_eval) else differing).append(kind.__name__)
        if not differing and not random:  # several of them together
            differing.append(type(module).__name__)
        estimating |= {type(layer).__name__ for layer in batchnorms(module)}
        return Modes(tuple(differing), "", tuple(random), as_trained=bool(set(differing) - estimating))
    finally:
        reseed(0)
        for sub, flag in zip(subs, flags, strict=True):
            sub.training = flag


def dropouts(module: nn.Module) -> list[nn.Module]:
    """Modules that leave out numbers at random in train mode, and do nothing else with the flag."""
    return [
        sub
        for sub in module.modules()
        if isinstance(sub, _DropoutNd | nn.MultiheadAttention) or (isinstance(sub, nn.RNNBase) and sub.dropout)
    ]


def _depends_on_seed(drawn: Any, again: Any, in_eval: Any) -> bool:
    """Whether other random numbers make a difference, measured by that which train mode makes.

    That may be small, where the network says nothing yet: still it is due to the random numbers.
    """
    if any(isinstance(one, Exception) for one in (drawn, again, in_eval)):
        return not _same(drawn, again)
    comparable = drawn.shape == again.shape == in_eval.shape
    effect = (drawn.double() - in_eval.double()).norm() if comparable else torch.tensor(torch.inf)
    if not bool(effect.isfinite()):
        return not _same(drawn, again)
    return not bool((drawn.double() - again.double()).norm() <= 0.01 * effect)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        return isinstance(a, Exception) and isinstance(b, Exception)
    if a.shape != b.shape:
        return False
    return torch.allclose(a.float(), b.float(), rtol=1e-5, atol=1e-7, equal_nan=True)
