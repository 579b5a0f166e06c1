"""Evaluates a module's quantities at many weights, at little more than the cost of the forward passes."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.landscape.minibatches import (
    SMALLEST,
    Minibatch,
    Minibatches,
    channels_last,
    comfortable_size,
    keep_freed_memory,
)
from lightning_dynamics.analyses.landscape.quantities import MetricFn, Quantities
from lightning_dynamics.core.batchnorm import batchnorms, reestimate, use_batch_statistics
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.modes import dropouts
from lightning_dynamics.core.module_state import plain_attributes, restores_of
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.progress import progress
from lightning_dynamics.core.random_state import generators_of, seed_all
from lightning_dynamics.core.task import Task

BatchNormMode = Literal["reestimate", "frozen", "batch"]
BATCHNORM_MODES: tuple[str, ...] = get_args(BatchNormMode)
DropoutMode = Literal["off", "fixed"]
DROPOUT_MODES: tuple[str, ...] = get_args(DropoutMode)

_TOGETHER = 4096  # numbers that wait to become one tensor
_USUAL_BATCH = 128  # examples whose statistics batch normalisation gets where nobody says how many


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated at every point, and how.

    Args:
        loss_fn: see :class:`~lightning_dynamics.landscape.quantities.Quantities`.
        quantities: see there.
        batchnorm: ``"reestimate"`` (one more pass per point), ``"frozen"`` running statistics, or ``"batch"``.
        dropout: ``"off"``, or ``"fixed"``: on, with one mask for all points.
        weight_decay: λ of a term λ/2 ‖θ‖² over all parameters, added to the losses.
        batch_size: None leaves the batches as they are; ``"auto"`` cuts them where that is quicker. Needs a loss that
            is a mean over examples; where batch normalisation looks at minibatches, ``"auto"`` is at most 128.
        channels_last: lay out images and 4-D weights with their channels innermost.
        seed: of the random streams.
        mode: ``"eval"``, or ``"train"``: training flags as the module has them, but for dropout and batch
            normalisation, of which the two arguments above tell.

    Raises:
        ConfigurationError: an unknown word.
    """

    loss_fn: LossFn | None = None
    quantities: Sequence[str | MetricFn] | None = None
    batchnorm: BatchNormMode = "reestimate"
    dropout: DropoutMode = "off"
    weight_decay: float = 0.0
    batch_size: int | Literal["auto"] | None = None
    channels_last: bool = False
    seed: int = 0
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        """Check the words."""
        if self.batchnorm not in BATCHNORM_MODES:
            raise ConfigurationError(f"`batchnorm` must be one of {', '.join(BATCHNORM_MODES)}; got {self.batchnorm!r}")
        if self.dropout not in DROPOUT_MODES:
            raise ConfigurationError(f"`dropout` must be one of {', '.join(DROPOUT_MODES)}; got {self.dropout!r}")


