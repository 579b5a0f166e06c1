"""Data sets that are generated, not downloaded, and their pictures."""

from lightning_dynamics.data.not_so_clevr import CANVAS, NotSoClevr, Squares, to_coordinates, to_pixels
from lightning_dynamics.data.pictures import position_map

__all__ = ["CANVAS", "NotSoClevr", "Squares", "position_map", "to_coordinates", "to_pixels"]
