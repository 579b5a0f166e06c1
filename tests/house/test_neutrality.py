"""House rule 1: training is bit-identical with and without the callbacks."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch

from tests.house.cases import each, make, together
from tests.house.models import Convnet, Frozen, TwoOptimizers, loaders
from tests.house.training import assert_identical, train

SETTINGS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "plain": (Convnet, {}, {}),
    "frozen part, Adam": (Frozen, {}, {}),
    "two optimizers": (TwoOptimizers, {}, {}),
    "accumulation and clipping": (Convnet, {}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}),
    "persistent workers": (Convnet, {"workers": 1}, {}),
    "bf16": (Convnet, {}, {"precision": "bf16-mixed"}),
    "validation in mid-epoch": (Convnet, {}, {"val_check_interval": 2}),
}


@lru_cache
def without(setting: str) -> dict[str, Any]:
    """What training leaves behind that nobody watches; it is not changed."""
    model, data, options = SETTINGS[setting]
    return train(Path("unused"), model(), loaders(**data), [], **options)


@together
@pytest.mark.parametrize("setting", SETTINGS)
def test_training_is_bit_identical(names: tuple[str, ...], setting: str, tmp_path: Path) -> None:
    model, data, options = SETTINGS[setting]
    callbacks = make(names, every_n_train_steps=3, at_start=True)
    with_them = train(tmp_path, model(), loaders(**data), list(callbacks.values()), **options)
    for name, callback in callbacks.items():
        assert len(callback.results) >= 3, f"{name} did not run"
    assert_identical(without(setting), with_them)


@each
def test_training_is_bit_identical_when_pictures_are_drawn(name: str, tmp_path: Path) -> None:
    (callback,) = make([name], draws=True, every_n_train_steps=6, at_start=True).values()
    with_it = train(tmp_path, Convnet(), loaders(), [callback])
    assert len(callback.results) >= 2, "the analysis did not run"
    assert_identical(without("plain"), with_it)


@together
def test_failing_analyses_leave_training_alone(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = make(names, every_n_train_steps=3, on_error="warn")

    def fails_after(measure: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def fails(context: Any) -> Any:
            measure(context)
            for module in context.module.modules():
                module.training = True
            raise RuntimeError("no")

        return fails

    for callback in callbacks.values():
        monkeypatch.setattr(callback, "measure", fails_after(callback.measure))
    with_them = train(tmp_path, Convnet(), loaders(), list(callbacks.values()))
    assert all(callback.last_result is None for callback in callbacks.values())
    assert_identical(without("plain"), with_them)


SINS: dict[str, Callable[[Any, Any, Any], object]] = {
    "forward in train mode": lambda trainer, module, batch: module(batch[0]),
    "random numbers of torch": lambda trainer, module, batch: torch.rand(()),
    "random numbers of NumPy": lambda trainer, module, batch: np.random.rand(),
    "random numbers of Python": lambda trainer, module, batch: random.random(),
    "a pass over the loader": lambda trainer, module, batch: next(iter(trainer.train_dataloader)),
    "reading the data set": lambda trainer, module, batch: trainer.train_dataloader.dataset[0],
    "gradients": lambda trainer, module, batch: module.conv2.weight.grad.add_(1e-3),
    "buffers": lambda trainer, module, batch: module.norm.running_mean.add_(1e-3),
    "a metric": lambda trainer, module, batch: module.accuracy.update(torch.zeros(1), torch.zeros(1, dtype=torch.int)),
    "a list that grows": lambda trainer, module, batch: module.losses.append(torch.zeros(())),
    "training flags": lambda trainer, module, batch: module.drop.eval(),
    "a row in the logs": lambda trainer, module, batch: module.log("train/more", 0.0),
}


@pytest.mark.parametrize("sin", SINS)
def test_the_rule_can_be_broken(sin: str, tmp_path: Path) -> None:
    """That the comparison above sees each of the things a callback could disturb."""

    class Sinner(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                SINS[sin](trainer, pl_module, batch)

    without = train(tmp_path, Convnet(), loaders(), [], accumulate_grad_batches=3)
    with_it = train(tmp_path, Convnet(), loaders(), [Sinner()], accumulate_grad_batches=3)
    with pytest.raises(AssertionError):
        assert_identical(without, with_it)
