"""What a batch means to a module: its inputs, targets and outputs, and what its loss is a mean over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_dynamics.core import objective
from lightning_dynamics.core.batch_tree import Axis, Path, at, worded
from lightning_dynamics.core.calls import CallTemplate, Captured, captured, first_tensor
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, PredictFn
from lightning_dynamics.core.outputs import Kind, Output, Reading

LossUnit = Literal["examples", "tokens", "weights", "terms", "sum", "batch", "unknown"]


@dataclass(frozen=True)
class Way:
    """How the outputs come about.

    Args:
        template: the call that makes them; None if its arguments are computed within ``training_step``.
        name: of the submodule called there; "" for the module's own ``forward``.
        number: of the call.
        in_step: whether the loss makes this call too, so that one run gives both.
        copies: the loss changes the outputs in place.
    """

    template: CallTemplate | None = None
    name: str = ""
    number: int = 0
    in_step: bool = False
    copies: bool = False


@dataclass(frozen=True)
class Counter:
    """How many terms the loss of a minibatch is a mean over.

    Args:
        unit: what they are.
        described: in words.
        count: of a batch with so many examples.
    """

    unit: LossUnit
    described: str
    count: Callable[[Any, int], float]


def _examples(_: Any, examples: int) -> float:
    return float(examples)


EXAMPLES = Counter("examples", "examples", _examples)


@dataclass(frozen=True, eq=False)
class Task:
    """What experiments before training have found out; nothing in it is a guess.

    Args:
        module: name of its class.
        reading: how outputs and targets belong together.
        way: how outputs come about; None if nobody knows.
        forward: how the module's own ``forward`` is called; None if there is no way.
        inputs: paths of the tensors that the outputs depend on.
        targets: path of what the loss compares the outputs with; None if there is no such item.
        mask: path of the flags that say which targets count.
        axes: along which axis of each tensor the examples lie.
        counter: of loss terms; None if the loss is no mean over anything in the batch.
        sums: the loss is a sum over its terms.
        differing: classes whose modules make another function in eval mode, dropout aside.
        eval_fails: the loss, or the output, cannot be computed in eval mode.
        as_trained_only: the difference is more than batch normalisation's.
        random: classes that draw random numbers in train mode.
        carries_state: a run changes what the next one gives: a queue, a running centre, an estimate.
        keeps_state: a second run differs from the first: something changes that cannot be put back.
        notes: what could not be found out, with the argument to give.
        predict_fn: the user's.
        loss_known: whether the loss could be computed.
    """

    module: str
    reading: Reading = field(default_factory=Reading)
    way: Way | None = None
    forward: CallTemplate | None = None
    inputs: tuple[Path, ...] = ()
    targets: Path | None = None
    mask: Path | None = None
    axes: Mapping[Path, Axis] = field(default_factory=dict)
    counter: Counter | None = EXAMPLES
    sums: bool = False
    differing: tuple[str, ...] = ()
    eval_fails: str = ""
    as_trained_only: bool = False
    random: tuple[str, ...] = ()
    carries_state: bool = False
    keeps_state: bool = False
    notes: tuple[str, ...] = ()
    predict_fn: PredictFn | None = None
    loss_known: bool = True

    @property
    def kind(self) -> Kind:
        """Of task."""
        return self.reading.kind

    @property
    def output(self) -> Output:
        """What the outputs are."""
        return self.reading.output

    @property
    def loss_unit(self) -> LossUnit:
        """What the loss of a minibatch is a mean over; ``"batch"``: nothing that could be counted."""
        if not self.loss_known:
            return "unknown"
        return "sum" if self.sums else "batch" if self.counter is None else self.counter.unit

    @property
    def eval_differs(self) -> bool:
        """Whether the module is another function in eval mode than in train mode, dropout aside."""
        return bool(self.differing or self.eval_fails)

    # ---- running it ----------------------------------------------------------------------------------------

    def run(self, module: nn.Module, batch: Any) -> Any:
        """Run the module's layers on a batch, with whatever that returns.

        Raises:
            ConfigurationError: nobody knows how.
        """
        if self.predict_fn is not None:
            return self.predict_fn(module, batch)
        if self.forward is not None:
            return self.forward(module, batch)
        if self.loss_known:
            return objective.training_step(module, batch)
        raise ConfigurationError(self._no_outputs())

    def outputs(self, module: nn.Module, batch: Any) -> Any:
        """What the module puts out for a batch, in whatever containers.

        Raises:
            ConfigurationError: nobody knows how to get it.
        """
        if self.predict_fn is not None:
            return self.predict_fn(module, batch)[0]
        if self.way is None:
            raise ConfigurationError(self._no_outputs())
        if self.way.template is not None:
            return self.way.template(module, batch)
        return self.loss_and_outputs(module, batch)[1]

    def loss_and_outputs(self, module: nn.Module, batch: Any, loss_fn: LossFn | None = None) -> tuple[Tensor, Any]:
        """Both, from one run where the loss makes the outputs."""
        if self.predict_fn is not None or self.way is None or not self.way.in_step:
            return objective.loss(module, batch, loss_fn), self.outputs(module, batch)
        with self.capturing(module) as found:
            return self.loss_and_captured(module, batch, loss_fn, found)

    def capturing(self, module: nn.Module) -> AbstractContextManager[Captured]:
        """Catch the outputs while the loss is computed; for many times in a row."""
        assert self.way is not None
        return captured(module, self.way.name, self.way.number, copies=self.way.copies)

    def loss_and_captured(
        self, module: nn.Module, batch: Any, loss_fn: LossFn | None, found: Captured
    ) -> tuple[Tensor, Any]:
        """Both, within :meth:`capturing`."""
        found.start()
        loss = objective.loss(module, batch, loss_fn)
        if not found.outputs:
            raise RuntimeError(f"{self.module}: the call that makes the outputs was not made this time")
        return loss, found.outputs.pop()

    def predictions(self, module: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Outputs ``(N, …)`` and targets ``(N, …)`` of a batch.

        Raises:
            ConfigurationError: there are none, or nobody knows how to get them.
        """
        if self.predict_fn is not None:
            return self.predict_fn(module, batch)
        self.require_targets()
        targets = self.targets_of(batch)  # before the module changes the batch
        output = first_tensor(self.outputs(module, batch))
        if output is None or targets is None:
            raise ConfigurationError(self._no_outputs())
        return output, targets

    def targets_of(self, batch: Any) -> Any:
        """The targets; class targets that do not count are −100. None if there are none."""
        if self.targets is None:
            return None
        targets = at(batch, self.targets)
        if self.mask is not None:
            targets = targets.masked_fill(~at(batch, self.mask), -100)
        return targets

    def accuracy(self, output: Any, targets: Any) -> Tensor | None:
        """Share of right predictions, a float64 scalar; None where nothing is classified."""
        tensor = first_tensor(output)
        if tensor is None or not isinstance(targets, Tensor):
            return None
        return self.reading.accuracy(tensor.detach(), targets)

    @property
    def classifies(self) -> bool:
        """Whether there is an accuracy."""
        return self.reading.kind in ("multiclass", "binary", "multilabel", "tokens", "dense")

    def terms(self, batch: Any, examples: int) -> float:
        """How many terms the loss of this minibatch is a mean over: its weight among others."""
        return 1.0 if self.counter is None else self.counter.count(batch, examples)

    def unplaced_inputs(self, batch: Any) -> list[Path]:
        """Floating point inputs without an axis of examples."""
        return [path for path in self.inputs if path not in self.axes and at(batch, path).is_floating_point()]

    def examples_in(self, batch: Any) -> int:
        """How many there are.

        Raises:
            ConfigurationError: no tensor says.
        """
        for path, axis in self.axes.items():
            node = at(batch, path)
            return node.shape[axis] if isinstance(axis, int) else len(node)
        raise ConfigurationError("nobody can tell how many examples a minibatch has: give `loss_fn`, a mean over them")

    def mean_loss(self, loss_fn: LossFn | None) -> LossFn | None:
        """The loss to analyse: the user's or the module's own, divided by the examples where it is a sum over them."""
        if not self.sums:
            return loss_fn

        def per_example(module: Any, batch: Any) -> Tensor:
            examples = self.examples_in(batch)
            return objective.loss(module, batch, loss_fn) / examples

        return per_example

    def counted(self, module: nn.Module, batch: Any, examples: int) -> float:
        """How many targets of this minibatch count for an accuracy."""
        if self.reading.kind not in ("tokens", "dense", "multilabel", "multiclass") or self.reading.soft:
            return float(examples)
        targets = self.predict_fn(module, batch)[1] if self.predict_fn is not None else self.targets_of(batch)
        if not isinstance(targets, Tensor):
            return float(examples)
        return replace(self.reading, weights=None).terms(targets)

    # ---- saying it -----------------------------------------------------------------------------------------

    def require_targets(self) -> None:
        """Refuse what needs targets where the loss compares the outputs with nothing in the batch.

        Raises:
            ConfigurationError: with a value to try.
        """
        if self.predict_fn is None and (self.targets is None or self.way is None):
            if self.way is None:
                raise ConfigurationError(self._no_outputs())
            why = f"the loss of {self.module} depends on {self._items(self.inputs) or 'no item'} alone"
            raise ConfigurationError(
                f"nothing in the batch is known to be a target: {'; '.join(self.notes) or why}; give "
                "`predict_fn=lambda module, batch: (logits, targets)` if there are some"
            )

    def _no_outputs(self) -> str:
        return (
            f"found no way to the outputs of {self.module}: "
            + ("; ".join(self.notes) or "its `training_step` makes several calls")
            + "; give `predict_fn=lambda module, batch: (module(batch[0]), batch[1])`, say"
        )

    @staticmethod
    def _items(paths: tuple[Path, ...]) -> str:
        return ", ".join(map(worded, paths))

    def __str__(self) -> str:
        """One line."""
        reading = self.reading
        classes = f"{reading.classes}-class " if reading.classes else ""
        kinds = {
            "multiclass": f"{classes}classification",
            "binary": "yes-or-no classification",
            "multilabel": "several yes-or-no labels",
            "tokens": f"{classes}classification of tokens",
            "dense": f"{classes}classification of pixels",
            "pairs": "a loss of pairs",
            "unknown": "a task of unknown kind",
            "regression": "regression",
        }
        parts = [kinds[reading.kind]]
        if self.predict_fn is not None:
            parts.append("outputs and targets from `predict_fn`")
        else:
            if reading.kind != "unknown":
                parts.append(f"outputs = {reading.output.replace('_', '-')}")
            if self.inputs:
                parts.append(f"inputs = {self._items(self.inputs)}")
            parts.append(f"targets = {worded(self.targets)}" if self.targets is not None else "no targets")
        parts.append(self._loss_words())
        if self.eval_fails:
            parts.append(f"eval mode fails ({self.eval_fails})")
        elif self.differing:
            parts.append(f"eval differs from train by {', '.join(self.differing)}")
        return f"read {self.module} as: {', '.join(parts)}"

    def _loss_words(self) -> str:
        if not self.loss_known:
            return "loss unknown"
        if self.counter is None:
            return "loss is no mean over anything in the batch"
        return f"loss = {'sum' if self.sums else 'mean'} over {self.counter.described}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "module": self.module,
            "kind": self.kind,
            "output": self.output,
            "num_classes": self.reading.classes or None,
            "inputs": [list(path) for path in self.inputs],
            "targets": None if self.targets is None else list(self.targets),
            "loss_unit": self.loss_unit,
            "loss_terms": None if self.counter is None or not self.loss_known else self.counter.described,
            "eval_differs": self.eval_differs,
            "differing": list(self.differing),
            "eval_fails": self.eval_fails,
            "random": list(self.random),
            "carries_state": self.carries_state,
            "keeps_state": self.keeps_state,
            "notes": list(self.notes),
        }


@torch.no_grad()
def perturbed(module: nn.Module, generator: torch.Generator) -> None:
    """Move the parameters to a point with nothing special about it: a fresh head of zeros hides what it does."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and parameter.numel():
            scale = float(parameter.float().square().mean().sqrt()) or 0.1
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.data.add_((0.3 * scale * noise).to(parameter.device, parameter.dtype))
