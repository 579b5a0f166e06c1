"""What a VoGResult looks like, as values: keys, captions, rows, thumbnails, arrays that are drawn."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.vog import pictures
from lightning_dynamics.analyses.vog.estimator import error_by_percentile
from lightning_dynamics.analyses.vog.figures import MOST_ROWS, explore, scores, values
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.figures.result import closing_panels, tables
from lightning_dynamics.panels import Download, Page, Panel, Picture, Table
from lightning_dynamics.publishing import LocalReport, publish_panels
from tests.analyses.vog.test_result import result, scored
from tests.house.training import assert_identical

NAN, INF = math.nan, math.inf
one, few = (partial(made, windows=("all",)) for made in (result, scored))
ALWAYS = {"histogram", "classes", "values"}
LABELLED = ALWAYS | {"error_by_percentile", "data_map"}


def keys(made: VoGResult) -> set[str]:
    """Names of pictures and tables; nothing is drawn for that."""
    return {*made.plots, *tables(made)}


def everything(made: VoGResult) -> dict[str, Panel]:
    """All panels, those that are shown when training ends included."""
    return dict(made.panels()) | {name: make() for name, make in closing_panels(made, [made]).items()}


def column(table: Table, name: str) -> list[Any]:
    return [row[list(table.columns).index(name)] for row in table.rows]


# ---- which panels ------------------------------------------------------------------------------------------


def test_images_show_examples_of_every_window() -> None:
    made = result(images=(4, 4))
    assert keys(made) == LABELLED | {"examples/all", "examples/early", "examples/late"}


def test_names_are_known_without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = result(images=(4, 4))
    for chart in ("gallery", "time_series", "histogram", "box_plot", "scatter"):
        monkeypatch.setattr(pictures, chart, None)
    assert set(made.plots) | {"values"} == keys(made) and made.plots[0] == "examples/all"
    with pytest.raises(TypeError):
        made.plot()


def test_without_images_there_are_no_galleries() -> None:
    assert keys(one()) == LABELLED
    assert keys(one(shown={"indices": torch.tensor([1]), "texts": ["one"]})) == LABELLED


def test_without_labels_nothing_is_said_of_errors() -> None:
    assert keys(one(labelled=False)) == ALWAYS


def test_nothing_before_two_events() -> None:
    assert result(events=1).panels() == {}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_windows_come_when_they_have_two_events(count: int) -> None:
    made = result(images=(4, 4), windows=("all", "late"))
    made.windows["late"]["events"] = count
    assert ("examples/late" in keys(made)) == (count == 2)


def test_a_window_that_is_over_is_not_drawn_again() -> None:
    made = result(images=(4, 4), windows=("all", "early", "late"))
    made.windows["early"]["last_step"] -= 1
    shown = keys(made)
    assert "examples/early" not in shown and {"examples/all", "examples/late", "histogram"} <= shown


def test_without_any_score_there_is_nothing_to_explore() -> None:
    assert list(closing_panels(few([NAN] * 12, labelled=False), [])) == ["scores"]


def test_a_result_without_examples_has_no_panels() -> None:
    less = result(images=(4, 4)).condensed()
    assert everything(less) == {}
    assert all(map(math.isfinite, less.scalars().values()))


# ---- captions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [one(images=(4, 4)), one(labelled=False)], ids=["labels", "no labels"])
def test_captions_say_on_what_and_when(made: VoGResult) -> None:
    shown = everything(made)
    for panel in shown.values():
        assert isinstance(panel, Picture | Table | Page | Download)
        assert "12 examples of train" in panel.caption and "epoch 5, step 60" in panel.caption
        assert ("gradient of prediction" in panel.caption) == bool((made.labels < 0).all())


def test_captions_say_what_is_not_usual() -> None:
    usual = values(result()).caption
    assert usual.endswith("12 examples of train")
    settings = result().settings | {"variant": "variance", "attribution": "integrated_gradients, 16 samples"}
    settings |= {"with_respect_to": "net.embedding", "target": "final_prediction"}
    told = values(result(settings=settings, undefined=7)).caption
    for words in (
        "variant variance, channel mean, ddof 0",
        "integrated gradients, 16 samples",
        "by the output of net.embedding",
        "gradient of final prediction",
        "7 gradients that were not finite are left out",
    ):
        assert words in told and words not in usual


def test_classes_that_are_not_normalised_are_counted() -> None:
    made = scored([1, 2, 3, 4, 4, NAN], labels=[0, 0, 1, 2, 2, 3])
    assert "3 classes of one example, or without spread, are not normalised" in values(made).caption
    made = scored([1, 2, 3], labels=[0, 0, 1])
    assert re.search(r"\b1 class of one example, or without spread, is not normalised", values(made).caption)
    assert "normalised;" not in values(result()).caption and "not normalised" not in values(result()).caption


# ---- the table ---------------------------------------------------------------------------------------------


def test_rows_are_by_normalised_score() -> None:
    """The second class is harder as a whole, so its easy examples come after hard ones of the first."""
    made = scored([1, 2, 3, 101, 102, 106], labels=[0, 0, 0, 1, 1, 1])
    table = values(made)
    normalized = column(table, "vog_normalized")
    assert normalized == sorted(normalized, reverse=True)
    assert column(table, "index") == made.indices[[5, 2, 1, 4, 3, 0]].tolist()
    assert column(table, "vog") == [106, 3, 2, 102, 101, 1]


def test_rows_hold_every_score_of_their_example() -> None:
    made = result(30)
    table = values(made)
    names = [name for name in table.columns if name not in ("index", "label", "prediction")]
    assert set(names) == {n for n in made.score_names if n.startswith("vog") or "/" not in n}
    place = {int(index): row for row, index in enumerate(made.indices)}
    for row in table.rows:
        at = place[row[0]]
        assert row[1:3] == [str(int(made.labels[at])), str(int(made.predictions[at]))]
        for name, cell in zip(names, row[3:], strict=True):
            value = float(made.score(name)[at])
            assert cell == value if math.isfinite(value) else cell is None


def test_what_cannot_be_normalised_comes_last() -> None:
    made = scored([5, 1, 2, NAN, 3], labels=[9, 0, 0, 0, 0])
    table = values(made)
    assert column(table, "index") == made.indices[[4, 2, 1, 0, 3]].tolist()
    assert column(table, "vog_normalized")[3:] == [None, None] and column(table, "vog")[3:] == [5, None]


def test_without_normalised_scores_rows_are_by_the_scores_themselves() -> None:
    made = scored([2, 3, 1], labels=[0, 1, 2])
    table = values(made)
    assert column(table, "vog") == [3, 2, 1] and "vog_normalized" not in table.columns
    assert "examples by VoG, hardest first" in table.caption


def test_a_thousand_rows_are_the_extremes() -> None:
    made = result(1300)
    table = values(made)
    ordered = made.class_normalized["all"].sort(descending=True).values.tolist()
    assert column(table, "vog_normalized") == ordered[:500] + ordered[-500:]
    assert "the 500 hardest and the 500 easiest (the files hold all)" in table.caption
    assert len(values(result(MOST_ROWS)).rows) == MOST_ROWS and "easiest" not in values(result(MOST_ROWS)).caption


@pytest.mark.parametrize("known", [0, 1, 700, 1001])
def test_no_example_is_in_two_rows(known: int) -> None:
    """Also where few of many scores are defined."""
    made = scored([float(i) if i < known else NAN for i in range(1300)], labels=[0] * 1300)
    indices = column(values(made), "index")
    assert len(set(indices)) == len(indices) == MOST_ROWS
    assert known == 0 or column(values(made), "vog")[0] == known - 1


# ---- thumbnails, texts, names ------------------------------------------------------------------------------


def test_thumbnails_are_beside_their_examples() -> None:
    """Each is of one brightness: its example's row."""
    made = result(10, images=(3, 5))
    made.shown["indices"], made.shown["images"] = made.shown["indices"][[7, 2, 5]], made.shown["images"][[7, 2, 5]]
    table = values(made)
    assert list(table.columns)[:4] == ["index", "image", "label", "prediction"]
    for index, cell in zip(column(table, "index"), column(table, "image"), strict=True):
        row = (index - 1) // 3
        if row not in (7, 2, 5):
            assert cell is None
        else:
            assert isinstance(cell, Picture) and cell.image.shape == (3, 5, 3) and (cell.image == row).all()


