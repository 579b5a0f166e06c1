"""PyTorch Lightning callbacks that show how a network learns, not only how low its loss is.

There is one public path to everything, wherever it lives: callbacks, results and functions at the top
(``from lightning_dynamics import CKACallback``), and the module of each analysis, intervention or study below it
(``from lightning_dynamics import landscape``, ``from lightning_dynamics.landscape import evaluate_line``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import Loader  # slow to import

    from lightning_dynamics import data as data
    from lightning_dynamics import nn as nn
    from lightning_dynamics import publishing as publishing
    from lightning_dynamics.analyses import cka as cka
    from lightning_dynamics.analyses import critical_points as critical_points
    from lightning_dynamics.analyses import curvature as curvature
    from lightning_dynamics.analyses import fingerprint as fingerprint
    from lightning_dynamics.analyses import landscape as landscape
    from lightning_dynamics.analyses import loss_contribution as loss_contribution
    from lightning_dynamics.analyses import vog as vog
    from lightning_dynamics.analyses.callback import AnalysisCallback
    from lightning_dynamics.analyses.cka import CKACallback, CKAResult
    from lightning_dynamics.analyses.critical_points import CriticalPointsCallback, CriticalPointsResult
    from lightning_dynamics.analyses.curvature import CurvatureCallback, CurvatureResult
    from lightning_dynamics.analyses.fingerprint import FingerprintCallback, compare_fingerprints
    from lightning_dynamics.analyses.landscape import LandscapeCallback, LandscapeResult
    from lightning_dynamics.analyses.loss_contribution import LossContributionCallback, LossContributionResult
    from lightning_dynamics.analyses.preflight import Preflight, preflight
    from lightning_dynamics.analyses.vog import VoGCallback, VoGResult
    from lightning_dynamics.core.lightning import ConfigurationError
    from lightning_dynamics.data import problems as problems
    from lightning_dynamics.interventions import random_subspace as random_subspace
    from lightning_dynamics.interventions.difficulty_sampler import DifficultySampler
    from lightning_dynamics.interventions.random_subspace import RandomSubspaceCallback
    from lightning_dynamics.publishing import LocalReport
    from lightning_dynamics.studies.intrinsic_dimension import (
        IntrinsicDimension,
        IntrinsicDimensionComparison,
        compare_intrinsic_dimensions,
        intrinsic_dimension,
    )

__version__ = "0.1.0"

_NAMES = {
    "analyses.callback": ("AnalysisCallback",),
    "analyses.cka": ("CKACallback", "CKAResult"),
    "analyses.critical_points": ("CriticalPointsCallback", "CriticalPointsResult"),
    "analyses.curvature": ("CurvatureCallback", "CurvatureResult"),
    "analyses.fingerprint": ("FingerprintCallback", "compare_fingerprints"),
    "analyses.landscape": ("LandscapeCallback", "LandscapeResult"),
    "analyses.preflight": ("Preflight", "preflight"),
    "analyses.loss_contribution": ("LossContributionCallback", "LossContributionResult"),
    "analyses.vog": ("VoGCallback", "VoGResult"),
    "core.lightning": ("ConfigurationError",),
    "interventions.difficulty_sampler": ("DifficultySampler",),
    "interventions.random_subspace": ("RandomSubspaceCallback",),
    "publishing": ("LocalReport",),
    "studies.intrinsic_dimension": (
        "IntrinsicDimension",
        "IntrinsicDimensionComparison",
        "compare_intrinsic_dimensions",
        "intrinsic_dimension",
    ),
}
_MODULES = {
    "cka": "analyses.cka",
    "critical_points": "analyses.critical_points",
    "curvature": "analyses.curvature",
    "data": "data",
    "fingerprint": "analyses.fingerprint",
    "landscape": "analyses.landscape",
    "loss_contribution": "analyses.loss_contribution",
    "nn": "nn",
    "problems": "data.problems",
    "publishing": "publishing",
    "random_subspace": "interventions.random_subspace",
    "vog": "analyses.vog",
}

# No modules: `from lightning_dynamics import *` must not replace torch's `nn`, or somebody's `data`.
__all__ = [
    "AnalysisCallback",
    "CKACallback",
    "CKAResult",
    "ConfigurationError",
    "CriticalPointsCallback",
    "CriticalPointsResult",
    "CurvatureCallback",
    "CurvatureResult",
    "DifficultySampler",
    "FingerprintCallback",
    "IntrinsicDimension",
    "IntrinsicDimensionComparison",
    "LandscapeCallback",
    "LandscapeResult",
    "LocalReport",
    "LossContributionCallback",
    "LossContributionResult",
    "Preflight",
    "RandomSubspaceCallback",
    "VoGCallback",
    "VoGResult",
    "compare_fingerprints",
    "compare_intrinsic_dimensions",
    "intrinsic_dimension",
    "preflight",
]


def __getattr__(name: str) -> Any:
    """Import a module when something in it is asked for: who wants one callback does not wait for all of them."""
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    for module, names in _NAMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


class _ShortPaths:
    """Finds ``lightning_dynamics.curvature`` for an import: the module of ``analyses``, not a second copy of it.

    First in ``sys.meta_path``: by the path of ``lightning_dynamics.vog``, Python would load its files once more.
    """

    @staticmethod
    def real_name(name: str) -> str | None:
        """Where the module of this name lives; None if the name is no short one."""
        short, dot, inner = name.removeprefix(f"{__name__}.").partition(".")
        real = _MODULES.get(short, short) if name.startswith(f"{__name__}.") else short
        return None if real == short else f"{__name__}.{real}{dot}{inner}"

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Python's hook: how to load a short name."""
        real = cls.real_name(name)
        return None if real is None or find_spec(real) is None else ModuleSpec(name, cast("Loader", cls()))

    def create_module(self, spec: ModuleSpec) -> None:
        """Python's hook: an empty module, which :meth:`exec_module` replaces. The real one keeps its own spec."""

    def exec_module(self, module: ModuleType) -> None:
        """Python's hook: the real module under the short name, and those below it that are loaded."""
        short, real = module.__name__, str(self.real_name(module.__name__))
        sys.modules[short] = import_module(real)
        # An import of its own would put a submodule in the place of a function of the same name in the package.
        loaded = [name for name in sys.modules if name.startswith(f"{real}.")]
        sys.modules.update({short + name.removeprefix(real): sys.modules[name] for name in loaded})


sys.meta_path.insert(0, _ShortPaths)
