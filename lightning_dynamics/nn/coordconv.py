"""Convolutions that know where they are: CoordConv (Liu et al. 2018)."""

# No `from __future__ import annotations` here: torch.jit.script reads the annotations of the classes themselves.
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.nn.coordinates import grid_like

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Pair = int | tuple[int, int]


class _CoordConv(nn.Module):
    """What the two CoordConvs share; stands before torch's convolution among the bases of each."""

    radius: bool
    coordinate_weight: Tensor

    def __init__(self, *, radius: bool, **arguments: Any) -> None:
        """Make both weights and the bias, and initialise them."""
        super().__init__(**arguments)
        add_coordinate_weight(self, radius)  # type: ignore[arg-type]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias as the plain convolution over all channels does."""
        if hasattr(self, "coordinate_weight"):  # torch's constructor calls this before there is one
            self._draw_weights()

    def _draw_weights(self) -> None:
        raise NotImplementedError

    def _convolve(self, grid: Tensor, weight: Tensor, output_padding: list[int]) -> Tensor:
        raise NotImplementedError

    def _add_coordinates(self, out: Tensor, input: Tensor, output_padding: list[int]) -> Tensor:
        """Add the coordinates' part, ``(1, C, H, W)``, to every example of the input's, ``(N, C, H, W)``."""
        # In float32, or in float64 if the weight is.
        precise = torch.float64 if self.coordinate_weight.dtype == torch.float64 else torch.float32
        grid, weight = grid_like(input, self.radius, precise), self.coordinate_weight.to(precise)
        if torch.jit.is_scripting():
            place = self._convolve(grid, weight, output_padding)
        else:
            with _full_precision(input):
                place = self._convolve(grid, weight, output_padding)
        return out + (place if out.dim() == 4 else place[0]).to(out.dtype)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{super().extra_repr()}, radius={self.radius}"


