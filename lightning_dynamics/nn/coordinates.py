"""Where a pixel is, as channels: x, y and, if wanted, the distance from the centre."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

_GRIDS = 16  # One per size of a map that a network has, and dtype; the least recently used one goes first.


def coordinate_grid(height: int, width: int, radius: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coordinates of every pixel of a map.

    Channel 0 is x: -1 in the first column, 1 in the last. Channel 1 is y: -1 in the first row, 1 in the last. An axis
    of one pixel has 0, the centre. Channel 2, if wanted, is r = sqrt(x² + y²): 0 in the centre, sqrt(2) in the corners.

    Args:
        height: rows.
        width: columns.
        radius: whether to add r.
        dtype: of the result; computed in float32 or better and rounded once.
        device: of the result.

    Returns:
        ``(1, 2, height, width)``, or ``(1, 3, height, width)`` with the radius.
    """
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    # Whole numbers around 0 divided once: the two halves mirror each other to the bit, and the ends are exactly ±1.
    x = (torch.arange(width, dtype=precise, device=device) * 2 - (width - 1)) / max(width - 1, 1)
    y = (torch.arange(height, dtype=precise, device=device) * 2 - (height - 1)) / max(height - 1, 1)
    x = x.view(1, 1, 1, width).expand(1, 1, height, width)
    y = y.view(1, 1, height, 1).expand(1, 1, height, width)
    channels = [x, y]
    if radius:
        channels.append((x * x + y * y).sqrt())
    return torch.cat(channels, 1).to(dtype)


@lru_cache(maxsize=_GRIDS)
def _kept_grid(height: int, width: int, radius: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    # What is made in inference mode could never be trained with, and the grid outlives the mode.
    with torch.inference_mode(False), torch.no_grad():
        return coordinate_grid(height, width, radius, dtype, device)


def grid_like(x: Tensor, radius: bool, dtype: torch.dtype) -> Tensor:
    """The grid for a map: kept from an earlier call where that is safe, else computed.

    Kept grids are shared by all layers of the process, and are no layer's state: they are in no ``state_dict``, are
    not copied with a module, and no process of a DDP training sends them. Whatever records operations instead of
    running them (``torch.export``, ``torch.compile``, ``torch.jit``, CUDA graphs, fake tensors) computes the grid, so
    that it fits every size.

    Args:
        x: ``(..., H, W)``.
        radius: whether to add r.
        dtype: of the grid.

    Returns:
        ``(1, 2 or 3, H, W)`` on the device of ``x``; must not be written into.
    """
    height, width = x.shape[-2], x.shape[-1]
    if torch.jit.is_scripting():
        return coordinate_grid(height, width, radius, dtype, x.device)
    plain = type(x) is Tensor or type(x) is nn.Parameter
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    recorded = recorded or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    if recorded or not plain:
        return coordinate_grid(height, width, radius, dtype, x.device)
    return _kept_grid(height, width, radius, dtype, x.device)


class AddCoordinates(nn.Module):
    """Appends to a map the coordinates of its pixels: channels x, y and, if wanted, r, in this order.

    x and y rise linearly from -1 to 1 along the columns and the rows [Liu 2018, section 3]; an axis of one pixel has
    0. r = sqrt(x² + y²) as in the authors' code. Their text has sqrt((i - h/2)² + (j - w/2)²), in pixels, which is the
    same on square maps up to a factor of (h - 1)/2 and half a pixel; on other maps ours is an ellipse's radius, 1 in
    the middle of every edge. Ports that subtract 0.5 from x and y first measure from a point that is not the centre.
    On maps that are not square the authors' code divides x by the number of rows and y by that of columns; ours does
    not.

    In bfloat16 and float16 the coordinates are rounded like any other value: along more than 256 (bfloat16) or 2048
    (float16) pixels, neighbours can get the same one. :class:`CoordConv2d` has no such limit.

    Args:
        radius: whether to add r.

    Shape:
        ``(N, C, H, W)`` or ``(C, H, W)``, floating point -> C + 2 channels, or C + 3 with the radius; dtype, device
        and channels-last order as the input.

    Raises:
        ValueError: on calling it, for another number of dimensions or whole numbers.

    Cost:
        A copy of the input. Grids of up to 16 sizes are kept for the whole process, 4 (H × W) bytes per channel each.

    Source:
        R. Liu et al., An intriguing failing of convolutional neural networks and the CoordConv solution, NeurIPS 2018.
    """

    def __init__(self, radius: bool = False) -> None:
        """Store the choice of channels."""
        super().__init__()
        self.radius = radius

    def forward(self, input: Tensor) -> Tensor:
        """Append the coordinates."""
        if not input.is_floating_point():
            raise ValueError(f"coordinates in [-1, 1] need an input of floating point numbers, got {input.dtype}")
        if input.dim() == 3:
            grid = grid_like(input, self.radius, input.dtype)
            return torch.cat([input, grid[0]], 0)
        if input.dim() != 4:
            raise ValueError(f"the input must be (N, C, H, W) or (C, H, W), got {list(input.shape)}")
        grid = grid_like(input, self.radius, input.dtype).expand(input.shape[0], -1, -1, -1)
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
            # Of tensors in different orders `cat` makes one in the standard order, which the convolution would reorder.
            if input.stride(1) == 1 and not input.is_contiguous():
                grid = grid.contiguous(memory_format=torch.channels_last)
        return torch.cat([input, grid], 1)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"radius={self.radius}"
