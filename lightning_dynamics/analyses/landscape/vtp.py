"""Landscapes and paths as files for ParaView: VTK XML PolyData (``.vtp``), written without VTK.

The arrays are inline and base64-encoded (`VTK file formats <https://docs.vtk.org/en/latest/vtk_file_formats/
vtkxml_file_format.html>`_): each is one stream of its size in bytes (UInt64) followed by its numbers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_dynamics.figures.relief import check_coordinates

_TYPES = {"f": ("Float64", "<f8"), "i": ("Int64", "<i8")}


def vtp_surface(xs: ArrayLike, ys: ArrayLike, values: Mapping[str, ArrayLike], *, height: str = "loss") -> bytes:
    """Write a landscape as a surface of quadrilaterals.

    There is a point at every grid point, row after row, whether or not its height is known; faces that would touch
    a height that is not finite are left out, and such a point lies at the lowest height. All quantities are arrays
    of the points under their own names; what is not finite is NaN there, which ParaView shows in a colour of its own.

    Args:
        xs: ``(X,)`` rising coordinates of the columns.
        ys: ``(Y,)`` rising coordinates of the rows.
        values: names and ``(Y, X)`` values of one or more quantities.
        height: which of them is the third coordinate.

    Returns:
        The content of a ``.vtp`` file.

    Raises:
        ValueError: if shapes do not fit, coordinates do not rise, or there is no quantity called ``height``.
    """
    across, up = check_coordinates(xs, "xs"), check_coordinates(ys, "ys")
    shape = len(up), len(across)
    grids = {name: np.asarray(grid, dtype=np.float64) for name, grid in values.items()}
    for name, grid in grids.items():
        if grid.shape != shape:
            raise ValueError(f"{name!r} is {grid.shape}, but there are {shape[0]} ys and {shape[1]} xs")
    if height not in grids:
        raise ValueError(f"the height is one of {list(grids)}, got {height!r}")
    known = np.isfinite(grids[height])
    lowest = float(grids[height][known].min()) if known.any() else 0.0
    x, y = np.meshgrid(across, up)
    points = np.stack([x, y, np.where(known, grids[height], lowest)], axis=-1).reshape(-1, 3)

    index = np.arange(points.shape[0]).reshape(shape)
    corners = [(slice(None, -1), slice(None, -1)), (slice(None, -1), slice(1, None))]
    corners += [(slice(1, None), slice(1, None)), (slice(1, None), slice(None, -1))]  # Against the clock, from above.
    whole = np.all([known[corner] for corner in corners], axis=0)
    faces = np.stack([index[corner][whole] for corner in corners], axis=-1)
    return _poly_data(points, grids, "Polys", faces)


def vtp_path(points: ArrayLike, values: Mapping[str, ArrayLike] | None = None) -> bytes:
    """Write a path as lines from point to point.

    A point of which a coordinate is not finite interrupts the path; it stays in the file, at the origin, so that
    the arrays are as long as those given.

    Args:
        points: ``(T, 3)``: coordinates and height.
        values: names and ``(T,)`` values of quantities along the path.

    Returns:
        The content of a ``.vtp`` file.

    Raises:
        ValueError: if shapes do not fit.
    """
    places = np.asarray(points, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 3:
        raise ValueError(f"the points are (T, 3), got {places.shape}")
    arrays = {name: np.asarray(line, dtype=np.float64) for name, line in (values or {}).items()}
    for name, line in arrays.items():
        if line.shape != (len(places),):
            raise ValueError(f"{name!r} is {line.shape}, but there are {len(places)} points")
    known = np.asarray(np.isfinite(places).all(axis=1))
    starts = np.flatnonzero(known[:-1] & known[1:])
    steps = np.stack([starts, starts + 1], axis=-1)
    return _poly_data(np.where(known[:, None], places, 0.0), arrays, "Lines", steps)


def _poly_data(
    points: NDArray[np.float64], arrays: Mapping[str, NDArray[np.float64]], kind: str, cells: NDArray[np.int64]
) -> bytes:
    """Write points, their arrays, and cells of the same number of corners each."""
    counts = {name: len(cells) if name == kind else 0 for name in ("Verts", "Lines", "Strips", "Polys")}
    sizes = " ".join(f'NumberOf{name}="{count}"' for name, count in counts.items())
    offsets = np.arange(1, len(cells) + 1) * cells.shape[1]
    clean = {name: np.where(np.isfinite(array), array, np.nan).ravel() for name, array in arrays.items()}
    first = f" Scalars={quoteattr(next(iter(clean)))}" if clean else ""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">',
        f'<PolyData><Piece NumberOfPoints="{len(points)}" {sizes}>',
        f"<PointData{first}>",
        *[_array(name, array) for name, array in clean.items()],
        "</PointData><Points>",
        _array("Points", points, 3),
        f"</Points><{kind}>",
        _array("connectivity", cells.ravel()),
        _array("offsets", offsets),
        f"</{kind}></Piece></PolyData></VTKFile>",
    ]
    return "\n".join(lines).encode("utf-8", "replace")


def _array(name: str, numbers: NDArray[np.float64] | NDArray[np.int64], components: int = 1) -> str:
    """Write one array."""
    kind, layout = _TYPES[numbers.dtype.kind]
    content = np.ascontiguousarray(numbers, dtype=layout).tobytes()
    text = base64.b64encode(len(content).to_bytes(8, "little") + content).decode("ascii")
    width = f' NumberOfComponents="{components}"' if components > 1 else ""
    return f'<DataArray type="{kind}" Name={quoteattr(name)}{width} format="binary">{text}</DataArray>'
