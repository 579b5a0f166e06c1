"""Interactive pages: what they hold, what they refuse, and how they behave in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_dynamics.figures.pages import SCATTER_HEIGHT, scatter_page
from lightning_dynamics.figures.pages.scatter import choose_rows
from lightning_dynamics.panels import Page
from lightning_dynamics.publishing import Event, LocalReport, publish
from tests import browser

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror=hacked=1>\"'& 飛行機 \ud800\u2028"
THUMBNAIL = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class Outline(HTMLParser):
    """The elements of a document, in order; fails if one is closed that is not open."""

    VOID = {"meta", "link"}

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.ids = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def columns(count=30):
    """Two groups on a line, without one value."""
    return {
        "index": list(range(count)),
        "label": [["cat", "dog"][i % 2] for i in range(count)],
        "a": [i / 10 for i in range(count)],
        "b": np.linspace(1, 2, count),
        "c": [None, *(1.23456789 * i for i in range(1, count))],
    }


def page(data=None, **more):
    settings = {"x": "a", "y": "b", "colour": "b", "axes": ["a", "b", "c"], "title": "A map", "footer": "a footer"}
    return scatter_page(columns() if data is None else data, **{**settings, **more})


def content(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_structure():
    html = page(group="label", images={3: THUMBNAIL})
    outline = Outline(html)
    assert outline.tags.count("script") == 2 and outline.tags.count("select") == 4
    assert len(outline.ids) == len(set(outline.ids))
    assert html.startswith("<!doctype html>") and "<title>A map</title>" in html and "a footer" in html
    assert "connect-src" not in html and "default-src 'none'" in html
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|https?://|@import|fetch\(|innerHTML""", html)
    assert html == page(group="label", images={3: THUMBNAIL})


def test_data_round_trips():
    nan = [float("nan"), float("inf"), -np.inf, None, np.float32(1.5), np.int64(7), True, 2**70, 1e-30, 10**400]
    data = {"é": nan, "text": ["x" * 400, *"abcdefghi"], "n": np.arange(10), "m": np.arange(10, dtype=np.float32) / 3}
    found = content(page(data, x="é", y="n", colour="m", axes=["n", "é", "m", "n"], images={4: THUMBNAIL}))
    names = [column["name"] for column in found["columns"]]
    assert names == ["é", "text", "n", "m"]
    assert found["columns"][0]["values"] == [None, None, None, None, 1.5, 7, 1, 1.180592e21, 1e-30, None]
    assert found["columns"][1]["values"] == ["x" * 299 + "…", *"abcdefghi"]
    assert found["columns"][2]["values"] == list(range(10))
    assert found["columns"][3]["values"] == pytest.approx(np.arange(10) / 3, rel=1e-6)
    assert (found["x"], found["y"], found["colour"], found["axes"], found["group"]) == (0, 2, 3, [2, 0, 3], None)
    ((row, width, height, png),) = found["images"]
    assert (row, width, height) == (4, 6, 4)
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(png)))), THUMBNAIL)
    assert len(found["colours"]) > 20 and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found["colours"])


def test_nothing_from_outside_becomes_markup():
    text = HOSTILE.replace("\ud800", "")  # the title must be writable, a column may hold any name of a file
    data = {HOSTILE: columns()["a"], "b": [HOSTILE] * 30}
    html = page(data, x=HOSTILE, y=HOSTILE, colour=HOSTILE, axes=[HOSTILE], group="b", title=text, footer=text)
    assert Outline(html).tags == Outline(page(group="label")).tags
    found = content(html)
    assert found["columns"][0]["name"] == found["columns"][1]["values"][0] == HOSTILE
    html.encode()


@pytest.mark.parametrize(("total", "most"), [(10, 10), (10, 9), (1000, 7), (50_000, 5000), (7, 1), (100, 66)])
def test_choice_of_rows(total, most):
    always = [total - 1] if most < 8 else [0, 2, total - 1]
    rows = choose_rows(total, most, always)
    assert len(rows) == most and rows == sorted(set(rows)) and rows[0] >= 0 and rows[-1] < total
    assert set(always) <= set(rows)
    assert np.max(np.diff([-1, *rows, total])) <= 2 * total / max(1, most - len(always)) + len(always) + 1


def test_choice_of_rows_sees_all_classes_of_data_in_turns():
    classes = np.bincount(np.array(choose_rows(50_000, 5000)) % 10)
    assert classes.min() > 450 and classes.max() < 550


def test_more_examples_than_fit():
    found = content(page(columns(1000), max_points=50, images={999: THUMBNAIL, 1: THUMBNAIL}))
    rows = found["columns"][0]["values"]
    assert len(rows) == 50 and found["total"] == 1000
    assert [rows[image[0]] for image in found["images"]] == [1, 999]


