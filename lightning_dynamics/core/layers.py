"""Layers: choosing them by name, pattern or type, and seeing what they put out, in execution order."""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric, MetricCollection

from lightning_dynamics.core.calls import first_tensor
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import plain_name

# See(layer, output): called when a layer has run. The output must be used at once: the next layer may
# overwrite it in place.
See = Callable[["Layer", Any], None]


@dataclass(frozen=True)
class Layer:
    """One call of one module in a forward pass.

    Args:
        name: the module's name, without ``_orig_mod.``.
        call: 1 for the module's first call, 2 for its second.
    """

    name: str
    call: int = 1

    def __str__(self) -> str:
        """``"encoder.act"``, or ``"encoder.act:2"`` for its second call."""
        return self.name if self.call == 1 else f"{self.name}:{self.call}"


def named_layers(module: nn.Module) -> dict[str, nn.Module]:
    """All submodules that can run, by name, in the module's order."""
    # A compiled module stands twice in the tree, the second time as `_orig_mod`, which is what runs its hooks.
    return {
        plain_name(name): submodule
        for name, submodule in module.named_modules()
        if plain_name(name) and not isinstance(submodule, nn.ModuleList | nn.ModuleDict)
    }


def select_layers(
    module: nn.Module, patterns: str | Sequence[str] = "*", *, argument: str = "layers"
) -> dict[str, nn.Module]:
    r"""Submodules that match one of the patterns, in the module's order.

    Args:
        module: whose submodules to choose from; it is never one of them itself.
        patterns: each a glob (``"encoder.*"``), a regular expression (``"re:layer[12]\..*"``, matching the
            whole name), or a glob for class names (``"Conv2d"``). Metrics and losses are chosen only when
            named in full.
        argument: what the user calls it, for the error text.

    Raises:
        ConfigurationError: a pattern that matches nothing or is no regular expression.
    """
    candidates = named_layers(module)
    bystanders = [name for name, sub in candidates.items() if isinstance(sub, Metric | MetricCollection | _Loss)]
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = _matcher(pattern, argument)
        found = {name for name, sub in candidates.items() if matches(name) or matches(type(sub).__name__)}
        if pattern not in candidates:
            found -= {name for name in found for b in bystanders if name == b or name.startswith(b + ".")}
        if not found:
            raise ConfigurationError(
                f"`{argument}={pattern!r}` matches no layer of {type(module).__name__}; "
                f"there are: {', '.join(candidates) or 'none'}"
            )
        chosen |= found
    if not chosen:
        raise ConfigurationError(f"`{argument}` is empty: give at least one pattern, e.g. '*'")
    return {name: sub for name, sub in candidates.items() if name in chosen}


def check_patterns(patterns: str | Sequence[str], argument: str) -> None:
    """Refuse patterns that can match nothing in any module.

    Raises:
        ConfigurationError: none at all, or one that is no regular expression.
    """
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    if not wanted:
        raise ConfigurationError(f"`{argument}` is empty: give at least one pattern, e.g. '*'")
    for pattern in wanted:
        _matcher(pattern, argument)


def _matcher(pattern: str, argument: str) -> Callable[[str], bool]:
    if not pattern.startswith("re:"):
        return lambda name: fnmatchcase(name, pattern)
    try:
        expression = re.compile(pattern[3:])
    except (re.error, OverflowError) as error:
        raise ConfigurationError(f"`{argument}={pattern!r}` is not a regular expression: {error}") from error
    return lambda name: expression.fullmatch(name) is not None


@contextmanager
def capture_outputs(layers: dict[str, nn.Module], see: See) -> Iterator[None]:
    """Have ``see`` called with every output of these modules, in execution order; for one forward pass."""
    calls: Counter[str] = Counter()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] += 1
            see(Layer(name, calls[name]), output)

        return hook

    with ExitStack() as handles:
        for name, module in layers.items():
            handles.callback(module.register_forward_hook(hook_for(name)).remove)
        yield


def output_shapes(layers: dict[str, nn.Module], run: Callable[[], object]) -> dict[Layer, tuple[int, ...]]:
    """The shapes that the layers put out in ``run()``."""
    shapes: dict[Layer, tuple[int, ...]] = {}

    def see(layer: Layer, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            shapes[layer] = tuple(tensor.shape)

    with capture_outputs(layers, see):
        run()
    return shapes


def executed_layers(
    layers: dict[str, nn.Module], run: Callable[[], object], usable: Callable[[Layer, Any], bool], keep: set[str]
) -> tuple[list[Layer], list[str], list[str]]:
    """Which of the layers run in ``run()``, in execution order.

    A module that hands on another's output untouched (a container, dropout in eval mode, a flatten) is the
    same layer once more, and is left out unless it is in ``keep``.

    Returns:
        The layers; names of modules that never ran; names of those whose output is not ``usable``.
    """
    found: list[Layer] = []
    ran: set[str] = set()
    refused: set[str] = set()
    seen: dict[tuple[int, int, int], weakref.ref[Any]] = {}

    def see(layer: Layer, output: Any) -> None:
        ran.add(layer.name)
        tensor = first_tensor(output)
        if tensor is None or not usable(layer, output):
            refused.add(layer.name)
            return
        # An in-place layer returns the same memory in a newer version (which inference mode does not count). What
        # has gone in the meantime may have left its address to another.
        key = (tensor.data_ptr(), tensor.numel(), -1 if tensor.is_inference() else tensor._version)
        handed_on = not tensor.is_inference() and key in seen and seen[key]() is not None
        seen[key] = weakref.ref(tensor)
        if not handed_on or layer.name in keep:
            found.append(layer)

    with capture_outputs(layers, see):
        run()
    return found, [name for name in layers if name not in ran], sorted(refused)
