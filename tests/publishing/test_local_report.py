import importlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_dynamics.analyses.result import AnalysisResult
from lightning_dynamics.panels import Download, Film, Page, Picture, Scalar, Table
from lightning_dynamics.publishing import Event, LocalReport, publish
from lightning_dynamics.publishing.local_report.page import thin, thin_curve
from lightning_dynamics.publishing.local_report.store import safe
from tests import browser
from tests.house.training import trainer

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@dataclass(frozen=True, eq=False)
class Found(AnalysisResult):
    similarity: torch.Tensor

    def scalars(self) -> dict[str, float]:
        return {}


def picture(shade: int, caption: str = "what it shows") -> Picture:
    return Picture(np.full((8, 12, 3), shade, dtype=np.uint8), caption)


def event(step: int, **panels) -> Event:
    return Event("cka", step // 10, step, {f"cka/{key}": panel for key, panel in panels.items()})


def lines(log: LocalReport, name: str = "events.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(log.log_dir, name).read_text().splitlines()]


def embedded(log: LocalReport, kind: str = "panel") -> list:
    """The JSON inside every figure of this class, as the page's script would read it."""
    html = log.index.read_text(encoding="utf-8")
    figures = re.findall(rf'<figure class="{kind}".*?</figure>', html, re.DOTALL)
    return [json.loads(re.search(r'json">(.*?)</script>', figure, re.DOTALL)[1]) for figure in figures]


def test_folder(tmp_path):
    log = LocalReport(tmp_path)
    log.log_hyperparams({"optimizer": {"lr": 0.1}, "layers": [1, 2], "where": tmp_path, "drop": torch.tensor(0.5)})
    log.log_metrics({"loss": torch.tensor(2.0), "text": "ignored", "epoch": 0}, step=3)
    found = Found(1, 10, 7, torch.eye(3))
    panels = {
        "cka/mean": Scalar(0.5),
        "cka/never": Scalar(float("nan")),
        "cka/similarity": picture(9),
        "cka/film": Film([picture(1).image, picture(200).image]),
        "cka/layers": Table(["layer", "value"], [["a", 1.5], ["b", float("nan")]]),
        "cka/page": Page("<p>hello</p>"),
    }
    publish([log], Event("cka", 1, 10, panels, found))
    log.finalize("success")

    folder = tmp_path / "report" / "version_0"
    assert Path(log.log_dir) == folder and log.index == folder / "index.html"
    kinds = sorted(path.suffix for path in (folder / "media").iterdir())
    assert kinds == [".gif", ".html", ".json", ".png"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "events.jsonl", "index.html", "media", "metrics.jsonl", "results", "run.json",
    ]  # fmt: skip
    again = Found.load(folder / "results" / "cka-step00000010.npz")
    assert torch.equal(again.similarity, found.similarity) and (again.epoch, again.step) == (1, 10)
    assert lines(log, "metrics.jsonl") == [{"step": 3, "values": {"loss": 2.0, "epoch": 0}}]
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "success" and run["hyperparameters"]["drop"] == 0.5
    html = log.index.read_text(encoding="utf-8")
    assert "optimizer.lr" in html and "1 event ·" in html and "success" in html
    table = next(frames for frames in embedded(log) if "rows" in (frames[0]["content"] or ""))
    assert table[0]["content"]["rows"] == [["a", 1.5], ["b", None]]
    assert embedded(log, "chart") == [[[10, 0.5]], [[3, 2.0]]]  # no NaN, no epoch
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", html)


def test_everything_named_by_users_is_escaped(tmp_path):
    log = LocalReport(tmp_path, name="run <b>")
    log.log_hyperparams({HOSTILE: HOSTILE})
    log.log_metrics({HOSTILE: 1.0}, step=0)
    panels = {
        f"{HOSTILE}/picture": picture(1, HOSTILE),
        f"{HOSTILE}/table": Table([HOSTILE], [[HOSTILE]], HOSTILE),
        f"{HOSTILE}/page": Page(HOSTILE, HOSTILE),
        f"{HOSTILE}/scalar": Scalar(1.0),
    }
    publish([log], Event(HOSTILE, 0, 0, panels, Found(0, 0, 1, torch.eye(2))))
    html = log.index.read_text(encoding="utf-8")
    assert "alert(1)" in html and "<script>alert" not in html and "<img src=x" not in html and "<b>" not in html
    assert {path.parent.name for path in Path(log.log_dir).rglob("*step*")} == {"media", "results"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("cka/a", "cka-a"), ("cka/a b", "cka/a-b"), ("CKA", "cka"), ("é", "è"), ("a" * 99, "a" * 98), ("../x", "x")],
)
def test_file_names(one, other):
    assert safe(one).lower() != safe(other).lower()
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", safe(one))
    assert safe("loss_contribution") == "loss_contribution"


def test_versions(tmp_path):
    for expected in range(3):
        log = LocalReport(tmp_path)
        log.log_metrics({"loss": 1.0}, 0)
        assert log.version == expected
    assert Path(LocalReport(tmp_path, version="mine").log_dir).name == "mine"


def test_an_interrupted_report_is_continued(tmp_path):
    first = LocalReport(tmp_path, version=0)
    for step in (0, 10, 20):
        first.log_metrics({"loss": 1.0}, step)
        publish([first], event(step, similarity=picture(step), mean=Scalar(1.0)))
    with Path(first.log_dir, "events.jsonl").open("a") as file:
        file.write('{"group": "cka", "st')  # the machine died here

    resumed = LocalReport(tmp_path, version=0)  # from the checkpoint at step 0
    for step in (10, 20, 30):
        resumed.log_metrics({"loss": 2.0}, step)
        publish([resumed], event(step, similarity=picture(100 + step), mean=Scalar(2.0)))
    resumed.finalize("success")
    ((frames),) = embedded(resumed)
    assert [frame["step"] for frame in frames] == [0, 10, 20, 30]
    assert embedded(resumed, "chart") == [[[0, 1.0], [10, 2.0], [20, 2.0], [30, 2.0]]] * 2
    assert "4 events" in resumed.index.read_text(encoding="utf-8")
    assert len(list(Path(resumed.log_dir, "media").iterdir())) == 4


def test_same_key_and_step_replaces(tmp_path):
    log = LocalReport(tmp_path)
    publish([log], event(5, note=Table(["a"], [["old"]]), mean=Scalar(1.0)))
    publish([log], event(5, note=Table(["a"], [["new"]]), mean=Scalar(float("nan"))))
    assert [frame["content"]["rows"] for frame in embedded(log)[0]] == [[["new"]]]
    assert embedded(log, "chart") == []


def test_thinning():
    assert thin(range(10), 10) == list(range(10))
    assert thin(range(101), 5) == [0, 25, 50, 75, 100]
    for length in (3, 50, 1000, 12345):
        chosen = thin(range(length), 50)
        assert len(chosen) == len(set(chosen)) == min(length, 50) and (chosen[0], chosen[-1]) == (0, length - 1)
    curve = [(i, 0.0) for i in range(20_001)]
    curve[777], curve[15_000] = (777, 9.0), (15_000, -9.0)
    thinned = thin_curve(curve)
    assert len(thinned) <= 1000 and thinned == sorted(thinned)
    assert {curve[0], curve[777], curve[15_000], curve[-1]} <= set(thinned)


def test_page_and_memory_are_bounded(tmp_path):
    log = LocalReport(tmp_path, max_history=4)
    log.log_metrics({"loss": 0.0}, 0)
    before = {key: sys.getsizeof(value) for key, value in vars(log).items()}
    for step in range(12):
        log.log_metrics({f"loss{step}": 1.0}, step)
        publish([log], event(step, similarity=picture(step)))
    assert {key: sys.getsizeof(value) for key, value in vars(log).items()}.keys() == before.keys()
    assert not any(isinstance(value, list | dict | set) for value in vars(log).values())
    assert [frame["step"] for frame in embedded(log)[0]] == [0, 4, 7, 11]
    assert "4 of 12 shown; all are in the folder" in log.index.read_text(encoding="utf-8")
    assert len(lines(log)) == 12
    with pytest.raises(ValueError, match="max_history"):
        LocalReport(max_history=1)


def test_heavy_panels_are_thinned_further(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_dynamics.publishing.local_report.page._PANEL_BYTES", 3000)
    log = LocalReport(tmp_path)
    for step in range(5):
        publish([log], event(step, page=Page("x" * 1000)))
    assert [frame["step"] for frame in embedded(log)[0]] == [0, 2, 4]


def test_training_scalars_alone_rewrite_the_page_seldom(tmp_path, monkeypatch):
    log = LocalReport(tmp_path)
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log.log_metrics({"loss": 1.0}, 0)
    assert embedded(log, "chart") == [[[0, 1.0]]]
    log.log_metrics({"loss": 2.0}, 1)
    log.save()  # as Lightning does after every log_metrics
    assert embedded(log, "chart") == [[[0, 1.0]]]
    now[0] += 31
    log.save()
    assert embedded(log, "chart") == [[[0, 1.0], [1, 2.0]]]
    log.log_metrics({"loss": 3.0}, 2)
    log.finalize("failed")
    assert len(embedded(log, "chart")[0]) == 3 and not list(Path(log.log_dir).glob(".*"))


def test_events_of_numbers_alone_rewrite_the_page_seldom(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = LocalReport(tmp_path)
    publish([log], event(1, map=picture(1)))
    before = log.index.read_text(encoding="utf-8")
    for step in range(2, 50):
        now[0] += 0.1
        publish([log], event(step, loss=Scalar(1 / step)))
    assert log.index.read_text(encoding="utf-8") == before
    now[0] += 40
    publish([log], event(50, loss=Scalar(0.02)))
    assert log.index.read_text(encoding="utf-8") != before
    assert len(lines(log)) == 50


def test_pages_take_a_small_share_of_the_run(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def slow(*arguments):
        now[0] += 0.4
        written.append(now[0])
        return ""

    written: list[float] = []
    monkeypatch.setattr("lightning_dynamics.publishing.local_report.logger.render", slow)
    log = LocalReport(tmp_path)
    for step in range(100):
        publish([log], event(step, map=picture(1)))
        now[0] += 1
    elapsed = now[0] - 1000
    assert written[:3] == pytest.approx([1000.4, 1001.8, 1003.2]), "a page that costs little is always up to date"
    assert 0.03 * elapsed <= 0.4 * len(written) <= 0.05 * elapsed + 1.4
    log.finalize("success")
    assert written[-1] == now[0], "the last page holds everything"


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log = LocalReport(tmp_path)
    log.log_hyperparams({"a": 1})
    log.log_metrics({"loss": 1.0}, 0)
    publish([log], event(0, mean=Scalar(1.0)))
    log.save()
    log.finalize("success")
    assert (log.name, log.version, log.save_dir) == ("report", 0, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_both_trainers(package, tmp_path):
    lightning = importlib.import_module(package)
    base = importlib.import_module(f"{package}.demos.boring_classes").BoringModel

    class Model(base):
        def __init__(self, width=3):
            super().__init__()
            self.save_hyperparameters()

        def training_step(self, batch, batch_idx):
            out = super().training_step(batch, batch_idx)
            self.log("train_loss", out["loss"])
            return out

    log = LocalReport(tmp_path)
    options = {"max_steps": 2, "limit_val_batches": 1, "logger": log, "enable_checkpointing": True}
    trainer(tmp_path, [], package=lightning, **options).fit(Model())
    assert len(embedded(log, "chart")[0]) == 2
    html = log.index.read_text(encoding="utf-8")
    assert "train_loss" in html and "width" in html and "success" in html
    assert list(Path(log.log_dir).glob("checkpoints/*.ckpt"))


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """A page with every kind of panel and several steps."""
    log = LocalReport(tmp_path_factory.mktemp("report"), name="browser")
    log.log_hyperparams({"lr": 0.1, "path": "/a/very/long" * 30})
    for step in range(0, 600, 10):
        log.log_metrics({"loss": 1 / (1 + step)}, step)
    wide = np.zeros((40, 900, 3), dtype=np.uint8)
    for step in (0, 100, 200):
        rows = [[f"layer{i}", (i * 7) % 300 if i else None, HOSTILE] for i in range(300)]
        panels = {
            "similarity": Picture(wide + np.uint8(step), f"caption {step}"),
            "change": picture(step),
            "film": Film([wide, wide + np.uint8(9)]),
            "layers": Table(["layer", "rank", HOSTILE], rows),
            "page": Page(f"<p id=p>page</p><script>document.getElementById('p').textContent = {step}</script>"),
            "mean": Scalar(step / 7),
            "hardest": Table(["index", "image", HOSTILE], [[i, picture(i), HOSTILE] for i in range(9)]),
            "scores": Download({f"{'long' * 40}.csv": b"1"}, "caption"),
        }
        publish([log], event(step, **panels))
    log.finalize("success")
    return log.index


needs_browser = pytest.mark.skipif(browser.find() is None, reason="no Chromium here")


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_looks(full, width, dark, tmp_path):
    driver = """
        return { inner: innerWidth, scroll: document.documentElement.scrollWidth,
                 page: getComputedStyle(document.body).backgroundColor,
                 loaded: performance.getEntriesByType("resource").map((entry) => entry.name) }"""
    shot = tmp_path / "page.png"
    visit = browser.visit(full, driver, width=width, dark=dark, screenshot=shot)
    assert visit.console == []
    assert visit.seen["scroll"] <= visit.seen["inner"] == width
    red = int(re.search(r"\d+", visit.seen["page"])[0])
    assert red < 60 if dark else red > 200
    assert all(name.startswith("data:") for name in visit.seen["loaded"])
    assert shot.stat().st_size > 5000


@needs_browser
def test_behaves(full):
    driver = r"""
        const panels = [...document.querySelectorAll(".panel")];
        const panel = (name) => panels.find((it) => it.querySelector("h3").textContent === name);
        const picture = panel("similarity"), other = panel("change"), table = panel("layers"), seen = {};
        const enter = (input, value) => { input.value = value; input.dispatchEvent(new Event("input")); };
        const slide = (it, to) => enter(it.querySelector("[type=range]"), to);
        const state = (it) => [it.querySelector("img").src, it.querySelector(".when").textContent];
        const caption = () => picture.querySelector("figcaption").textContent;
        const cells = (column) => [...table.querySelectorAll("tbody tr")].map((row) => row.cells[column].textContent);
        seen.last = [...state(picture), caption()];
        slide(picture, 0);
        seen.first = [...state(picture), caption()];
        seen.linked = state(other)[1];
        seen.mark = document.querySelector(".chart .here").getAttribute("visibility");
        picture.querySelector(".next").click();
        seen.next = state(picture)[1];
        seen.marked = document.querySelector(".chart .here").getAttribute("visibility");
        document.querySelector(".link").click();
        picture.querySelector(".previous").click();
        seen.unlinked = [state(picture)[1], state(other)[1]];
        seen.rows = [cells(0).length, table.querySelector(".rows").textContent];
        const sort = () => {
            table.querySelectorAll("thead button")[1].click();
            return table.querySelectorAll("th")[1].getAttribute("aria-sort");
        };
        seen.up = [sort(), ...cells(1).slice(0, 3)];
        seen.down = [sort(), ...cells(1).slice(0, 3)];
        table.querySelector(".all").click();
        seen.all = [cells(1).length, cells(1).at(-1)];
        enter(table.querySelector("[type=search]"), "LAYER29");
        seen.filtered = cells(0).length;
        seen.hostile = [cells(2)[0], typeof window.hacked];
        const chart = document.querySelector(".chart svg");
        chart.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
        seen.chart = [chart.querySelectorAll("polyline").length, document.querySelector(".chart output").textContent];
        const before = getComputedStyle(document.body).backgroundColor;
        document.getElementById("theme").click();
        seen.theme = getComputedStyle(document.body).backgroundColor !== before;
        const frame = panel("page").querySelector("iframe");
        seen.page = frame.getAttribute("sandbox");
        return seen"""
    visit = browser.visit(full, driver)
    assert visit.console == []
    seen = visit.seen
    assert seen["first"][0] != seen["last"][0]
    assert seen["last"][1:] == ["epoch 20, step 200", "caption 200"]
    assert seen["first"][1:] == ["epoch 0, step 0", "caption 0"]
    assert seen["linked"] == "epoch 0, step 0" and seen["next"] == "epoch 10, step 100"
    assert (seen["mark"], seen["marked"]) == ("hidden", "visible")
    assert seen["unlinked"] == ["epoch 0, step 0", "epoch 10, step 100"]
    assert seen["rows"] == [200, "first 200 of 300 rows"]
    assert seen["up"] == ["ascending", "1", "2", "3"]
    assert seen["down"] == ["descending", "299", "298", "297"]
    assert seen["all"] == [300, ""]  # empty cells last, both ways
    assert seen["filtered"] == 11
    assert seen["hostile"] == [HOSTILE, "undefined"]
    assert seen["chart"] == [1, "step 0: 0"]
    assert seen["theme"] is True
    assert seen["page"] == "allow-scripts allow-downloads"