def test_size():
    noise = np.random.default_rng(0)
    data = {f"score {k}": noise.normal(size=20_000) for k in range(12)}
    images = {i * 100: noise.integers(0, 255, (32, 32, 3), dtype=np.uint8) for i in range(100)}
    axes = list(data)
    assert len(page(data, x=axes[0], y=axes[1], colour=axes[2], axes=axes, images=images).encode()) < 1.5e6


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": "nope"}, r"x: there is no column 'nope'; there are \['index'"),
        ({"axes": ["a", "b", "nope"]}, "axes: there is no column 'nope'"),
        ({"group": "nope"}, "group: there is no column 'nope'"),
        ({"colour": "index"}, "colour: 'index' is not among the axes"),
        ({"axes": ["a", "b", "label"]}, "axes: column 'label' must hold numbers, row 0 is 'cat'"),
        ({"images": {30: THUMBNAIL}}, "images: there is no row 30, the columns have 30"),
        ({"images": {-1: THUMBNAIL}}, "images: there is no row -1"),
        ({"images": {3: THUMBNAIL / 255}}, r"row 3 must be \(h, w, 3\) uint8, got \(4, 6, 3\) float64"),
        ({"images": {3: THUMBNAIL[..., 0]}}, r"row 3 must be \(h, w, 3\) uint8, got \(4, 6\)"),
        ({"images": {3: THUMBNAIL[:0]}}, r"row 3 must be .* got \(0, 6, 3\)"),
        ({"max_points": 0}, "max_points=0: at least 1"),
        ({"max_points": 1, "images": {0: THUMBNAIL, 1: THUMBNAIL}}, r"no fewer than there are images \(2\)"),
        ({"data": {"a": [1, 2], "b": [1]}}, "'a' has 2 values, 'b' has 1"),
        ({"data": {"a": [], "b": []}}, "at least one value"),
        ({"data": {}}, "at least one column"),
    ],
)
def test_bad_input(change, text):
    with pytest.raises(ValueError, match=text):
        page(**change)


needs_browser = pytest.mark.skipif(browser.find() is None, reason="no Chromium here")
# In every driver: where a row stands on the screen, an event there, a choice in a menu, what the tooltip says.
HELP = """
    const at = (row) => {
        const box = canvas.getBoundingClientRect();
        return { clientX: box.left + px[row] + 3, clientY: box.top + py[row], bubbles: true, pointerType: "mouse" };
    };
    const hover = (row) => canvas.dispatchEvent(new PointerEvent("pointermove", at(row)));
    const click = (row, kind = "mouse") => canvas.dispatchEvent(new PointerEvent("click", { ...at(row), pointerType: kind }));
    const choose = (id, name) => {
        const menu = document.getElementById(id);
        menu.value = [...menu.options].find((option) => option.text === name).value;
        menu.dispatchEvent(new Event("change"));
    };
    const said = () => tip.hidden ? null : Object.fromEntries([...tip.querySelectorAll("tr")].map((row) => [row.cells[0].textContent, row.cells[1].textContent]));
    const painted = () => {
        const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
        const pen = copy.getContext("2d", { willReadFrequently: true });
        pen.drawImage(canvas, 0, 0);
        const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
        let found = 0;
        for (let i = 0; i < pixels.length; i += 4) {
            const [red, green, blue, opaque] = pixels.subarray(i, i + 4);
            found += opaque > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60;
        }
        return found;
    };
"""  # noqa: E501


def visit(html, folder, driver, **more):
    path = Path(folder, "scatter.html")
    path.write_text(html, encoding="utf-8")
    seen = browser.visit(path, HELP + driver, **{"height": SCATTER_HEIGHT, **more})
    assert seen.console == []
    return seen.seen


@needs_browser
@pytest.mark.parametrize("width", [300, 500, 1300])
def test_fits_any_width(width, tmp_path):
    driver = """return { inner: innerWidth, wide: document.documentElement.scrollWidth, plot: plot.clientHeight,
                         painted: painted(), note: note.textContent, canvas: canvas.width }"""
    title = "What the network found hard, and what it found easy, in a title of some length"
    seen = visit(page(columns(400), group="label", title=title), tmp_path, driver, width=width)
    assert seen["wide"] <= seen["inner"] == width
    assert seen["painted"] > 1000 and seen["plot"] >= 280 and seen["canvas"] > 0.85 * width
    assert seen["note"].startswith("400 examples · click")


