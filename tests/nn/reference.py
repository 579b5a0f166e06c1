"""Coordinates and CoordConv as the paper's text says it: written pixel by pixel, and by concatenation."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def coordinates(height: int, width: int, radius: bool) -> Tensor:
    """``(2 or 3, H, W)`` float64."""
    grid = torch.empty(3 if radius else 2, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            x = -1 + 2 * j / (width - 1) if width > 1 else 0.0
            y = -1 + 2 * i / (height - 1) if height > 1 else 0.0
            grid[0, i, j], grid[1, i, j] = x, y
            if radius:
                grid[2, i, j] = math.hypot(x, y)
    return grid


def with_coordinates(x: Tensor, radius: bool, groups: int = 1) -> Tensor:
    """A batch with the coordinates behind the channels of each group."""
    batch, channels, height, width = x.shape
    grid = coordinates(height, width, radius).to(x.dtype).expand(batch, -1, -1, -1)
    parts = x.reshape(batch, groups, channels // groups, height, width).unbind(1)
    return torch.cat([piece for part in parts for piece in (part, grid)], 1)
