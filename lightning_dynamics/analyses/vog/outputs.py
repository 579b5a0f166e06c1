"""What a network puts out for each example: the one number that is differentiated, logits and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.vog.methods import Attribution
from lightning_dynamics.core.batch_tree import Path, at, tensors, worded
from lightning_dynamics.core.calls import first_tensor
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import PredictFn
from lightning_dynamics.core.task import Task

Target = Literal["label", "prediction", "final_prediction"]
TargetFn = Callable[[Any, Any], Tensor]

TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class Setup:
    """What is differentiated by what.

    Args:
        target: ``"label"``, ``"prediction"``, ``"final_prediction"``, or a function ``(output, targets) -> (N,)``.
        attribution: at which points.
        with_respect_to: ``"input"``, or the name of one layer, whose output is meant.
        channels_last: lay out images with their channels innermost: faster convolutions on many machines.
        predict_fn: ``(module, batch) -> (logits, targets)``.
        task: what a batch means to the module.
    """

    target: Target | TargetFn = "label"
    attribution: Attribution = "gradient"
    with_respect_to: str = "input"
    channels_last: bool = False
    predict_fn: PredictFn | None = None
    task: Task = Task("module")

    @property
    def classifies(self) -> bool:
        """Whether the output is logits of classes."""
        return isinstance(self.target, str)


def run(module: nn.Module, batch: Any, setup: Setup) -> tuple[Any, Any]:
    """Output and targets of a minibatch."""
    if setup.predict_fn is not None:
        return setup.predict_fn(module, batch)
    targets = setup.task.targets_of(batch)  # before the module takes them out of the batch
    return setup.task.outputs(module, batch), targets


def inputs_of(batch: Any, setup: Setup) -> tuple[Path, int]:
    """Where the inputs lie that are differentiated by, or shown, and along which of their axes the examples.

    Raises:
        ConfigurationError: there is no such tensor, or more than one.
    """
    layer = "name the layer whose output to take gradients by, as `with_respect_to='layer.name'`"
    task = setup.task
    if task.unplaced_inputs(batch):
        names = ", ".join(map(worded, task.unplaced_inputs(batch)))
        raise ConfigurationError(
            f"{names} of the batch has no axis along which the examples lie, so its gradient is not that of single "
            f"examples: {layer} with one row per example"
        )
    found = [path for path in task.inputs if isinstance(task.axes.get(path), int)]
    smooth = [path for path in found if at(batch, path).is_floating_point()]
    if len(smooth) > 1:
        raise ConfigurationError(
            f"the outputs depend on several inputs ({', '.join(map(worded, smooth))}), and gradients are taken by one: "
            f"{layer}"
        )
    if not found:
        there = ", ".join(map(worded, tensors(batch))) or "no tensor"
        raise ConfigurationError(
            f"found no input tensor in a batch that is a {type(batch).__name__} (with {there}): {layer}"
        )
    path = (smooth or found)[0]
    return path, int(str(task.axes[path]))


def numbers_of(setup: Setup, output: Any, targets: Any) -> Tensor:
    """``(n,)``: what the user's own ``target`` function makes of the output."""
    assert callable(setup.target)
    numbers = setup.target(output, targets)
    if not isinstance(numbers, Tensor) or numbers.ndim != 1:
        found = f"{tuple(numbers.shape)}" if isinstance(numbers, Tensor) else type(numbers).__name__
        raise ConfigurationError(f"`target(output, targets)` must return one number per example, (N,); got {found}")
    return numbers


def labels_if_any(targets: Any) -> Tensor | None:
    """Targets that can stand for classes, where the output is no logits."""
    whole = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    return targets.detach().long() if whole else None


def classified(output: Any, targets: Any, setup: Setup) -> tuple[Tensor, Tensor | None]:
    """Logits ``(n, C)`` with C ≥ 2 and labels ``(n,)``; a single logit z is that of two classes, 0 and z."""
    _require_logits(setup)
    if isinstance(targets, Tensor) and setup.task.reading.soft:
        targets = _likeliest(targets)
    logits = first_tensor(output)
    if logits is None or not logits.is_floating_point() or logits.ndim not in (1, 2):
        found = "no tensor" if logits is None else f"{tuple(logits.shape)} {str(logits.dtype).removeprefix('torch.')}"
        raise ConfigurationError(
            f"`target={setup.target!r}` needs logits (N, classes), and the output is {found}: pass "
            "`predict_fn(module, batch) -> (logits, targets)`, or a function `target(output, targets) -> (N,)`"
        )
    if logits.ndim == 1 or logits.shape[1] == 1:
        if setup.predict_fn is None and setup.task.kind == "unknown":
            raise ConfigurationError(
                f"the outputs of {setup.task.module} are one number per example, and nothing tells that it is a logit: "
                f"pass `predict_fn=lambda module, batch: (logits, targets)`, or {_ONE_NUMBER}"
            )
        logits = torch.stack([torch.zeros_like(logits.reshape(-1)), logits.reshape(-1)], dim=1)
    labels = None
    if isinstance(targets, Tensor):
        labels = targets.detach().reshape(-1) if targets.ndim == 2 and targets.shape[1] == 1 else targets.detach()
        whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
        if labels.ndim != 1 or labels.is_complex() or not whole:
            raise ConfigurationError(
                f"targets are {tuple(targets.shape)} {str(targets.dtype).removeprefix('torch.')}, and class labels are "
                "whole numbers (N,): pass `predict_fn`, or a function `target(output, targets) -> (N,)`"
            )
        labels = labels.long()
        outside = labels[(labels < 0) | (labels >= logits.shape[1])]
        if len(outside):
            raise ConfigurationError(
                f"label {int(outside[0])} is out of range: there are logits of {logits.shape[1]} classes, 0 to "
                f"{logits.shape[1] - 1}; give labels from 0 up in `data`, or `predict_fn`"
            )
        if len(labels) != len(logits):
            raise ConfigurationError(
                f"there are {len(labels)} labels for {len(logits)} rows of logits: pass `predict_fn(module, batch) -> "
                "(logits, targets)`"
            )
    if labels is None and setup.target == "label":
        raise ConfigurationError(_no_labels(setup))
    return logits, labels


