"""What a local report makes of pictures in tables and of files to download."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from lightning_dynamics.panels import Download, Picture, Scalar, Table
from lightning_dynamics.publishing import Event, LocalReport, publish
from tests import browser
from tests.publishing.test_local_report import HOSTILE, embedded, event, lines, needs_browser

IMAGE = np.random.default_rng(0).integers(0, 256, (28, 30, 3), dtype=np.uint8)


def links(log: LocalReport) -> dict[str, tuple[str, str]]:
    """The files the page offers: href to name and size."""
    html = log.index.read_text(encoding="utf-8")
    found = re.findall(r'<a href="([^"]*)" download>(.*?)</a><span class="size">(.*?)</span>', html)
    return {unescape(href): (unescape(name), size) for href, name, size in found}


def offered(log: LocalReport) -> dict[str, bytes]:
    """What the links lead to."""
    return {name: Path(log.log_dir, unquote(href)).read_bytes() for href, (name, _) in links(log).items()}


def stored(log: LocalReport) -> dict[str, bytes]:
    folder = Path(log.log_dir, "files")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_in_a_table(tmp_path: Path) -> None:
    log = LocalReport(tmp_path)
    rows = [[0, Picture(IMAGE, HOSTILE), None], [1, None, None], [2, Picture(IMAGE[:1, :1]), None]]
    publish([log], event(5, hardest=Table(["index", "image", "only None"], rows)))

    (line,) = lines(log)
    entry = line["panels"]["cka/hardest"]
    path = Path(log.log_dir, entry["file"])
    assert path.suffix == ".json" and entry["bytes"] == path.stat().st_size
    (frame,) = embedded(log)[0]
    assert frame["content"] == json.loads(path.read_text())
    first, nothing, dot = (row[1] for row in frame["content"]["rows"])
    assert nothing is None and [row[2] for row in frame["content"]["rows"]] == [None] * 3
    assert (first["width"], first["height"], first["caption"]) == (30, 28, HOSTILE)
    for cell, image in ((first, IMAGE), (dot, IMAGE[:1, :1])):
        start, _, content = cell["image"].partition(",")
        assert start == "data:image/png;base64"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), image)
    html = log.index.read_text(encoding="utf-8")
    assert "<script>alert" not in html and "left out" not in html.partition("<script>\n")[0]


def test_a_long_table_of_pictures_leaves_the_page_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2**20
    monkeypatch.setattr("lightning_dynamics.publishing.local_report.page._PANEL_BYTES", limit)
    log = LocalReport(tmp_path)
    rows = [[i, Picture(IMAGE[i % 20 :][:8, :8])] for i in range(12_000)]
    for step in (0, 20):
        publish([log], event(step, hardest=Table(["index", "image"], rows)))

    frames = embedded(log)[0]
    assert [frame["step"] for frame in frames] == [0, 20]
    for frame in frames:
        cells = [row[1] for row in frame["content"]["rows"]]
        kept = ["image" in cell for cell in cells]
        assert len(cells) == 12_000 and 500 < sum(kept) < 12_000 and kept == sorted(kept, reverse=True)
        assert sum(len(cell["image"]) for cell in cells if "image" in cell) <= limit // 2
    assert "Some images are left out" in log.index.read_text(encoding="utf-8")
    for path in Path(log.log_dir, "media").iterdir():
        assert all("image" in row[1] for row in json.loads(path.read_text())["rows"])


def test_downloads_lie_beside_the_page(tmp_path: Path) -> None:
    log = LocalReport(tmp_path)
    files = {"scores.csv": b"SECRET" * 1000, "scores ünï ☃ #1 100%&'.npz": bytes(range(256)), "empty": b""}
    publish([log], event(10, scores=Download(files, f"VoG of äll {HOSTILE}"), mean=Scalar(1.0)))
    assert offered(log) == files
    assert stored(log) == {f"cka.scores/{name}": content for name, content in files.items()}
    assert [size for _, size in links(log).values()] == ["6.0 kB", "256 Bytes", "0 Bytes"]
    assert not any(":" in href or href.startswith(("/", ".")) for href in links(log))
    html = log.index.read_text(encoding="utf-8")
    assert "VoG of äll" in html and "epoch 1, step 10" in html and "SECRET" not in html and "<script>alert" not in html
    (panel,) = re.findall(r'<figure class="download" id="([\w-]+)"', html)
    assert f'<a href="#{panel}">scores</a>' in html


def test_the_latest_download_replaces_the_older(tmp_path: Path) -> None:
    log = LocalReport(tmp_path)
    for step in range(0, 50, 10):
        named = {"scores.csv": str(step).encode(), f"step{step}.csv": b""}
        publish([log], event(step, scores=Download(named), other=Download({"scores.csv": b"other"})))
    expected = {"cka.scores/scores.csv": b"40", "cka.scores/step40.csv": b"", "cka.other/scores.csv": b"other"}
    assert stored(log) == expected
    assert {unquote(href) for href in links(log)} == {f"files/{name}" for name in expected}
    assert len(lines(log)) == 5


def test_a_resumed_report_offers_what_was_logged_last(tmp_path: Path) -> None:
    first = LocalReport(tmp_path, version=0)
    for step in (0, 10, 20):
        publish([first], event(step, scores=Download({"scores.csv": f"first {step}".encode(), "old": b""})))
    resumed = LocalReport(tmp_path, version=0)  # from the checkpoint at step 0
    resumed.log_metrics({"loss": 1.0}, 0)
    assert offered(resumed) == {"scores.csv": b"first 20", "old": b""}
    publish([resumed], event(10, scores=Download({"scores.csv": b"resumed 10"})))
    assert offered(resumed) == {"scores.csv": b"resumed 10"}
    html = resumed.index.read_text(encoding="utf-8")
    assert "epoch 1, step 10" in html and "step 20" not in html


def test_files_that_somebody_deleted_are_not_offered(tmp_path: Path) -> None:
    log = LocalReport(tmp_path)
    publish([log], event(0, scores=Download({"a": b"1", "b": b"2"})))
    Path(log.log_dir, "files", "cka.scores", "a").unlink()
    log.finalize("success")
    assert offered(log) == {"b": b"2"}
    Path(log.log_dir, "files", "cka.scores", "b").unlink()
    log.finalize("success")
    assert links(log) == {} and 'class="download"' not in log.index.read_text(encoding="utf-8")


def test_keys_that_are_no_folders(tmp_path: Path) -> None:
    log = LocalReport(tmp_path)
    keys = ["a/b", "a.b", "a", "a//b", "A/b", "../../x", "/etc", "", ".", HOSTILE, "ünï ☃", "long/" * 99]
    publish([log], Event("a", 0, 0, {key: Download({"file": key.encode()}) for key in keys}))
    assert sorted(content.decode() for content in stored(log).values()) == sorted(keys)
    assert sorted(Path(log.log_dir, unquote(href)).read_text() for href in links(log)) == sorted(keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalReport(tmp_path)
    publish([log], event(0, scores=Download({"scores.csv": b"older"})))

    def full(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="disk full"):
        broken.setattr(os, "replace", full)
        publish([log], event(10, scores=Download({"scores.csv": b"newer"})))
    assert stored(log) == {"cka.scores/scores.csv": b"older"}


@needs_browser
def test_thumbnails_in_a_browser(tmp_path: Path) -> None:
    log = LocalReport(tmp_path)
    shapes = {"digit": IMAGE[:28, :28], "dot": IMAGE[:1, :1], "photo": np.tile(IMAGE, (9, 9, 1))}
    shapes |= {"wide": np.tile(IMAGE[:1], (1, 40, 1)), "tall": np.tile(IMAGE[:, :1], (40, 1, 1))}
    rows = [[name, Picture(image, f"class {i}"), i] for i, (name, image) in enumerate(shapes.items())]
    table = Table(["name", "image", "rank"], [*rows, ["none", None, 99]])
    publish([log], event(0, hardest=table, scores=Download({"ünï ☃ #1.csv": b"1"})))
    driver = r"""
        const table = document.querySelector(".panel table"), seen = {};
        const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
        const enter = (text) => {
            const input = document.querySelector("[type=search]");
            input.value = text;
            input.dispatchEvent(new Event("input"));
            return names();
        };
        seen.images = [...table.querySelectorAll("img")].map((image) => {
            const box = image.getBoundingClientRect();
            return [Math.round(box.width), Math.round(box.height), getComputedStyle(image).imageRendering, image.alt];
        });
        seen.none = table.rows[6].cells[1].innerHTML;
        seen.filtered = [enter("class 3"), enter("object"), enter("")];
        const sort = (column) => { table.querySelectorAll("thead button")[column].click(); return names(); };
        seen.sorted = [sort(2), sort(2), sort(1), sort(1)];
        seen.link = new URL(document.querySelector(".download a").href).pathname.split("/").slice(-3);
        return seen"""
    visit = browser.visit(log.index, driver)
    assert visit.console == []
    names = [*shapes, "none"]
    assert visit.seen["images"] == [
        [56, 56, "pixelated", "class 0"],
        [64, 64, "pixelated", "class 1"],
        [69, 64, "auto", "class 2"],
        [160, 1, "auto", "class 3"],
        [1, 64, "auto", "class 4"],
    ]
    assert visit.seen["none"] == ""
    assert visit.seen["filtered"] == [["wide"], [], names]
    assert visit.seen["sorted"] == [names, names[::-1], names, [*names[-2::-1], "none"]]
    assert [unquote(part) for part in visit.seen["link"]] == ["files", "cka.scores", "ünï ☃ #1.csv"]
