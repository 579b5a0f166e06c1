"""House rule 5: interrupted and resumed equals uninterrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from tests.house.models import Convnet, NoisyImages
from tests.house.registry import CASES
from tests.house.training import assert_identical, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Quiet(NoisyImages):
    """Every minibatch alike: Lightning resumes neither random streams nor a loader's place in mid-epoch."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index % 8], int(self.labels[index % 8])


class Undisturbed(Convnet):
    """Without dropout, and always with the same noise, for the same reason."""

    def __init__(self) -> None:
        super().__init__()
        self.drop.p = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.noise.manual_seed(3)
        return super().forward(x)


class Stops(Callback):
    """An interruption: the Trainer was meant to go on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


def fit(folder: Path, callback: Any, *, checkpoint: str | None = None, stop: int = -1) -> None:
    torch.manual_seed(0)
    keeper = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=3)
    run = trainer(folder, [callback, keeper, Stops(stop)], enable_checkpointing=True, max_epochs=3)
    run.fit(Undisturbed(), DataLoader(Quiet(), 8), ckpt_path=checkpoint)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [6, 9], ids=["mid-epoch", "later"])
def test_resumed_equals_uninterrupted(case: str, stop: int, tmp_path: Path) -> None:
    options = {"every_n_train_steps": 2, "at_start": True}
    whole = CASES[case].make(**options)
    fit(tmp_path / "whole", whole)
    first = CASES[case].make(**options)
    fit(tmp_path / "cut", first, stop=stop)
    resumed = CASES[case].make(**options)
    fit(tmp_path / "cut", resumed, checkpoint=str(tmp_path / "cut" / f"step={stop}.ckpt"))
    assert [result.step for result in resumed.results] == [result.step for result in whole.results]
    for a, b in zip(whole.results, resumed.results, strict=True):
        assert_identical(a.to_state(), b.to_state())


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_load_as_weights_only(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make(at_start=True)
    fit(tmp_path, callback)
    checkpoint = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert callback.state_key in checkpoint["callbacks"]


@pytest.mark.parametrize("case", CASES)
def test_two_of_a_class_keep_their_own_state(case: str, tmp_path: Path) -> None:
    pair = [CASES[case].make(seed=0), CASES[case].make(seed=1)]
    run = trainer(tmp_path, pair, enable_checkpointing=True, max_epochs=1)
    run.fit(Undisturbed(), DataLoader(Quiet(), 8))
    assert pair[0].state_key != pair[1].state_key
    assert {callback.label for callback in pair} == {pair[0].group, f"{pair[0].group}-2"}
