"""What each callback cost, measured by Lightning's own profiler."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.profilers import SimpleProfiler


def profiler(folder: Path) -> SimpleProfiler:
    """Lightning's profiler; its full report goes to ``folder``, not to the screen."""
    return SimpleProfiler(dirpath=folder, filename="profile")


def table(trainer: pl.Trainer, seconds: float) -> str:
    """One line for each callback: seconds, and share of the run.

    Args:
        trainer: has been fitted with a :func:`profiler`.
        seconds: that the run took.
    """
    names = {callback.state_key: _name(callback) for callback in trainer.callbacks}
    spent: Counter[str] = Counter()
    for action, durations in trainer.profiler.recorded_durations.items():
        # An action is "[Callback]{state_key}.{hook}"; a state key may hold dots, a hook does not.
        callback = names.get(action.removeprefix("[Callback]").rpartition(".")[0])
        if action.startswith("[Callback]") and callback is not None:
            spent[callback] += sum(durations)
    spent["the training itself"] = seconds - spent.total()
    width = max(map(len, spent))
    lines = [f"{name:<{width}}  {cost:7.1f} s  {cost / seconds:5.0%}" for name, cost in spent.most_common()]
    return "\n".join([*lines, f"{'together':<{width}}  {seconds:7.1f} s"])


def _name(callback: pl.Callback) -> str:
    """The class; with its ``name``, where two of one class are told apart by it."""
    name, kind = getattr(callback, "name", None), type(callback).__name__
    return f"{kind} ({name})" if isinstance(name, str) else kind
