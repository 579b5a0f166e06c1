"""Where two runs part: the first step and the first thing that differs, in the order of cause and effect."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from lightning_dynamics.analyses.fingerprint.callback import FingerprintCallback
from lightning_dynamics.analyses.fingerprint.contents import Digests
from lightning_dynamics.analyses.fingerprint.journal import DigestsByKind, Reading, Record, files_in
from lightning_dynamics.analyses.fingerprint.onset import CAUSAL, STATE, Kind, Onset, in_order, label
from lightning_dynamics.analyses.fingerprint.result import Divergence
from lightning_dynamics.core.lightning import ConfigurationError

Fingerprint: TypeAlias = "str | os.PathLike[str] | FingerprintCallback"


def compare_fingerprints(
    a: Fingerprint, b: Fingerprint, *, ignore: Sequence[str] = (), before: int = 5, after: int = 25
) -> Divergence | None:
    """Say where two runs part; None if they are the same from beginning to end.

    ``print`` the result to read what differs first and what it usually means; ``plot()`` it to see how the difference
    spreads.

    Every step that both fingerprints tell of is compared, in all processes. Of two things that differ first at the same
    step the cause is named: random states before the step, settings, batch, loss, gradients, then what the step leaves
    behind: parameters, buffers, optimizer state.

    Cost: both files are read once, and each of them once more for its length, a line at a time.

    Args:
        a: the folder of a run's fingerprint, one of the files in it, or the callback that wrote it.
        b: the other run's.
        ignore: kinds that do not count. ``"rng"`` where one run was resumed: Lightning does not restore the global
            random states, which does not matter if training draws no numbers from them.
        before: steps before the first difference that the picture shows.
        after: steps from the first difference on that the picture shows.

    Raises:
        ConfigurationError: there is no fingerprint, it is damaged, or no step is in both.
    """
    if before < 0 or after < 1:
        raise ConfigurationError(f"`before` must be at least 0 and `after` at least 1, got {before} and {after}")
    for kind in ignore:
        if kind not in CAUSAL:
            raise ConfigurationError(f"`ignore` takes any of {', '.join(CAUSAL)}; got {kind!r}")
    first, second = files_of(a, "a"), files_of(b, "b")
    if first.keys() != second.keys():
        told = f"a was written by {_processes(first)}, b by {_processes(second)}"
        return Divergence("processes", 0, "", (), (0, 0), (told,))
    onsets: dict[Kind, Onset] = {}
    spreads: dict[int, dict[str, Any]] = {}
    lengths, notes, common = (0, 0), list[str](), 0
    for rank, path in first.items():
        pair = _open(path, second[rank])
        if (unlike := _models(*pair)) is not None:
            return Divergence("model", 0, unlike[0], (), (0, 0), (unlike[1], *_environments(*pair)))
        window = _Window(before, after, set(ignore))
        found, compared, ends = _onsets(pair, rank, set(ignore), window)
        spreads[rank] = window.spread()
        for onset in found:
            if onset.kind not in onsets or onset.step < onsets[onset.kind].step:
                onsets[onset.kind] = onset
        lengths = max(lengths[0], ends[0]), max(lengths[1], ends[1])
        notes += [note for note in (*_environments(*pair), *_conditions(*pair)) if note not in notes]
        common = max(common, compared[0])
        if compared[1] == 0:
            raise ConfigurationError(
                f"no training step is in both {path} and {second[rank]}: `every_n_train_steps` was "
                f"{pair[0].header['every_n_train_steps']} and {pair[1].header['every_n_train_steps']}"
            )
    if onsets:
        order = in_order(list(onsets.values()))
        first_of_all = order[0]
        return Divergence(
            first_of_all.kind,
            first_of_all.step,
            first_of_all.names[0],
            tuple(order),
            lengths,
            tuple(notes),
            **spreads[first_of_all.rank],
        )
    if lengths[0] != lengths[1]:
        return Divergence("length", common, "", (), lengths, tuple(notes))
    return None


def files_of(fingerprint: Fingerprint, argument: str) -> dict[int, Path]:
    """A fingerprint's files, by rank."""
    if isinstance(fingerprint, FingerprintCallback):
        if fingerprint.folder is None:
            raise ConfigurationError(f"`{argument}` is a FingerprintCallback that has seen no training")
        fingerprint = fingerprint.folder
    path = Path(fingerprint)
    if path.is_file():
        return {Reading(path).header["rank"]: path} if _is_readable(path, argument) else {}
    found = files_in(path) if path.is_dir() else {}
    if not found:
        raise ConfigurationError(f"`{argument}`: there is no fingerprint-rank0.jsonl in {path}")
    return found


def common_records(a: Reading, b: Reading) -> Iterator[tuple[Record, Record]]:
    """Records of the same step, in order, as long as both files go."""
    left, right = a.records(), b.records()
    one, two = next(left, None), next(right, None)
    while one is not None and two is not None:
        if one.n == two.n:
            yield one, two
            one, two = next(left, None), next(right, None)
        elif one.n < two.n:
            one = next(left, None)
        else:
            two = next(right, None)


def differing(one: Digests, two: Digests) -> tuple[str, ...]:
    """Names whose digests differ, and those that only one of them has; in the order of the first."""
    return tuple(name for name in {**one, **two} if one.get(name) != two.get(name))


