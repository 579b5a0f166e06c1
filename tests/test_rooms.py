"""The rules of the rooms: who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_dynamics

PACKAGE = Path(lightning_dynamics.__file__).parent
ROOMS = {"core", "panels", "publishing"}
ANALYSES = {folder.name for folder in PACKAGE.iterdir() if (folder / "callback.py").is_file()} - ROOMS
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
SLOW = {"wandb", "matplotlib", "PIL", "jinja2", "tensorboard", "sklearn", "plotly"}


def imports(path: Path, *, at_top: bool = False) -> set[str]:
    """Modules that a file imports, dotted; with ``at_top``, only those imported when the file is."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only or (at_top and id(node) in inside):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))


def ours(path: Path, room: str) -> set[str]:
    return {name for name in imports(path) if name.startswith(f"lightning_dynamics.{room}")}


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_there_is_something_to_check() -> None:
    assert "cka" in ANALYSES and len(files("core", "panels", "publishing")) > 15


@pytest.mark.parametrize("path", files("core", "publishing", "panels"), ids=str)
def test_the_ground_knows_no_analysis(path: Path) -> None:
    assert not any(ours(path, analysis) for analysis in ANALYSES)


@pytest.mark.parametrize("path", files("panels"), ids=str)
def test_panels_know_no_logger_and_no_lightning(path: Path) -> None:
    assert not roots(imports(path)) & (LIGHTNING | {"wandb", "tensorboard", "torch"})
    assert not ours(path, "publishing") and not ours(path, "core")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("estimator.py")), ids=str)
def test_estimators_import_torch_alone(path: Path) -> None:
    allowed = {"torch"} | set(sys.stdlib_module_names)
    assert roots(imports(path) - {"lightning_dynamics.core.precision.full_precision"}) <= allowed
    assert roots(imports(PACKAGE / "core" / "precision.py")) <= allowed


@pytest.mark.parametrize("analysis", sorted(ANALYSES))
def test_an_analysis_uses_no_other_ones_callback(analysis: str) -> None:
    for path in files(analysis):
        assert not any(ours(path, f"{other}.callback") for other in ANALYSES - {analysis}), path


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_slow_things_are_imported_where_they_are_used(path: Path) -> None:
    assert not roots(imports(path, at_top=True)) & SLOW


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_lightning_is_met_in_one_place(path: Path) -> None:
    if path != PACKAGE / "core" / "lightning.py":
        assert not roots(imports(path)) & LIGHTNING


def test_importing_the_package_is_cheap() -> None:
    """No seconds are asserted: what costs them is not imported."""
    code = "import lightning, sys; old = set(sys.modules); from lightning_dynamics import *; "
    code += "print(*(set(sys.modules) - old))"
    new = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lightning_dynamics" in new
    assert not {name.partition(".")[0] for name in new} & SLOW


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert version("lightning-dynamics") == lightning_dynamics.__version__


def test_every_public_name_is_found_and_no_other() -> None:
    for name in lightning_dynamics.__all__:
        assert getattr(lightning_dynamics, name) is not None and name in dir(lightning_dynamics)
    named = {name for names in lightning_dynamics._ROOMS.values() for name in names}
    assert named | {"datasets", "nn", "problems"} == set(lightning_dynamics.__all__)
    with pytest.raises(AttributeError, match="no_such_callback"):
        getattr(lightning_dynamics, "no_such_callback")  # noqa: B009


def test_importing_the_package_enters_no_room() -> None:
    code = "import lightning_dynamics, sys; print(*(m for m in sys.modules if m.startswith('lightning_dynamics')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["lightning_dynamics"]
