"""What a LightningModule computes on a batch: its outputs, its predictions, its loss.

Call these inside :func:`~lightning_dynamics.core.isolation.isolated`: they run the user's own code.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from lightning_dynamics.core.lightning import ConfigurationError, both
from lightning_dynamics.core.quiet import logging_disabled

PredictFn = Callable[[Any, Any], tuple[Tensor, Tensor]]
LossFn = Callable[[Any, Any], Tensor]

INPUT_KEYS = ("input", "inputs", "x", "image", "images", "pixel_values", "input_ids", "data", "features")
TARGET_KEYS = ("label", "labels", "target", "targets", "y")


def resolve_function(name: str | Callable[..., Any] | None, argument: str) -> Callable[..., Any] | None:
    """A function given as itself, or as ``"package.module.function"``, which is what YAML can say.

    Raises:
        ConfigurationError: naming ``argument``, if there is no such function.
    """
    if name is None or callable(name):
        return name
    try:
        module_name, _, attribute = name.rpartition(".")
        found = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"`{argument}={name!r}` names no function: give 'package.module.function', or the function itself"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"`{argument}={name!r}` is not a function but a {type(found).__name__}")
    return found


def forward(module: nn.Module, batch: Any) -> Any:
    """Run the module's layers on a batch, by the best way there is, and return the output.

    ``module(inputs)`` where the module has a ``forward``, with the inputs of an ``(inputs, targets)`` or mapping
    batch (a mapping whose keys ``forward`` takes as arguments, as Hugging Face models do, is unpacked); else,
    for a LightningModule, its ``training_step``, silently.

    Raises:
        ConfigurationError: neither way is open.
    """
    if has_forward(module):
        arguments, keywords = _forward_arguments(module, batch)
        return module(*arguments, **keywords)
    if isinstance(module, both("LightningModule")):
        return training_step(module, batch)
    raise ConfigurationError(f"{type(module).__name__} has no `forward`: give it one")


class _Backward(BaseException):
    """Ends a manual ``training_step`` where it would go backward."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def _first_backward(module: Any, batch: Any) -> Tensor:
    def manual_backward(loss: Tensor, *_: Any, **__: Any) -> None:
        raise _Backward(loss)

    module.__dict__["manual_backward"] = manual_backward
    try:
        training_step(module, batch, manual=True)
    except _Backward as reached:
        return reached.value.reshape(())
    finally:
        del module.__dict__["manual_backward"]
    raise ConfigurationError(f"{type(module).__name__}.training_step goes backward without `manual_backward`")


def training_step(module: Any, batch: Any, *, manual: bool = False) -> Any:
    """The module's own ``training_step`` on a batch, with its ``self.log`` and its loggers silenced.

    Raises:
        ConfigurationError: manual optimisation, where ``training_step`` would step the optimizers.
    """
    if not module.automatic_optimization and not manual:
        raise ConfigurationError(
            f"{type(module).__name__} optimises manually, so its `training_step` cannot be run without training: give "
            "the loss, as `loss_fn=lambda module, batch: F.cross_entropy(module(batch[0]), batch[1])`, say"
        )
    method = getattr(module.training_step, "__func__", None)
    # Looked up once per class; a function put in a method's place is not kept alive by a cache.
    parameters = _parameters_of(module.training_step) if method is None else _method_parameters(method)
    arguments: list[Any] = [batch]
    if any(p.name == "dataloader_iter" for p in parameters):
        arguments = [iter([(batch, 0, 0)])]
    elif len(parameters) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        arguments.append(0)
    with logging_disabled(module):
        return module.training_step(*arguments)


