"""House rule 5: bad input gets a specific error before training; a failing analysis does not end training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from lightning_dynamics import ConfigurationError
from tests.house.cases import NAMES, make, together, wide
from tests.house.models import Convnet, loaders
from tests.house.registry import CASES
from tests.house.training import PACKAGES, Recorder, train, trainer

BAD = [(case, arguments, word) for case, entry in CASES.items() for arguments, word in entry.bad]
PARTS = ("measure", "combine", "prepare", "panels", "closing panels")


@pytest.mark.parametrize(("name", "arguments", "word"), BAD, ids=[f"{t}-{a}" for t, a, _ in BAD])
def test_bad_arguments_are_refused_before_training(
    name: str, arguments: dict[str, Any], word: str, tmp_path: Path
) -> None:
    model = Convnet()
    with warnings.catch_warnings(), pytest.raises(ConfigurationError, match=word):
        warnings.simplefilter("ignore")
        callback = CASES[name].make(**arguments | {"on_error": arguments.get("on_error", "warn")})
        trainer(tmp_path, [callback]).fit(model, **loaders())
    assert not model.losses, "a training step was taken before the error"


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
    callbacks = make(names, draws=True, on_error="raise")
    model = Convnet()
    step = model.training_step
    model.training_step = lambda batch, batch_idx: step(batch, batch_idx) * float("nan")  # type: ignore[method-assign]
    train(tmp_path, model, loaders(), list(callbacks.values()))
    for name, callback in callbacks.items():
        assert callback.last_result is not None and callback.last_result.epoch == 1, name
