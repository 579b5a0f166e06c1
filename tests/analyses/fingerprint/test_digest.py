"""Digests against a direct computation in whole numbers, and against everything that must change them."""

from __future__ import annotations

import math
from hashlib import sha256, shake_128

import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.fingerprint import digest
from lightning_dynamics.analyses.fingerprint.digest import Packed, digest_of, digests, fetch, sketch, sketch_rows

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.uint8,
    torch.bool,
]
SIZES = [0, 1, 3, 65_536, 65_537, 270_003]


def content(tensor: Tensor) -> bytes:
    """Logical order, little endian, without any of the package's code."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def reference(tensor: Tensor) -> str:
    """The digest's definition in Python's whole numbers."""
    raw = content(tensor)
    if len(raw) > 2**18:
        drawn = shake_128(b"lightning-dynamics fingerprint 1").digest(8 * 2**14)
        keys = [int.from_bytes(drawn[8 * i : 8 * i + 8], "little") for i in range(2**14)]
        even = len(raw) // 4 * 4
        words = [int.from_bytes(raw[i : i + 4], "little", signed=True) for i in range(0, even, 4)]
        sums = b""
        for start in range(0, len(words), 2**14):
            row = words[start : start + 2**14]
            total = sum(k * w for k, w in zip(keys, row, strict=False)) % 2**64
            sums += total.to_bytes(8, "little")
        raw = sums + raw[even:]
    shape = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    return sha256(shape.encode() + b"\0" + raw).hexdigest()[:16]


def random_bits(size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    if dtype == torch.bool:
        return torch.randint(0, 2, (size,), generator=generator).bool()
    raw = torch.randint(0, 256, (size * dtype.itemsize,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype) if size else torch.empty(0, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_digest_is_what_its_definition_says(dtype: torch.dtype) -> None:
    tensors = [random_bits(size, dtype) for size in SIZES]
    assert digests(tensors) == [reference(tensor) for tensor in tensors]


def test_the_reference_sees_every_kind_of_size() -> None:
    assert len(set(digests([random_bits(size, torch.float32) for size in SIZES]))) == len(SIZES)


@pytest.mark.parametrize("size", [5, 12_000])
def test_strides_and_offsets_make_no_difference(size: int) -> None:
    base = torch.randn(size, 6)
    for view in (base.t(), base[:, 1:4], base[1:], base.flatten()[1:], base.expand(2, size, 6)):
        assert digests([view]) == digests([view.clone(memory_format=torch.contiguous_format)]) == [reference(view)]
    image = torch.randn(3, 4, 5, size // 5).to(memory_format=torch.channels_last)
    assert digests([image]) == [reference(image)]


def test_an_offset_between_words() -> None:
    base = torch.randn(140_001).to(torch.bfloat16)
    assert digests([base[1:]]) == digests([base[1:].clone()]) == [reference(base[1:])]


def test_flags_that_stand_for_bits() -> None:
    base = torch.randn(40_000, dtype=torch.complex64)
    assert digests([base.conj()]) == digests([base.conj_physical()]) != digests([base])
    assert digests([base.conj().imag]) == [reference(base.conj().imag.resolve_neg())]


def test_sparse_tensors_count_for_their_values() -> None:
    dense = torch.zeros(40, 50)
    dense[3, 4] = 1.5
    assert digests([dense.to_sparse()]) == digests([dense])


@pytest.mark.parametrize("size", [7, 70_000])
def test_every_bit_and_its_place_count(size: int) -> None:
    base = torch.randn(size, generator=torch.Generator().manual_seed(1))
    others = [base.view(size, 1), base.double(), base.view(torch.int32), base.flip(0)]
    for place in (0, size // 2, size - 1):
        for bit in (0, 1, 22, 30, 31):
            changed = base.clone()
            changed.view(torch.int32)[place] ^= torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
            others.append(changed)
    found = digests([base, *others])
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("size", [4, 70_000])
def test_pairs_of_signs_and_of_nans(size: int) -> None:
    """What a sum modulo 2⁶⁴ of 64-bit words would confuse: differences in the topmost bits alone."""
    zeros = torch.zeros(size)
    signs = []
    for pair in ((0, 1), (0, 2), (1, size - 1), (0,)):
        changed = zeros.clone()
        changed[list(pair)] = -0.0
        signs.append(changed)
    quiet = torch.full((size,), math.nan)
    payload = quiet.clone()
    payload.view(torch.int32)[-1] += 1
    found = digests([zeros, -zeros, *signs, quiet, payload, -quiet])
    assert len(set(found)) == len(found)
    assert digests([quiet]) == digests([quiet.clone()])


def test_ways_of_reduction_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices on the CPU, sums of products elsewhere, in slabs of any size: the same bits."""
    tensor = torch.randn(123_457)
    expected = digests([tensor])
    for at_once in (1, 20_000, 10**9):
        monkeypatch.setattr(digest, "_AT_ONCE", {"cpu": at_once})
        assert digests([tensor]) == expected

    rows = tensor[: 7 * 2**14].view(torch.int32).view(7, -1)
    keys = digest._keys(torch.device("cpu"))
    torch.testing.assert_close((rows * keys).sum(1), digest._sums(rows), rtol=0, atol=0)


def test_what_is_kept_does_not_follow_the_tensor() -> None:
    for size in (10, 1025, 30_001):
        tensor = torch.randn(size)
        expected = digests([tensor])
        kept = sketch(tensor)
        staged = Packed([kept])
        tensor.zero_()
        assert [digest_of(kept.shape, one) for one in fetch(staged)] == expected


def test_inputs_are_left_alone() -> None:
    tensor = torch.randn(5000, requires_grad=True)
    before = tensor.detach().clone()
    state = torch.get_rng_state()
    digests([tensor])
    assert tensor.grad_fn is None and torch.equal(tensor.detach(), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (6, 1, 8, 8), (3, 20_000), (2, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64], ids=str)
def test_rows_follow_their_examples(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = random_bits(math.prod(shape), dtype).view(shape)
    (rows,) = fetch(Packed([sketch_rows(tensor)]))
    width = len(rows) // len(tensor)
    order = torch.randperm(len(tensor), generator=torch.Generator().manual_seed(0))
    (permuted,) = fetch(Packed([sketch_rows(tensor[order])]))
    split = [rows[i : i + width] for i in range(0, len(rows), width)]
    assert b"".join(split[i] for i in order) == permuted
    assert len(set(split)) == len({tuple(row.flatten().tolist()) for row in tensor.view(len(tensor), -1)})


def test_nothing_to_fetch() -> None:
    assert fetch() == fetch(Packed([])) == [] and digests([]) == []