def _parameters_of(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


@lru_cache(maxsize=64)
def _method_parameters(method: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Those beside ``self``."""
    return _parameters_of(method)[1:]


def loss(module: Any, batch: Any, loss_fn: LossFn | None = None, *, manual: bool = False) -> Tensor:
    """The scalar loss of a batch: ``loss_fn(module, batch)``, or what ``training_step`` returns.

    Args:
        module: within ``isolated``.
        batch: as ``training_step`` gets it.
        loss_fn: the user's.
        manual: under manual optimisation, what ``training_step`` hands to ``manual_backward`` first, before any
            optimizer steps: good for experiments, but not the loss of all of it.

    Raises:
        ConfigurationError: manual optimisation without ``loss_fn``, or no scalar loss came back.
    """
    if manual and loss_fn is None and not getattr(module, "automatic_optimization", True):
        return _first_backward(module, batch)
    output = loss_fn(module, batch) if loss_fn is not None else training_step(module, batch)
    value = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(value, Tensor) or value.numel() != 1:
        source = "`loss_fn`" if loss_fn is not None else f"{type(module).__name__}.training_step"
        raise ConfigurationError(f"{source} must return a scalar loss tensor, got {type(value).__name__}")
    return value.reshape(())


def predictions(module: nn.Module, batch: Any, predict_fn: PredictFn | None = None) -> tuple[Tensor, Tensor]:
    """Logits ``(N, …)`` and targets ``(N, …)`` of a batch: from ``predict_fn``, or ``forward`` and the batch.

    Raises:
        ConfigurationError: the batch has no targets that we can find, or the output is no tensor.
    """
    if predict_fn is not None:
        return predict_fn(module, batch)
    targets = targets_in(batch)
    logits = first_tensor(forward(module, batch))
    if targets is None or logits is None:
        missing = "targets in the batch" if targets is None else "tensor in the output of `forward`"
        raise ConfigurationError(f"found no {missing}: pass `predict_fn(module, batch) -> (logits, targets)`")
    return logits, targets


def targets_in(batch: Any) -> Any:
    """The targets of an ``(inputs, targets)`` batch, or of a mapping with one of the usual keys; else None."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in TARGET_KEYS if key in batch), None)
    return batch[1] if isinstance(batch, list | tuple) and len(batch) >= 2 else None


def inputs_in(batch: Any) -> Any:
    """The inputs of an ``(inputs, …)`` batch, of a mapping with one of the usual keys, or the batch itself; or None."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in INPUT_KEYS if key in batch), None)
    if isinstance(batch, list | tuple):
        return batch[0] if len(batch) else None
    return batch


def with_inputs(batch: Any, inputs: Any) -> Any:
    """The batch with other inputs where :func:`inputs_in` finds them; the batch itself is not changed."""
    if isinstance(batch, Mapping):
        key = next(key for key in INPUT_KEYS if key in batch)
        changed = copy.copy(batch)
        changed[key] = inputs  # type: ignore[index]
        return changed
    if isinstance(batch, list | tuple):
        items = [inputs, *batch[1:]]
        # A named tuple takes its items one by one.
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return inputs


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that stands for a layer's or model's output.

    The tensor itself; of a mapping (Hugging Face's outputs among them) ``last_hidden_state``, else ``logits``,
    else the first value that has a tensor; the first item of a tuple or list that has one.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        preferred = [output[key] for key in ("last_hidden_state", "logits") if key in output]
        return first_tensor([*preferred, *output.values()])
    if isinstance(output, list | tuple):
        return next((tensor for item in output if (tensor := first_tensor(item)) is not None), None)
    return None


def has_forward(module: nn.Module) -> bool:
    """Whether ``forward`` is the user's: Lightning's own only raises."""
    bases: tuple[Any, ...] = (nn.Module, *both("LightningModule"))
    inherited = {cls.forward for cls in bases}
    return "forward" in vars(module) or type(module).forward not in inherited


def _forward_arguments(module: nn.Module, batch: Any) -> tuple[Sequence[Any], dict[str, Any]]:
    signature = list(inspect.signature(module.forward).parameters.values())
    parameters = [p for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p.name for p in parameters if p.default is p.empty]
    if parameters and parameters[0].name == "batch":
        return (batch,), {}
    if isinstance(batch, Mapping):
        takes_any = any(p.kind is p.VAR_KEYWORD for p in signature)
        accepted = {key: batch[key] for key in batch if takes_any or any(key == p.name for p in parameters)}
        if accepted and accepted.keys() >= set(required):
            return (), accepted
        key = next((key for key in INPUT_KEYS if key in batch), None)
        if key is None or len(required) > 1:
            raise ConfigurationError(
                f"cannot tell which of {list(batch)} are the inputs of {type(module).__name__}.forward: "
                "pass `predict_fn(module, batch)`"
            )
        return (batch[key],), {}
    if isinstance(batch, list | tuple):
        return batch[: max(1, len(required))], {}
    return (batch,), {}
