"""House rule 5: bad input is told before training; neither it nor a failing analysis ends training, unless told to."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dynamics import ConfigurationError
from tests.house.cases import NAMES, make, together, wide
from tests.house.models import Convnet, loaders
from tests.house.registry import CASES
from tests.house.training import PACKAGES, Recorder, assert_identical, train, trainer

BAD = [(case, arguments, word) for case, entry in CASES.items() for arguments, word in entry.bad]
PARTS = ("measure", "combine", "prepare", "panels", "closing panels")


@cache
def complaint(number: int) -> tuple[str, bool]:
    """What is raised for these arguments, and whether the callback is there already; no step may have been taken."""
    name, arguments, _ = BAD[number]
    model, callback = Convnet(), None
    with pytest.raises(ConfigurationError) as caught:
        callback = CASES[name].make(**{"on_error": "raise"} | arguments)
        train(Path("unused"), model, loaders(), [callback])
    assert not model.losses, "a training step was taken before the error"
    return str(caught.value), callback is not None


@pytest.mark.parametrize("number", range(len(BAD)), ids=[f"{case}-{arguments}" for case, arguments, _ in BAD])
def test_bad_arguments_are_refused_before_training(number: int) -> None:
    """In words that begin with whose they are, and name the argument."""
    name, _, word = BAD[number]
    text, _ = complaint(number)
    assert re.match(rf"{type(CASES[name].make()).__name__}( \(\S+\))?: ", text), text
    assert word in text


def test_unless_told_to_raise_they_rest_and_nothing_else_notices(tmp_path: Path) -> None:
    """What module and data are refused for, all in one Trainer with callbacks that can work."""
    late = [number for number in range(len(BAD)) if complaint(number)[1]]
    assert {"cka", "loss contribution", "vog", "landscape", "curvature", "critical points"} <= {BAD[n][0] for n in late}
    resting = {n: CASES[BAD[n][0]].make(**{"name": f"bad_{n}"} | BAD[n][1] | {"on_error": "warn"}) for n in late}
    working = make(NAMES)
    without = train(tmp_path, Convnet(), loaders(), [])
    told: list[str] = []
    with_them = train(tmp_path, Convnet(), loaders(), [*resting.values(), *working.values()], told=told)
    assert_identical(without, with_them)
    for number, callback in resting.items():
        own = [text for text in told if text.startswith(f"{callback.speaker} rests, and training goes on")]
        assert len(own) == 1, (BAD[number], own)
        assert callback.refusal is not None and own[0].endswith(f": {callback.refusal}")
        assert complaint(number)[0].endswith(f": {callback.refusal}"), "on_error='raise' says the same"
        assert callback.last_result is None
    for name, healthy in working.items():
        assert healthy.refusal is None and healthy.last_result is not None and healthy.last_result.epoch == 1, name


def test_the_error_is_what_either_lightning_calls_a_misconfiguration() -> None:
    for package in PACKAGES.values():
        assert issubclass(ConfigurationError, package.utilities.exceptions.MisconfigurationException)
    assert issubclass(ConfigurationError, ValueError)


def broken(callbacks: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part of each callback fails, and says whose it is."""
    for name, callback in callbacks.items():

        def fails(*_: Any, name: str = name) -> Any:
            raise RuntimeError(f"{name} is broken on purpose")

        if part == "panels":  # those of a result; one class serves several callbacks
            callback.shows = callback.schedule
            monkeypatch.setattr(callback.result_type, "panels", fails)
        elif part == "closing panels":
            monkeypatch.setattr("lightning_dynamics.analyses.callback.closing_panels", fails)
        else:
            monkeypatch.setattr(callback, part, fails)


@together
@pytest.mark.parametrize("part", PARTS)
def test_failing_analyses_warn_once(
    names: tuple[str, ...], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = make(names, every_n_train_steps=3, on_error="warn")
    broken(callbacks, part, monkeypatch)
    model = Convnet()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, list(callbacks.values()), logger=Recorder()).fit(model, **loaders())
    told = [str(warning.message) for warning in caught if "broken on purpose" in str(warning.message)]
    for callback in callbacks.values():
        own = [text for text in told if f"({callback.label})" in text]
        assert len(own) == 1 and "Traceback" in own[0], callback.label
    assert len(told) == len(callbacks)
    assert len(model.losses) == 8


@wide("part", PARTS)
def test_on_error_raise_ends_training(name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = make([name], on_error="raise")
    broken(callbacks, part, monkeypatch)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        train(tmp_path, Convnet(), loaders(), list(callbacks.values()))


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "ModelParallelStrategy"])
def test_sharded_strategies_are_refused_at_setup(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, [])
    monkeypatch.setattr(run.strategy, "__class__", type(strategy, (type(run.strategy),), {}))
    for name in NAMES:
        with pytest.raises(ConfigurationError, match=strategy):
            CASES[name].make().setup(run, Convnet(), "fit")


@together
def test_diverged_training_is_no_failure(names: tuple[str, ...], tmp_path: Path) -> None:
    """Weights of NaN give a result of NaN, not an error, and pictures that say so."""

    class Diverging(Convnet):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.global_step else loss

    callbacks = make(names, draws=True, on_error="raise")
    train(tmp_path, Diverging(), loaders(), list(callbacks.values()))
    for name, callback in callbacks.items():
        assert callback.last_result is not None and callback.last_result.epoch == 1, name
