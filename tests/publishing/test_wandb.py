"""Every test here makes a real offline W&B run and reads it back from the disk."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from lightning_dynamics.core.lightning import both
from lightning_dynamics.panels import Download, Film, Page, Panel, Picture, Scalar, Table
from lightning_dynamics.publishing.dispatch import Event, publish
from lightning_dynamics.publishing.wandb import ARTIFACT_TYPE, MAX_ROWS, artifact_name
from tests.wandb_file import Artifact, media_file, read_artifacts, read_history

wandb = pytest.importorskip("wandb")

LOGGERS = both("loggers.WandbLogger")
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A second WandbLogger in one process would join the first one's run."""
    for name in ("DATA", "ARTIFACT", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")  # Lightning sets it for good: undone after the test
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.finish()


def _publish(tmp_path: Path, panels: dict[str, Panel], logger_class: type = LOGGERS[0]) -> Path:
    logger: Any = logger_class(save_dir=str(tmp_path), offline=True)
    publish([logger], Event("cka", epoch=3, step=17, panels=panels))
    wandb.finish()
    (run_dir,) = (tmp_path / "wandb").glob("offline-run-*")
    return run_dir


def _image(path: Path) -> Any:
    return Image.open(io.BytesIO(path.read_bytes()))


def _strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("logger_class", LOGGERS)
def test_one_event_is_one_row_with_everything_in_it(tmp_path: Path, logger_class: type) -> None:
    film = Film([np.full((8, 12, 3), level, np.uint8) for level in (0, 100, 200)], caption="a film")
    table = Table(["layer", "score", "note"], [["a", 0.5, "x"], ["b", float("nan"), 3], ["c", float("inf"), None]])
    panels: dict[str, Panel] = {
        "cka/mean": Scalar(0.25),
        "cka/undefined": Scalar(float("nan")),
        "cka/vs initialization/similarity": Picture(IMAGE, "epoch 3, step 17"),
        "cka/film": film,
        "cka/table": table,
        "cka/page": Page("<!doctype html><h1>é</h1>"),
    }
    run_dir = _publish(tmp_path, panels, logger_class)

    (row,) = read_history(run_dir)
    own = {key: value for key, value in row.items() if not key.startswith("_")}
    assert set(own) == {"epoch", "trainer/global_step"} | set(panels) - {"cka/undefined"}
    assert (row["epoch"], row["trainer/global_step"], row["cka/mean"]) == (3, 17, 0.25)

    picture = row["cka/vs initialization/similarity"]
    assert (picture["_type"], picture["caption"]) == ("image-file", "epoch 3, step 17")
    png = media_file(run_dir, picture)
    assert png.suffix == ".png"
    np.testing.assert_array_equal(np.asarray(_image(png)), IMAGE)

    assert (row["cka/film"]["_type"], row["cka/film"]["caption"]) == ("video-file", "a film")
    gif = media_file(run_dir, row["cka/film"])
    assert gif.suffix == ".gif"
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(_image(gif))]
    np.testing.assert_array_equal(frames, film.frames)

    assert (row["cka/table"]["_type"], row["cka/table"]["nrows"]) == ("table-file", 3)
    assert _strict(media_file(run_dir, row["cka/table"]).read_text(encoding="utf-8")) == {
        "columns": ["layer", "score", "note"],
        "data": [["a", 0.5, "x"], ["b", None, 3], ["c", None, None]],
    }

    assert row["cka/page"]["_type"] == "html-file"
    assert media_file(run_dir, row["cka/page"]).read_text(encoding="utf-8") == "<!doctype html><h1>é</h1>"


def test_a_long_table_keeps_its_first_rows_and_counts_the_rest(tmp_path: Path) -> None:
    run_dir = _publish(tmp_path, {"vog/table": Table(["index"], [[i] for i in range(MAX_ROWS + 7)])})
    (row,) = read_history(run_dir)
    assert row["vog/table"]["nrows"] == MAX_ROWS
    assert row["vog/table/rows_left_out"] == 7
    data = _strict(media_file(run_dir, row["vog/table"]).read_text())["data"]
    assert (len(data), data[0], data[-1]) == (MAX_ROWS, [0], [MAX_ROWS - 1])


