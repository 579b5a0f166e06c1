"""Full float32 where training may use less. Imports torch alone: estimators use it too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 or bfloat16 in matrix products, convolutions and recurrent layers inside, whatever training uses."""
    if not hasattr(torch.backends, "fp32_precision"):  # torch < 2.9
        products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions
        return
    # The older getters may refuse to answer where the newer settings are in use.
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    inherits_from: dict[Any, Any] = {torch.backends.cuda.matmul: cudnn, cudnn.conv: cudnn, cudnn.rnn: cudnn}
    inherits_from |= {mkldnn.matmul: mkldnn, mkldnn.conv: mkldnn, mkldnn.rnn: mkldnn}
    values = {setting: setting.fp32_precision for setting in inherits_from}
    reduced = {setting: value for setting, value in values.items() if value not in ("ieee", "none")}
    inherited = _inherited({setting: inherits_from[setting] for setting in reduced})
    for setting in reduced:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, value in reduced.items():
            setting.fp32_precision = "none" if setting in inherited else value


def _inherited(inherits_from: dict[Any, Any]) -> set[Any]:
    """Which settings are not set themselves but follow a wider one: those that change when that is changed."""
    found: set[Any] = set()
    everything: Any = torch.backends
    alike = {child: parent for child, parent in inherits_from.items() if child.fp32_precision == parent.fp32_precision}
    for wider in dict.fromkeys([everything, *alike.values()] if alike else []):
        value = wider.fp32_precision
        if value in ("ieee", "none") or wider in found:
            continue
        wider.fp32_precision = "ieee"
        found |= {setting for setting in (*alike, *alike.values()) if setting.fp32_precision == "ieee"} - {wider}
        wider.fp32_precision = value
    return found
