"""The file: what is written comes back, whatever changed in between, and a crash costs no more than a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_dynamics.analyses.fingerprint.journal import (
    Journal,
    Reading,
    Record,
    chained,
    file_in,
    files_in,
    previous,
)

HEADER = {"rank": 0}


def record(n: int, **sections: dict[str, str]) -> Record:
    filled = {kind: {name: word.ljust(16, "0") for name, word in words.items()} for kind, words in sections.items()}
    return Record(n, n, 0, n - 1, "0.5", 8, filled, chained("", n, filled))


RECORDS = [
    record(1, parameters={"a": "1", "b": "2", "c": "3"}, loss={"loss": "1"}),
    record(2, parameters={"a": "1", "b": "2", "c": "4"}, loss={}),  # one of three has changed
    record(3, parameters={"a": "1", "b": "2", "c": "4"}, loss={"loss": "2"}),  # none
    record(4, parameters={"a": "5", "b": "6", "c": "7"}),  # all; a section is missing
    record(5, parameters={"c": "5", "b": "6", "a": "7"}, loss={"loss": "2"}),  # another order
    record(6, parameters={"c": "5", "b": "6"}, loss={"loss": "2"}),
]


def written(path: Path, records: list[Record], **options: object) -> Journal:
    journal = Journal(path, HEADER, **options)  # type: ignore[arg-type]
    for one in records:
        journal.add(one)
    journal.close()
    return journal


def read(path: Path) -> list[Record]:
    return list(Reading(path).records())


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = file_in(tmp_path / "new" / "folder", 3)
    written(path, RECORDS)
    assert read(path) == RECORDS
    assert Reading(path).header["rank"] == 0
    assert files_in(path.parent) == {3: path}


def test_what_does_not_change_takes_no_room(tmp_path: Path) -> None:
    many = {f"layer{i}.weight": f"{i:016x}" for i in range(1000)}
    written(file_in(tmp_path, 0), [record(n, parameters=many) for n in range(1, 51)])
    names_and_words = 1000 * (16 + len("layer123.weight") + 3)
    assert file_in(tmp_path, 0).stat().st_size < names_and_words + 50 * 200


def test_every_record_is_in_the_file_at_once(tmp_path: Path) -> None:
    journal = Journal(file_in(tmp_path, 0), HEADER)
    for i, one in enumerate(RECORDS):
        journal.add(one)
        assert len(read(journal.path)) == i + 1
    journal.close()


@pytest.mark.parametrize("cut", [1, 30, 90])
def test_a_line_that_was_cut_off(cut: int, tmp_path: Path) -> None:
    path = file_in(tmp_path, 0)
    written(path, RECORDS)
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])
    reading = Reading(path)
    assert list(reading.records()) == RECORDS[:-1] and reading.incomplete
    # The next run begins where the whole lines end.
    written(path, RECORDS[5:], after=5)
    assert read(path) == RECORDS


def test_damage_elsewhere_is_told(tmp_path: Path) -> None:
    path = file_in(tmp_path, 0)
    written(path, RECORDS)
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:20]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="line 3"):
        read(path)


@pytest.mark.parametrize("text", ["", "no json\n", "[]\n", '{"n": 1}\n', '{"format": "another"}\n'], ids=repr)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(ValueError, match="no fingerprint"):
        Reading(path)


def test_a_new_run_keeps_the_one_before_once(tmp_path: Path) -> None:
    path = file_in(tmp_path, 0)
    for stop in (1, 2, 3):
        written(path, RECORDS[:stop])
    assert read(path) == RECORDS[:3] and read(previous(path)) == RECORDS[:2]
    assert files_in(tmp_path) == {0: path}


def test_going_on_cuts_what_comes_later_and_keeps_it(tmp_path: Path) -> None:
    path = file_in(tmp_path, 0)
    written(path, RECORDS)
    journal = written(path, RECORDS[3:], after=3, digest=RECORDS[2].digest)
    assert journal.digest == RECORDS[2].digest
    assert read(path) == read(previous(path)) == RECORDS
    reading = Reading(path)
    list(reading.records())
    assert reading.resumed == [3]


def test_going_on_at_the_end_copies_nothing(tmp_path: Path) -> None:
    path = file_in(tmp_path, 0)
    end = Record(4, 3, 1, None, None, None, {"parameters": {"a": "0" * 16}}, "f" * 16, end=True)
    written(path, [*RECORDS[:3], end])
    node = path.stat().st_ino
    written(path, RECORDS[3:], after=3, digest=RECORDS[2].digest)
    assert read(path) == RECORDS
    assert path.stat().st_ino == node and not previous(path).exists()


def test_going_on_in_another_folder_copies_the_beginning(tmp_path: Path) -> None:
    old, new = file_in(tmp_path / "old", 0), file_in(tmp_path / "new", 0)
    written(old, RECORDS)
    before = old.read_bytes()
    written(new, RECORDS[3:], after=3, digest=RECORDS[2].digest, earlier=old)
    assert read(new) == RECORDS and old.read_bytes() == before


def test_another_runs_file_is_not_gone_on_in(tmp_path: Path) -> None:
    path = file_in(tmp_path, 0)
    written(path, RECORDS)
    journal = written(path, RECORDS[3:], after=3, digest="0" * 16, earlier=tmp_path / "gone")
    assert journal.digest == "0" * 16
    assert read(path) == RECORDS[3:] and read(previous(path)) == RECORDS


def test_a_chain_tells_everything_but_random_states() -> None:
    base = {"rng": {"torch": "1"}, "loss": {"loss": "2"}, "parameters": {"a": "3", "b": "4"}}
    first = chained("", 1, base)
    assert chained("", 1, base | {"rng": {"torch": "9"}}) == first
    others = [
        chained("0", 1, base),
        chained("", 2, base),
        chained("", 1, base | {"loss": {"loss": "3"}}),
        chained("", 1, base | {"parameters": {"b": "3", "a": "4"}}),
        chained("", 1, {kind: base[kind] for kind in ("rng", "loss")}),
    ]
    assert len({first, *others}) == 1 + len(others)