def test_texts_are_beside_their_examples() -> None:
    made = result(shown={"indices": torch.tensor([4, 1]), "texts": ["four", ""]})
    table = values(made)
    assert list(table.columns)[:2] == ["index", "text"]
    found = dict(zip(column(table, "index"), column(table, "text"), strict=True))
    assert found == {int(i): {4: "four", 1: ""}.get(int(i)) for i in made.indices}


def test_without_thumbnails_there_is_no_column() -> None:
    assert list(values(result()).columns)[:3] == ["index", "label", "prediction"]


def test_classes_have_their_names() -> None:
    made = result(class_names=["cat", "dog"])  # the third has none
    table = values(made)
    assert set(column(table, "label")) == {"cat", "dog", "2"}
    drawn = [pictures.classes(shown, ["all"]).image for shown in (made, result())]
    assert drawn[0].shape != drawn[1].shape or (drawn[0] != drawn[1]).any()


def tiles(made: VoGResult) -> set[int]:
    """Brightnesses of the thumbnails that the gallery holds, each a row of the result."""
    image = pictures.examples(made, "all").image
    grey = image[..., 0] * (image == image[..., :1]).all(-1)
    found = set()
    for row in grey:
        for run in re.finditer(rb"(.)\1{60,}", row.astype(np.uint8).tobytes(), re.S):
            found.add(run.group(1)[0])
    return found


