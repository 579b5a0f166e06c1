"""A VoGResult as values: columns, files, order of examples, agreement between runs. Nothing is trained."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics import LocalReport
from lightning_dynamics.analyses.vog import RunComparison, VoGResult, compare_runs, normalize_per_class
from lightning_dynamics.analyses.vog.result import DYNAMICS, EASY_IF_HIGH
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.panels import Picture, Table
from tests.house.training import assert_identical

NAN, INF = math.nan, math.inf


def result(
    count: int = 12,
    *,
    classes: int = 3,
    windows: tuple[str, ...] = ("all", "early", "late"),
    events: int = 6,
    labels: list[int] | Tensor | None = None,
    labelled: bool = True,
    images: tuple[int, int] | None = None,
    seed: int = 0,
    **changes: Any,
) -> VoGResult:
    """A result that fits together: a model that has learned most examples; hard ones have high scores.

    Args:
        images: shape of the thumbnails of every example; None for none.
        changes: any fields.
    """
    g = torch.Generator().manual_seed(seed)
    own = torch.arange(count) % classes if labels is None else torch.as_tensor(labels)
    difficulty = torch.rand(count, generator=g, dtype=torch.float64)
    wrong = torch.rand(count, generator=g) < difficulty**2
    predictions = torch.where(wrong, (own + 1) % max(1, classes), own)
    own = own if labelled else torch.full_like(own, -1)
    known = own if labelled else predictions
    scores = {
        w: difficulty * (1 + own % 3) + 0.1 * torch.rand(count, generator=g, dtype=torch.float64) for w in windows
    }
    dynamics = {}
    for w in windows:
        noise = torch.rand(count, generator=g, dtype=torch.float64)
        one = {"aum": 3 - 5 * difficulty + noise, "el2n": difficulty + noise / 9, "confidence": 1 - 0.9 * difficulty}
        one |= {"variability": 0.5 * noise * difficulty, "correctness": ((1 - difficulty) * events).round() / events}
        one |= {"loss": 3 * difficulty, "loss_spread": noise}
        dynamics[w] = one if labelled else {name: torch.full_like(value, NAN) for name, value in one.items()}
    forgetting = (3 * difficulty).round().masked_fill(difficulty > 0.9, INF)
    made: dict[str, Any] = {
        "epoch": 5,
        "step": 60,
        "num_examples": count,
        "data": "train",
        "settings": {
            "variant": "vog",
            "channel": "mean",
            "ddof": 0,
            "target": "label" if labelled else "prediction",
            "attribution": "gradient",
            "with_respect_to": "input",
        },
        "indices": 3 * torch.arange(count) + 1,
        "labels": own,
        "predictions": predictions,
        "scores": scores,
        "class_normalized": {w: normalize_per_class(one, known) for w, one in scores.items()},
        "window_predictions": dict.fromkeys(windows, predictions),
        "dynamics": dynamics,
        "forgetting": forgetting if labelled else torch.full_like(forgetting, NAN),
        "windows": {w: {"events": events, "first_step": 10, "last_step": 60} for w in windows},
        "accuracy": float((own == predictions).double().mean()) if labelled else NAN,
        "undefined": 0,
        "class_names": [],
        "shown": {},
    }
    made |= changes
    if images is not None:
        shown = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, *images, 3)
        made["shown"] = {"indices": made["indices"], "images": shown.contiguous()}
    if "scores" in changes and "class_normalized" not in changes:
        kept = torch.where(made["labels"] >= 0, made["labels"], made["predictions"])
        made["class_normalized"] = {w: normalize_per_class(one, kept) for w, one in made["scores"].items()}
    return VoGResult(**made)


def scored(values: list[float], **changes: Any) -> VoGResult:
    """With these VoG scores, in every window."""
    scores = torch.tensor(values, dtype=torch.float64)
    windows = changes.get("windows", ("all", "early", "late"))
    return result(len(values), scores=dict.fromkeys(windows, scores), **changes)


# ---- columns and files -------------------------------------------------------------------------------------

AWKWARD = [0.1 + 0.2, NAN, INF, 1e-300, -1 / 3, 12345678901234567.0]


def awkward() -> VoGResult:
    values = torch.tensor(AWKWARD, dtype=torch.float64)
    made = scored(AWKWARD)
    return result(
        6,
        scores=made.scores,
        class_normalized=made.class_normalized | {"early": torch.full((6,), NAN, dtype=torch.float64)},
        dynamics={w: {name: values.flip(0) for name in DYNAMICS} for w in made.dynamics},
        forgetting=torch.tensor([0, 1, INF, NAN, 2, 3], dtype=torch.float64),
    )


def test_columns_are_every_score_by_name() -> None:
    made = awkward()
    columns = made.to_columns()
    assert list(columns) == ["index", "label", "prediction", *made.score_names]
    assert columns["index"].tolist() == [1, 4, 7, 10, 13, 16] and columns["index"].dtype == np.int64
    for name in made.score_names:
        np.testing.assert_array_equal(columns[name], made.score(name).numpy())


def read_back(content: bytes) -> tuple[list[str], dict[str, np.ndarray]]:
    rows = list(csv.reader(io.StringIO(content.decode())))
    columns = zip(*rows[1:], strict=True)
    return rows[0], {
        name: np.array([NAN if cell == "" else float(cell) for cell in column])
        for name, column in zip(rows[0], columns, strict=True)
    }


def test_a_csv_file_loses_no_bit(tmp_path: Path) -> None:
    made = awkward()
    made.save_csv(tmp_path / "scores.csv")
    content = (tmp_path / "scores.csv").read_bytes()
    assert content == made.csv()
    names, columns = read_back(content)
    assert names == list(made.to_columns())
    for name, column in made.to_columns().items():
        np.testing.assert_array_equal(columns[name], column.astype(float))


def test_a_csv_file_leaves_empty_what_is_not_defined() -> None:
    lines = awkward().csv().decode().splitlines()
    assert len(lines) == 7 and b"\r" not in awkward().csv()
    cells = list(csv.reader(lines))[2]
    assert cells[:3] == ["4", "1", cells[2]] and cells[3] == ""
    assert list(csv.reader(lines))[3][3] == "inf" and "nan" not in awkward().csv().decode()


def test_whole_numbers_stay_whole_in_a_csv_file() -> None:
    for row in csv.reader(awkward().csv().decode().splitlines()[1:]):
        assert all(cell.lstrip("-").isdigit() for cell in row[:3])


def test_an_npz_file_holds_the_columns() -> None:
    made = awkward()
    with np.load(io.BytesIO(made.npz()), allow_pickle=False) as arrays:
        assert list(arrays) == list(made.to_columns())
        for name, column in made.to_columns().items():
            np.testing.assert_array_equal(arrays[name], column)
            assert arrays[name].dtype == column.dtype


def test_pandas_if_it_is_there() -> None:
    pandas = pytest.importorskip("pandas")
    made = awkward()
    frame = made.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.index.name == "index" and frame.index.tolist() == made.indices.tolist()
    assert list(frame.columns) == list(made.to_columns())[1:]
    np.testing.assert_array_equal(frame["vog/late"].to_numpy(), made.score("vog/late").numpy())
    assert frame.loc[7, "vog"] == INF


def test_pandas_is_handed_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not installed: a stand-in."""

    class Frame(dict[str, Any]):
        def set_index(self, name: str) -> tuple[str, Frame]:
            return name, self

    stand_in = ModuleType("pandas")
    stand_in.DataFrame = Frame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    name, frame = awkward().to_pandas()
    assert name == "index" and list(frame) == list(awkward().to_columns())


