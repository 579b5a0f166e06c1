"""Layers: convolutions that know where they are (CoordConv, Liu et al. 2018)."""

from lightning_dynamics.nn.conversion import convert
from lightning_dynamics.nn.coordconv import CoordConv2d, CoordConvTranspose2d
from lightning_dynamics.nn.coordinates import AddCoordinates

__all__ = ["AddCoordinates", "CoordConv2d", "CoordConvTranspose2d", "convert"]
