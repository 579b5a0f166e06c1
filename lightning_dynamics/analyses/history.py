"""The results of a training, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lightning_dynamics.analyses.result import AnalysisResult

R = TypeVar("R", bound=AnalysisResult)


class History(Generic[R]):
    """The latest result, and an even choice of the earlier ones.

    At first every result is kept, condensed when it is no longer the latest; each time there are more than ``limit``,
    every second one goes, and from then on only half as many come in. A result may be given as a function that makes
    it: it is called when somebody asks, or when the result is to be kept.

    Args:
        limit: how many are kept beside the latest.
    """

    def __init__(self, limit: int = 64) -> None:
        """Empty."""
        self.limit = limit
        self.step: int | None = None
        """Of the latest result."""
        self._latest: R | Callable[[], R] | None = None
        self._kept: list[R] = []
        self._every = 1
        self._seen = 0

    @property
    def last(self) -> R | None:
        """The latest result."""
        if callable(self._latest):
            self._latest = self._latest()
        return self._latest

    def settle(self) -> None:
        """Make the latest result if it will be kept: before what it is made from changes."""
        if self._keeps_latest():
            _ = self.last

    def finish(self) -> None:
        """Make the latest result, and let go of what it is made from; without one if it cannot be made."""
        try:
            _ = self.last
        except Exception:
            self._latest = None

    def add(self, result: R | Callable[[], R], step: int) -> None:
        """The next result; :meth:`settle` has been called."""
        if self._keeps_latest():
            assert self.last is not None
            self._kept.append(self.last.condensed())
            if len(self._kept) > self.limit:
                self._kept = self._kept[::2]
                self._every *= 2
        self._latest, self.step = result, step
        self._seen += 1

    def _keeps_latest(self) -> bool:
        return self._latest is not None and (self._seen - 1) % self._every == 0

    def results(self) -> list[R]:
        """Those kept, in order; the latest always among them."""
        return self._kept if self.last is None else [*self._kept, self.last]

    def to_state(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {
            "results": [result.to_state() for result in self.results()],
            "kept": len(self._kept),
            "every": self._every,
            "seen": self._seen,
        }

    def load_state(self, state: dict[str, Any], result_type: type[R]) -> None:
        """The inverse of :meth:`to_state`."""
        results = [result_type.from_state(result) for result in state["results"]]
        self._kept = results[: state["kept"]]
        self._latest = results[-1] if results else None
        self.step = results[-1].step if results else None
        self._every, self._seen = state["every"], state["seen"]
