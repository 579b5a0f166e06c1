"""How arguments are refused, and how a failure is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lightning_dynamics.core.checks import check_count, is_count, speaking, spoken, warn_of_failure
from lightning_dynamics.core.lightning import ConfigurationError


@pytest.mark.parametrize(("value", "least"), [(1, 1), (7, 1), (0, 0), (-2, -3)])
def test_counts(value: Any, least: int) -> None:
    assert is_count(value, least)
    check_count("k", value, least)


@pytest.mark.parametrize(("value", "least"), [(0, 1), (-1, 0), (True, 1), (1.0, 1), ("1", 1), (None, 0)])
def test_no_counts(value: Any, least: int) -> None:
    assert not is_count(value, least)
    with pytest.raises(
        ConfigurationError, match=re.escape(f"`k` must be a whole number from {least} up, got {value!r}")
    ):
        check_count("k", value, least)


class Special(ConfigurationError):
    """One of several."""


def test_complaints_begin_with_whose_they_are_once() -> None:
    error = Special("`k` must be 3")
    said = spoken(error, "CKACallback")
    assert type(said) is Special and str(said) == "CKACallback: `k` must be 3"
    assert spoken(said, "CKACallback") is said


class Parent:
    @speaking
    def __init__(self, k: int) -> None:
        if k == 0:
            try:
                raise KeyError("cause")
            except KeyError as cause:
                raise ConfigurationError("`k` must not be 0") from cause
        if k < 0:
            raise RuntimeError("another matter")
        self.k = k


class Child(Parent):
    @speaking
    def __init__(self, k: int, *, name: str = "child") -> None:
        super().__init__(k)
        self.name = name


def test_constructors_speak_for_their_class() -> None:
    assert (Child(3, name="x").k, Parent(2).k) == (3, 2)
    for own in (Parent, Child):
        with pytest.raises(ConfigurationError) as caught:
            own(0)
        assert str(caught.value) == f"{own.__name__}: `k` must not be 0"
        assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(RuntimeError, match="^another matter$"):
        Child(-1)


def test_what_cannot_be_done_is_told_in_words() -> None:
    with pytest.warns(UserWarning) as caught:
        warn_of_failure("CKACallback", ConfigurationError("`k` must be 3"))
    (warning,) = caught
    text = "CKACallback rests, and training goes on (`on_error='raise'` stops it instead): `k` must be 3"
    assert str(warning.message) == text


def test_what_failed_is_told_with_its_traceback() -> None:
    def breaks() -> None:
        raise ZeroDivisionError("by zero")

    try:
        breaks()
    except ZeroDivisionError as error:
        with pytest.warns(UserWarning) as caught:
            warn_of_failure("CKACallback", error)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(
        "CKACallback failed, and training goes on without this analysis (said once; `on_error='raise'`"
    )
    assert "in breaks" in text and text.endswith("ZeroDivisionError: by zero\n")