class Evaluator:
    """The quantities of a module on fixed batches, at whatever weights it has.

    Make and use it within ``isolated``. The random streams, if the module draws from them, begin anew for every
    minibatch at every point: the same noise, the same dropout mask everywhere.

    Args:
        module: the module.
        task: what a batch means to it.
        batches: by prefix of the quantities' names: ``{"": batches, "val/": others}``. Batch normalisation is
            re-estimated on the first.
        settings: what is evaluated, and how.

    Raises:
        ConfigurationError: no batches, or quantities that cannot be measured.
    """

    def __init__(
        self, module: nn.Module, task: Task, batches: Mapping[str, Minibatches], settings: EvaluationSettings
    ) -> None:
        """Try everything once, on the first minibatch."""
        batchnorm, dropout, batch_size = settings.batchnorm, settings.dropout, settings.batch_size
        self._module, self._weight_decay, self._seed = module, settings.weight_decay, settings.seed
        self._reestimated = batchnorms(module) if batchnorm == "reestimate" else []
        self._set_flags(settings)
        for layer in batchnorms(module):
            layer.training = False
            if batchnorm == "batch":
                layer.track_running_stats = False
                use_batch_statistics(layer)
        if settings.channels_last:
            for parameter in module.parameters():
                if parameter.ndim == 4:
                    parameter.data = channels_last(parameter.data)
        keep_freed_memory()
        # What may be cut is tried on little: a pass over a large batch whole is a slow one.
        first = next(iter(batches.values()))(SMALLEST if batch_size == "auto" else batch_size)[0]
        self._streams = generators_of(*module.modules())
        self._seeds, self._is_stateful = True, task.carries_state
        self._modes: list[Callable[[], Any]] = [torch.inference_mode, torch.no_grad, torch.enable_grad]
        measured = module, task, settings.loss_fn, settings.quantities
        self._quantities = self._tried(lambda: Quantities(*measured, first.load))
        before = _random_states(self._streams)
        self._tried(lambda: self._quantities(first.load()))
        self._seeds = dropout == "fixed" or _random_states(self._streams) != before
        size = batch_size
        if batch_size == "auto":
            looks_at_minibatches = batchnorm != "frozen" and bool(batchnorms(module))
            size = self._tried(lambda: comfortable_size(module, first, self._quantities))
            size = min(size, _USUAL_BATCH) if looks_at_minibatches else size
        assert size != "auto"
        self._sets = {prefix: cut(size) for prefix, cut in batches.items()}

    def _set_flags(self, settings: EvaluationSettings) -> None:
        """Training flags: those of the mode, and dropout's own."""
        if settings.mode == "eval":
            for sub in self._module.modules():
                sub.training = settings.dropout == "fixed"
        elif settings.dropout == "off":
            for sub in dropouts(self._module):
                sub.training = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the quantities, in their order."""
        return tuple(f"{prefix}{name}" for prefix in self._sets for name in self._quantities.names)

    def examples(self, prefix: str = "") -> int:
        """How many there are."""
        return sum(minibatch.examples for minibatch in self._sets[prefix])

    def at(self, places: Sequence[Callable[[], None]], *, description: str | None = None) -> Tensor:
        """Quantities at a sequence of weights, ``(points, Q)`` float64 on the CPU; NaN and infinity as they come.

        Args:
            places: each puts the module's weights where they are wanted.
            description: of the progress bar; None shows none.
        """
        stacked, values = [], []
        with self._quantities.sharing(), self._modes[0]():
            for move in progress(places, total=len(places), description=description):
                move()
                values += self._here()
                if len(values) >= _TOGETHER:
                    stacked.append(torch.stack(values))
                    values = []
            if values:
                stacked.append(torch.stack(values))
        if not stacked:
            return torch.zeros(0, len(self.names), dtype=torch.float64)
        return self._means(torch.cat(stacked).cpu().double())

    def normalise(self) -> None:
        """Measure the running statistics of batch normalisation for the weights as they are, if that is asked for."""
        if self._reestimated:
            numbered = enumerate(next(iter(self._sets.values())))
            with self._modes[0]():
                reestimate(self._reestimated, ((item, item[1].examples) for item in numbered), self._run_for_statistics)

    def _here(self) -> list[Tensor]:
        """The quantities of every minibatch, then the weight decay, as scalars where they are: nothing waits for them.

        Little is done with them here: after a forward pass nothing is in a cache, and ten small operations cost as
        much as moving the weights does.
        """
        self.normalise()
        values = []
        for minibatches in self._sets.values():
            for number, minibatch in enumerate(minibatches):
                batch = minibatch.load()
                self._begin(number)
                # Copies: what the user's code returns may be part of the weights, or be written to again.
                if self._is_stateful:
                    with self._as_before():
                        values += [_copy(value) for value in self._quantities(batch)]
                else:
                    values += [_copy(value) for value in self._quantities(batch)]
        if self._weight_decay:
            squared = torch.stack([p.detach().double().square().sum() for p in self._module.parameters()]).sum()
            values.append(0.5 * self._weight_decay * squared)
        return values

    def _means(self, values: Tensor) -> Tensor:
        """What :meth:`_here` found at all points, one after the other -> ``(points, Q)``.

        Element by element, so that a point's value does not depend on how many others are computed with it.
        """
        count = len(self._quantities.names)
        width = count * sum(map(len, self._sets.values()))
        table = values.reshape(-1, width + bool(self._weight_decay))
        columns = iter(table[:, :width].split(count, dim=1))
        means = []
        for minibatches in self._sets.values():
            weights = [self._weights(minibatch) for minibatch in minibatches]
            # One number, where they all are the same, is multiplied faster; and empty minibatches have no mean.
            mean = torch.stack([_times(weight, next(columns)) for weight in weights]).sum(0) / sum(weights)
            if self._weight_decay:
                mean[:, 0] += table[:, -1]
            means.append(mean)
        return torch.cat(means, dim=1)

    def _weights(self, minibatch: Minibatch) -> Tensor:
        """``(quantities,)`` float64: of a loss its terms, of an accuracy the targets that count, else the examples."""
        own = {"loss": minibatch.terms, "accuracy": minibatch.counted}
        return torch.tensor([own.get(name, minibatch.examples) for name in self._quantities.names], dtype=torch.float64)

    def _run_for_statistics(self, item: tuple[int, Minibatch]) -> None:
        number, minibatch = item
        batch = minibatch.load()
        self._begin(number)
        self._quantities.loss(batch)

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """The module's state, but for its parameters, is put back afterwards."""
        restores = restores_of(plain_attributes(self._module), (), self._module.buffers())
        try:
            yield
        finally:
            for restore in reversed(restores):
                restore()

    def _begin(self, number: int) -> None:
        if self._seeds:
            seed_all(self._seed + number, *self._streams)

    def _tried(self, work: Callable[[], Any]) -> Any:
        """In inference mode; if the user's code takes gradients of its own, from now on in a mode that lets it."""
        self._begin(0)
        try:
            with self._modes[0]():
                return work()
        except Exception as error:
            if len(self._modes) == 1 or not _needs_gradients(error):
                raise
        del self._modes[0]
        return self._tried(work)


def _times(weight: Tensor, column: Tensor) -> Tensor:
    """A minibatch without a term (nothing but padding) has no mean, and no weight."""
    return torch.where(weight == 0, torch.zeros_like(column), weight * column)


def _copy(value: Tensor) -> Tensor:
    value = value.detach().reshape(())
    return value.clone() if value.is_floating_point() else value.double()


def _needs_gradients(error: BaseException | None) -> bool:
    while error is not None:
        if "inference" in str(error).lower() or "does not require grad" in str(error):
            return True
        error = error.__cause__
    return False


def _random_states(streams: Sequence[Any]) -> list[bytes]:
    """Of all streams, to see whether anybody has drawn from them."""
    states: list[Any] = [torch.get_rng_state(), np.random.get_state(legacy=False)["state"], random.getstate()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    for stream in streams:
        state = getattr(stream, "get_state", None) or getattr(stream, "getstate", None)
        states.append(stream.bit_generator.state if state is None else state())
    return [s.numpy().tobytes() if isinstance(s, Tensor) else pickle.dumps(s) for s in states]