class CoordConv2d(_CoordConv, nn.Conv2d):
    """``nn.Conv2d`` that also sees the coordinates of every pixel: x, y and, if wanted, r.

    It computes a convolution over the input with the channels of :class:`AddCoordinates` appended [Liu 2018,
    section 3]. A convolution is linear in its channels, so the parts of the input and of the coordinates are computed
    separately and added: ``weight`` is that of a plain ``nn.Conv2d`` with the same arguments, ``coordinate_weight`` is
    ``(out_channels, 2 or 3, *kernel_size)``. The coordinates' part is the same for every example, so it is computed
    once per batch, and the input is not copied. It is computed in float32 under autocast and in half precision, so that
    neighbouring pixels stay distinct on maps of any size.

    Drop-in: the arguments are those of ``nn.Conv2d`` in the same order, with the same meaning; ``radius`` is
    keyword-only.

    - ``groups``: every group sees all coordinates, as if they were appended to the channels of each group.
    - ``padding``: the coordinates are padded as the input's channels are. With zeros, as in the paper, the padding has
      x = y = 0, the coordinates of the centre; with ``"reflect"``, ``"replicate"`` and ``"circular"`` it has the
      coordinates of the pixels that it repeats.
    - Initial weights: the numbers that ``nn.Conv2d(in_channels + groups * 2, …)`` draws from the same seed, with r
      those of ``groups * 3``.

    Weight decay and ``parameters()`` see two weights. Code that knows only ``weight``
    (``torch.nn.utils.fuse_conv_bn_eval``, ``weight_norm``) would leave the coordinates' part out: do not use it on
    these layers.

    Args:
        in_channels: of the input, without the coordinates.
        out_channels: and all arguments that follow up to ``dtype``, as for ``nn.Conv2d``.
        radius: whether to add r.

    Shape:
        ``(N, in_channels, H, W)`` or ``(in_channels, H, W)`` -> as ``nn.Conv2d``.

    Raises:
        ValueError: as ``nn.Conv2d``.

    Cost:
        A convolution of 2 or 3 channels for one example, and one addition per output; no activation is kept for it.

    Source:
        R. Liu et al., An intriguing failing of convolutional neural networks and the CoordConv solution, NeurIPS 2018.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: str | Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        radius: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(**_arguments(locals()))

    def _draw_weights(self) -> None:
        """As ``nn.Conv2d`` over all channels does: the coordinates count in the fan-in."""
        own = self.weight.shape[1]
        more = self.coordinate_weight.shape[1]
        whole = _draw(self.weight.new_empty(self.out_channels, own + more, *self.kernel_size), self.bias)
        with torch.no_grad():
            self.weight.copy_(whole[:, :own])
            self.coordinate_weight.copy_(whole[:, own:])

    def forward(self, input: Tensor) -> Tensor:
        """The sum of the input's and the coordinates' convolutions."""
        out = self._conv_forward(input, self.weight, self.bias)
        return self._add_coordinates(out, input, [0, 0])

    def _convolve(self, grid: Tensor, weight: Tensor, output_padding: list[int]) -> Tensor:
        if self.padding_mode != "zeros":
            grid = F.pad(grid, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return F.conv2d(grid, weight, None, self.stride, (0, 0), self.dilation)
        return F.conv2d(grid, weight, None, self.stride, self.padding, self.dilation)


class CoordConvTranspose2d(_CoordConv, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` that also sees the coordinates of every pixel of its input: x, y and, if wanted, r.

    Drop-in like :class:`CoordConv2d`, whose notes on groups, precision and other code that uses ``weight`` hold here
    too. ``coordinate_weight`` is ``(2 or 3, out_channels, *kernel_size)``. Initial weights are the numbers that
    ``nn.ConvTranspose2d(in_channels + groups * 2, …)`` draws from the same seed (its fan-in counts output channels).

    Args:
        in_channels: of the input, without the coordinates.
        out_channels: and all arguments that follow up to ``dtype``, as for ``nn.ConvTranspose2d``.
        radius: whether to add r.

    Shape:
        ``(N, in_channels, H, W)`` or ``(in_channels, H, W)`` -> as ``nn.ConvTranspose2d``.

    Raises:
        ValueError: as ``nn.ConvTranspose2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        radius: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(**_arguments(locals()))

    def _draw_weights(self) -> None:
        """As ``nn.ConvTranspose2d`` over all channels does."""
        own = self.in_channels // self.groups
        more = self.coordinate_weight.shape[0]
        one = (self.out_channels // self.groups, *self.kernel_size)
        whole = _draw(self.weight.new_empty((own + more) * self.groups, *one), self.bias)
        groups = whole.view(self.groups, own + more, *one)
        with torch.no_grad():
            self.weight.copy_(groups[:, :own].reshape(self.weight.shape))
            self.coordinate_weight.copy_(groups[:, own:].movedim(0, 1).reshape(self.coordinate_weight.shape))

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The sum of the input's and the coordinates' transposed convolutions.

        Args:
            input: see above.
            output_size: as for ``nn.ConvTranspose2d``.
        """
        stride, padding = self.stride, self.padding
        assert isinstance(padding, tuple)  # a str only in nn.Conv2d
        # torch annotates these arguments as lists, as TorchScript wants them, and passes tuples.
        output_padding = self._output_padding(
            input,
            output_size,
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        out = F.conv_transpose2d(
            input, self.weight, self.bias, stride, padding, output_padding, self.groups, self.dilation
        )
        return self._add_coordinates(out, input, output_padding)

    def _convolve(self, grid: Tensor, weight: Tensor, output_padding: list[int]) -> Tensor:
        padding = self.padding
        assert isinstance(padding, tuple)  # a str only in nn.Conv2d
        return F.conv_transpose2d(grid, weight, None, self.stride, padding, output_padding, 1, self.dilation)


def add_coordinate_weight(convolution: nn.Conv2d | nn.ConvTranspose2d, radius: bool) -> None:
    """Give a convolution a ``coordinate_weight`` of zeros, of its weight's dtype and device, frozen if that is.

    Args:
        convolution: becomes a CoordConv by it, but for its class.
        radius: whether there is a third coordinate.
    """
    seen = 3 if radius else 2
    channels = (seen, convolution.out_channels) if convolution.transposed else (convolution.out_channels, seen)
    zeros = convolution.weight.detach().new_zeros(*channels, *convolution.kernel_size)
    convolution.coordinate_weight = nn.Parameter(zeros, requires_grad=convolution.weight.requires_grad)
    convolution.radius = radius  # type: ignore[assignment]


def _draw(whole: Tensor, bias: Tensor | None) -> Tensor:
    """Initial weights of a whole convolution; initialises the bias in place. As torch's own layers do it."""
    nn.init.kaiming_uniform_(whole, a=math.sqrt(5))
    fan_in = whole[0].numel()
    if bias is not None and fan_in:
        nn.init.uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
    return whole


def _full_precision(input: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, where it is on."""
    kind = input.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """A constructor's arguments by name, from its ``locals()``."""
    return {name: value for name, value in given.items() if name not in ("self", "__class__")}
