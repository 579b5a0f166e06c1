"""Read an offline W&B run back: what was really logged, row by row.

A ``.wandb`` file is a 7-byte header and then LevelDB's log format: blocks of 32 KiB holding records of
``crc (4), length (2), kind (1), payload``, little endian; a record that crosses a block's end is cut into
first, middle and last parts. Each whole record is a protobuf. W&B has no public Python reader for it that
works on both 0.19 and 0.31.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = 32 * 1024
_HEAD = 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class Artifact:
    """What the run says of an artifact, and the content of its files, from where W&B has put them."""

    name: str
    type: str
    description: str
    metadata: dict[str, Any]
    files: dict[str, bytes]


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """The history rows of an offline run (``offline-run-…``), oldest first. Call ``wandb.finish()`` before."""
    rows = []
    for record in _finished(run_dir).get("history", []):
        row: dict[str, Any] = {}
        for item in record.history.item:
            *outer, last = item.nested_key or [item.key]
            place = row
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = json.loads(item.value_json)
        rows.append(row)
    return rows


def read_artifacts(run_dir: Path) -> list[Artifact]:
    """The artifacts of an offline run, tables' among them, in the order they were logged."""
    artifacts = []
    for record in _finished(run_dir).get("artifact", []):
        it = record.artifact
        metadata = json.loads(it.metadata) if it.metadata else {}
        files = {entry.path: Path(entry.local_path).read_bytes() for entry in it.manifest.contents}
        artifacts.append(Artifact(it.name, it.type, it.description, metadata, files))
    return artifacts


def media_file(run_dir: Path, medium: dict[str, Any]) -> Path:
    """The file behind a medium of a history row, e.g. ``row["cka/similarity"]``."""
    return Path(run_dir) / "files" / medium["path"]


def _finished(run_dir: Path, timeout: float = 20.0) -> dict[str, list[Any]]:
    """The records by type; ``finish`` of wandb 0.19 may return before the file is complete, so this waits for it."""
    (path,) = Path(run_dir).glob("run-*.wandb")
    deadline = time.monotonic() + timeout
    while "exit" not in (records := _read(path)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has no exit record: was wandb.finish() called?")
        time.sleep(0.05)
    return records


def _read(path: Path) -> dict[str, list[Any]]:
    """The records by type."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, list[Any]] = {}
    for payload in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(payload)
        found.setdefault(str(record.WhichOneof("record_type")), []).append(record)
    return found


def _records(data: bytes) -> Iterator[bytes]:
    parts: list[bytes] = []
    at = _HEAD  # the file's own header happens to be as long as a record's
    while at + _HEAD <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD:  # too short for a record: padding
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or at + _HEAD + length > len(data):
            return  # still being written
        parts.append(data[at + _HEAD : at + _HEAD + length])
        at += _HEAD + length
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
