"""Where two runs part: the first step and the first thing that differs, in the order of cause and effect."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from lightning_dynamics.analyses.fingerprint.advice import describe
from lightning_dynamics.analyses.fingerprint.callback import FingerprintCallback
from lightning_dynamics.analyses.fingerprint.contents import Words
from lightning_dynamics.analyses.fingerprint.journal import Reading, Record, files_in
from lightning_dynamics.core.lightning import ConfigurationError

Kind = Literal[
    "processes",
    "model",
    "rng",
    "settings",
    "batch",
    "loss",
    "gradients",
    "parameters",
    "buffers",
    "optimizer",
    "length",
]

CAUSAL: tuple[Kind, ...] = ("rng", "settings", "batch", "loss", "gradients", "parameters", "buffers", "optimizer")
"""What can differ at a step: causes before effects."""

STATE: tuple[Kind, ...] = ("parameters", "buffers", "optimizer")
"""What a step leaves behind; it is looked at when the next one begins, and stands in that one's record."""

Fingerprint: TypeAlias = "str | os.PathLike[str] | FingerprintCallback"


@dataclass(frozen=True)
class Onset:
    """Where one kind of thing differs for the first time.

    Args:
        kind: one of :data:`CAUSAL`.
        step: training batches up to and with this one; for :data:`STATE`, the step it is the state after, 0 being the
            state before the first.
        names: those that differ, in the module's order, e.g. parameters.
        rank: the process in which it does.
        place: ``(epoch, batch)`` of that step, from 0; None for a state, and at the end.
        equal_until: the latest step before whose record both have; None if this is the first.
        compared: which kinds both files tell of.
        loss: of both runs at that step, with every digit; None where there is none.
        sizes: examples in both batches, likewise.
        same_examples: the batches hold the same examples in another order.
        equal_names: of the kind, those that are equal: labels, for instance.
    """

    kind: Kind
    step: int
    names: tuple[str, ...]
    rank: int
    place: tuple[int, int] | None
    equal_until: int | None
    compared: frozenset[str]
    loss: tuple[str | None, str | None] = (None, None)
    sizes: tuple[int | None, int | None] = (None, None)
    same_examples: bool = False
    equal_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Divergence:
    """How two runs differ; ``str()`` tells it with what it usually means.

    Args:
        kind: what differs first: one of :data:`CAUSAL`; or ``"processes"``, ``"model"``: the runs cannot be compared;
            or ``"length"``: they are equal as far as both go, and one goes further.
        step: the training batch in which it does, from 1; 0 is before the first. For ``"length"``, the last common one.
        name: the first tensor, batch entry, setting or random stream that differs; empty if there is none.
        onsets: of each kind that differs anywhere, where it does first: in time, then causes before effects. The first
            is what the other fields tell of.
        lengths: the last step of both fingerprints.
        notes: what else a reader should know: another seed, a file that ends in a crash.
    """

    kind: Kind
    step: int
    name: str
    onsets: tuple[Onset, ...]
    lengths: tuple[int, int]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """The whole finding, in a few lines."""
        return describe(self)


def compare_fingerprints(a: Fingerprint, b: Fingerprint, *, ignore: Sequence[str] = ()) -> Divergence | None:
    """Say where two runs part; None if they are the same from beginning to end.

    Every step that both fingerprints tell of is compared, in all processes. Of two things that differ first at the same
    step the cause is named: random states before the step, settings, batch, loss, gradients, then what the step leaves
    behind: parameters, buffers, optimizer state.

    Cost: both files are read once, and each of them once more for its length, a line at a time.

    Args:
        a: the folder of a run's fingerprint, one of the files in it, or the callback that wrote it.
        b: the other run's.
        ignore: kinds that do not count. ``"rng"`` where one run was resumed: Lightning does not restore the global
            random states, which does not matter if training draws no numbers from them.

    Raises:
        ConfigurationError: there is no fingerprint, it is damaged, or no step is in both.
    """
    for kind in ignore:
        if kind not in CAUSAL:
            raise ConfigurationError(f"`ignore` takes any of {', '.join(CAUSAL)}; got {kind!r}")
    first, second = files_of(a, "a"), files_of(b, "b")
    if first.keys() != second.keys():
        told = f"a was written by {_processes(first)}, b by {_processes(second)}"
        return Divergence("processes", 0, "", (), (0, 0), (told,))
    onsets: dict[Kind, Onset] = {}
    lengths, notes, common = (0, 0), list[str](), 0
    for rank, path in first.items():
        pair = _open(path, second[rank])
        if (unlike := _models(*pair)) is not None:
            return Divergence("model", 0, unlike[0], (), (0, 0), (unlike[1], *_environments(*pair)))
        found, compared, ends = _onsets(pair, rank, set(ignore))
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
        order = sorted(onsets.values(), key=lambda onset: (onset.step, CAUSAL.index(onset.kind)))
        return Divergence(order[0].kind, order[0].step, order[0].names[0], tuple(order), lengths, tuple(notes))
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


def differing(one: Words, two: Words) -> tuple[str, ...]:
    """Names whose digests differ, and those that only one of them has; in the order of the first."""
    return tuple(name for name in {**one, **two} if one.get(name) != two.get(name))


def _onsets(
    pair: tuple[Reading, Reading], rank: int, ignore: set[str]
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
