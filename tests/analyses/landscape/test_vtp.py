"""Files for ParaView, read back with VTK itself."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from lightning_dynamics.analyses.landscape.vtp import vtp_path, vtp_surface

XS, YS = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([-3.0, 0.1, 7.0])
LOSS = np.arange(12.0).reshape(3, 4) / 7


def read(content, tmp_path):
    vtk = pytest.importorskip("vtk")
    numpy_support = pytest.importorskip("vtk.util.numpy_support")
    (tmp_path / "file.vtp").write_bytes(content)
    reader = vtk.vtkXMLPolyDataReader()
    errors = []
    reader.AddObserver("ErrorEvent", lambda *_: errors.append(1))
    reader.SetFileName(str(tmp_path / "file.vtp"))
    reader.Update()
    assert not errors
    data = reader.GetOutput()
    inside = data.GetPointData()
    arrays = {
        inside.GetArrayName(i): numpy_support.vtk_to_numpy(inside.GetArray(i))
        for i in range(inside.GetNumberOfArrays())
    }
    points = data.GetPoints()
    places = numpy_support.vtk_to_numpy(points.GetData()) if points and points.GetNumberOfPoints() else np.empty((0, 3))
    cells = [
        [data.GetCell(i).GetPointId(j) for j in range(data.GetCell(i).GetNumberOfPoints())]
        for i in range(data.GetNumberOfCells())
    ]
    return data, places, cells, arrays


def test_points_faces_and_arrays_of_a_surface(tmp_path):
    values = {"loss": LOSS, 'test <accuracy> & "more" é': LOSS[::-1] ** 2}
    data, points, cells, arrays = read(vtp_surface(XS, YS, values), tmp_path)
    assert (data.GetNumberOfPolys(), data.GetNumberOfLines(), data.GetNumberOfVerts()) == (6, 0, 0)
    expected = [(x, y, LOSS[i, j]) for i, y in enumerate(YS) for j, x in enumerate(XS)]
    np.testing.assert_array_equal(points, expected)
    assert cells[0] == [0, 1, 5, 4] and cells[-1] == [6, 7, 11, 10]
    assert list(arrays) == list(values)
    for name, grid in values.items():
        np.testing.assert_array_equal(arrays[name], grid.ravel())
    # All faces look up, and together they cover the rectangle once.
    flat = points[np.array(cells)][:, :, :2]
    x, y = flat[..., 0], flat[..., 1]
    areas = 0.5 * (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    assert (areas > 0).all() and areas.sum() == pytest.approx(3 * 10)


def test_the_height_may_be_another_quantity(tmp_path):
    _, points, _, arrays = read(vtp_surface(XS, YS, {"loss": LOSS, "log": LOSS - 5}, height="log"), tmp_path)
    np.testing.assert_array_equal(points[:, 2], LOSS.ravel() - 5)
    np.testing.assert_array_equal(arrays["loss"], LOSS.ravel())


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_holes_have_no_faces(tmp_path, hole):
    holed, other = LOSS + 3, LOSS.copy()
    holed[1, 1], other[0, 0] = hole, hole
    data, points, cells, arrays = read(vtp_surface(XS, YS, {"loss": holed, "other": other}), tmp_path)
    assert len(points) == 12 and len(cells) == 2
    assert all(5 not in cell for cell in cells)
    assert points[5, 2] == 3.0 and np.isfinite(data.GetBounds()).all()
    assert np.isnan(arrays["loss"][5]) and np.isnan(arrays["other"][0])
    np.testing.assert_array_equal(np.delete(arrays["loss"], 5), np.delete(holed.ravel(), 5))


def test_nothing_known_is_still_a_file(tmp_path):
    data, points, cells, _ = read(vtp_surface(XS, YS, {"loss": np.full((3, 4), np.nan)}), tmp_path)
    assert len(points) == 12 and not cells and (points[:, 2] == 0).all()


def test_a_path_is_lines_from_point_to_point(tmp_path):
    points = np.random.default_rng(0).normal(size=(6, 3))
    data, places, cells, arrays = read(vtp_path(points, {"epoch": np.arange(6)}), tmp_path)
    np.testing.assert_array_equal(places, points)
    assert cells == [[i, i + 1] for i in range(5)] and data.GetNumberOfLines() == 5
    np.testing.assert_array_equal(arrays["epoch"], np.arange(6.0))
    points[2, 2] = np.nan
    _, places, cells, _ = read(vtp_path(points), tmp_path)
    assert cells == [[0, 1], [3, 4], [4, 5]] and np.isfinite(places).all()
    assert not read(vtp_path(np.empty((0, 3))), tmp_path)[2]


def test_the_file_is_xml_and_the_same_twice():
    content = vtp_surface(XS, YS, {"loss": LOSS})
    assert ElementTree.fromstring(content).attrib["type"] == "PolyData"
    assert content == vtp_surface(list(XS), list(YS), {"loss": LOSS.tolist()})


def test_complaints():
    with pytest.raises(ValueError, match="3 ys and 4 xs"):
        vtp_surface(XS, YS, {"loss": LOSS.T})
    with pytest.raises(ValueError, match="the height"):
        vtp_surface(XS, YS, {"error": LOSS})
    with pytest.raises(ValueError, match="xs must be"):
        vtp_surface(XS[::-1], YS, {"loss": LOSS})
    with pytest.raises(ValueError, match=r"\(T, 3\)"):
        vtp_path(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="'epoch'"):
        vtp_path(np.zeros((4, 3)), {"epoch": [1, 2]})
