"""Results: what is saved is what is loaded, bit for bit."""

from __future__ import annotations

import io
import math
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_dynamics.analyses.result import AnalysisResult
from lightning_dynamics.figures.result import Pictures, pictures, tables
from lightning_dynamics.panels import Picture, Table


@dataclass(frozen=True, eq=False)
class Found(AnalysisResult):
    matrix: Tensor
    nested: Any = None

    def scalars(self) -> dict[str, float]:
        return {}


def round_trip(result: Found, folder: Path) -> Found:
    result.save(folder / "result.npz")
    return Found.load(folder / "result.npz")


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.contiguous().view(-1).view(torch.uint8).tolist() == b.contiguous().view(-1).view(torch.uint8).tolist()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert type(a) is type(b) and (a == b or math.isnan(a))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([[float("nan"), -0.0], [float("inf"), 1e-40]]),
        torch.tensor(3, dtype=torch.int64),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.tensor([1.5, -2.25, float("nan")], dtype=torch.bfloat16),
        torch.tensor(0.5, dtype=torch.bfloat16),
        torch.tensor([1.5], dtype=torch.float16),
        torch.tensor([1 + 2j]).conj(),
        torch.arange(6.0, dtype=torch.float64).view(2, 3).t(),
        torch.ones(1).expand(4),
        torch.ones(2, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
def test_tensors(tensor: Tensor, tmp_path: Path) -> None:
    back = round_trip(Found(1, 2, 3, tensor, {"a": [tensor]}), tmp_path)
    plain = tensor.detach().resolve_conj()
    if plain.is_complex():
        plain, back = torch.view_as_real(plain), Found(1, 2, 3, *map(_real, (back.matrix, back.nested)))
    assert_same({"matrix": plain, "nested": {"a": [plain]}}, {"matrix": back.matrix, "nested": back.nested})


def _real(value: Any) -> Any:
    return torch.view_as_real(value) if isinstance(value, Tensor) else {"a": [torch.view_as_real(value["a"][0])]}


def test_odd_keys_never_meet(tmp_path: Path) -> None:
    nested: dict[str, Any] = {
        "a.b": torch.tensor(1),
        "a": {"b": torch.tensor(2), "": torch.tensor(3)},
        "a/b": torch.tensor(4),
        "a.npy": torch.tensor(5),
        "..": torch.tensor(6),
        ".x": torch.tensor(7),
        "x": torch.tensor(8),
        "größe · 層": torch.tensor(9),
        "with\0null\n": torch.tensor(10),
        "0": [torch.tensor(11)],
        "file": torch.tensor(12),
        "__plain__": torch.tensor(13),
        "dtype": "bfloat16",
    }
    back = round_trip(Found(0, 0, 1, torch.tensor(0), nested), tmp_path)
    assert_same(nested, back.nested)


def test_plain_values(tmp_path: Path) -> None:
    nested = {"nan": math.nan, "inf": -math.inf, "none": None, "flag": True, "text": "é", "list": [1, [2.5, []]]}
    back = round_trip(Found(4, 50, 6, torch.zeros(1), nested), tmp_path)
    assert_same(nested, back.nested)
    assert (back.epoch, back.step, back.num_examples) == (4, 50, 6)
    assert isinstance(back, Found)


def test_the_key_that_stands_for_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="__tensor__"):
        Found(0, 0, 1, torch.zeros(1), {"__tensor__": "matrix"}).save(tmp_path / "r.npz")


def test_numpy_alone_reads_the_file(tmp_path: Path) -> None:
    Found(0, 0, 1, torch.arange(3.0)).save(tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as file:
        assert file["matrix"].tolist() == [0, 1, 2]


def test_the_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """``np.savez`` itself appends ``.npz`` to other names."""
    path = str(tmp_path / "epoch=1.result")
    Found(0, 0, 1, torch.zeros(1)).save(path)
    assert Path(path).is_file()
    assert Found.load(path).step == 0


def test_a_state_goes_into_a_checkpoint(tmp_path: Path) -> None:
    result = Found(1, 2, 3, torch.zeros(2, dtype=torch.bfloat16), {"a": [torch.ones(1), None, "x"]})
    torch.save(result.to_state(), tmp_path / "state.pt")
    back = Found.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(result.to_state(), back.to_state())


def test_loaded_tensors_can_be_written(tmp_path: Path) -> None:
    back = round_trip(Found(0, 0, 1, torch.zeros(2)), tmp_path)
    back.matrix.add_(1)
    assert back.matrix.tolist() == [1, 1]


def test_results_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Found(0, 0, 1, torch.zeros(1)).step = 2  # type: ignore[misc]


@dataclass(frozen=True, eq=False)
class Drawn(AnalysisResult):
    height: int

    def scalars(self) -> dict[str, float]:
        return {}


@pictures.register
def _pictures(result: Drawn) -> Pictures:
    def draw(value: int) -> Picture:
        return Picture(np.full((result.height, 20, 3), value, dtype=np.uint8), "grey")

    return {"dark": lambda: draw(10), "light": lambda: draw(200)} if result.height else {}


@tables.register
def _tables(result: Drawn) -> dict[str, Table]:
    return {"values": Table(("height",), [(result.height,)])}


def test_a_result_plots_its_main_picture_pixel_for_pixel() -> None:
    result = Drawn(0, 0, 1, 30)
    assert result.plots == ("dark", "light")
    for name, value in ((None, 10), ("dark", 10), ("light", 200)):
        figure = result.plot(name)
        figure.canvas.draw()
        image = np.asarray(figure.canvas.buffer_rgba())
        assert image.shape == (30, 20, 4) and (image[..., :3] == value).all()


def test_a_notebook_shows_the_figure() -> None:
    """IPython asks an object for this method; for plain figures it needs pyplot."""
    with Image.open(io.BytesIO(Drawn(0, 0, 1, 30).plot()._repr_png_())) as image:  # type: ignore[attr-defined]
        assert image.size == (20, 30) and image.convert("RGB").getpixel((5, 5)) == (10, 10, 10)


def test_a_result_plots_into_given_axes() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert Drawn(0, 0, 1, 30).plot("light", ax=right) is figure
    assert not left.images and (right.images[0].get_array() == 200).all()


def test_a_picture_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no picture 'contour'; there are: dark, light"):
        Drawn(0, 0, 1, 30).plot("contour")
    with pytest.raises(ValueError, match="this Drawn has nothing to draw yet"):
        Drawn(0, 0, 1, 0).plot()
    assert Drawn(0, 0, 1, 0).plots == ()


def test_panels_are_pictures_and_tables() -> None:
    shown = Drawn(0, 0, 1, 30).panels()
    assert list(shown) == ["dark", "light", "values"] and (shown["light"].image == 200).all()


def test_a_result_class_says_its_numbers() -> None:
    with pytest.raises(TypeError, match="scalars"):
        AnalysisResult(epoch=0, step=0, num_examples=1)  # type: ignore[abstract]
