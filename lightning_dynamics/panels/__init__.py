"""What can be shown: plain values that any logger can render and any test can look at.

A callback turns its result into a dict from key (``"cka/similarity"``) to one of these. Nothing here
knows a logger or Lightning.
"""

from lightning_dynamics.panels.values import Download, Film, Page, Panel, Panels, Picture, Scalar, Table

__all__ = ["Download", "Film", "Page", "Panel", "Panels", "Picture", "Scalar", "Table"]
