"""Turning the convolutions of an existing model into CoordConvs."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import plain_name
from lightning_dynamics.nn.coordconv import CoordConv2d, CoordConvTranspose2d, add_coordinate_weight

Model = TypeVar("Model", bound=nn.Module)

_BECOMES: dict[type[nn.Module], type[CoordConv2d] | type[CoordConvTranspose2d]] = {
    nn.Conv2d: CoordConv2d,
    nn.ConvTranspose2d: CoordConvTranspose2d,
}


def convert(module: Model, pattern: str | Sequence[str] = "*", *, radius: bool = False) -> Model:
    """Turn convolutions of a model into CoordConvs, in place; at first the model computes the same function.

    Every ``nn.Conv2d`` becomes a :class:`CoordConv2d` and every ``nn.ConvTranspose2d`` a
    :class:`CoordConvTranspose2d`: the same object, of another class, with a ``coordinate_weight`` of zeros beside its
    weight. So weights, tied weights, shared layers, names, hooks, training flags, dtype and device stay as they
    are, and an optimizer that holds the weights still does. The coordinates' weight is frozen if
    the layer's weight is.

    Before its first training step the model gives the same outputs as before, to the bit, except that -0.0 can become
    0.0.

    Convert before the optimizer is made (in a LightningModule's ``__init__`` or ``configure_model``), or the new
    weights are not trained; and before loading a checkpoint of a converted model, after loading one of the original.
    Not converted: subclasses of the two (also parametrised and lazy layers), whose forward may differ, and layers that
    already are CoordConvs, whatever their radius.

    Args:
        module: a model, or a single convolution.
        pattern: glob, or several, for the names of the layers, e.g. ``"decoder.*"``. A layer used under several names
            is converted if one of them matches. The name of ``module`` itself is ``""``, which ``"*"`` matches.
        radius: whether the layers also see r.

    Returns:
        ``module``.

    Raises:
        ConfigurationError: there is no pattern, a pattern matches no convolution, or the model is already wrapped for
            DDP, which would not know the new weights. The model is unchanged then.

    Example:
        >>> from torch import nn
        >>> convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), "0")
        Sequential(
          (0): CoordConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), radius=False)
          (1): ReLU()
          (2): Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if not patterns:
        raise ConfigurationError("`pattern` is empty: give at least one, e.g. '*'")
    if any(isinstance(part, DistributedDataParallel) for part in module.modules()):
        raise ConfigurationError("`module` is wrapped for DDP already: convert the model before it is wrapped")
    named = [(plain_name(name), part) for name, part in module.named_modules(remove_duplicate=False)]
    can_be = {name: part for name, part in named if type(part) in (*_BECOMES, *_BECOMES.values())}
    for one in patterns:
        if not any(fnmatchcase(name, one) for name in can_be):
            raise ConfigurationError(f"`pattern={one!r}` matches no convolution; {_what_there_is(named, can_be)}")
    for name, part in can_be.items():
        if type(part) in _BECOMES and any(fnmatchcase(name, one) for one in patterns):
            assert isinstance(part, nn.Conv2d | nn.ConvTranspose2d)
            add_coordinate_weight(part, radius)
            part.__class__ = _BECOMES[type(part)]
    return module


def _what_there_is(named: Sequence[tuple[str, nn.Module]], can_be: dict[str, nn.Module]) -> str:
    """Which layers could be converted, and which look like it but cannot."""
    others = {
        f"{name!r} ({type(part).__name__})"
        for name, part in named
        if isinstance(part, tuple(_BECOMES)) and name not in can_be
    }
    there_is = f"there are: {', '.join(map(repr, can_be)) or 'none'}"
    return f"{there_is}; subclasses are not converted: {', '.join(sorted(others))}" if others else there_is
