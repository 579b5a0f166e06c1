"""Weights on one flat buffer: a step along a direction is one addition, whatever the number of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_dynamics.core.lightning import ConfigurationError

_ALIGNED = 16  # numbers: 64 bytes, as torch aligns tensors of their own
_WIDE = (torch.float32, torch.float64)


class Movable:
    """Parameters of one module that a slice moves, as views of one buffer. Make it within ``isolated``.

    Every place is computed from the centre, never from the place before: no error adds up over a grid, and the centre
    itself comes out to the bit. Steps are taken in float32 or better, also where the weights are held in less. Each
    parameter keeps its memory format (channels last).

    Args:
        parameters: by name; each once.

    Raises:
        ConfigurationError: no parameter, or parameters on several devices.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Move the parameters' values onto the buffer; ``isolated`` puts them back."""
        if not parameters:
            raise ConfigurationError("`parameters`: there is nothing to move")
        devices = {str(parameter.device) for parameter in parameters.values()}
        if len(devices) > 1:
            raise ConfigurationError(f"`parameters` lie on several devices: {', '.join(sorted(devices))}")
        self.parameters = dict(parameters)
        groups: dict[torch.dtype, dict[str, nn.Parameter]] = {}
        for name, parameter in parameters.items():
            groups.setdefault(parameter.dtype, {})[name] = parameter
        self._groups = [_Group(group) for group in groups.values()]

    def flat(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Tensors by parameter name, laid out as the buffer is; parameters without one get zeros.

        Raises:
            ConfigurationError: a name that is no parameter here, or a tensor of another shape.
        """
        for name, tensor in tensors.items():
            if name not in self.parameters:
                raise ConfigurationError(
                    f"`directions`: {name!r} is no parameter that is moved; there are: {', '.join(self.parameters)}"
                )
            shape = self.parameters[name].shape
            if tensor.shape != shape:
                raise ConfigurationError(
                    f"`directions`: {name!r} is {tuple(tensor.shape)}, its parameter {tuple(shape)}"
                )
        return [group.flat(tensors) for group in self._groups]

    @property
    def centre(self) -> list[Tensor]:
        """Where the parameters were when this was made."""
        return [group.centre for group in self._groups]

    def along(self, start: Sequence[Tensor], direction: Sequence[Tensor], t: float) -> list[Tensor]:
        """``start + t * direction``, not moving there."""
        return [torch.add(origin, step, alpha=t) for origin, step in zip(start, direction, strict=True)]

    def move(self, start: Sequence[Tensor], direction: Sequence[Tensor] | None = None, t: float = 0.0) -> None:
        """Put the parameters at ``start + t * direction``."""
        steps = [None] * len(self._groups) if direction is None else direction
        for group, origin, step in zip(self._groups, start, steps, strict=True):
            group.move(origin, step, t)


class _Group:
    """The parameters of one dtype."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        first = next(iter(parameters.values()))
        self.wide = first.dtype if first.dtype in _WIDE else torch.float32
        self.places: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {}
        end = 0
        for name, parameter in parameters.items():
            self.places[name] = (end, tuple(parameter.shape), _strides(parameter))
            end += -(-parameter.numel() // _ALIGNED) * _ALIGNED
        self.size, self.device = end, first.device
        self.centre = self.flat(parameters)
        self.buffer = self.centre.to(first.dtype, copy=True)
        for name, parameter in parameters.items():
            parameter.data = self._view(self.buffer, name)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        flat = torch.zeros(self.size, dtype=self.wide, device=self.device)
        for name in self.places.keys() & tensors.keys():
            self._view(flat, name).copy_(tensors[name].detach())
        return flat

    def move(self, origin: Tensor, step: Tensor | None, t: float) -> None:
        if step is None or t == 0:
            self.buffer.copy_(origin)
        elif self.wide is self.buffer.dtype:
            torch.add(origin, step, alpha=t, out=self.buffer)
        else:
            self.buffer.copy_(torch.add(origin, step, alpha=t))

    def _view(self, flat: Tensor, name: str) -> Tensor:
        start, shape, strides = self.places[name]
        return flat.as_strided(shape, strides, start)


def _strides(parameter: Tensor) -> tuple[int, ...]:
    """Its own, if it fills its memory without gaps or overlaps (contiguous, channels last, transposed)."""
    expected = 1
    for stride, size in sorted(zip(parameter.stride(), parameter.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return torch.empty(parameter.shape, device="meta").stride()
            expected *= size
    return parameter.stride()