def test_the_gallery_holds_the_extremes_of_each_class() -> None:
    """Of ten examples a class, the five easiest and the five hardest; of eleven, not the middle one."""
    made = one(33, classes=3, images=(8, 8))
    made.shown["images"] += 100
    middles = []
    for number in range(3):
        rows = torch.nonzero(made.classes == number)[:, 0]
        middles.append(int(rows[made.scores["all"][rows].argsort()[5]]))
    assert tiles(made) & set(range(100, 133)) == set(range(100, 133)) - {100 + row for row in middles}


def test_the_page_names_every_score() -> None:
    html = explore(result()).html
    for name in ("variability", "confidence", "correctness", "aum", "vog/early", "label", "prediction"):
        assert json.dumps(name) in html
    assert json.dumps("aum/early") not in html


def test_without_labels_the_page_goes_by_what_there_is() -> None:
    html = explore(result(labelled=False)).html
    assert "variability" not in html and '"vog/late"' in html


def test_what_nobody_knows_is_no_column() -> None:
    assert list(values(result(labelled=False)).columns)[:3] == ["index", "prediction", "vog"]
    unknown = torch.full((12,), -1)
    assert list(values(result(labelled=False, predictions=unknown)).columns)[:2] == ["index", "vog"]
    some = torch.where(torch.arange(12) < 3, -1, 0)
    assert "?" in column(values(result(predictions=some)), "prediction")


def test_without_classes_there_are_none_to_compare() -> None:
    assert keys(one(labelled=False, predictions=torch.full((12,), -1))) == {"histogram", "values"}


def test_what_is_empty_is_not_drawn() -> None:
    assert keys(few([NAN] * 12)) == {"histogram", "data_map", "values"}
    assert keys(few([NAN] * 12, labelled=False)) == {"histogram", "values"}


# ---- strange results ---------------------------------------------------------------------------------------

