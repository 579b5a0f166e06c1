"""Common arguments: every callback's signature, docstring and checks agree with the one place that declares them."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import lightning_dynamics
from lightning_dynamics import AnalysisCallback, ConfigurationError
from lightning_dynamics.analyses.arguments import COMMON, check, documented

CALLBACKS = [
    cls
    for name in lightning_dynamics.__all__
    if inspect.isclass(cls := getattr(lightning_dynamics, name)) and issubclass(cls, AnalysisCallback)
    if cls is not AnalysisCallback
]
OWN = {("LandscapeCallback", "batch_size"): "int | None"}
"""Arguments that take more in one callback than elsewhere: each is explained in its docstring."""


def explained(cls: type) -> list[str]:
    """Arguments that a docstring explains, in order."""
    (arguments,) = re.findall(r"^Args:\n((?:[ ]+.*\n|\n)*)", inspect.cleandoc(cls.__doc__ or "") + "\n", re.MULTILINE)
    return re.findall(r"^    (\w+): ", arguments, re.MULTILINE)


def test_there_is_something_to_check() -> None:
    assert len(CALLBACKS) >= 6


@pytest.mark.parametrize("cls", CALLBACKS)
def test_signatures_agree(cls: type) -> None:
    own = inspect.signature(cls).parameters
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()), "signatures are explicit"
    common = [name for name in own if name in COMMON]
    assert {"data", "num_examples", "batch_size", "seed", "name", "on_error"} <= set(common)
    for name in common:
        assert own[name].annotation == OWN.get((cls.__name__, name), COMMON[name].annotation), name
    check({name: own[name].default for name in common if (cls.__name__, name) not in OWN})


@pytest.mark.parametrize("cls", CALLBACKS)
def test_docstrings_explain_every_argument_once(cls: type) -> None:
    assert sorted(explained(cls)) == sorted(inspect.signature(cls).parameters)


@pytest.mark.parametrize("cls", CALLBACKS)
def test_common_arguments_become_attributes(cls: type) -> None:
    own = inspect.signature(cls).parameters
    given: dict[str, Any] = {"num_examples": 16, "batch_size": 8, "seed": 3, "name": "mine", "on_error": "raise"}
    given |= {"every_n_train_steps": 5}
    callback = cls(**{name: value for name, value in given.items() if name in own})
    for name, value in given.items():
        assert getattr(callback, name) == value, name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_examples": 0}, "`num_examples` must be a whole number from 1 up, got 0"),
        ({"num_examples": True}, "got True"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number from 1 up, got 2.5"),
        ({"every_n_epochs": 0}, "`every_n_epochs` must be a whole number from 1 up, or None for never, got 0"),
        ({"mode": "test"}, "`mode` must be 'eval', 'train' or None, got 'test'"),
        ({"on_error": "ignore"}, "`on_error` must be 'warn' or 'raise', got 'ignore'"),
    ],
)
def test_values_that_cannot_work(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        check(given)


def test_docstrings_are_completed() -> None:
    class Explained:
        """First line.

        Args:
            layers: which.
            seed: of the noise.

        Raises:
            ValueError: never.
        """

        def __init__(self, layers: str, data: Any = "train", seed: int = 0, on_error: str = "warn") -> None: ...

    text = documented(Explained)
    assert text is not None
    first, last = text.index("    data: "), text.index("    on_error: ")
    assert text.index("    seed: of the noise.") < first < last < text.index("\nRaises:")
    assert text.count("    seed: ") == 1 and max(map(len, text.splitlines())) <= 112


def test_a_docstring_without_arguments_stays() -> None:
    class Short:
        """One line."""

        def __init__(self, data: Any = "train") -> None: ...

    assert documented(Short) == "One line."
