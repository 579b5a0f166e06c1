"""``full_precision``: no shortcut inside, and everything as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lightning_dynamics.core.precision import full_precision

NEW = hasattr(torch.backends, "fp32_precision")


def settings() -> dict[str, Any]:
    if not NEW:
        return {"products": torch.get_float32_matmul_precision(), "convolutions": torch.backends.cudnn.allow_tf32}
    backends: Any = torch.backends
    found = {"all": backends, "cudnn": backends.cudnn, "mkldnn": backends.mkldnn, "cuda products": backends.cuda.matmul}
    for name, parent in (("cudnn", backends.cudnn), ("mkldnn", backends.mkldnn)):
        found |= {f"{name} convolutions": parent.conv, f"{name} recurrent": parent.rnn}
    found["mkldnn products"] = backends.mkldnn.matmul
    return {name: backend.fp32_precision for name, backend in found.items()}


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    products = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_inside_and_afterwards(precision: str, convolutions: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(precision)
    before = settings()
    with full_precision():
        inside = settings()
        with full_precision():
            assert settings() == inside
        assert settings() == inside
        if NEW:
            reduced = {
                n: p for n, p in inside.items() if n not in ("all", "cudnn", "mkldnn") and p not in ("ieee", "none")
            }
            assert reduced == {}
        else:
            assert inside == {"products": "highest", "convolutions": False}
    assert settings() == before and torch.get_float32_matmul_precision() == precision


def test_products_are_full() -> None:
    """On a CPU with bfloat16 units, "medium" is visible; on others this tests nothing."""
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    truth = x.double() @ x.double()
    torch.set_float32_matmul_precision("medium")
    with full_precision():
        found = x @ x
    assert (found - truth).abs().max() < 1e-4


def test_after_an_exception() -> None:
    torch.set_float32_matmul_precision("medium")
    before = settings()
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert settings() == before
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.skipif(not NEW, reason="torch before 2.9")
def test_what_was_inherited_is_inherited_again() -> None:
    torch.set_float32_matmul_precision("highest")
    cudnn: Any = torch.backends.cudnn
    before = cudnn.fp32_precision
    try:
        cudnn.conv.fp32_precision = "none"
        for value in ("tf32", "ieee", "tf32"):
            cudnn.fp32_precision = value
            with full_precision():
                assert cudnn.conv.fp32_precision in ("ieee", "none")
            assert cudnn.conv.fp32_precision == value, "follows its parent as before"
    finally:
        cudnn.fp32_precision = before