STRANGE: dict[str, Any] = {
    "a thousand classes": lambda: one(2000, classes=1000, images=(2, 2)),
    "one example per class": lambda: one(30, classes=30, images=(4, 4)),
    "one class": lambda: one(20, classes=1, images=(4, 4)),
    "two examples": lambda: one(2, classes=1, images=(4, 4)),
    "one example": lambda: one(1, classes=1, images=(4, 4)),
    "all scores NaN": lambda: few([NAN] * 12, images=(4, 4)),
    "all scores NaN, no labels": lambda: few([NAN] * 12, images=(4, 4), labelled=False),
    "constant scores": lambda: few([0.7] * 12, images=(4, 4)),
    "scores of zero": lambda: few([0.0] * 12, images=(4, 4)),
    "one score among NaN": lambda: few([NAN] * 11 + [1.0], images=(4, 4)),
    "infinite scores": lambda: few([INF, 1, 2, 3], images=(4, 4)),
    "tiny scores": lambda: few([1e-300, 2e-300, 0, 5e-300], images=(4, 4)),
    "huge scores": lambda: few([1e300, 2e300, 0, 5e300], images=(4, 4)),
    "eight windows": lambda: result(windows=("all", *"abcdefg"), images=(4, 4)),
    "hostile names": lambda: one(
        class_names=["<script>alert(1)</script>", "$x^2$ \\frac", 'a"b\nc'], data="$d$ <b>", images=(4, 4)
    ),
    "long names": lambda: one(class_names=["x" * 300, "y" * 300, "é漢字🙂"], images=(4, 4)),
    "names of windows": lambda: result(windows=("all", "$w$ <i>", "w" * 80), images=(4, 4)),
    "tall thumbnails": lambda: one(images=(64, 3)),
    "all wrong": lambda: one(predictions=(torch.arange(12) + 1) % 3, images=(4, 4)),
    "no prediction": lambda: one(predictions=torch.full((12,), -1), images=(4, 4)),
    "regression": lambda: one(predictions=torch.full((12,), -1), labelled=False, accuracy=NAN),
    "everything forgotten": lambda: one(forgetting=torch.full((12,), INF, dtype=torch.float64)),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_results_are_shown(case: str) -> None:
    made = STRANGE[case]()
    before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in made.to_state().items()}
    shown = everything(made)
    assert "values" in shown and "histogram" in shown and "scores" in shown
    for panel in shown.values():
        if isinstance(panel, Picture):
            assert panel.image.std() > 5, "nothing is drawn"
            assert max(panel.image.shape[:2]) < 4000
        if isinstance(panel, Page):
            assert "<script>alert" not in panel.html and not re.search(r"\bNaN\b,", panel.html)
        if isinstance(panel, Table):
            assert len(panel.rows) <= MOST_ROWS
            assert all(not isinstance(cell, float) or math.isfinite(cell) for row in panel.rows for cell in row)
    assert all(map(math.isfinite, made.scalars().values()))
    assert_identical({k: v for k, v in made.to_state().items()}, before)


def test_many_classes_are_not_all_drawn() -> None:
    heights = []
    for classes in (100, 1000):
        made = one(3 * classes, classes=classes, images=(4, 4))
        shown = [pictures.classes(made, ["all"]), pictures.examples(made, "all")]
        heights.append([panel.image.shape[0] for panel in shown])
    assert heights[1] == pytest.approx(heights[0], abs=60)


# ---- numbers -----------------------------------------------------------------------------------------------


def test_scalars() -> None:
    made = result(100)
    numbers = made.scalars()
    assert numbers["accuracy"] == made.accuracy and numbers["undefined"] == 0
    assert numbers["never_learned"] == float(made.forgetting.isinf().double().mean()) > 0
    for window in made.windows:
        assert numbers[f"mean/{window}"] == pytest.approx(float(made.scores[window].mean()))
        order = made.class_normalized[window].argsort()
        wrong = (made.predictions != made.labels).double()[order]
        assert numbers[f"error_of_easiest/{window}"] == pytest.approx(float(wrong[:10].mean()))
        assert numbers[f"error_of_hardest/{window}"] == pytest.approx(float(wrong[-10:].mean()))
    assert set(numbers) == {"accuracy", "undefined", "never_learned"} | {
        f"{name}/{window}" for name in ("mean", "error_of_easiest", "error_of_hardest") for window in made.windows
    }


def test_errors_are_those_of_the_window_s_end() -> None:
    made = result(100)
    then = {w: made.labels if w == "early" else made.predictions for w in made.windows}
    numbers = result(100, window_predictions=then).scalars()
    assert numbers["error_of_hardest/early"] == 0 < numbers["error_of_hardest/late"]