@needs_browser
def test_behaves(tmp_path):
    data = {**columns(), "text": [HOSTILE.replace("\ud800", "")] * 30, "same": [1, 1, *range(2, 30)]}
    html = page(data, group="label", images={3: THUMBNAIL}, axes=["a", "b", "c", "same"])
    driver = """
        const seen = { nothing: said() };
        hover(7);
        seen.hovered = [said(), ring.hidden, tip.classList.contains("pinned"), tip.querySelector("img")];
        canvas.dispatchEvent(new PointerEvent("pointerleave"));
        seen.left = said();
        click(3, "touch");
        const image = tip.querySelector("img");
        await image.decode();
        seen.image = [image.width, image.height, image.naturalWidth, getComputedStyle(image).imageRendering];
        hover(20);
        seen.pinned = [said().index, tip.classList.contains("pinned")];
        tip.click();
        seen.inside = said().index;
        choose("x", "b");
        seen.follows = said().index;
        document.getElementById("note").click();
        seen.freed = said();
        choose("group", "dog");
        hover(8);
        seen.filtered = [said(), note.textContent];
        choose("group", "all");
        choose("colour", "c");
        seen.lacking = note.textContent;
        hover(8);
        seen.colour = getComputedStyle(tip.querySelector("i")).backgroundColor;
        for (const role of ["x", "y", "colour"]) choose(role, "same");
        hover(0);
        seen.together = tip.querySelector("p").textContent;
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
        seen.last = said().index;
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
        seen.escaped = [said(), canvas.getAttribute("aria-label"), typeof window.hacked, document.images.length];
        return seen"""
    seen = visit(html, tmp_path, driver, width=1300)
    assert seen["nothing"] is None and seen["left"] is None and seen["freed"] is None
    told, *rest = seen["hovered"]
    assert rest == [False, False, None]
    assert list(told) == list(data)
    assert [told[name] for name in ("index", "label", "a", "b", "c")] == ["7", "dog", "0.7", "1.241", "8.642"]
    assert told["text"] == data["text"][0]
    assert seen["image"] == [126, 84, 6, "pixelated"]
    assert seen["pinned"] == ["3", True] and seen["inside"] == seen["follows"] == "3"
    assert seen["filtered"][0] is None and "label dog: 15, the others grey" in seen["filtered"][1]
    assert "1 of them left out: no value for c" in seen["lacking"]
    assert seen["colour"] not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
    assert seen["together"] == "1 more in this place"
    assert seen["last"] == "29"
    assert seen["escaped"][0] is None and "30 examples: same against same" in seen["escaped"][1]
    assert seen["escaped"][2:] == ["undefined", 0]


@needs_browser
def test_what_cannot_be_drawn_is_said(tmp_path):
    data = {"a": [None, 1.0, float("nan")], "b": [5, None, None], "one": [7, 7, 7]}
    html = page(data, axes=["a", "b", "one"])
    driver = """
        const seen = { none: [painted(), note.textContent] };
        for (const role of ["y", "colour"]) choose(role, "one");
        hover(1);
        seen.one = [painted(), said(), note.textContent];
        return seen"""
    seen = visit(html, tmp_path, driver)
    assert seen["none"][0] == 0 and "3 examples · 3 of them left out: no value for a or b" in seen["none"][1]
    assert seen["one"][0] > 20 and seen["one"][1] == {"a": "1", "b": "–", "one": "7"}
    assert "2 of them left out: no value for a" in seen["one"][2]
    crowd = page(columns(100), max_points=40, images={5: THUMBNAIL})
    assert visit(crowd, tmp_path, "return note.textContent").startswith("40 of 100 examples shown · ringed: with a")


@needs_browser
def test_numbers_of_every_size(tmp_path):
    """No axis without round numbers, no outlier that takes all colours for itself."""
    data = {
        "small": [1e-7 * i for i in range(500)],
        "large": [-3e9 * i for i in range(500)],
        "loss": [*range(499), 1e6],
    }
    driver = """
        const labels = (range, most) => ticks(range, most).map((mark) => mark.label);
        return [labels(ranges.x, 10), labels(ranges.y, 5), labels([-0.1, 1.1], 5), ranges.colour,
                [0, 12345, -1234.56, 0.123456, 1.5e-7, 2.5e7, 2.5e7 + 0.1].map(short)]"""
    html = page(data, x="small", y="large", colour="loss", axes=list(data))
    small, large, share, colours, numbers = visit(html, tmp_path, driver)
    assert small[:3] == ["0", "1e−5", "2e−5"]
    assert large[-3:] == ["−1e12", "−5e11", "0"]
    assert share == ["0", "0.5", "1.0"]
    assert colours[1] < 1000 and colours[2:] == [True, True]
    assert numbers == ["0", "12345", "−1235", "0.1235", "1.5e−7", "25000000", "2.5e7"]


@needs_browser
def test_inside_the_report(tmp_path, monkeypatch):
    """The report's frame lets the script run, and what it may not do it does not need."""
    # The browser's clock runs ahead of frames that have a process of their own.
    run = browser._run
    flag = "--disable-features=IsolateSandboxedIframes"
    monkeypatch.setattr(browser, "_run", lambda command: run([command[0], flag, *command[1:]]))
    probe = f"""<script>{HELP} setInterval(() => {{
        if (!px[3]) return;
        hover(3);
        parent.postMessage({{ painted: painted(), said: said(), height: innerHeight }}, "*");
    }}, 200)</script></body>"""
    log = LocalReport(tmp_path)
    html = page(images={3: THUMBNAIL}).replace("</body>", probe)
    publish([log], Event("maps", 0, 0, {"maps/map": Page(html, "a map", SCATTER_HEIGHT)}))
    log.finalize("success")
    wait = """return await new Promise((done) => {
        addEventListener("message", (event) => done(event.data));
        setTimeout(() => done(null), 4500);
    })"""
    seen = browser.visit(log.index, wait, height=1000)
    assert seen.console == []
    assert seen.seen["painted"] > 200 and seen.seen["said"]["index"] == "3"
    assert seen.seen["height"] == pytest.approx(SCATTER_HEIGHT, abs=2)
