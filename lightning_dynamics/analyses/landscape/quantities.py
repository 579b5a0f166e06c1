"""What is measured at a point: the loss, the accuracy, metrics of the user's, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from lightning_dynamics.core import objective
from lightning_dynamics.core.calls import Captured, first_tensor
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, resolve_function
from lightning_dynamics.core.task import Task

MetricFn = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets of a minibatch -> the mean over its examples."""


class Quantities:
    """The quantities of a minibatch, by name; ``"loss"`` first.

    Args:
        module: within ``isolated``.
        task: what a batch means to it.
        loss_fn: ``(module, batch) -> scalar``; None for the module's ``training_step``.
        wanted: beside the loss: ``"accuracy"``, or functions ``(logits, targets) -> scalar``, themselves or as
            ``"package.module.function"``; None for the accuracy if there is one.
        load: a minibatch, to try them on; a copy each time.

    Raises:
        ConfigurationError: one cannot be measured.
    """

    def __init__(
        self,
        module: nn.Module,
        task: Task,
        loss_fn: LossFn | None,
        wanted: Sequence[str | MetricFn] | None,
        load: Callable[[], Any],
    ) -> None:
        """Try every one of them once."""
        self._module, self._task, self._loss_fn = module, task, loss_fn
        self._metrics: dict[str, Measure] = {}
        self._memo: _Memo | None = None
        self._captured: Captured | None = None
        self.loss(load())  # what is wrong with it is said here
        self._metrics = metrics_named(
            (["accuracy"] if task.classifies else []) if wanted is None else wanted, task.accuracy
        )
        if not self._metrics:
            return
        try:
            self._check_accuracy()
            self(load())
        except Exception as error:
            if wanted is not None:
                raise ConfigurationError(
                    f"`quantities`: {', '.join(self._metrics)} cannot be measured: {error}; pass `predict_fn=lambda "
                    "module, batch: (logits, targets)`, or leave it out"
                ) from error
            self._metrics = {}
        if self._metrics and not self._comes_with_the_loss:
            self._memo = _Memo(module, is_trial=True)
            with self._memo.installed():
                self(load())
            self._memo = None if self._memo.is_spoilt else self._memo.for_those_served()

    @property
    def _comes_with_the_loss(self) -> bool:
        return self._task.predict_fn is None and self._task.way is not None and self._task.way.in_step

    def _check_accuracy(self) -> None:
        if self._task.accuracy in self._metrics.values() and not self._task.classifies:
            self._task.require_targets()
            raise ConfigurationError(f"there is no accuracy where {self._task}")

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the values."""
        return ("loss", *self._metrics)

    def __call__(self, batch: Any) -> list[Tensor]:
        """Means over the minibatch's terms, targets, and examples."""
        memo, task = self._memo, self._task
        if not self._metrics:
            return [self.loss(batch)]
        if self._comes_with_the_loss:
            targets = task.targets_of(batch)
            if self._captured is None:
                loss, output = task.loss_and_outputs(self._module, batch, self._loss_fn)
            else:
                loss, output = task.loss_and_captured(self._module, batch, self._loss_fn, self._captured)
        elif memo is None:
            loss = self.loss(batch)
            output, targets = task.predictions(self._module, batch)
        else:
            with memo.recording():
                loss = self.loss(batch)
            with memo.serving():
                output, targets = task.predictions(self._module, batch)
        logits = first_tensor(output)
        assert logits is not None
        return [loss, *(torch.as_tensor(metric(logits, targets)) for metric in self._metrics.values())]

    def loss(self, batch: Any) -> Tensor:
        """The loss alone."""
        return objective.loss(self._module, batch, self._loss_fn)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Inside, the forward pass that gave the loss gives the rest as well."""
        with ExitStack() as stack:
            if self._memo is not None:
                stack.enter_context(self._memo.installed())
            if self._metrics and self._comes_with_the_loss:
                self._captured = stack.enter_context(self._task.capturing(self._module))
                stack.callback(setattr, self, "_captured", None)
            yield


Measure = Callable[[Tensor, Tensor], Tensor | None]
_ANY: Measure = Task("module").accuracy


def metrics_named(wanted: Sequence[str | MetricFn], accuracy: Measure = _ANY) -> dict[str, Measure]:
    """Metrics by the name under which they are shown.

    Args:
        wanted: by the user.
        accuracy: what ``"accuracy"`` stands for.

    Raises:
        ConfigurationError: not a sequence of names and functions.
    """
    if isinstance(wanted, str):
        raise ConfigurationError(f"`quantities={wanted!r}`: give a list, such as ['accuracy']")
    metrics: dict[str, Measure] = {}
    for metric in wanted:
        if metric == "loss":  # is always there
            continue
        function = accuracy if metric == "accuracy" else resolve_function(metric, "quantities")
        name = metric.rpartition(".")[2] if isinstance(metric, str) else getattr(metric, "__name__", "metric")
        if not callable(function) or name in metrics or name == "loss":
            raise ConfigurationError(
                f"`quantities`: {metric!r} must be 'accuracy', or a function of logits and targets with its own name"
            )
        metrics[name] = function
    return metrics


class _Memo:
    """What a module and its direct children made of their latest arguments, for whoever asks with the same ones.

    A loss and the predictions come from one forward pass, though two functions of the user's call the module.

    Args:
        module: within ``isolated``.
        is_trial: find out whether anybody calls the same thing twice, and whether the loss changes an output in place.
    """

    def __init__(self, module: nn.Module, *, is_trial: bool = False) -> None:
        modules = [module, *module.children()]
        self._modules = [m for m in modules if objective.has_forward(m) and not isinstance(m, torch.jit.ScriptModule)]
        self._served: set[int] = set()
        self._outputs: dict[int, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}
        self._records = self._serves = False
        self._is_trial = is_trial
        self._copies: dict[int, list[Tensor]] = {}
        self.is_spoilt = False

    def for_those_served(self) -> _Memo | None:
        """After a trial: one that keeps nothing else alive, if anybody was served at all."""
        if not self._served:
            return None
        memo = _Memo(self._modules[0])
        memo._modules = [self._modules[index] for index in sorted(self._served)]
        return memo

    @contextmanager
    def installed(self) -> Iterator[None]:
        held = [(m, vars(m).get("forward")) for m in self._modules]
        try:
            for index, module in enumerate(self._modules):
                module.__dict__["forward"] = self._remembering(index, module.forward)
            yield
        finally:
            self._outputs.clear()
            for module, own in held:
                if own is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = own

    @contextmanager
    def recording(self) -> Iterator[None]:
        self._outputs.clear()
        self._records = True
        try:
            yield
        finally:
            self._records = False

    @contextmanager
    def serving(self) -> Iterator[None]:
        self._serves = True
        try:
            yield
        finally:
            self._serves = False
            self._outputs.clear()

    def _remembering(self, index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)  # whose signature tells which inputs it takes
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._serves and index in self._outputs:
                seen, named, output = self._outputs[index]
                if _same(seen, args) and named.keys() == kwargs.keys() and _same([*named.values()], [*kwargs.values()]):
                    self._served.add(index)
                    if self._is_trial:
                        self.is_spoilt |= not all(map(torch.equal, self._copies[index], _tensors(output)))
                    return output
            output = original(*args, **kwargs)
            if self._records:
                self._outputs[index] = args, kwargs, output
                if self._is_trial:
                    self._copies[index] = [tensor.clone() for tensor in _tensors(output)]
            return output

        return forward


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
