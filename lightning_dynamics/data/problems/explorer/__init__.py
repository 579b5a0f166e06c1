"""The descents of a product of weights as a page to explore."""

from lightning_dynamics.data.problems.explorer.page import DESCENTS_HEIGHT, Descents, descents_page

__all__ = ["DESCENTS_HEIGHT", "Descents", "descents_page"]
