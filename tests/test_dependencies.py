"""What pyproject.toml lets pip install."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")


def requirements() -> list[Requirement]:
    """Of the package and of every extra."""
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in (*project["dependencies"], *(line for extra in extras for line in extra))]


def test_releases_with_malware_are_excluded_wherever_lightning_is_named() -> None:
    """2.6.2 and 2.6.3 of both names: GHSA-w37p-236h-pfx3."""
    named = [each for each in requirements() if each.name in ("lightning", "pytorch-lightning")]
    assert {each.name for each in named} == {"lightning", "pytorch-lightning"}
    for each in named:
        assert not each.specifier.contains("2.6.2") and not each.specifier.contains("2.6.3"), str(each)
        assert each.specifier.contains("2.6.1") and each.specifier.contains("2.6.6"), str(each)
