"""Several networks or tasks side by side: which is harder, and how many times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lightning_dynamics.figures.result import Result
from lightning_dynamics.studies.intrinsic_dimension.result import Crossing, IntrinsicDimension

Self = TypeVar("Self", bound="IntrinsicDimensionComparison")


@dataclass(frozen=True, eq=False)
class IntrinsicDimensionComparison(Result):
    """Intrinsic dimensions of several networks or tasks.

    Args:
        searches: name to search; the others are compared with the first.
    """

    searches: dict[str, IntrinsicDimension]

    @property
    def first(self) -> IntrinsicDimension:
        """What the others are compared with."""
        return next(iter(self.searches.values()))

    def scalars(self) -> dict[str, float]:
        """How many times the first one's dimension each of the others needs, with both baselines."""
        numbers = {
            f"{name}/times_{kind}": ratio
            for name in list(self.searches)[1:]
            for kind, ratio in zip(("global", "own"), self.ratios(name), strict=True)
        }
        return {name: ratio for name, ratio in numbers.items() if ratio is not None}

    def ratios(self, name: str) -> tuple[float | None, float | None]:
        """The dimension of one over that of the first, with the global and with the own baselines.

        None where one of the two did not reach its baseline, or there is no global one.
        """
        one = self.searches[name]
        return (
            _ratio(one.by_global_baseline, self.first.by_global_baseline),
            _ratio(one.by_own_baseline, self.first.by_own_baseline),
        )

    def to_state(self) -> dict[str, Any]:
        """Each search's fields by name."""
        return {"searches": {name: one.to_state() for name, one in self.searches.items()}}

    @classmethod
    def from_state(cls: type[Self], state: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_state`."""
        return cls({name: IntrinsicDimension.from_state(one) for name, one in state["searches"].items()})


def compare_intrinsic_dimensions(found: Mapping[str, IntrinsicDimension]) -> IntrinsicDimensionComparison:
    """Compare the intrinsic dimensions of several networks or tasks.

    Args:
        found: name to search; the others are compared with the first. All should have one ``threshold`` and ``metric``.

    Raises:
        ValueError: there is none.

    Example::

        found = {path.stem: IntrinsicDimension.from_log(path) for path in Path("runs").glob("*.jsonl")}
        compare_intrinsic_dimensions(found).plot()
    """
    if not found:
        raise ValueError("`found` must hold one search or more")
    return IntrinsicDimensionComparison(dict(found))


def _ratio(crossing: Crossing | None, first: Crossing | None) -> float | None:
    if crossing is None or first is None or crossing.dim is None or first.dim is None:
        return None
    return crossing.dim / first.dim
