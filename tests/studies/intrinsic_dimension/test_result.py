"""What the results of searches say, how they look, and that they can be stored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dynamics import IntrinsicDimension, IntrinsicDimensionComparison, compare_intrinsic_dimensions
from lightning_dynamics.panels import Picture, Table


def made(
    performance: list[list[float]], direct: list[float], size: int = 500, name: str = "", **settings: Any
) -> IntrinsicDimension:
    settings = {"baseline": 1.0, "threshold": 0.9, "metric": "val/accuracy", "max_epochs": 3} | settings
    settings |= {"projection": "fastfood"}
    dims = torch.tensor([8, 16, 32, 64][: len(performance)])
    rows = torch.tensor(performance, dtype=torch.float64)
    return IntrinsicDimension(size, dims, rows, torch.tensor(direct, dtype=torch.float64), [0, 1], settings, name)


EASY = made([[0.2, 0.3], [0.95, 0.96]], [0.97, 0.95])
HARD = made([[0.1, 0.1], [0.2, 0.3], [0.6, 0.7], [0.95, 0.95]], [0.99, 0.99], 900)
NEVER = made([[0.1, 0.1], [0.2, 0.3]], [0.99, 0.99])


def test_one_search() -> None:
    found = made([[0.2, 0.3], [0.6, 0.7], [0.88, 0.9], [0.95, 0.93]], [0.97, 0.95], name="fc")
    assert found.scalars() == {"d_int90_own": 32, "d_int90_global": 64, "own_baseline": pytest.approx(0.96)}
    assert found.plots == ("performance",)
    shown = found.panels()
    table = shown["trainings"]
    assert isinstance(table, Table) and table.rows[0] == ["8", 0.25, 0.2, 0.3]
    assert table.rows[-1][0] == "direct (500)" and isinstance(shown["performance"], Picture)
    assert found.plot().axes


def test_what_is_not_reached_or_not_asked_for_is_no_number() -> None:
    assert set(NEVER.scalars()) == {"own_baseline"}
    assert set(made([[0.95, 0.96]], [0.9, 0.9], baseline=None).scalars()) == {"d_int90_own", "own_baseline"}
    assert "d_int80_own" in made([[0.95, 0.96]], [0.9, 0.9], threshold=0.8).scalars()
    assert set(made([[0.95, 0.96]], [0.9, math.nan]).scalars()) == {"d_int90_global"}


def test_comparison_of_several() -> None:
    found = compare_intrinsic_dimensions({"easy": EASY, "hard": HARD, "never": NEVER})
    shown = found.panels()
    table = shown["comparison"]
    assert isinstance(table, Table)
    rows = {row[0]: list(row[1:]) for row in table.rows}
    assert rows["easy"][:2] == [500, 16] and rows["hard"][:3] == [900, 64, "(32, 64]"]
    assert rows["hard"][-2:] == [4.0, 4.0] and rows["never"][1:3] == ["not reached", "(16, ∞]"]
    assert rows["never"][-2:] == [None, None]
    assert isinstance(shown["performance"], Picture)
    assert found.plots == ("performance",)
    assert found.scalars() == {"hard/times_global": 4.0, "hard/times_own": 4.0}


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="one search or more"):
        compare_intrinsic_dimensions({})


def test_without_a_dimension_tried() -> None:
    none = torch.empty(0, dtype=torch.int64)
    found = IntrinsicDimension(10, none, torch.empty(0, 2), torch.ones(2), [0, 1], EASY.settings)
    assert found.by_own_baseline.dim is None
    assert found.plots == () and "trainings" in found.panels()
    assert "performance" not in compare_intrinsic_dimensions({"a": found}).panels()


def test_saved_and_loaded(tmp_path: Path) -> None:
    comparison = compare_intrinsic_dimensions({"easy, with shuffled pixels": EASY, "hard": HARD})
    HARD.save(tmp_path / "hard.npz")
    comparison.save(tmp_path / "comparison.npz")
    loaded = IntrinsicDimensionComparison.load(tmp_path / "comparison.npz")
    assert list(loaded.searches) == list(comparison.searches) and loaded.scalars() == comparison.scalars()
    for found in (IntrinsicDimension.load(tmp_path / "hard.npz"), loaded.searches["hard"]):
        assert torch.equal(found.performance, HARD.performance) and found.performance.dtype == torch.float64
        assert torch.equal(found.dims, HARD.dims) and found.seeds == HARD.seeds and found.size == 900
        assert found.by_global_baseline == HARD.by_global_baseline and found.settings == HARD.settings
