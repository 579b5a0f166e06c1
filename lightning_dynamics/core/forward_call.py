"""Ways to call ``forward`` on a batch, by its signature; each is tried before it is believed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from lightning_dynamics.core.batch_tree import Path, items
from lightning_dynamics.core.calls import CallTemplate
from lightning_dynamics.core.objective import INPUT_KEYS, has_forward


def likely_templates(module: nn.Module, batch: Any) -> Iterator[CallTemplate]:
    """Calls of the module's own ``forward``, the likeliest first; none if it has none."""
    if not has_forward(module):
        return
    signature = list(inspect.signature(module.forward).parameters.values())
    named = [p for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p.name for p in named if p.default is p.empty]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature)
    held = items(batch) or {}
    if named and named[0].name == "batch":
        yield _call([()])
    if held and all(isinstance(key, str) for key in held):
        accepted = [key for key in held if takes_any or any(key == p.name for p in named)]
        if accepted and set(accepted) >= set(required):
            yield CallTemplate("", (), tuple((key, ((key,), None)) for key in accepted))
        key = next((key for key in INPUT_KEYS if key in held), None)
        if key is not None and len(required) <= 1:
            yield _call([(key,)])
    if isinstance(batch, list | tuple) and batch:
        count = min(max(1, len(required)), len(batch))
        yield _call([(key,) for key in list(held)[:count]])
    yield _call([()])


def _call(paths: list[Path]) -> CallTemplate:
    return CallTemplate("", tuple((path, None) for path in paths), ())