def test_without_pandas_the_text_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"to_pandas\(\).*pip install pandas.*to_columns\(\)"):
        result().to_pandas()


@pytest.mark.parametrize("kind", ["images", "texts", "awkward", "condensed", "no labels"])
def test_a_file_of_everything(kind: str, tmp_path: Path) -> None:
    made = {
        "images": lambda: result(images=(4, 5), class_names=["a", "é", "c"]),
        "texts": lambda: result(shown={"indices": torch.tensor([1, 4]), "texts": ["", 'a"\n\\b']}),
        "awkward": awkward,
        "condensed": lambda: result().condensed(),
        "no labels": lambda: result(labelled=False),
    }[kind]()
    made.save(tmp_path / "one.npz")
    loaded = VoGResult.load(tmp_path / "one.npz")
    assert_identical(loaded.to_state(), made.to_state())
    assert loaded.csv() == made.csv()


def test_a_condensed_result_keeps_the_numbers() -> None:
    made, less = result(images=(4, 4)), result(images=(4, 4)).condensed()
    assert (less.epoch, less.step, less.num_examples, less.accuracy) == (5, 60, 12, made.accuracy)
    assert less.windows == made.windows and less.settings == made.settings
    assert less.undefined_classes == 0 and less.score_names == []
    with pytest.raises(ConfigurationError, match="no score 'vog'.*latest result"):
        less.hardest(3)