def test_keys_that_are_no_file_names(tmp_path: Path) -> None:
    image = Picture(IMAGE)
    run_dir = _publish(tmp_path, {'cka/a<b>:c|"?*\\': image, "cka/ünï ☃": image, "cka/layer1.0.conv": image})
    (row,) = read_history(run_dir)
    for key in ("cka/a_b__c_____", "cka/ünï ☃", "cka/layer1.0.conv"):
        assert media_file(run_dir, row[key]).is_file()


def test_a_picture_one_pixel_high_stays_a_picture(tmp_path: Path) -> None:
    run_dir = _publish(tmp_path, {"cka/thin": Picture(IMAGE[:1])})
    (row,) = read_history(run_dir)
    np.testing.assert_array_equal(np.asarray(_image(media_file(run_dir, row["cka/thin"]))), IMAGE[:1])


def test_empty_tables_and_columns_of_mixed_kinds(tmp_path: Path) -> None:
    mixed = Table(["a", "b"], [[True, None], [2, None], ["three", None]])
    run_dir = _publish(tmp_path, {"cka/empty": Table(["a"], []), "cka/mixed": mixed})
    (row,) = read_history(run_dir)
    assert _strict(media_file(run_dir, row["cka/empty"]).read_text())["data"] == []
    assert _strict(media_file(run_dir, row["cka/mixed"]).read_text())["data"] == [list(r) for r in mixed.rows]


def _table(artifact: Artifact) -> dict[str, Any]:
    """The table of the artifact that W&B makes of it: this, not the run's own file, holds the pictures."""
    assert artifact.type == "run_table"
    (content,) = (content for name, content in artifact.files.items() if name.endswith(".table.json"))
    return _strict(content.decode())


def test_pictures_in_a_table(tmp_path: Path) -> None:
    thin, dot = Picture(IMAGE[:1], "class 3, ünï"), Picture(IMAGE[:1, :1])
    rows = [[0, thin, None], [1, None, None], [2, dot, None], [3, thin, None], [float("nan"), None, None]]
    run_dir = _publish(tmp_path, {"vog/hardest": Table(["index", "image", "only None"], rows)})
    (row,) = read_history(run_dir)
    assert (row["vog/hardest"]["_type"], row["vog/hardest"]["nrows"]) == ("table-file", 5)

    (artifact,) = read_artifacts(run_dir)
    table = _table(artifact)
    types = table["column_types"]["params"]["type_map"]["image"]["params"]["allowed_types"]
    assert {kind["wb_type"] for kind in types} == {"none", "image-file"}
    assert [row[0] for row in table["data"]] == [0, 1, 2, 3, None]
    assert [bool(row[1]) for row in table["data"]] == [True, False, True, True, False]
    assert table["data"][0][1].get("caption", thin.caption) == thin.caption  # wandb 0.19 leaves it out
    for place, picture in ((0, thin), (2, dot), (3, thin)):
        stored = Image.open(io.BytesIO(artifact.files[table["data"][place][1]["path"]]))
        np.testing.assert_array_equal(np.asarray(stored), picture.image)
    assert len(artifact.files) == 1 + 2  # the same picture is stored once


def test_pictures_beside_text_and_in_long_tables(tmp_path: Path) -> None:
    picture = Picture(IMAGE)
    mixed = Table(["a"], [[picture], ["text"], [True], [None], [1.5]])
    long = Table(["index", "image"], [[i, picture if i % 2000 == 0 else None] for i in range(12_000)])
    run_dir = _publish(tmp_path, {"vog/mixed": mixed, "vog/long": long})
    (row,) = read_history(run_dir)
    assert (row["vog/long"]["nrows"], row["vog/long/rows_left_out"]) == (MAX_ROWS, 12_000 - MAX_ROWS)
    cells, rows = (_table(artifact)["data"] for artifact in read_artifacts(run_dir))
    assert cells[0][0]["_type"] == "image-file" and cells[1:] == [["text"], [True], [None], [1.5]]
    assert [i for i, cell in rows if cell] == [0, 2000, 4000, 6000, 8000] and len(rows) == MAX_ROWS


