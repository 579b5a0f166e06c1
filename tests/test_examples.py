"""Every example is named in the README and in a card that shows a picture, and has a reduced form."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[0-9][0-9]_*.py"))
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def pictures(page: Path) -> list[Path]:
    return [page.parent / target for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", PAGES[page])]


def test_numbers_run_without_a_gap() -> None:
    assert [int(name[:2]) for name in EXAMPLES] == list(range(len(EXAMPLES)))


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_is_named_beside_a_picture(example: str) -> None:
    assert f"examples/{example}" in PAGES[ROOT / "README.md"], "name it in the README's table of examples"
    # The demo shows all analyses: its card is the README.
    naming = [page for page in PAGES if f"examples/{example}" in PAGES[page]]
    cards = [page for page in naming if page.name != "README.md" or example.startswith("00_")]
    assert cards, "name it in a card in docs/"
    assert any(picture.is_file() for card in cards for picture in pictures(card)), f"{cards} show no picture"


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_has_a_reduced_form(example: str) -> None:
    assert re.search(rf"^REDUCED_{Path(example).stem} := \S", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_scripts_that_are_named_exist(page: Path) -> None:
    missing = [path for path in pictures(page) if not path.is_file() and "://" not in str(path)]
    assert not missing
    named = set(re.findall(r"\b((?:tests|examples|benchmarks|docs)/[\w/]+\.py)", PAGES[page]))
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("example", EXAMPLES)
def test_its_first_lines_say_how_it_is_run(example: str) -> None:
    described = ast.get_docstring(ast.parse((ROOT / "examples" / example).read_text()))
    assert described and f"python examples/{example}" in described