# ---- scores by name ----------------------------------------------------------------------------------------


def test_names_of_scores() -> None:
    names = result().score_names
    over_all = ["vog", "vog_normalized", "forgetting", *DYNAMICS]
    assert names[: len(over_all)] == over_all
    assert names[len(over_all) :] == [
        f"{name}/{window}" for window in ("early", "late") for name in over_all if name != "forgetting"
    ]
    assert set(result().dynamics["all"]) == set(DYNAMICS)


def test_every_name_is_a_score() -> None:
    made = result()
    assert all(made.score(name).shape == (12,) for name in made.score_names)
    assert made.score() is made.scores["all"] and made.score("vog/all") is made.scores["all"]
    assert made.score("vog_normalized/late") is made.class_normalized["late"]
    assert made.score("el2n/early") is made.dynamics["early"]["el2n"]
    for name in ("aum", "el2n", "confidence", "variability", "correctness"):
        assert getattr(made, name) is made.dynamics["all"][name] is made.score(name)


@pytest.mark.parametrize("name", ["", "vogs", "vog/never", "forgetting/early", "aum/early/late", "early", "/"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no score.*there are: vog, vog_normalized"):
        result().score(name)


@pytest.mark.parametrize("name", [name for name in result().score_names if not name.startswith("loss_spread")])
def test_harder_is_higher(name: str) -> None:
    """The signs, against examples that were made hard."""
    made = result(400)
    difficulty = made.dynamics["all"]["loss"]
    finite = made.hardness(name).isfinite()
    stacked = torch.stack([made.hardness(name)[finite], difficulty[finite]])
    assert float(torch.corrcoef(stacked)[0, 1]) > 0.3
    assert torch.equal(made.hardness(name).abs(), made.score(name).abs())


def test_which_scores_are_high_for_easy_examples() -> None:
    assert set(EASY_IF_HIGH) == {"aum", "confidence", "correctness"}


# ---- the hardest -------------------------------------------------------------------------------------------


def test_the_hardest_of_each_class() -> None:
    made = scored([5, 1, 9, 7, 2, 8, 6, 3, 4], labels=[1, 0, 1, 0, 0, 1, 1, 0, 0])
    assert made.hardest(2).tolist() == made.indices[[3, 8, 2, 5]].tolist()
    assert made.hardest(1).tolist() == made.indices[[3, 2]].tolist()
    assert made.hardest(0).tolist() == []


def test_the_hardest_of_all() -> None:
    made = scored([5, 1, 9, 7, 2], labels=[1, 0, 1, 0, 0])
    assert made.hardest(3, per_class=False).tolist() == made.indices[[2, 3, 0]].tolist()


def test_more_than_there_are() -> None:
    made = scored([5, 1, 9, 7, 2], labels=[1, 0, 1, 0, 4])
    assert made.hardest(100).tolist() == made.indices[[3, 1, 2, 0, 4]].tolist()
    assert made.hardest(100, per_class=False).tolist() == made.indices[[2, 3, 0, 4, 1]].tolist()


def test_ties_by_rising_index() -> None:
    made = scored([1, 2, 2, 1, 2, 1], labels=[0, 0, 0, 0, 1, 1])
    assert made.hardest(3).tolist() == made.indices[[1, 2, 0, 4, 5]].tolist()
    assert made.hardest(4, per_class=False).tolist() == made.indices[[1, 2, 4, 0]].tolist()


def test_what_is_undefined_is_never_among_the_hardest() -> None:
    made = scored([NAN, 2, INF, NAN, -INF, 3], labels=[0, 0, 0, 1, 2, 2])
    assert made.hardest(6).tolist() == made.indices[[2, 1, 5, 4]].tolist()
    assert made.hardest(6, per_class=False).tolist() == made.indices[[2, 5, 1, 4]].tolist()
    assert scored([NAN, NAN]).hardest(2).tolist() == scored([NAN, NAN]).hardest(2, per_class=False).tolist() == []


def test_never_learned_is_harder_than_forgotten() -> None:
    forgetting = torch.tensor([0, INF, 3, NAN, INF, 1], dtype=torch.float64)
    made = result(6, forgetting=forgetting)
    assert made.hardest(5, per_class=False, score="forgetting").tolist() == made.indices[[1, 4, 2, 5, 0]].tolist()


def test_without_labels_classes_are_those_predicted() -> None:
    made = scored([3, 1, 2], labelled=False, predictions=torch.tensor([1, 0, 1]))
    assert made.classes.tolist() == [1, 0, 1]
    assert made.hardest(1).tolist() == made.indices[[1, 0]].tolist()


def test_suspected_label_errors_have_the_lowest_margin() -> None:
    made = result(4)
    made.dynamics["all"]["aum"] = torch.tensor([2.0, -5.0, NAN, -7.0])
    made.dynamics["early"]["el2n"] = torch.tensor([0.1, 0.9, NAN, 0.3])
    assert made.suspected_label_errors(2).tolist() == made.indices[[3, 1]].tolist()
    assert made.suspected_label_errors(9).tolist() == made.indices[[3, 1, 0]].tolist()
    assert made.suspected_label_errors(2, score="el2n/early").tolist() == made.indices[[1, 3]].tolist()


def test_classes_that_could_not_be_normalised() -> None:
    """One example; none that differ; none that is defined."""
    assert result().undefined_classes == 0
    assert scored([1, 2, 3, 4, 4, NAN, NAN], labels=[0, 0, 1, 2, 2, 3, 3]).undefined_classes == 3


# ---- agreement of runs -------------------------------------------------------------------------------------


def run(values: list[float], indices: list[int] | None = None, **more: Any) -> VoGResult:
    made = scored(values, windows=("all",), **more)
    indices = list(range(len(values))) if indices is None else indices
    return VoGResult(**made.to_state() | {"indices": torch.tensor(indices)})


def test_correlations_are_spearman_s() -> None:
    """1 − 6 Σ d² / (n (n² − 1)), without ties: d = (0, 1, 1, 0, 0) and all turned round."""
    runs = [run([1, 2, 3, 4, 5]), run([10, 30, 20, 40, 50]), run([5, 4, 3, 2, 1])]
    found = compare_runs(runs, scores=["vog"])
    truth = [[1, 0.9, -1], [0.9, 1, -0.9], [-1, -0.9, 1]]
    np.testing.assert_allclose(found.correlations["vog"].numpy(), truth, atol=1e-12)
    assert found.mean() == pytest.approx((0.9 - 1 - 0.9) / 3)
    assert (found.names, found.num_examples, found.step) == (["run 1", "run 2", "run 3"], 5, 60)


def test_ties_take_their_mean_rank() -> None:
    """Ranks 1.5, 1.5, 3, 4 and 1, 2, 3, 4: covariance 4.5, norms √4.5 and √5."""
    found = compare_runs([run([7, 7, 8, 9]), run([1, 2, 3, 4])], scores=["vog"])
    assert float(found.correlations["vog"][0, 1]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_runs_are_joined_by_index() -> None:
    """Each has examples that others have not; the common ones are 2, 5, 7, 8."""
    one = run([1, 100, 2, 3, 4], [2, 3, 5, 7, 8])
    other = run([-50, 10, 30, 20, 40, 99], [0, 2, 5, 7, 8, 9])
    found = compare_runs([one, other], scores=["vog"], names=["a", "b"])
    assert found.num_examples == 4 and found.names == ["a", "b"]
    assert float(found.correlations["vog"][0, 1]) == pytest.approx(0.8)


def test_infinity_ranks_last_and_nan_is_left_out() -> None:
    found = compare_runs([run([1, 2, INF, NAN, 4]), run([5, 6, 9, 7, NAN])], scores=["vog"])
    assert float(found.correlations["vog"][0, 1]) == pytest.approx(1)


def test_a_run_without_spread_is_nan() -> None:
    found = compare_runs([run([1, 2, 3]), run([4, 4, 4]), run([1, 3, 2])], scores=["vog"])
    matrix = found.correlations["vog"]
    assert matrix[1].isnan().all() and float(matrix[0, 2]) == pytest.approx(0.5)
    assert found.mean() == pytest.approx(0.5)


def test_by_default_all_scores_over_all_events() -> None:
    found = compare_runs([result(seed=1), result(seed=2)])
    assert list(found.correlations) == ["vog", "forgetting", *DYNAMICS]
    windowed = compare_runs([result(seed=1), result(seed=2)], scores=["vog/early", "vog_normalized"])
    assert list(windowed.correlations) == ["vog/early", "vog_normalized"]


def test_scores_that_no_run_has_are_left_out() -> None:
    found = compare_runs([result(labelled=False), result(labelled=False, seed=1)])
    assert list(found.correlations) == ["vog"]


def test_comparisons_that_cannot_be_made() -> None:
    one, two = result(), result(seed=1)
    for told, arguments in (
        ("two runs or more, got 1", {"results": [one]}),
        ("two runs or more, got 0", {"results": []}),
        ("`names` must be 2 different", {"results": [one, two], "names": ["a"]}),
        ("`names` must be 2 different", {"results": [one, two], "names": ["a", "a"]}),
        ("no score 'vogs'", {"results": [one, two], "scores": ["vogs"]}),
        ("fewer than two examples in common", {"results": [one, result().condensed()]}),
        ("fewer than two examples in common", {"results": [run([1, 2], [0, 1]), run([1, 2], [1, 2])]}),
        ("`scores`", {"results": [one, two], "scores": []}),
        ("`scores`", {"results": [run([NAN, NAN], labelled=False), run([NAN, NAN], labelled=False)]}),
    ):
        with pytest.raises(ConfigurationError, match=told):
            compare_runs(**arguments)


def test_a_comparison_is_shown() -> None:
    found = compare_runs([result(40, seed=i) for i in range(3)], scores=["vog", "vog/late", "aum"])
    assert found.plots == ("vog", "vog/late", "aum", "agreement")
    shown = found.panels()
    assert [key for key, panel in shown.items() if isinstance(panel, Picture)] == list(found.plots)
    table = shown["values"]
    assert isinstance(table, Table) and len(table.rows) == 3 * 3
    assert table.rows[0] == ("vog", "run 1", "run 2", float(found.correlations["vog"][0, 1]))
    assert found.scalars()["mean/aum"] == found.mean("aum")
    assert all("40 examples" in panel.caption for panel in shown.values() if isinstance(panel, Picture | Table))


def test_a_comparison_is_stored(tmp_path: Path) -> None:
    found = compare_runs([result(seed=1), result(seed=2, step=90)], scores=["vog", "vog/late"])
    found.save(tmp_path / "runs.npz")
    assert_identical(RunComparison.load(tmp_path / "runs.npz").to_state(), found.to_state())


@pytest.mark.parametrize("how", ["one", "several"])
def test_a_comparison_is_published(how: str, tmp_path: Path) -> None:
    report = LocalReport(save_dir=str(tmp_path))
    found = compare_runs([result(seed=1), result(seed=2, step=90)], scores=["vog"])
    found.publish(report if how == "one" else [report], "vog/seeds")
    assert found.step == 90
    assert all(word in report.index.read_text() for word in ("agreement", "rank correlation of vog between runs"))
    assert "mean/vog" in report.index.read_text()
    assert len(list(report.index.parent.rglob("*.png"))) == 2


def test_runs_that_never_agree_are_shown_too() -> None:
    """NaN among the means, and below zero."""
    for runs in ([run([1, 1, 1]), run([1, 2, 3])], [run([3, 2, 1]), run([1, 2, 3])]):
        found = compare_runs(runs, scores=["vog"])
        assert (
            isinstance(found, RunComparison)
            and len(found.panels()) + len(found.scalars()) == 3 + found.correlations["vog"].isfinite().all()
        )