def test_error_rates_are_drawn_as_they_were_and_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line per window, and a second one where the model has changed since the window's end."""
    drawn: dict[str, Any] = {}
    real = pictures.time_series

    def spied(x: Any, lines: Any, **options: Any) -> Any:
        drawn.update(zip(options["names"], lines, strict=True))
        return real(x, lines, **options)

    monkeypatch.setattr(pictures, "time_series", spied)
    made = result(100)
    made = result(100, window_predictions=made.window_predictions | {"early": made.labels})
    pictures.error_rates(made, list(made.windows))
    assert list(drawn) == ["all events", "early, at step 60", "early, now", "late"]
    wrong = made.predictions != made.labels
    for name, window in (("all events", "all"), ("early, now", "early"), ("late", "late")):
        truth = 100 * error_by_percentile(made.class_normalized[window], wrong)
        np.testing.assert_allclose(drawn[name], truth.numpy())
    assert (drawn["early, at step 60"] == 0).all() and max(drawn["early, now"]) > 0


def test_none_was_ever_learned() -> None:
    assert result(forgetting=torch.full((12,), INF)).scalars()["never_learned"] == 1
    assert "never_learned" not in result(labelled=False).scalars()


def test_scalars_without_labels() -> None:
    assert set(result(labelled=False).scalars()) == {"undefined", "mean/all", "mean/early", "mean/late"}


RATES: dict[str, tuple[list[float], list[int], int, list[float]]] = {
    "ten in ten bins": (list(range(10)), [0, 0, 1, 0, 0, 0, 1, 0, 1, 1], 10, [0, 0, 1, 0, 0, 0, 1, 0, 1, 1]),
    "in any order": ([3, 1, 2, 0], [1, 0, 0, 1], 4, [1, 0, 0, 1]),
    "two bins": ([0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 1, 1], 2, [1 / 3, 1]),
    "the middle one is in the upper half": ([0, 1, 2], [0, 1, 1], 2, [0, 1]),
    "ties at the bottom": ([1, 1, 1, 2], [1, 0, 0, 1], 2, [NAN, 0.5]),
    "all alike": ([5, 5, 5, 5], [1, 0, 0, 0], 4, [NAN, NAN, NAN, 0.25]),
    "fewer than bins": ([1, 2], [0, 1], 4, [0, NAN, NAN, 1]),
    "one": ([3], [1], 3, [NAN, NAN, 1]),
    "none": ([], [], 3, [NAN, NAN, NAN]),
    "NaN is left out": ([NAN, 0, 1, NAN], [1, 0, 1, 1], 2, [0, 1]),
    "infinity is hardest": ([0, 1, INF, INF], [0, 0, 1, 1], 2, [0, 1]),
    "one bin": ([3, 1, 2], [1, 0, 0], 1, [1 / 3]),
}


@pytest.mark.parametrize("case", RATES)
def test_error_rates_between_percentiles(case: str) -> None:
    scores, wrong, bins, rates = RATES[case]
    found = error_by_percentile(torch.tensor(scores, dtype=torch.float64), torch.tensor(wrong, dtype=torch.bool), bins)
    np.testing.assert_allclose(found.numpy(), rates, rtol=1e-12)


# ---- files -------------------------------------------------------------------------------------------------


def test_files_hold_all_examples() -> None:
    made = result(1500)
    shown = everything(made)
    download = shown["scores"]
    assert "map" in shown and isinstance(download, Download)
    assert list(download.files) == ["vog_scores.csv", "vog_scores.npz"]
    text, arrays = download.files.values()
    assert text == made.csv() and len(list(csv.reader(io.StringIO(text.decode())))) == 1501
    with np.load(io.BytesIO(arrays)) as read:
        np.testing.assert_array_equal(read["vog"], made.scores["all"].numpy())
    assert "one row per example" in download.caption


def test_files_of_several_callbacks_stay_apart(tmp_path: Path) -> None:
    """They have the same names, and lie in the folders of their panels, whatever the callbacks are called."""
    labels = ["vog", "vog/mine", "vog-2", 'vog/a:b*"c"<d>|e?', "vog/..", "vog/" + "é" * 300]
    made = [few([n, n + 1, n + 2]) for n in range(len(labels))]
    report = LocalReport(save_dir=str(tmp_path))
    for label, one in zip(labels, made, strict=True):
        publish_panels(report, {"scores": scores(one)}, label)
    for name, content in (("vog_scores.csv", VoGResult.csv), ("vog_scores.npz", None)):
        files = list(report.index.parent.rglob(name))
        assert len(files) == len(labels)
        if content is not None:
            assert {path.read_bytes() for path in files} == {content(one) for one in made}
