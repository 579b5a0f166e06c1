"""What reaches the user: a real offline W&B run, decoded, and a local report."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger

from lightning_dynamics import LocalReport
from lightning_dynamics.panels import Page, Picture, Table
from tests import browser
from tests.house.models import Convnet, loaders
from tests.house.registry import CASES
from tests.house.training import trainer
from tests.wandb_file import media_file, read_history

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def shown_results(callback: Any) -> list[Any]:
    """Results shown with all panels: all, or all but the untrained model's."""
    return [result for result in callback.results if result.step or callback.shows is callback.schedule]


@pytest.mark.parametrize("case", CASES)
def test_an_offline_wandb_run_holds_every_promised_key(case: str, tmp_path: Path) -> None:
    import wandb

    callback = CASES[case].make()
    logger = WandbLogger(project="house", save_dir=tmp_path, offline=True)
    trainer(tmp_path, [callback], logger=logger).fit(Convnet(), **loaders())
    run = Path(logger.experiment.dir).parent
    wandb.finish()
    rows = [row for row in read_history(run) if any(key.startswith(f"{callback.label}/") for key in row)]
    events = [row for row in rows if f"{callback.label}/values" in row or len(rows) == 1]
    shown = shown_results(callback)[CASES[case].fewest_events - 1 :]
    assert len(events) == len(shown), "one log call per event"
    for row, result in zip(events, shown, strict=True):
        assert (row["epoch"], row["trainer/global_step"]) == (result.epoch, result.step)
        keys = {key.removeprefix(f"{callback.label}/") for key in row}
        for promised in CASES[case].keys:
            assert any(fnmatchcase(key, promised) for key in keys), (promised, sorted(keys))
        for value in row.values():
            if isinstance(value, dict) and value.get("_type") in ("images/separated", "table-file", "html-file"):
                assert media_file(run, value).stat().st_size > 0
            if isinstance(value, dict) and value.get("_type") == "table-file":
                json.loads(media_file(run, value).read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("case", CASES)
def test_panels_say_what_they_show(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make()
    trainer(tmp_path, [callback]).fit(Convnet(), **loaders())
    result = callback.last_result
    panels = callback.panels(result) | callback.film(callback.results)
    assert all(key.startswith(f"{callback.label}/") for key in panels)
    assert any(isinstance(panel, Picture) for panel in panels.values())
    for key, panel in panels.items():
        if isinstance(panel, Picture | Table | Page):
            assert f"{result.num_examples} examples" in panel.caption, key
            assert f"step {result.step}" in panel.caption, key
    for key, value in callback.scalars(result).items():
        assert value == value, f"{key} is NaN on a healthy model"


@pytest.mark.parametrize("case", CASES)
def test_results_survive_a_file(case: str, tmp_path: Path) -> None:
    from tests.house.training import assert_identical

    callback = CASES[case].make()
    trainer(tmp_path, [callback]).fit(Convnet(), **loaders())
    callback.last_result.save(tmp_path / "result.npz")
    loaded = type(callback.last_result).load(tmp_path / "result.npz")
    assert_identical(loaded.to_state(), callback.last_result.to_state())


LOOK = """
    const figures = [...document.querySelectorAll("section")].flatMap((section) =>
        [...section.querySelectorAll("figure")].map((figure) => ({
            key: section.querySelector("h2").textContent + "/" + figure.querySelector("h3, .label").textContent,
            drawn: [...figure.querySelectorAll("img")].every((image) => image.naturalWidth > 0),
        })));
    return figures;
"""


@pytest.mark.skipif(browser.find() is None, reason="no Chromium")
@pytest.mark.parametrize("case", CASES)
def test_the_local_report_shows_it_in_a_browser(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make()
    report = LocalReport(save_dir=str(tmp_path))
    trainer(tmp_path, [callback], logger=report).fit(Convnet(), **loaders())
    visit = browser.visit(report.index, LOOK)
    assert visit.console == []
    keys = [figure["key"] for figure in visit.seen]
    for promised in CASES[case].keys:
        assert any(fnmatchcase(key, f"{callback.label}/{promised}") for key in keys), (promised, keys)
    assert all(figure["drawn"] for figure in visit.seen)
    shown = shown_results(callback)
    assert len(list((report.index.parent / "results").glob("*.npz"))) == len(shown)
