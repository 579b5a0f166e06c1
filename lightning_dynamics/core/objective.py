"""What a LightningModule computes on a batch: its outputs, its predictions, its loss.

Call these inside :func:`~lightning_dynamics.core.isolation.isolated`: they run the user's own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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


def has_forward(module: nn.Module) -> bool:
    """Whether ``forward`` is the user's: Lightning's own only raises."""
    bases: tuple[Any, ...] = (nn.Module, *both("LightningModule"))
    inherited = {cls.forward for cls in bases}
    return "forward" in vars(module) or type(module).forward not in inherited
