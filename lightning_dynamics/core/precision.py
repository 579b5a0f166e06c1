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
    before = [(setting, parent, setting.fp32_precision) for setting, parent in inherits_from.items()]
    reduced = [entry for entry in before if entry[2] not in ("ieee", "none")]
    for setting, _, _ in reduced:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, parent, precision in reduced:
            # What was the parent's is taken for inherited, and follows the parent again.
            setting.fp32_precision = "none" if precision == parent.fp32_precision else precision
