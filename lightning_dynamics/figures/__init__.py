"""Charts as uint8 images: of layers, of training time, of distributions, of landscapes, and of single examples.

Drawn with matplotlib's Agg canvas alone: no pyplot, no backend, no global setting is touched, no random
number is drawn, and the same input gives the same bytes. The size of an image follows from the labels (and
from which axis titles there are, and from how many images of which shapes are shown), never from the values,
the title or the footer: frames of one film fit.
"""

from lightning_dynamics.figures.bars import bars
from lightning_dynamics.figures.boxes import box_plot
from lightning_dynamics.figures.contour import contour_map
from lightning_dynamics.figures.curves import profile
from lightning_dynamics.figures.gallery import Tile, gallery
from lightning_dynamics.figures.histogram import signed_histogram
from lightning_dynamics.figures.lines import line_chart
from lightning_dynamics.figures.map import heat_map
from lightning_dynamics.figures.mosaic import mosaic_frame
from lightning_dynamics.figures.plain_histogram import histogram
from lightning_dynamics.figures.raster import raster
from lightning_dynamics.figures.scatter import scatter
from lightning_dynamics.figures.series import time_series
from lightning_dynamics.figures.shares import shares_over_time
from lightning_dynamics.figures.surface import surface_plot
from lightning_dynamics.figures.timemap import time_map

__all__ = [
    "Tile",
    "bars",
    "box_plot",
    "contour_map",
    "gallery",
    "heat_map",
    "histogram",
    "line_chart",
    "mosaic_frame",
    "profile",
    "raster",
    "scatter",
    "shares_over_time",
    "signed_histogram",
    "surface_plot",
    "time_map",
    "time_series",
]
