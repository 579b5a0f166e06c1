"""Full float32 where training may use less. Imports torch alone: estimators use it too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors made without a dtype have this one inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    # The widest first: what follows it changes with it and comes back with it. What does not was set by itself, and
    # can be set again. (Setting what follows would make it a setting of its own; some defaults could not be restored.)
    widest_first = (backends, cudnn, mkldnn, backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    changed: list[tuple[Any, str]] = []
    try:
        for setting in (*widest_first, mkldnn.matmul, mkldnn.conv, mkldnn.rnn):
            value = setting.fp32_precision
            if setting is backends or value not in ("ieee", "none"):
                setting.fp32_precision = "ieee"
                changed.append((setting, value))
        yield
    finally:
        for setting, value in reversed(changed):
            setting.fp32_precision = value
