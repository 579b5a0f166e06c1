"""Lightning's tuners: they save a checkpoint, train a little with all callbacks taken out, and put it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from lightning_dynamics.core.lightning import ConfigurationError, both

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def finds_learning_rates(trainer: Trainer) -> bool:
    """Whether a ``LearningRateFinder`` is among the callbacks, as it also is within ``Tuner.lr_find``."""
    finders = both("callbacks.LearningRateFinder")
    return any(isinstance(callback, finders) for callback in getattr(trainer, "callbacks", ()))


def is_of_learning_rate_finder(checkpoint: Any) -> bool:
    """Whether this path is of a checkpoint that ``LearningRateFinder`` saved; as of Lightning 2.5.1 and 2.6.6."""
    return checkpoint is not None and PurePath(str(checkpoint)).name.startswith(".lr_find_")


def checkpoint_of_this_fit(trainer: Trainer, before: Sequence[Any]) -> Any:
    """The ``ckpt_path`` that the user has given, in whose place tuners leave the path of what they put back.

    Args:
        trainer: about to train.
        before: what its ``ckpt_path`` was each time that something saved a checkpoint in this ``fit``.

    Raises:
        ConfigurationError: there is one, and a tuner too.
    """
    found, *_ = (*before, trainer.ckpt_path)
    if found is not None and found != trainer.ckpt_path:
        raise ConfigurationError(
            "`ckpt_path` with a LearningRateFinder or BatchSizeFinder: the tuner puts its own checkpoint back, and "
            "Lightning then begins at the first epoch with a new optimizer; resume without the tuner, with the "
            "learning rate and batch size that it found"
        )
    return found
