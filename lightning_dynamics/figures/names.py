"""Dotted names of layers and parameters, as pictures write them."""

from __future__ import annotations

from collections.abc import Sequence


def common_parts(names: Sequence[str]) -> int:
    """How many leading dotted parts all the names share; the last part of a name does not count."""
    parts = [name.split(".") for name in names]
    depth = 0
    while all(len(part) > depth + 1 for part in parts) and len({part[depth] for part in parts}) == 1:
        depth += 1
    return depth


def without_common_prefix(names: Sequence[str]) -> list[str]:
    """Names for a picture: without the parts that all of several begin with (``net.``); tables keep them."""
    depth = common_parts(names) if len(names) > 1 else 0
    return [".".join(name.split(".")[depth:]) or "(module)" for name in names]
