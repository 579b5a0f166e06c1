"""Interactive pages: self-contained HTML documents for a :class:`~lightning_dynamics.panels.Page`.

Nothing is loaded from anywhere: data, style and script lie inside, and a content security policy says so. The
same input gives the same bytes, and no random number is drawn.
"""

from lightning_dynamics.figures.pages.scatter import SCATTER_HEIGHT, scatter_page

__all__ = ["SCATTER_HEIGHT", "scatter_page"]