@pytest.mark.parametrize("logger_class", LOGGERS)
def test_a_download_is_an_artifact(tmp_path: Path, logger_class: type) -> None:
    logger: Any = logger_class(save_dir=str(tmp_path), offline=True)
    files = {"scores.csv": b"index,score\n0,1.5\n", "ünï ☃.npz": bytes(range(256)), "empty": b""}
    for epoch, step in ((0, 0), (3, 17)):
        download = Download({**files, "step.txt": str(step).encode()}, f"VoG of äll, step {step}")
        publish([logger], Event("vog", epoch, step, {"vog/scores": download, "vog/mean": Scalar(0.5)}))
    run_id = logger.experiment.id
    wandb.finish()
    (run_dir,) = (tmp_path / "wandb").glob("offline-run-*")

    rows = read_history(run_dir)
    assert [row["vog/mean"] for row in rows] == [0.5, 0.5]
    assert not any(key.startswith("vog/scores") for row in rows for key in row)
    artifacts = read_artifacts(run_dir)
    assert [artifact.metadata for artifact in artifacts] == [
        {"key": "vog/scores", "epoch": 0, "step": 0},
        {"key": "vog/scores", "epoch": 3, "step": 17},
    ]
    for artifact, step in zip(artifacts, (0, 17), strict=True):
        assert (artifact.name, artifact.type) == (f"run-{run_id}-vog-scores", ARTIFACT_TYPE)
        assert artifact.description == f"VoG of äll, step {step}"
        assert artifact.files == {**files, "step.txt": str(step).encode()}


def test_a_download_under_a_key_that_is_no_artifact_name(tmp_path: Path) -> None:
    keys = ['vog/a<b>:c|"?*\\', "vog/ünï ☃", "vog/" + "long/" * 99, "vog/a/b", "vog/a-b", "vog/a.b"]
    run_dir = _publish(tmp_path, {key: Download({"file": key.encode()}) for key in keys})
    artifacts = read_artifacts(run_dir)
    assert [artifact.files["file"].decode() for artifact in artifacts] == keys
    assert len({artifact.name for artifact in artifacts}) == len(keys)


def test_artifact_names() -> None:
    assert artifact_name("1x2y", "vog/per_class/scores") == "run-1x2y-vog-per_class-scores"
    names = [
        artifact_name(run_id, key) for run_id in ("1x2y", "my run ü", "r" * 128) for key in ("☃", "v/a b", "v/a-b")
    ]
    assert len(set(names)) == 9 and all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) for name in names)


def test_the_reader_joins_records_that_cross_blocks(tmp_path: Path) -> None:
    panels: dict[str, Panel] = {f"cka/layer {i}": Scalar(i) for i in range(5000)}
    (row,) = read_history(_publish(tmp_path, panels))
    assert {key: row[key] for key in panels} == {f"cka/layer {i}": i for i in range(5000)}


def test_a_disabled_run_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_dynamics.publishing.wandb._medium", lambda panel: pytest.fail("encoded"))
    panels = {"cka/picture": Picture(IMAGE), "cka/mean": Scalar(1.0), "cka/files": Download({"a": b"b"})}
    # The argument, because W&B reads WANDB_MODE only once in a process.
    logger: Any = LOGGERS[0](save_dir=str(tmp_path), mode="disabled")
    publish([logger], Event("cka", 0, 0, panels))
    assert logger.experiment.disabled
    assert not list(tmp_path.rglob("*.wandb")) and not list(tmp_path.rglob("staging/*"))


def test_importing_needs_neither_wandb_nor_tensorboard() -> None:
    code = "import sys, lightning_dynamics.publishing; print({'wandb', 'tensorboard'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
