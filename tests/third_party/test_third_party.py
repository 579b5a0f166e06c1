"""Every analysis on modules that nobody here wrote: training is as without it, and what it tells is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.third_party.analyses import ANALYSES
from tests.third_party.cases import BY_HAND, THIRD_PARTY
from tests.third_party.checks import examined
from tests.third_party.table import GROUPS, PAGE, rows

# Other people's packages warn of what is to change in still others.
pytestmark = pytest.mark.filterwarnings("ignore")

CASES = {label: case for cases in THIRD_PARTY.values() for label, case in cases.items()} | BY_HAND


IN_SHORT = ("LandscapeCallback", "VoGCallback")
"""What modules are tried with in `make test`: the loss and the accuracy, the gradients of examples; else `test-all`."""


def _parameter(label: str, name: str) -> Any:
    marks: list[Any] = []
    if name not in IN_SHORT:
        marks.append(pytest.mark.exhaustive)
    return pytest.param(label, name, marks=marks, id=f"{label}-{name}")


@pytest.mark.parametrize(("label", "name"), [_parameter(label, name) for label in CASES for name in ANALYSES])
def test_does_no_harm_and_tells_the_truth_or_names_a_remedy(label: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip(CASES[label].package)
    examined(CASES[label], name, tmp_path)


@pytest.mark.parametrize(
    ("label", "name"), [_parameter(label, name) for label, case in CASES.items() for name in case.given]
)
def test_the_argument_that_is_asked_for_helps(label: str, name: str, tmp_path: Path) -> None:
    case = CASES[label]
    pytest.importorskip(case.package)
    outcome = examined(case, name, tmp_path, **case.given[name])
    assert outcome.word == "works", outcome.text


def test_the_page_has_a_row_for_every_case() -> None:
    """`python -m tests.third_party.table` writes it."""
    assert list(rows(PAGE.read_text(encoding="utf-8"))) == [label for cases in GROUPS.values() for label in cases]


def test_the_page_shows_no_fault() -> None:
    assert "| fault" not in PAGE.read_text(encoding="utf-8")