class _Window:
    """The records around the first difference.

    Args:
        before: steps before it.
        after: steps from it on.
        ignore: kinds that do not count.
    """

    def __init__(self, before: int, after: int, ignore: set[str]) -> None:
        self._before, self._after, self._ignore = before, after, ignore
        self._records: deque[tuple[int, DigestsByKind, DigestsByKind]] = deque()
        self._start: int | None = None

    def add(self, one: Record, two: Record, *, differs: bool) -> None:
        """The next pair of records; ``differs`` if anything has differed so far."""
        if differs and self._start is None:
            self._start = one.n
        if self._start is None or one.n < self._start + self._after:
            self._records.append((one.n, one.sections, two.sections))
        oldest = (one.n if self._start is None else self._start) - self._before
        while self._records and self._records[0][0] < oldest:
            self._records.popleft()

    def spread(self) -> dict[str, Any]:
        """The fields of a :class:`Divergence` that tell of it; nothing without a difference."""
        if self._start is None:
            return {}
        rows = [self._rows(one, two) for _, one, two in self._records]
        differing_somewhere: dict[str, bool] = {}
        for row in rows:
            for name, differs in row.items():
                differing_somewhere[name] = differing_somewhere.get(name, False) or differs
        names = [name for name, differs in differing_somewhere.items() if differs]
        return {
            "spread_steps": torch.tensor([n for n, _, _ in self._records]),
            "spread_names": tuple(names),
            "spread": torch.tensor([[row.get(name, False) for row in rows] for name in names]),
            "spread_equal": len(differing_somewhere) - len(names),
        }

    def _rows(self, one: DigestsByKind, two: DigestsByKind) -> dict[str, bool]:
        """Of every digest whose kind both records have: whether it differs. States first: the step begins with them."""
        rows: dict[str, bool] = {}
        for kind in (*STATE, *(kind for kind in CAUSAL if kind not in STATE)):
            if kind in one and kind in two and kind not in self._ignore:
                names = differing(one[kind], two[kind])
                rows |= {label(kind, name): name in names for name in {**one[kind], **two[kind]}}
        return rows


def _onsets(
    pair: tuple[Reading, Reading], rank: int, ignore: set[str], window: _Window
) -> tuple[list[Onset], tuple[int, int], tuple[int, int]]:
    """Of one process: where each kind differs first; the last common step and how many; where each file ends."""
    found: dict[Kind, Onset] = {}
    equal_until: int | None = None
    before: frozenset[str] | None = None
    last, count = 0, 0
    ends = [0, 0]
    try:
        for one, two in common_records(*pair):
            ended = one.end or two.end
            last, count = last if ended else one.n, count + 1
            compared = frozenset(one.sections.keys() & two.sections.keys()) - ignore
            for kind in CAUSAL:
                if kind in found or kind in ignore or kind not in compared:
                    continue
                names = differing(one.sections[kind], two.sections[kind])
                if names:
                    step = one.n - 1 if kind in STATE else one.n
                    sets = [record.sections.get("examples") for record in (one, two)]
                    found[kind] = Onset(
                        kind,
                        step,
                        names,
                        rank,
                        None if kind in STATE or one.batch_idx is None else (one.epoch, one.batch_idx),
                        equal_until,
                        compared if not ended or before is None else before,
                        (one.loss, two.loss),
                        (one.size, two.size),
                        kind == "batch" and sets[0] is not None and sets[0] == sets[1],
                        tuple(name for name in one.sections[kind] if name not in names),
                    )
            equal_until, before = one.n, compared
            window.add(one, two, differs=bool(found))
        for place, reading in enumerate(pair):
            for record in reading.records():
                ends[place] = ends[place] if record.end else record.n
    except (ValueError, KeyError, TypeError, AssertionError, IndexError) as error:
        raise ConfigurationError(f"a fingerprint is damaged: {error}") from error
    return list(found.values()), (last, count), (ends[0], ends[1])


def _open(a: Path, b: Path) -> tuple[Reading, Reading]:
    _is_readable(a, "a")
    _is_readable(b, "b")
    return Reading(a), Reading(b)


def _is_readable(path: Path, argument: str) -> bool:
    try:
        return bool(Reading(path).header)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"`{argument}`: {error}") from error


def _processes(files: dict[int, Path]) -> str:
    return f"{len(files)} process{'es' if len(files) > 1 else ''} (rank {', '.join(map(str, files))})"


def _models(a: Reading, b: Reading) -> tuple[str, str] | None:
    """The first parameter or buffer that only one model has or that has another shape, and all of it in words."""
    for kind, word in (("parameters", "parameter"), ("buffers", "buffer")):
        one, two = a.header["model"][kind], b.header["model"][kind]
        names = differing(one, two)
        if names:
            shown = [f"{name} ({one.get(name, 'not there')} in a, {two.get(name, 'not there')} in b)" for name in names]
            more = f", and {len(shown) - 3} more" if len(shown) > 3 else ""
            return names[0], f"{word}s that the models do not share: {', '.join(shown[:3])}{more}"
    return None


def _environments(a: Reading, b: Reading) -> tuple[str, ...]:
    one, two = a.header["environment"], b.header["environment"]
    told = [f"{key} ({one.get(key)} in a, {two.get(key)} in b)" for key in differing(one, two)]
    return (f"the runs also differ in {', '.join(told)}",) if told else ()


def _conditions(a: Reading, b: Reading) -> Iterator[str]:
    for name, reading in (("a", a), ("b", b)):
        if reading.resumed:
            yield f"{name} was interrupted and resumed after step {', '.join(map(str, dict.fromkeys(reading.resumed)))}"
        if reading.incomplete:
            yield f"{name}'s last line is cut off, as by a crash; it does not count"
