"""What is known to be wrong today."""

from __future__ import annotations

FAULTS: frozenset[tuple[str, str]] = frozenset()
