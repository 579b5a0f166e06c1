"""The one place that knows Lightning's two names and its private attributes.

``lightning`` installs ``pytorch-lightning`` beside itself, and the two hold *different* classes of the same
name: a Trainer of one does not take callbacks of the other. So our bases inherit from both.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytorch_lightning
from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler, SubsetRandomSampler

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

PACKAGES: list[Any] = [pytorch_lightning]
try:
    import lightning.pytorch

    PACKAGES.insert(0, lightning.pytorch)
except ImportError:  # pytorch-lightning alone is a complete installation
    pass


def both(name: str) -> tuple[type, ...]:
    """The class of this dotted name in each installed Lightning, e.g. ``both("loggers.WandbLogger")``."""
    classes = []
    for package in PACKAGES:
        found: Any = package
        for part in name.split("."):
            found = getattr(found, part)
        classes.append(found)
    return tuple(classes)


if not TYPE_CHECKING:

    class Callback(*both("callbacks.Callback")):
        """A callback that the Trainers of both Lightning packages accept."""

    class Logger(*both("loggers.logger.Logger")):
        """A logger that the Trainers of both Lightning packages accept."""

    class LightningDataModule(*both("LightningDataModule")):
        """A data module that the Trainers of both Lightning packages accept."""

    class LightningModule(PACKAGES[0].LightningModule):
        """A module for Trainers of ``lightning``, or of ``pytorch_lightning`` where that is installed alone.

        One for both cannot be: each package takes the other's methods for overridden ones, and refuses some.
        """


class ConfigurationError(*both("utilities.exceptions.MisconfigurationException"), ValueError):  # type: ignore[misc]
    """What the user asked for cannot be done; the text names the argument and the fix."""


def steps_taken(trainer: Trainer, *, in_batch: bool = False) -> int:
    """The number of training batches after which an optimizer has stepped: the loggers' x-axis.

    With automatic optimisation this is ``trainer.global_step``. Under manual optimisation that counts every
    optimizer, while Lightning's own rows count batches, and so do we.
    Private attribute, checked on Lightning 2.5.1 and 2.6.6.

    Args:
        trainer: in its fit loop.
        in_batch: called from ``on_train_batch_end``, where Lightning has not counted the current batch yet.
    """
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop._batches_that_stepped + in_batch


def training_length(trainer: Trainer) -> tuple[int | None, int | None]:
    """Steps that this training is to take, from its very beginning, and those of one epoch; None if nobody knows."""
    steps = trainer.estimated_stepping_batches
    if not 0 < steps < float("inf"):  # -1 if only an epoch's length is missing
        return None, None
    batches = trainer.num_training_batches
    if batches == float("inf"):
        return int(steps), None
    return int(steps), max(1, -(-int(batches) // trainer.accumulate_grad_batches))


def gradients_are_complete(trainer: Trainer) -> bool:
    """Whether the backward pass that has just run is the last before an optimizer steps, as far as can be known.

    Not while Lightning accumulates batches, nor while DDP keeps each process's gradients to itself. Under manual
    optimisation in one process, always: only the module knows when it will step.
    Private attribute, checked on Lightning 2.5.1 and 2.6.6.
    """
    if trainer.lightning_module.automatic_optimization:
        return not trainer.fit_loop.epoch_loop._should_accumulate()
    return getattr(trainer.model, "require_backward_grad_sync", True)


def validation_loaders(trainer: Trainer) -> Any:
    """The validation loader(s), also before Lightning has set them up (``check_val_every_n_epoch > 1``).

    Private attribute, checked on Lightning 2.5.1 and 2.6.6.
    """
    if trainer.val_dataloaders is not None:
        return trainer.val_dataloaders
    source = trainer.fit_loop.epoch_loop.val_loop._data_source
    return source.dataloader() if source.is_defined() else None


def sampled_indices(loader: Any, trainer: Trainer | None = None) -> tuple[int, ...] | None:
    """The data set indices that a loader can draw, if those are not all.

    A SubsetRandomSampler's; and, with a Trainer whose ``overfit_batches`` or ``limit_train_batches`` cuts a loader
    that does not shuffle, those that every epoch begins with.
    Private attributes (Lightning wraps samplers under DDP), checked on Lightning 2.5.1 and 2.6.6.
    """
    outer = getattr(loader.batch_sampler, "sampler", loader.sampler)
    sampler = getattr(getattr(outer, "dataset", None), "_sampler", outer)
    indices = tuple(map(int, sampler.indices)) if isinstance(sampler, SubsetRandomSampler) else None
    if trainer is None or indices is not None:
        return indices
    batch_size = getattr(loader.batch_sampler, "batch_size", None)
    in_order = isinstance(sampler, SequentialSampler) or getattr(outer, "shuffle", True) is False
    if not in_order or batch_size is None:
        return None
    limit = batches_of_an_epoch(trainer, loader)
    return None if limit is None else tuple(range(min(len(loader.dataset), limit * batch_size)))


def batches_of_an_epoch(trainer: Trainer, loader: Any) -> int | None:
    """Where ``overfit_batches`` or ``limit_train_batches`` cuts the epochs: batches of one, over all processes."""
    limit = trainer.num_training_batches
    return None if limit == float("inf") or limit >= len(loader) else int(limit) * trainer.world_size


def undistributed(sampler: Any, dataset: Any) -> Any:
    """The sampler that Lightning has replaced by one that draws a process's share; any other as it is.

    Private attribute, checked on Lightning 2.5.1 and 2.6.6.
    """
    if not isinstance(sampler, DistributedSampler):
        return sampler
    wrapped = getattr(sampler.dataset, "_sampler", None)
    if wrapped is not None:
        return wrapped
    return RandomSampler(dataset) if sampler.shuffle else SequentialSampler(dataset)


def to_device(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """A collated batch as ``training_step`` would get it: precision, transfer hooks, device.

    Private method, checked on Lightning 2.5.1 and 2.6.6.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch)


def first_minibatches(trainer: Trainer, module: LightningModule) -> Iterator[Any]:
    """Minibatches as training would receive them, by an iterator of their own.

    Private attribute, checked on Lightning 2.5.1 and 2.6.6.
    """
    loader = trainer.fit_loop._combined_loader
    assert loader is not None
    for batch, _, _ in loader:
        yield to_device(trainer, module, batch)


def move_to_device(batch: Any, device: Any) -> Any:
    """A batch elsewhere, whatever it is made of, as Lightning itself moves it."""
    return import_module(f"{PACKAGES[0].__name__}.utilities").move_data_to_device(batch, device)


def tell(text: str) -> None:
    """A line for the user, as Lightning tells its own: by its logger, on rank zero."""
    import_module(f"{PACKAGES[0].__name__}.utilities.rank_zero").rank_zero_info(text)


def package_of(module: Any) -> Any:
    """The Lightning package that a module is of.

    Raises:
        ConfigurationError: it is no LightningModule.
    """
    for package in PACKAGES:
        if isinstance(module, package.LightningModule):
            return package
    raise ConfigurationError(f"expected a LightningModule, got {type(module).__name__}")


def trainer_for(module: LightningModule, **options: Any) -> Trainer:
    """A Trainer of the package that the module is of.

    Raises:
        ConfigurationError: it is no LightningModule.
    """
    return package_of(module).Trainer(**options)
