"""The file of a fingerprint: a line per training batch, written as it happens, read one line at a time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from lightning_dynamics.analyses.fingerprint.contents import Digests

FORMAT = "lightning-dynamics fingerprint 1"
_DIGITS = 16
_NAME = re.compile(r"fingerprint-rank(\d+)\.jsonl")

DigestsByKind = dict[str, Digests]
"""Kind → name → digest."""


@dataclass(frozen=True)
class Record:
    """What is known of one training batch, and of the state before it.

    Args:
        n: training batches so far, this one included; of the last record, one more than there were.
        step: optimizer steps so far, this batch's included (under manual optimisation, batches that stepped).
        epoch: from 0.
        batch_idx: within the epoch, from 0; None at the end.
        loss: for people; None if there is none or it is no single number.
        size: examples of the batch, if it has any.
        sections: the digests.
        digest: of all records so far, this one included, random states left out.
        end: training has ended, and this is only the state after it.
    """

    n: int
    step: int
    epoch: int
    batch_idx: int | None
    loss: str | None
    size: int | None
    sections: DigestsByKind
    digest: str
    end: bool = False


def file_in(folder: Path, rank: int) -> Path:
    """Where a process writes."""
    return folder / f"fingerprint-rank{rank}.jsonl"


def files_in(folder: Path) -> dict[int, Path]:
    """The files of all processes, by rank."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in sorted(found, key=lambda pair: pair[1]) if match}


def previous(path: Path) -> Path:
    """Where the file that was there before is kept, once."""
    return path.with_name(f"{path.stem}.previous.jsonl")


def chained(digest: str, n: int, sections: DigestsByKind) -> str:
    """The digest of a run up to a record, from the one before; random states are means, not results."""
    told = {kind: [*words, "".join(words.values())] for kind, words in sections.items() if kind != "rng"}
    return sha256(json.dumps([digest, n, told]).encode()).hexdigest()[:16]


class Journal:
    """Writes one process's file. What has been written stays if the process dies.

    Digests that have not changed since the record before are left out.

    Args:
        path: the file.
        header: plain values; ``format`` is added.
        after: go on after the record of this ``n`` in an earlier file; 0 begins anew.
        digest: of that record, to tell an earlier file of this run from another's; None if it is not known.
        earlier: where the earlier file may be, besides ``path``.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        *,
        after: int = 0,
        digest: str | None = None,
        earlier: Path | None = None,
    ) -> None:
        """Open the file; :attr:`digest` says how what is in it ends."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.digest = digest or ""
        self._last: DigestsByKind = {}
        sources = dict.fromkeys([path] if earlier is None else [path, earlier]) if after else {}
        for source in sources:
            found = _place(source, after, digest)
            if found is not None:
                length, self.digest, whole = found
                if source == path and whole:
                    os.truncate(path, length)
                else:
                    fresh = path.with_name(f"{path.name}.partial")
                    _copy_start(source, fresh, length)
                    _put(fresh, path)
                break
        else:
            if path.exists():
                os.replace(path, previous(path))
        self._file: IO[str] = open(path, "a", encoding="utf-8", newline="\n")
        self._write({"format": FORMAT, **header, "after": after})

    def add(self, record: Record) -> None:
        """Write a record."""
        names, words = {}, {}
        for kind, section in record.sections.items():
            old = self._last.get(kind)
            if old is None or old.keys() != section.keys() or list(old) != list(section):
                names[kind] = list(section)
                words[kind] = "".join(section.values())
                continue
            changed = {str(i): word for i, (name, word) in enumerate(section.items()) if old[name] != word}
            words[kind] = changed if 2 * len(changed) < len(section) else "".join(section.values())  # type: ignore
        line: dict[str, Any] = {"n": record.n, "step": record.step, "epoch": record.epoch}
        optional = {"batch_idx": record.batch_idx, "loss": record.loss, "size": record.size, "names": names}
        line |= {key: value for key, value in optional.items() if value not in (None, {})}
        line |= {"end": True} if record.end else {}
        self._write(line | {"words": words, "digest": record.digest})
        self._last |= record.sections

    def close(self) -> None:
        """No more records."""
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()


@dataclass
class Reading:
    """Reads one process's file.

    Args:
        path: the file.

    Raises:
        ValueError: it is no fingerprint, or damaged elsewhere than in its last line.
    """

    path: Path
    header: dict[str, Any] = field(default_factory=dict)
    """The first header."""

    resumed: list[int] = field(default_factory=list)
    """Batches after which training was interrupted and resumed; known as far as records have been read."""

    incomplete: bool = False
    """The last line was cut off, as in a crash; known when all records have been read."""

    def __post_init__(self) -> None:
        """Read the header."""
        for _, line in self._lines():
            self.header = line
            break
        if self.header.get("format") != FORMAT:
            raise ValueError(f"{self.path} is no fingerprint that this version can read")

    def records(self) -> Iterator[Record]:
        """One after the other, each whole."""
        names: dict[str, list[str]] = {}
        known: DigestsByKind = {}
        self.resumed = []
        for _, line in self._lines():
            if "format" in line:
                if line["after"]:
                    self.resumed.append(line["after"])
                continue
            names |= line.get("names", {})
            sections = {kind: _spelled(names[kind], known.get(kind), code) for kind, code in line["words"].items()}
            known |= sections
            yield Record(
                n=line["n"],
                step=line["step"],
                epoch=line["epoch"],
                batch_idx=line.get("batch_idx"),
                loss=line.get("loss"),
                size=line.get("size"),
                sections=sections,
                digest=line["digest"],
                end=line.get("end", False),
            )

    def places(self) -> Iterator[tuple[int, int, str]]:
        """Of every training batch: where its line ends in the file, in bytes, ``n``, and ``digest``."""
        for end, line in self._lines():
            if "n" in line and "end" not in line:
                yield end, line["n"], line["digest"]

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Where each line ends, and what it says."""
        end, broken = 0, None
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if broken is not None:
                    raise ValueError(f"{self.path} is damaged in line {broken}")
                end += len(line)
                try:
                    said = json.loads(line)
                    if not isinstance(said, dict):
                        raise ValueError
                except ValueError:
                    broken = number
                    continue
                yield end, said
        self.incomplete = broken is not None


def _spelled(names: list[str], before: Digests | None, code: str | dict[str, str]) -> Digests:
    if isinstance(code, str):
        return {name: code[_DIGITS * i : _DIGITS * (i + 1)] for i, name in enumerate(names)}
    assert before is not None
    return before | {names[int(i)]: word for i, word in code.items()} if code else before


def _place(source: Path, after: int, digest: str | None) -> tuple[int, str, bool] | None:
    """Where the last record up to ``after`` ends, its digest, and whether it is the last of all.

    None if this is not the file of that run.
    """
    found: tuple[int, str] | None = None
    whole = True
    try:
        for end, n, said in Reading(source).places():
            if n > after:
                whole = False
                break
            found = end, said
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (*found, whole) if found is not None and digest in (None, found[1]) else None


def _copy_start(source: Path, target: Path, length: int) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        while length > 0 and (block := read.read(min(length, 2**20))):
            write.write(block)
            length -= len(block)


def _put(fresh: Path, path: Path) -> None:
    """Put a file in its place; what was there is kept beside it."""
    if path.exists():
        os.replace(path, previous(path))
    os.replace(fresh, path)
