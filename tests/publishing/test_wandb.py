"""Every test here makes a real offline W&B run and reads it back from the disk."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from lightning_dynamics.core.lightning import both
from lightning_dynamics.panels import Film, Page, Panel, Picture, Scalar, Table
from lightning_dynamics.publishing.dispatch import Event, publish
from lightning_dynamics.publishing.wandb import MAX_ROWS
from tests.wandb_file import media_file, read_history

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


def test_the_reader_joins_records_that_cross_blocks(tmp_path: Path) -> None:
    panels: dict[str, Panel] = {f"cka/layer {i}": Scalar(i) for i in range(5000)}
    (row,) = read_history(_publish(tmp_path, panels))
    assert {key: row[key] for key in panels} == {f"cka/layer {i}": i for i in range(5000)}


def test_a_disabled_run_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_dynamics.publishing.wandb._medium", lambda panel: pytest.fail("encoded"))
    # The argument, because W&B reads WANDB_MODE only once in a process.
    logger: Any = LOGGERS[0](save_dir=str(tmp_path), mode="disabled")
    publish([logger], Event("cka", 0, 0, {"cka/picture": Picture(IMAGE), "cka/mean": Scalar(1.0)}))
    assert logger.experiment.disabled
    assert not list(tmp_path.rglob("*.wandb"))


def test_importing_needs_neither_wandb_nor_tensorboard() -> None:
    code = "import sys, lightning_dynamics.publishing; print({'wandb', 'tensorboard'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
