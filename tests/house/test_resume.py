"""House rule 5: interrupted and resumed equals uninterrupted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from tests.house.cases import make, together
from tests.house.models import Convnet, NoisyImages
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


def fit(folder: Path, callbacks: dict[str, Any], *, checkpoint: str | None = None, stop: int = -1) -> None:
    torch.manual_seed(0)
    keeper = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=3)
    run = trainer(folder, [*callbacks.values(), keeper, Stops(stop)], enable_checkpointing=True, max_epochs=3)
    run.fit(Undisturbed(), DataLoader(Quiet(), 8), ckpt_path=checkpoint)


@together
@pytest.mark.parametrize("stop", [6, 9], ids=["mid-epoch", "later"])
def test_resumed_equals_uninterrupted(names: tuple[str, ...], stop: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"every_n_train_steps": 2, "at_start": True}
    whole, first, resumed = (make(names, **options) for _ in range(3))
    fit(tmp_path / "whole", whole)
    fit(tmp_path / "cut", first, stop=stop)
    fit(tmp_path / "cut", resumed, checkpoint=str(tmp_path / "cut" / f"step={stop}.ckpt"))
    for name in names:
        one, other = whole[name].results, resumed[name].results
        assert [result.step for result in one] == [result.step for result in other], name
        for a, b in zip(one, other, strict=True):
            assert_identical(a.to_state(), b.to_state(), name)


@together
def test_checkpoints_load_as_weights_only(names: tuple[str, ...], tmp_path: Path) -> None:
    callbacks = make(names, at_start=True)
    fit(tmp_path, callbacks)
    checkpoint = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    for callback in callbacks.values():
        assert callback.state_key in checkpoint["callbacks"]


@together
def test_two_of_a_class_keep_their_own_state(names: tuple[str, ...], tmp_path: Path) -> None:
    pairs = [make([name], name=None, seed=seed)[name] for name in names for seed in (0, 1)]
    run = trainer(tmp_path, pairs, enable_checkpointing=True, max_epochs=1)
    run.fit(Undisturbed(), DataLoader(Quiet(), 8))
    assert len({callback.state_key for callback in pairs}) == len({callback.label for callback in pairs}) == len(pairs)
    for callback in pairs:
        assert re.fullmatch(rf"{callback.group}(-\d+)?", callback.label)
