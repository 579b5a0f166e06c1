"""What a CKAResult looks like, as values: keys, pictures, rows, numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.cka import CKAResult, block_score, find_blocks
from lightning_dynamics.figures.result import closing_panels
from lightning_dynamics.panels import Film, Panels, Picture, Table

HOSTILE = ["<script>alert(1)</script>", "$x^2$ \\frac", 'a"b\nc\td', "%s {0}", "é漢字🙂", "x" * 300, "", "__tensor__"]
PICTURES = ["first_pc", "first_pc_cosine", "similarity", "without_first_pc"]


def result(names: list[str], others: list[str] | None = None, **changes: Any) -> CKAResult:
    """A plausible result; against itself unless ``others`` are given."""
    generator = torch.Generator().manual_seed(0)
    x, y = len(names), len(names if others is None else others)

    def matrix() -> Tensor:
        values = torch.rand(x, y, generator=generator, dtype=torch.float64) - 0.05
        return values if others is not None else ((values + values.T) / 2).fill_diagonal_(1)

    made = {
        "epoch": 3,
        "step": 120,
        "num_examples": 256,
        "matrix": matrix(),
        "layers_x": names,
        "layers_y": names if others is None else others,
        "compared_to": "itself" if others is None else "teacher",
        "first_pc_variance": torch.rand(x, generator=generator, dtype=torch.float64),
        "matrix_without_first_pc": matrix(),
        "first_pc_cosine": matrix(),
        "block_score": 0.25 if others is None else math.nan,
        "block_score_without_first_pc": 0.0 if others is None else math.nan,
        "data": "train",
        "estimator": "unbiased linear minibatch CKA, n = 128",
    } | changes
    made.setdefault("matrices", {made["compared_to"]: made["matrix"]})
    return CKAResult(**made)


def pictures(shown: Panels) -> list[str]:
    return sorted(key for key, panel in shown.items() if isinstance(panel, Picture))


def assert_pictures(shown: Panels) -> None:
    for key, panel in shown.items():
        if isinstance(panel, Picture):
            assert panel.image.dtype == np.uint8 and panel.image.ndim == 3 and panel.image.shape[2] == 3, key
            assert panel.image.std() > 0, key  # not one blank sheet
            assert max(panel.image.shape) < 10_000, key


def test_the_keys_of_the_docstring():
    made = result(["a", "b", "c", "d"])
    shown = made.panels()
    assert sorted(shown) == sorted([*PICTURES, "values"])
    assert sorted(made.scalars()) == ["block_score", "block_score_without_first_pc", "mean_off_diagonal"]
    assert pictures(shown) == PICTURES
    assert_pictures(shown)


def test_the_table_holds_the_map():
    made = result(["a", "b", "c"], ["p", "q"])
    made.matrix[1, 0] = torch.nan
    table = made.panels()["values"]
    assert isinstance(table, Table) and tuple(table.columns) == ("layer x", "layer y", "cka")
    rows = [tuple(row) for row in table.rows]
    assert [row[:2] for row in rows] == [(x, y) for x in "abc" for y in "pq"]
    assert rows[2] == ("b", "p", None)
    assert rows[5][2] == made.matrix[2, 1].item() and type(rows[5][2]) is float


def test_the_numbers_of_a_network_with_itself():
    made = result(["a", "b", "c", "d"])
    shown = made.scalars()
    off = [made.matrix[i, j].item() for i in range(4) for j in range(4) if i != j]
    assert shown["mean_off_diagonal"] == pytest.approx(np.mean(off))
    assert shown["block_score"] == 0.25 and shown["block_score_without_first_pc"] == 0


def test_the_numbers_leave_out_layers_without_similarity():
    made = result(["a", "b", "c", "d"])
    made.matrix[1] = made.matrix[:, 1] = torch.nan
    kept = [0, 2, 3]
    off = [made.matrix[i, j].item() for i in kept for j in kept if i != j]
    assert made.scalars()["mean_off_diagonal"] == pytest.approx(np.mean(off))


def test_the_numbers_of_a_network_with_its_former_self():
    names = ["stem.conv", "body.0", "body.1", "head.fc"]
    made = result(names, names, compared_to="previous event")
    shown = made.scalars()
    diagonal = made.matrix.diagonal().tolist()
    assert shown["similarity_to/previous_event"] == pytest.approx(np.mean(diagonal))
    assert shown["similarity_to/previous_event/body"] == pytest.approx(np.mean(diagonal[1:3]))
    assert sum(key.startswith("similarity_to/previous_event/") for key in shown) == 3
    assert "block_score" not in shown


def test_no_number_for_what_is_not_defined():
    made = result(["a.x", "b.x"], ["a.x", "b.x"])
    made.matrix[0] = torch.nan
    shown = made.scalars()
    assert all(map(math.isfinite, shown.values()))
    assert "similarity_to/teacher/a" not in shown and "similarity_to/teacher/b" in shown


def test_several_references_have_a_picture_each():
    names = ["a", "b", "c"]
    matrices = {name: result(names, names).matrix * scale for name, scale in (("s1/last", 1.0), ("s2/last", 0.5))}
    made = result(names, names, compared_to="s1/last, s2/last", matrices=matrices)
    shown = made.panels()
    assert {"similarity", "similarity/s1/last", "similarity/s2/last"} <= set(pictures(shown))
    one, two = (shown[f"similarity/s{i}/last"].image for i in (1, 2))  # type: ignore[union-attr]
    assert one.shape != two.shape or (one != two).any()


def test_without_components_nothing_is_shown_of_them():
    names = ["a", "b", "c"]
    empty = torch.full((3, 3), torch.nan, dtype=torch.float64)
    made = result(
        names,
        first_pc_variance=empty[0],
        matrix_without_first_pc=empty,
        first_pc_cosine=empty,
        block_score_without_first_pc=math.nan,
    )
    shown = made.panels()
    assert pictures(shown) == ["similarity"]
    assert "block_score_without_first_pc" not in made.scalars()


@pytest.mark.parametrize("count", [1, 2, 100])
def test_from_one_layer_to_a_hundred(count):
    made = result([f"encoder.layer.{i}.attention.output" for i in range(count)])
    made = replace(made, blocks=[list(block) for block in find_blocks(made.matrix)])
    shown = made.panels()
    assert_pictures(shown)
    assert all(map(math.isfinite, made.scalars().values()))
    assert len(shown["values"].rows) == count**2  # type: ignore[union-attr]


def test_nothing_but_nan():
    empty = torch.full((3, 3), torch.nan, dtype=torch.float64)
    made = result(["a", "b", "c"], matrix=empty, matrix_without_first_pc=empty, first_pc_cosine=empty)
    assert_pictures(made.panels())


@pytest.mark.parametrize("others", [None, HOSTILE[::-1][:5]])
def test_hostile_names(others):
    made = result(HOSTILE, others, data="<b>data</b> $", epoch=10**9, step=10**12)
    shown = made.panels()
    assert_pictures(shown)
    assert {row[0] for row in shown["values"].rows} == set(HOSTILE)  # type: ignore[union-attr]


def test_a_picture_says_what_it_shows():
    shown = result(["a", "b"]).panels()
    for key in PICTURES:
        caption = shown[key].caption  # type: ignore[union-attr]
        for fact in ("epoch 3", "step 120", "256 examples of train", "unbiased linear minibatch CKA"):
            assert fact in caption, (key, caption)


def test_blocks_are_drawn():
    names = [f"l{i}" for i in range(6)]
    plain = result(names, matrix=torch.full((6, 6), 0.95, dtype=torch.float64))
    blocks = find_blocks(plain.matrix)
    marked = replace(plain, blocks=[list(b) for b in blocks], block_score=block_score(blocks, 6))
    images = [made.panels()["similarity"].image for made in (plain, marked)]  # type: ignore[union-attr]
    assert blocks == [(0, 6)]
    assert images[0].shape != images[1].shape or (images[0] != images[1]).any()


def film(results):
    return {name: make() for name, make in closing_panels(results[-1], results).items()}


# ---- the film ----------------------------------------------------------------------------------------------


def test_the_film_has_a_frame_per_result_of_one_size():
    """Titles grow from "step 1" to "step 1000000", and blocks come and go: the frames keep their size."""
    names = ["a", "b", "c", "d"]
    results = [
        result(
            names, epoch=10**i, step=10 ** (2 * i), blocks=[[0, 3]] if i % 2 else [], matrix=torch.full((4, 4), i / 5)
        )
        for i in range(5)
    ]
    shown = film(results)
    assert list(shown) == ["similarity_film"]
    (panel,) = shown.values()
    assert isinstance(panel, Film) and len(panel.frames) == 5
    assert len({frame.shape for frame in panel.frames}) == 1
    assert "5 events" in panel.caption and "step 1 to 100000000" in panel.caption


def test_one_result_is_no_film():
    assert film([result(["a", "b"])]) == {}


def test_frames_of_other_layers_are_left_out():
    shown = film([result(["a"]), result(["a", "b"]), result(["a", "b"])])
    assert len(shown["similarity_film"].frames) == 2  # type: ignore[union-attr]


def test_pictures_leave_out_what_all_names_begin_with():
    """``net.`` in front of every layer says nothing; the table keeps it."""
    long, short = result(["net.a", "net.b.c"]).panels(), result(["a", "b.c"]).panels()
    for key in PICTURES:
        np.testing.assert_array_equal(long[key].image, short[key].image)
    assert {row[0] for row in long["values"].rows} == {"net.a", "net.b.c"}
