"""Real TensorBoard event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_dynamics.core.lightning import both
from lightning_dynamics.panels import Download, Film, Page, Panel, Picture, Scalar, Table
from lightning_dynamics.publishing.dispatch import Event, publish
from lightning_dynamics.publishing.tensorboard import MAX_ROWS, markdown

pytest.importorskip("tensorboard")

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("logger_class", both("loggers.TensorBoardLogger"))
def test_every_panel_can_be_read_back(tmp_path: Path, logger_class: type) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger: Any = logger_class(tmp_path)
    panels: dict[str, Panel] = {
        "cka/mean": Scalar(0.25),
        "cka/undefined": Scalar(float("inf")),
        "cka/picture": Picture(IMAGE),
        "cka/film": Film([np.full((8, 12, 3), level, np.uint8) for level in (0, 100, 200)]),
        "cka/table": Table(["layer", "image"], [["conv_1", Picture(IMAGE)]], caption="scores"),
        "cka/files": Download({"scores_ü.csv": bytes(12345), "b.npz": b""}, "every example's score"),
        "cka/page": Page("<h1>hidden</h1>", caption="a map"),
    }
    publish([logger], Event("cka", epoch=3, step=17, panels=panels))
    logger.finalize("success")

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"epoch", "cka/mean"}
    assert [(e.step, e.value) for e in events.Scalars("cka/mean")] == [(17, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("epoch")] == [(17, 3.0)]

    (picture,) = events.Images("cka/picture")
    assert picture.step == 17
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), IMAGE)

    (film,) = events.Images("cka/film")
    assert (film.step, film.width, film.height) == (17, 12, 8)
    gif: Any = Image.open(io.BytesIO(film.encoded_image_string))
    assert (gif.format, gif.n_frames) == ("GIF", 3)

    texts = (events.Tensors(f"cka/{name}/text_summary") for name in ("table", "page", "files"))
    table, page, files = (html.unescape(event.tensor_proto.string_val[0].decode()) for (event,) in texts)
    assert "scores" in table and "| conv_1 | (image) |" in table
    assert "- scores_ü.csv (12,345 bytes)\n- b.npz (0 bytes)" in files
    assert "every example's score" in files and "local report" in files and "W&B" in files
    assert "a map" in page and "local report" in page and "hidden" not in page


def test_the_markdown_means_what_the_table_says() -> None:
    """Rendered as TensorBoard renders it: nothing in a cell is taken for Markdown or HTML."""
    plugin_util = pytest.importorskip("tensorboard.plugin_util")
    cells = ["a|b", "`code`", "<b>x</b>", "__init__", "*x* & [y](z)", "two\nlines", "ünï"]
    page = plugin_util.markdown_to_safe_html(markdown(Table(["name|s", "value"], [[c, -0.5] for c in cells])))
    shown = [html.unescape(cell) for cell in re.findall(r"<t[hd]>([^<]*)</t[hd]>", page)]
    assert shown == ["name|s", "value", *(text for cell in cells for text in (cell, "-0.5"))]


def test_long_tables_say_what_is_missing() -> None:
    text = markdown(Table(["i"], [[i] for i in range(MAX_ROWS + 5)]))
    assert f"| {MAX_ROWS - 1} |" in text and f"| {MAX_ROWS} |" not in text
    assert "5 more rows are not shown" in text


def test_undefined_cells_are_empty() -> None:
    assert markdown(Table(["a", "b", "c"], [[None, float("nan"), 1 / 3]])).endswith("|  |  | 0.333333 |")
