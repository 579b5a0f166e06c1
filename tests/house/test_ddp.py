"""House rule 4: two processes find what one finds; failures are agreed on, and nothing hangs."""

from __future__ import annotations

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
from tests.house.models import Convnet, loaders
from tests.house.registry import CASES
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

    def __init__(self, callback: Any, folder: Path) -> None:
        self.callback = callback
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        state = [result.to_state() for result in self.callback.results]
        torch.save(state, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def fit(folder: Path, callback: Any, **options: Any) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as ddp_fork's children have it: float32 sums in the same order
    trainer(folder, [callback, SavesResults(callback, folder)], **options).fit(NoLearning(), **loaders())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_examples", [24, 8], ids=["odd number of minibatches", "a rank without work"])
def test_two_processes_equal_one(case: str, num_examples: int, tmp_path: Path) -> None:
    for options in ({}, TWO):
        fit(tmp_path, CASES[case].make(num_examples=num_examples, at_start=True), **options)
    one, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert len(one) >= 2
    # The same events but for their steps: two processes take half as many.
    for a, b, c in zip((one[0], one[-1]), (first[0], first[-1]), (second[0], second[-1]), strict=True):
        assert b["num_examples"] == a["num_examples"] == num_examples
        a, b, c = (numbers(state) for state in (a, b, c))
        assert a.keys() == b.keys() == c.keys()
        for key in a:
            torch.testing.assert_close(b[key], a[key], rtol=1e-9, atol=1e-9, equal_nan=True)
            torch.testing.assert_close(c[key], b[key], rtol=0, atol=0, equal_nan=True)


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


@pytest.mark.parametrize("case", CASES)
def test_one_failing_process_does_not_hang_the_other(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = CASES[case].make(on_error="warn")
    monkeypatch.setattr(callback, "measure", FailsOnRankOne(callback))
    fit(tmp_path, callback, **TWO)
    assert torch.load(tmp_path / "2-0.pt") == torch.load(tmp_path / "2-1.pt") == []


@pytest.mark.parametrize("case", CASES)
def test_on_error_raise_ends_every_process(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = CASES[case].make(on_error="raise")
    monkeypatch.setattr(callback, "measure", FailsOnRankOne(callback))
    with warnings.catch_warnings(), pytest.raises(Exception, match="broken on rank one|another process"):
        fit(tmp_path, callback, **TWO)


@pytest.mark.parametrize("case", CASES)
def test_rank_zero_publishes_each_event_once(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make()
    fit(tmp_path, callback, logger=LocalReport(save_dir=str(tmp_path), name="report"), **TWO)
    (version,) = (tmp_path / "report").iterdir()
    results = torch.load(tmp_path / "2-0.pt")
    shown = [result for result in results if result["step"] or callback.shows is callback.schedule]
    assert len(list((version / "results").glob("*.npz"))) == len(shown) > 0
    assert (version / "index.html").stat().st_size > 10_000


def test_ddp_from_a_script(tmp_path: Path) -> None:
    """The launcher that people use: Lightning starts the script once more for each further device."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            import torch
            from tests.house.registry import CASES
            from tests.house.test_ddp import fit

            if __name__ == "__main__":
                for number, case in enumerate(CASES.values()):
                    folder = Path({str(tmp_path)!r}) / str(number)
                    folder.mkdir(exist_ok=True)
                    fit(folder, case.make(), strategy="ddp", devices=2)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    ended = subprocess.run([sys.executable, str(script)], env=environment, timeout=240, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for number in range(len(CASES)):
        ranks = [torch.load(tmp_path / str(number) / f"2-{rank}.pt") for rank in (0, 1)]
        assert ranks[0] and len(ranks[0]) == len(ranks[1])
        assert ranks[0][-1]["step"] == ranks[1][-1]["step"] == 4
