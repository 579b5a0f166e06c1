"""The coordinates of the path: every parameter of a module once, and what else the loss may depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.loss_contribution.batchnorm import BatchNormMode, running_statistics, without_influence
from lightning_dynamics.core.parameters import ChannelAxis, channel_axes, plain_name, select_parameters


@dataclass(frozen=True)
class Coordinates:
    """Named tensors of a module that are one point of the path, and the buffers that move beside it.

    Args:
        tensors: parameters by plain name, tied ones once; with ``"attributed"`` running statistics too.
        buffers: further floating-point buffers that may change the loss.
        places: of each of these the registry that holds it, and its key there.
    """

    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]
    places: dict[str, tuple[dict[str, Any], str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, module: nn.Module, batchnorm: BatchNormMode) -> Coordinates:
        """The coordinates of a module as it is now."""
        tensors: dict[str, Tensor] = {name: p for name, p in select_parameters(module).items()}
        statistics = running_statistics(module) if batchnorm == "attributed" else {}
        tensors |= {plain_name(name): buffer for name, buffer in statistics.items()}
        apart = without_influence(module, batchnorm) | set(statistics)
        found = {
            name: buffer for name, buffer in module.named_buffers() if name not in apart and buffer.is_floating_point()
        }
        buffers, real = {plain_name(name): buffer for name, buffer in found.items()}, {plain_name(n): n for n in found}
        places = {}
        for name in buffers:
            owner, _, key = real[name].rpartition(".")
            places[name] = module.get_submodule(owner)._buffers, key
        return cls(tensors, buffers, places)

    @property
    def sizes(self) -> list[int]:
        """Elements of each tensor."""
        return [tensor.numel() for tensor in self.tensors.values()]

    @property
    def home(self) -> torch.device:
        """Where points and gradients are kept: beside the parameters, but Apple's GPUs have no float64."""
        device = next(iter(self.tensors.values())).device
        return torch.device("cpu") if device.type == "mps" else device

    def read(self) -> Tensor:
        """The point where the module is: a ``(P,)`` copy."""
        return torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors.values()]).to(self.home)

    def read_buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers."""
        return {name: buffer.detach().clone() for name, buffer in self.buffers.items()}

    def move(self, point: Tensor) -> None:
        """Put the module at a point, in place."""
        for tensor, piece in zip(self.tensors.values(), point.split(self.sizes), strict=True):
            tensor.data.copy_(piece.view_as(tensor))

    def move_buffers(self, values: Mapping[str, Tensor]) -> None:
        """Give the buffers these values, in place, also where the module has put another tensor, of any size."""
        for name, buffer in self.buffers.items():
            registry, key = self.places[name]
            registry[key] = buffer
            if buffer.shape != values[name].shape:  # observers of quantisation-aware training begin with none
                buffer.data = torch.empty_like(values[name], dtype=buffer.dtype, device=buffer.device)
            buffer.data.copy_(values[name])

    def wanting_gradient(self, moved: Sequence[bool]) -> list[bool]:
        """Which tensors can contribute: those that train, and those that moved all the same."""
        return [
            tensor.requires_grad or not isinstance(tensor, nn.Parameter) or has_moved
            for tensor, has_moved in zip(self.tensors.values(), moved, strict=True)
        ]


@dataclass(frozen=True)
class Channels:
    """Where a tensor's contributions are summed per neuron or output channel.

    Args:
        unit: whose channels they are; weight and bias of a layer have the same.
        shape: of a view of the tensor; of a grouped transposed convolution ``(groups, in / groups, out / groups, …)``.
        keep: dimensions of that view that make up the channels; none if the tensor belongs to all of them together.
    """

    unit: str
    shape: tuple[int, ...]
    keep: tuple[int, ...]

    def sums(self, tensor: Tensor) -> Tensor:
        """``(C,)``: the sum over everything else."""
        others = [d for d in range(len(self.shape)) if d not in self.keep]
        view = tensor.reshape(self.shape)
        return (view.sum(others) if others else view).reshape(-1)


def channels_of(module: nn.Module, shapes: Mapping[str, torch.Size]) -> dict[str, Channels]:
    """For every tensor its channels: see :func:`~lightning_dynamics.core.parameters.channel_axes`.

    Tensors of one layer whose names differ only in ``weight`` and ``bias`` (``weight_ih_l0``, ``bias_ih_l0``) belong
    to the same channels, if they have equally many.
    """
    axes = channel_axes(module)
    found: dict[str, Channels] = {}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        rest = kind.replace("weight", "").replace("bias", "").strip("_")
        unit = ".".join(part for part in (layer, rest) if part) or name
        view, keep = _view_by_channel(tuple(shape), axes.get(name, ChannelAxis(0)))
        count = math.prod(view[dim] for dim in keep)
        if sizes.setdefault(unit, count) != count:
            unit = name
            sizes[unit] = count
        found[name] = Channels(unit, view, keep)
    return found


def _view_by_channel(shape: tuple[int, ...], axis: ChannelAxis) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A view of a tensor, and the dimensions of the view that make up the channels."""
    if not shape or axis.dim is None:
        return shape or (1,), ()
    if axis.groups == 1:
        return shape, (axis.dim,)
    return (axis.groups, shape[0] // axis.groups, *shape[1:]), (0, axis.dim + 1)


def layers_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Layers, each with the parameters that a module holds itself: ``{"conv1": ["conv1.weight", …]}``."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers
