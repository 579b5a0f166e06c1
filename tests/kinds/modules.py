"""Kinds of LightningModules and data that people have, written by hand, each with the truth about it."""

from __future__ import annotations

from tests.kinds import batches, forms, structures, targets
from tests.kinds.kind import Expected as Expected
from tests.kinds.kind import Kind as Kind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*forms.KINDS, *batches.KINDS, *targets.KINDS, *structures.KINDS)}
WITH_LOSS = [name for name, kind in KINDS.items() if kind.make_module().automatic_optimization]
"""Those whose ``training_step`` returns it."""