def _likeliest(shares: Tensor) -> Tensor:
    """``(n,)``: the class with the largest share of each row: of one-hot targets, the label."""
    top = shares.topk(2, dim=1).values
    if bool((top[:, 0] == top[:, 1]).any()):
        raise ConfigurationError(
            "some targets have two classes of the same, largest share, so neither is the label: pass "
            "`predict_fn=lambda module, batch: (logits, labels)`, or a function `target(output, targets) -> (N,)`"
        )
    return shares.argmax(1)


def _require_logits(setup: Setup) -> None:
    """Refuse outputs that are known to be something else than logits of classes."""
    task, own = setup.task, setup.predict_fn is None
    # What `predict_fn` returns is taken for logits, unless the loss shows that it is not.
    if task.output in ("probabilities", "log_probabilities") and (own or task.reading.matched):
        raise ConfigurationError(_no_logits(f"the outputs of {task.module if own else '`predict_fn`'}", task.output))
    if not own:
        return
    if setup.target == "label" and task.targets is None:
        raise ConfigurationError(_no_labels(setup))
    if task.kind not in ("multiclass", "binary") and (setup.target == "label" or task.kind != "unknown"):
        raise ConfigurationError(
            f"`target={setup.target!r}` needs logits of classes and one label per example, and the task is another "
            f"(read {str(task).removeprefix('read ')}): pass `predict_fn=lambda module, batch: (logits, targets)`, or "
            f"{_ONE_NUMBER}"
        )


_ONE_NUMBER = "a function `target=lambda output, targets: output[:, 0]`, say, of one number per example"


def _no_logits(what: str, form: str) -> str:
    return (
        f"{what} are {form.replace('_', '-')}, and the gradient is that of the logit before them: pass "
        f"`predict_fn=lambda module, batch: (logits, targets)`, or {_ONE_NUMBER}"
    )


def _no_labels(setup: Setup) -> str:
    """Why nothing is known to be the labels, and what to do."""
    task = setup.task
    remedy = (
        "use `target='prediction'`, or pass `predict_fn=lambda module, batch: (module(batch[0]), batch[1])`, say, "
        "which returns logits and labels"
    )
    if setup.predict_fn is not None:
        return "`target='label'`, but `predict_fn` returns no targets: use `target='prediction'`"
    if not task.loss_known:
        failure = next((note for note in task.notes if note.startswith("`training_step`")), "it has no loss")
        return (
            f"`target='label'`, but the loss of {task.module} could not be computed on these examples ({failure}), and "
            f"nothing else tells which item of a batch it compares the outputs with: {remedy}"
        )
    used = ", ".join(map(worded, task.inputs)) or "no item"
    return f"`target='label'`, but the loss of {task.module} depends on {used} alone, so there are no labels: {remedy}"


def require_logits_by_values(logits: Tensor) -> None:
    """Refuse rows that are probabilities, or their logarithms, where nobody knows what made them.

    Logits of two and more classes do not happen to add up to one.

    Args:
        logits: ``(n, C)``.

    Raises:
        ConfigurationError: they are.
    """
    scores = logits.detach().double()
    tolerance = 10 * torch.finfo(logits.dtype).eps
    for form, shares in (("probabilities", scores), ("log_probabilities", scores.exp())):
        if bool((shares >= 0).all()) and bool(((shares.sum(1) - 1).abs() <= tolerance).all()):
            raise ConfigurationError(_no_logits("the outputs", form))


def of_class(output: Any, logits: Tensor, classes: Tensor | None) -> Tensor:
    """Each example's logit of its class ``(n,)``; where there is but one logit z, z for class 1 and −z for class 0."""
    assert classes is not None
    own = first_tensor(output)
    assert own is not None
    if own.ndim == 1 or own.shape[1] == 1:
        return own.reshape(-1) * (2 * classes - 1).to(own.dtype)
    return logits.gather(1, classes[:, None])[:, 0]
