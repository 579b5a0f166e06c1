"""What reaches the user: a real offline W&B run, decoded, and a local report."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger

from lightning_dynamics import LocalReport
from lightning_dynamics.figures.result import closing_panels
from lightning_dynamics.panels import Page, Picture, Table
from tests import browser
from tests.house.cases import NAMES, make
from tests.house.models import Convnet, loaders
from tests.house.registry import CASES
from tests.house.training import assert_identical, trainer
from tests.wandb_file import media_file, read_history

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Run:
    """One training with all callbacks, shown in W&B (offline) and in a local report."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self.callbacks = make(NAMES, draws=True)
        self.report = LocalReport(save_dir=str(folder))
        tracker = WandbLogger(project="house", save_dir=folder, offline=True)
        trainer(folder, list(self.callbacks.values()), logger=[tracker, self.report]).fit(Convnet(), **loaders())
        self.folder = Path(tracker.experiment.dir).parent
        wandb.finish()
        self.history = read_history(self.folder)


def test_what_one_training_publishes(tmp_path: Path) -> None:
    """One test, since the training and its pictures take longer than all that is looked at."""
    run = Run(tmp_path)
    an_offline_wandb_run_holds_every_promised_key(run)
    panels_say_what_they_show(run)
    results_plot_themselves(run)
    results_survive_a_file(run, tmp_path)
    if browser.find() is not None:
        the_local_report_shows_them_in_a_browser(run)


def shown_results(callback: Any) -> list[Any]:
    """Results shown with all panels: all, or all but the untrained model's."""
    return [result for result in callback.results if result.step or callback.shows is callback.schedule]


def an_offline_wandb_run_holds_every_promised_key(run: Run) -> None:
    for name, callback in run.callbacks.items():
        rows = [row for row in run.history if any(key.startswith(f"{callback.label}/") for key in row)]
        events = [row for row in rows if f"{callback.label}/values" in row or len(rows) == 1]
        shown = shown_results(callback)[CASES[name].fewest_events - 1 :]
        assert len(events) == len(shown) > 0, f"one log call per event of {name}"
        for row, result in zip(events, shown, strict=True):
            assert (row["epoch"], row["trainer/global_step"]) == (result.epoch, result.step), name
            keys = {key.removeprefix(f"{callback.label}/") for key in row}
            for promised in CASES[name].keys:
                assert any(fnmatchcase(key, promised) for key in keys), (name, promised, sorted(keys))
            for value in row.values():
                if isinstance(value, dict) and value.get("_type") in ("images/separated", "table-file", "html-file"):
                    assert media_file(run.folder, value).stat().st_size > 0
                if isinstance(value, dict) and value.get("_type") == "table-file":
                    text = media_file(run.folder, value).read_text()
                    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))


def panels_say_what_they_show(run: Run) -> None:
    for name, callback in run.callbacks.items():
        result = callback.last_result
        assert result is not None
        panels = dict(result.panels()) | {key: make() for key, make in closing_panels(result, callback.results).items()}
        assert any(isinstance(panel, Picture) for panel in panels.values()), name
        for key, panel in panels.items():
            if isinstance(panel, Picture | Table | Page):
                assert f"{result.num_examples} examples" in panel.caption, (name, key)
                assert f"step {result.step}" in panel.caption, (name, key)
        for key, value in result.scalars().items():
            assert value == value, f"{name}: {key} is NaN on a healthy model"


def results_plot_themselves(run: Run) -> None:
    for name, callback in run.callbacks.items():
        result = callback.last_result
        assert result is not None and result.plots, name
        assert set(result.plots) <= set(result.panels()), name
        assert result.plot().get_axes(), name


def results_survive_a_file(run: Run, tmp_path: Path) -> None:
    for name, callback in run.callbacks.items():
        result = callback.last_result
        assert result is not None
        result.save(tmp_path / "result.npz")
        loaded = type(result).load(tmp_path / "result.npz")
        assert_identical(loaded.to_state(), result.to_state(), name)
        assert loaded.plots == result.plots and loaded.scalars() == result.scalars(), name


LOOK = """
    const figures = [...document.querySelectorAll("section")].flatMap((section) =>
        [...section.querySelectorAll("figure")].map((figure) => ({
            key: section.querySelector("h2").textContent + "/" + figure.querySelector("h3, .label").textContent,
            drawn: [...figure.querySelectorAll("img")].every((image) => image.naturalWidth > 0),
        })));
    return figures;
"""


def the_local_report_shows_them_in_a_browser(run: Run) -> None:
    visit = browser.visit(run.report.index, LOOK)
    assert visit.console == []
    keys = [figure["key"] for figure in visit.seen]
    for name, callback in run.callbacks.items():
        for promised in CASES[name].keys:
            assert any(fnmatchcase(key, f"{callback.label}/{promised}") for key in keys), (name, promised, keys)
    assert all(figure["drawn"] for figure in visit.seen)
    shown = sum(len(shown_results(callback)) for callback in run.callbacks.values())
    assert len(list((run.report.index.parent / "results").glob("*.npz"))) == shown
