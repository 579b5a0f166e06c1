"""Charts as uint8 images: a map of cells and curves over layers.

Drawn with matplotlib's Agg canvas alone: no pyplot, no backend, no global setting is touched, no random
number is drawn, and the same input gives the same bytes. The size of an image follows from the labels (and
from which axis titles there are), never from the values, the title or the footer: frames of one film fit.
"""

from lightning_dynamics.panels.drawing.curves import profile
from lightning_dynamics.panels.drawing.map import heat_map

__all__ = ["heat_map", "profile"]
