"""How a test takes the callbacks of the registry: all of them in one Trainer, each alone, or two for many settings.

What holds for every callback is seen in one training with all of them: a fault of one is a fault of the training.
``make test-all`` also takes each alone, and every setting for each (the marker ``exhaustive``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_dynamics import AnalysisCallback
from lightning_dynamics.core.schedule import Never
from tests.house.registry import CASES

NAMES = tuple(CASES)
WIDE = ("cka to initialization", "loss contribution by class")
"""Two that differ in everything a setting can touch: memory between events, gradients, buffers, second data."""


def _only_in_test_all(*values: Any, id: str) -> Any:
    return pytest.param(*values, id=id, marks=pytest.mark.exhaustive)


together = pytest.mark.parametrize(
    "names",
    [pytest.param(NAMES, id="all in one Trainer"), *(_only_in_test_all((name,), id=name) for name in NAMES)],
)
"""All callbacks in one Trainer; each alone in ``make test-all``."""

each = pytest.mark.parametrize("name", NAMES)
"""Each callback alone."""


def wide(argument: str, values: Sequence[Any], first: int = 1) -> pytest.MarkDecorator:
    """``name`` and an argument: all values for two callbacks, the first ones for the others."""
    return pytest.mark.parametrize(
        ("name", argument),
        [
            pytest.param(name, value, id=f"{name}-{value}")
            if name in WIDE or place < first
            else _only_in_test_all(name, value, id=f"{name}-{value}")
            for name in NAMES
            for place, value in enumerate(values)
        ],
    )


class Everything:
    """A collection that holds whatever is looked for in it."""

    def __contains__(self, _: object) -> bool:
        return True


def make(names: Sequence[str], *, draws: bool = False, **overrides: Any) -> dict[str, AnalysisCallback[Any]]:
    """The callbacks, each with a name of its own; unless ``draws``, they log numbers and no pictures."""
    made = {}
    for name in names:
        callback = CASES[name].make(**{"name": name.replace(" ", "_")} | overrides)
        if not draws:
            callback.shows, callback.leaves_out = Never(), Everything()  # type: ignore[assignment]
        made[name] = callback
    return made
