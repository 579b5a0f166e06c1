"""The interactive page of a loss landscape: a surface to turn, to read and to roll a ball down."""

from lightning_dynamics.analyses.landscape.explorer.page import EXPLORER_HEIGHT, Surface, explorer_page

__all__ = ["EXPLORER_HEIGHT", "Surface", "explorer_page"]
