"""House rule 4: two processes find what one finds; failures are agreed on, and nothing hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch

from lightning_dynamics import LocalReport
from lightning_dynamics.figures.result import Result
from tests.house.cases import NAMES, make, together, wide
from tests.house.models import Convnet, loaders
from tests.house.training import trainer

TWO = {"strategy": "ddp_fork", "devices": 2}

# Gloo and Lightning have advice of their own about processes, samplers and thread counts.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class NoLearning(Convnet):
    """Weights that stay as they are, so that one process and two have the same model to analyse."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.momentum = 0.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class SavesResults(lightning.Callback):
    """Brings results out of processes that end with the training."""

    def __init__(self, callbacks: dict[str, Any], folder: Path) -> None:
        self.callbacks = callbacks
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        state = {name: [one.to_state() for one in callback.results] for name, callback in self.callbacks.items()}
        torch.save(state, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def fit(folder: Path, callbacks: dict[str, Any], **options: Any) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as ddp_fork's children have it: float32 sums in the same order
    saves = SavesResults(callbacks, folder)
    trainer(folder, [*callbacks.values(), saves], **options).fit(NoLearning(), **loaders())


@together
@pytest.mark.parametrize("num_examples", [24, 8], ids=["odd number of minibatches", "a rank without work"])
def test_two_processes_equal_one(names: tuple[str, ...], num_examples: int, tmp_path: Path) -> None:
    for options in ({}, TWO):
        fit(tmp_path, make(names, num_examples=num_examples, at_start=True), **options)
    found = [torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]
    for name in names:
        one, first, second = (results[name] for results in found)
        assert len(one) >= 2, name
        # The same events but for their steps: two processes take half as many.
        for a, b, c in zip((one[0], one[-1]), (first[0], first[-1]), (second[0], second[-1]), strict=True):
            assert b["num_examples"] == a["num_examples"] == num_examples
            a, b, c = (numbers(state) for state in (a, b, c))
            assert a.keys() == b.keys() == c.keys(), name
            for key in a:
                where = f"{name}: {key}"
                torch.testing.assert_close(b[key], a[key], rtol=1e-9, atol=1e-9, equal_nan=True, msg=where)
                torch.testing.assert_close(c[key], b[key], rtol=0, atol=0, equal_nan=True, msg=where)


def numbers(value: Any, path: str = "") -> dict[str, Any]:
    """All tensors and floats in a result but for its steps, by where they are."""
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in numbers(inner, f"{path}/{name}").items()}
    return {path: value} if isinstance(value, torch.Tensor | float) and not path.endswith("steps") else {}


class FailsOnRankOne:
    """An analysis that only one of two processes cannot do."""

    def __init__(self, callback: Any) -> None:
        self.measure = callback.measure

    def __call__(self, context: Any) -> Any:
        if context.ranks.rank == 1:
            raise RuntimeError("broken on rank one")
        return self.measure(context)


@together
def test_one_failing_process_does_not_hang_the_other(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = make(names, on_error="warn")
    for callback in callbacks.values():
        monkeypatch.setattr(callback, "measure", FailsOnRankOne(callback))
    fit(tmp_path, callbacks, **TWO)
    nothing: dict[str, list[Any]] = {name: [] for name in names}
    assert torch.load(tmp_path / "2-0.pt") == torch.load(tmp_path / "2-1.pt") == nothing


@wide("on_error", ["raise"], first=0)
def test_on_error_raise_ends_every_process(
    name: str, on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = make([name], on_error=on_error)
    monkeypatch.setattr(callbacks[name], "measure", FailsOnRankOne(callbacks[name]))
    with warnings.catch_warnings(), pytest.raises(Exception, match="broken on rank one|another process"):
        fit(tmp_path, callbacks, **TWO)


@together
def test_rank_zero_publishes_each_event_once(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Result, "panels", lambda self: {})  # how they look is seen in test_published
    callbacks = make(names)
    for callback in callbacks.values():
        callback.shows = callback.schedule
    fit(tmp_path, callbacks, logger=LocalReport(save_dir=str(tmp_path), name="report"), **TWO)
    (version,) = (tmp_path / "report").iterdir()
    lines = [json.loads(line) for line in (version / "events.jsonl").read_text().splitlines()]
    found = torch.load(tmp_path / "2-0.pt")
    for name, callback in callbacks.items():
        group = f"{callback.group}/{callback.name}"
        shown = [(line["epoch"], line["step"]) for line in lines if line["group"] == group]
        assert shown == [(result["epoch"], result["step"]) for result in found[name]] != [], name
    assert len(list((version / "results").glob("*.npz"))) == len(lines)
    assert (version / "index.html").stat().st_size > 10_000


def test_ddp_from_a_script(tmp_path: Path) -> None:
    """The launcher that people use: Lightning starts the script once more for each further device."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            from tests.house.cases import NAMES, make
            from tests.house.test_ddp import fit

            if __name__ == "__main__":
                fit(Path({str(tmp_path)!r}), make(NAMES), strategy="ddp", devices=2)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    ended = subprocess.run([sys.executable, str(script)], env=environment, timeout=240, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    ranks = [torch.load(tmp_path / f"2-{rank}.pt") for rank in (0, 1)]
    for name in NAMES:
        first, second = (results[name] for results in ranks)
        assert first and len(first) == len(second), name
        assert first[-1]["step"] == second[-1]["step"] == 4, name
