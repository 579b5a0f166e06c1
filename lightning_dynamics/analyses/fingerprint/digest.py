"""Digests of tensors: every bit, its place, shape and dtype; the same on every device, read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256, shake_128
from typing import NamedTuple

import torch
from torch import Tensor

_SMALL = 2**18
"""Bytes up to which a tensor is brought to the CPU as it is: cheaper than reducing it where it lies."""

_ROW = 2**14
"""32-bit words that one sum of products covers: as many keys are needed."""

_AT_ONCE = {"cpu": 2**15}
"""Words that are widened to 64 bits together: 256 KiB, which a cache holds, and on other devices 32 MB."""


class Sketch(NamedTuple):
    """What is to be known of a tensor, still on its device.

    Args:
        shape: dtype and shape, e.g. ``"float32[10, 3]"``.
        parts: ``(bytes,)`` uint8 each.
    """

    shape: str
    parts: tuple[Tensor, ...]


def shape_of(tensor: Tensor) -> str:
    """Dtype and shape, e.g. ``"float32[10, 3]"``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def sketch(tensor: Tensor) -> Sketch:
    r"""Reduce a tensor where it lies, without waiting for the device.

    Up to 256 KiB the bytes themselves. Of a larger tensor, rows of 2¹⁴ 32-bit words w, for each of which
    Σᵢ kᵢ wᵢ mod 2⁶⁴ with fixed random 64-bit keys k: the MULTILINEAR family of Kaser and Lemire (2014). Sums of whole
    numbers are the same in every order, so threads, devices and chunks make no difference.

    If two tensors differ in a word of a row by Δ = 2ᵛ·odd, then \|Δ\| < 2³² and v ≤ 31; whatever the other words are,
    the row's sums agree for at most 2ᵛ of the 2⁶⁴ values of that word's key: with a probability of 2⁻³³ at most.

    Cost: one pass over the tensor; 8 bytes for each of at most 2¹⁵ words on the CPU, 2²² elsewhere.

    Args:
        tensor: any dtype, strides and layout. Bits are those of the values in logical order: -0 is not 0, and one NaN
            is not another. A small one shares its memory with the sketch until that is :class:`Packed`.
    """
    raw = _bytes(tensor)
    if raw.numel() <= _SMALL:
        return Sketch(shape_of(tensor), (raw,))
    raw = _whole_words(raw)
    even = raw.numel() // 4 * 4
    words = raw[:even].view(torch.int32)
    full = words.numel() // _ROW * _ROW
    sums = _sums(words[:full].view(-1, _ROW)).view(torch.uint8)
    rest = [_sums(words[full:].view(1, -1)).view(torch.uint8)] if full < words.numel() else []
    return Sketch(shape_of(tensor), (sums, *rest, raw[even:]))


def sketch_rows(tensor: Tensor) -> Sketch:
    """The same for every ``tensor[i]`` by itself, so that it can be told whether only their order differs.

    Args:
        tensor: ``(N, …)``, not empty.
    """
    raw = _whole_words(_bytes(tensor)).view(len(tensor), -1)
    words = raw.view(torch.int32) if raw.shape[1] % 4 == 0 else raw
    sums = torch.stack([_sums(chunk) for chunk in words.split(_ROW, dim=1)], dim=1)
    return Sketch(shape_of(tensor), (sums.view(-1).view(torch.uint8),))


class Packed:
    """The parts of sketches, side by side in one buffer for each device: copied, so that the tensors may change."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        """Copy, without waiting for the device."""
        by_device: dict[torch.device, list[Tensor]] = defaultdict(list)
        self.places: list[list[tuple[torch.device, int]]] = []
        for one in sketches:
            self.places.append([(part.device, part.numel()) for part in one.parts])
            for part in one.parts:
                by_device[part.device].append(part)
        self.buffers = {device: torch.cat(parts) for device, parts in by_device.items()}


def fetch(*staged: Packed) -> list[bytes]:
    """Bring what was sketched to the CPU, with one wait for each device: what each sketch holds, in order."""
    devices = dict.fromkeys(device for one in staged for device in one.buffers)
    brought = {
        device: torch.cat([one.buffers[device] for one in staged if device in one.buffers]).cpu().numpy().tobytes()
        for device in devices
    }
    read = dict.fromkeys(brought, 0)
    contents = []
    for one in staged:
        for places in one.places:
            content = []
            for device, length in places:
                start = read[device]
                read[device] = start + length
                content.append(brought[device][start : start + length])
            contents.append(b"".join(content))
    return contents


def digest_of(shape: str, content: bytes) -> str:
    """The digest: 16 hexadecimal digits, the beginning of SHA-256."""
    return sha256(shape.encode() + b"\0" + content).hexdigest()[:16]


def digests(tensors: Sequence[Tensor]) -> list[str]:
    """The digests of tensors, 16 hexadecimal digits each, with one wait for the device.

    Two tensors that differ in a bit, in shape or in dtype have the same digest with a probability of at most
    2⁻³³ + 2⁻⁶⁴ over the choice of the keys (see :func:`sketch`); equal ones always have.
    """
    sketches = [sketch(tensor) for tensor in tensors]
    return [digest_of(one.shape, content) for one, content in zip(sketches, fetch(Packed(sketches)), strict=True)]


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes ``(n,)`` uint8 in logical order, where its storage lies if they are in that order there."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_conj() or tensor.is_neg():  # flags on a view, not bits in memory
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.reshape(-1).view(torch.uint8)


def _whole_words(raw: Tensor) -> Tensor:
    """What begins between two words cannot be seen as words."""
    return raw.clone() if raw.storage_offset() % 4 else raw


def _sums(rows: Tensor) -> Tensor:
    """Σᵢ kᵢ wᵢ mod 2⁶⁴ ``(R,)`` int64 of each row of words ``(R, W)``, W ≤ 2¹⁴."""
    key = _keys(rows.device)[: rows.shape[1]]
    slabs = rows.split(max(1, _AT_ONCE.get(rows.device.type, 2**22) // max(1, rows.shape[1])))
    if rows.device.type == "cpu":  # elsewhere there is no such product of whole numbers
        return torch.cat([torch.mv(slab.long(), key) for slab in slabs])
    return torch.cat([(slab * key).sum(1) for slab in slabs])


@lru_cache(maxsize=16)
def _keys(device: torch.device) -> Tensor:
    """The same keys everywhere and always, without drawing from anybody's random stream."""
    drawn = shake_128(b"lightning-dynamics fingerprint 1").digest(8 * _ROW)
    return torch.frombuffer(bytearray(drawn), dtype=torch.int64).to(device)
