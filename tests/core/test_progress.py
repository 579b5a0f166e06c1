"""A bar that only long work shows."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lightning_dynamics.core import progress as module
from lightning_dynamics.core.progress import progress


@pytest.mark.parametrize("description", [None, "cka"])
def test_the_items_pass_through(description: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), total=3, description=description)) == ["a", "b", "c"]
    assert list(progress([], total=0, description=description)) == []
    assert capsys.readouterr() == ("", ""), "short work is silent"


def test_a_bar_appears_for_long_work(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    for _ in progress(range(4), total=4, description="cka"):
        time.sleep(0.06)
    written = capsys.readouterr()
    assert "cka" in written.err and written.out == ""
    assert not written.err.split("\r")[-2].strip() and written.err.endswith("\r"), "its line is cleared at the end"


def test_the_bar_is_below_a_bar_of_the_trainer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own bar stays where it is, and the next event's bar has the same line again."""
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    with Tqdm(total=3, desc="Epoch 0", position=0, file=io.StringIO()):
        for _ in range(2):
            for _ in progress(range(2), total=2, description="cka"):
                pass
            written = capsys.readouterr().err
            # One line down, the bar, one line up again; never two lines down.
            assert "\n\rcka" in written and written.count("\x1b[A") == written.count("\n")
            assert "\n\n" not in written


def test_nobody_waits_for_items_before_they_are_asked_for() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(5):
            drawn.append(i)
            yield i

    for item in progress(items(), total=5, description="cka"):
        if item == 1:
            break
    assert drawn == [0, 1]


def test_exceptions_pass_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(progress(items(), total=2, description="cka"))
