"""House rule 5: bad input gets a specific error before training; a failing analysis does not end training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from lightning_dynamics import ConfigurationError
from tests.house.models import Convnet, loaders
from tests.house.registry import CASES
from tests.house.training import PACKAGES, Recorder, train, trainer

BAD = [(case, arguments, word) for case, entry in CASES.items() for arguments, word in entry.bad]


@pytest.mark.parametrize(("case", "arguments", "word"), BAD, ids=[f"{t}-{a}" for t, a, _ in BAD])
def test_bad_arguments_are_refused_before_training(
    case: str, arguments: dict[str, Any], word: str, tmp_path: Path
) -> None:
    model = Convnet()
    with warnings.catch_warnings(), pytest.raises(ConfigurationError, match=word):
        warnings.simplefilter("ignore")
        callback = CASES[case].make(**arguments | {"on_error": arguments.get("on_error", "warn")})
        trainer(tmp_path, [callback]).fit(model, **loaders())
    assert not model.losses, "a training step was taken before the error"


def test_the_error_is_what_either_lightning_calls_a_misconfiguration() -> None:
    for package in PACKAGES.values():
        assert issubclass(ConfigurationError, package.utilities.exceptions.MisconfigurationException)
    assert issubclass(ConfigurationError, ValueError)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", ["prepare", "measure", "combine", "panels", "film"])
def test_a_failing_analysis_warns_once(case: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = CASES[case].make(every_n_train_steps=3, on_error="warn")

    def fails(*_: Any) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(callback, part, fails)
    model = Convnet()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, [callback], logger=Recorder()).fit(model, **loaders())
    told = [str(warning.message) for warning in caught if "broken on purpose" in str(warning.message)]
    assert len(told) == 1 and "Traceback" in told[0]
    assert len(model.losses) == 8


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", ["prepare", "measure", "combine", "panels", "film"])
def test_on_error_raise_ends_training(case: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = CASES[case].make(on_error="raise")

    def fails(*_: Any) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(callback, part, fails)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        train(tmp_path, Convnet(), loaders(), [callback])


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "ModelParallelStrategy"])
@pytest.mark.parametrize("case", CASES)
def test_sharded_strategies_are_refused_at_setup(
    case: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, [])
    monkeypatch.setattr(run.strategy, "__class__", type(strategy, (type(run.strategy),), {}))
    with pytest.raises(ConfigurationError, match=strategy):
        CASES[case].make().setup(run, Convnet(), "fit")


@pytest.mark.parametrize("case", CASES)
def test_diverged_training_is_no_failure(case: str, tmp_path: Path) -> None:
    """Weights of NaN give a result of NaN, not an error."""
    callback = CASES[case].make(on_error="raise")
    model = Convnet()
    step = model.training_step
    model.training_step = lambda batch, batch_idx: step(batch, batch_idx) * float("nan")  # type: ignore[method-assign]
    train(tmp_path, model, loaders(), [callback])
    assert callback.last_result.epoch == 1
