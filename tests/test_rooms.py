"""The rules of the shelves: who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lightning_dynamics

PACKAGE = Path(lightning_dynamics.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ANALYSES = {folder.name for folder in (PACKAGE / "analyses").iterdir() if (folder / "callback.py").is_file()}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
SLOW = {"wandb", "matplotlib", "PIL", "jinja2", "tensorboard", "sklearn", "plotly"}
BELOW = {
    "core": (),
    "panels": ("core",),
    "figures": ("core", "panels"),
    "publishing": ("core", "panels", "figures"),
    "nn": ("core",),
    "data": ("core", "panels", "figures", "nn"),
    "analyses": ("core", "panels", "figures", "publishing", "nn", "data"),
    "interventions": ("core", "panels", "figures", "publishing", "nn", "data", "analyses"),
    "studies": ("core", "panels", "figures", "publishing", "nn", "data", "analyses", "interventions"),
}
"""What each shelf may import, beside itself."""


@lru_cache(maxsize=1000)
def imports(path: Path, *, at_top: bool = False, for_types: bool = False) -> frozenset[str]:
    """Modules that a file imports, dotted; ``at_top``: when it is imported; ``for_types``: also for annotations."""
    tree = ast.parse(path.read_text())
    left_out = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not for_types
        if typing_only or (at_top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            left_out |= {id(inner) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def files(*shelves: str) -> list[Path]:
    return sorted(path for shelf in shelves for path in (PACKAGE / shelf).rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def roots(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def file_of(name: str) -> Path | None:
    """The file of ours that an imported name comes from."""
    parts = name.split(".")[1:]
    for end in range(len(parts), -1, -1):
        place = PACKAGE.joinpath(*parts[:end])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if end and path.is_file():
                return path
    return None


def test_every_folder_is_a_shelf() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(BELOW)
    assert len(ANALYSES) >= 7 and len(FILES) > 150


@pytest.mark.parametrize("shelf", BELOW)
def test_arrows_point_down(shelf: str) -> None:
    allowed = {shelf, *BELOW[shelf]}
    for path in files(shelf):
        for name in imports(path, for_types=True):
            if name.startswith("lightning_dynamics."):
                assert name.split(".")[1] in allowed, f"{short(path)} imports {name}"


def test_no_circles_between_files() -> None:
    """Imports for annotations and inside functions count, too: two files that need each other are one."""
    graph: dict[str, set[str]] = {}
    for path in FILES:
        ours = {name for name in imports(path, for_types=True) if name.startswith("lightning_dynamics.")}
        targets = {file_of(name) for name in ours}
        graph[short(path)] = {short(target) for target in targets if target is not None and target != path}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("shelf", ["panels", "figures"])
def test_pictures_know_no_logger_and_no_lightning(shelf: str) -> None:
    for path in files(shelf):
        assert not roots(imports(path)) & (LIGHTNING | {"wandb", "tensorboard"}), short(path)
    assert not any("torch" in roots(imports(path)) for path in files("panels"))


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "estimator.py"], ids=short)
def test_estimators_import_torch_alone(path: Path) -> None:
    allowed = {"torch"} | set(sys.stdlib_module_names)
    assert roots(imports(path) - {"lightning_dynamics.core.precision.full_precision"}) <= allowed
    assert roots(imports(PACKAGE / "core" / "precision.py")) <= allowed


@pytest.mark.parametrize("analysis", sorted(ANALYSES))
def test_an_analysis_uses_no_other_ones_callback(analysis: str) -> None:
    others = tuple(f"lightning_dynamics.analyses.{other}.callback" for other in ANALYSES - {analysis})
    for path in files(f"analyses/{analysis}"):
        assert not any(name.startswith(others) for name in imports(path)), short(path)


def test_slow_things_are_imported_where_they_are_used() -> None:
    for path in FILES:
        assert not roots(imports(path, at_top=True)) & SLOW, short(path)


def test_lightning_is_met_in_one_place() -> None:
    for path in FILES:
        if path != PACKAGE / "core" / "lightning.py":
            assert not roots(imports(path)) & LIGHTNING, short(path)


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
    for name in (*lightning_dynamics.__all__, *lightning_dynamics._MODULES):
        assert getattr(lightning_dynamics, name) is not None and name in dir(lightning_dynamics)
    named = {name for names in lightning_dynamics._NAMES.values() for name in names}
    assert named == set(lightning_dynamics.__all__)
    assert set(lightning_dynamics._MODULES) >= ANALYSES
    with pytest.raises(AttributeError, match="no_such_callback"):
        getattr(lightning_dynamics, "no_such_callback")  # noqa: B009


def test_a_star_import_replaces_nothing_of_torch() -> None:
    from torch import nn

    names: dict[str, object] = {"nn": nn}
    exec("from lightning_dynamics import *", names)
    assert names["nn"] is nn and "CKACallback" in names


def test_importing_the_package_imports_no_shelf() -> None:
    code = "import lightning_dynamics, sys; print(*(m for m in sys.modules if m.startswith('lightning_dynamics')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["lightning_dynamics"]


def test_a_short_path_can_be_imported_from(tmp_path: Path) -> None:
    """The module itself, whichever path comes first; what is pickled names its real place."""
    code = """
import pickle, sys
import lightning_dynamics.curvature
assert sys.modules["lightning_dynamics.curvature"] is sys.modules["lightning_dynamics.analyses.curvature"]
assert lightning_dynamics.curvature is lightning_dynamics.analyses.curvature
assert "lightning_dynamics.analyses.vog" not in sys.modules, "only what is asked for"
from lightning_dynamics.loss_contribution import synchrony
import lightning_dynamics.loss_contribution.synchrony, lightning_dynamics.vog.methods as methods
assert lightning_dynamics.loss_contribution.synchrony is synchrony and callable(synchrony)
from lightning_dynamics.vog import SmoothGrad
assert methods.SmoothGrad is SmoothGrad and methods is sys.modules["lightning_dynamics.analyses.vog.methods"]
assert b"lightning_dynamics.analyses.vog" in pickle.dumps(SmoothGrad())
import importlib, importlib.util
for short, real in lightning_dynamics._MODULES.items():
    module = importlib.import_module(f"lightning_dynamics.{short}")
    assert module is importlib.import_module(f"lightning_dynamics.{real}") is getattr(lightning_dynamics, short)
    assert module.__name__ == module.__spec__.name == f"lightning_dynamics.{real}"
assert importlib.util.find_spec("lightning_dynamics.vog.nothing") is None
assert importlib.util.find_spec("lightning_dynamics.nothing") is None
files = [getattr(module, "__file__", None) for name, module in sys.modules.items() if "lightning_dynamics" in name]
objects = {id(module) for name, module in sys.modules.items() if "lightning_dynamics" in name}
assert len(objects) == len(set(files)), "a file was loaded twice"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("first", ["analyses.landscape", "landscape"])
def test_a_short_path_before_and_after_the_long_one(first: str) -> None:
    code = f"import sys; from lightning_dynamics.{first} import evaluate_line as first\n"
    code += "from lightning_dynamics.landscape import evaluate_line as a, slices\n"
    code += "from lightning_dynamics.analyses.landscape import evaluate_line as b\n"
    code += "assert first is a is b and slices is sys.modules['lightning_dynamics.analyses.landscape.slices']"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_short_path_lacks_is_said() -> None:
    with pytest.raises(ModuleNotFoundError, match="lightning_dynamics.landscape.nothing"):
        importlib.import_module("lightning_dynamics.landscape.nothing")
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from lightning_dynamics.landscape import no_such_name")
