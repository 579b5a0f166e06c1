"""The arguments that analyses have in common: what each means, and what it may be."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Literal

from torch.utils.data import DataLoader, Dataset

from lightning_dynamics.core.checks import is_count
from lightning_dynamics.core.lightning import ConfigurationError

OnError = Literal["warn", "raise"]
Data = str | Dataset[Any] | DataLoader[Any]


@dataclass(frozen=True)
class Argument:
    """One argument of several callbacks.

    Args:
        annotation: its type, as signatures write it.
        meaning: for docstrings.
        allowed: whether a value is allowed; None if that is checked where it is used.
        expected: of values that are not, for the error.
    """

    annotation: str
    meaning: str
    allowed: Callable[[Any], bool] | None = None
    expected: str = ""


_COUNT: dict[str, Any] = {"allowed": is_count, "expected": "a whole number from 1 up"}
_NEVER_OR_COUNT: dict[str, Any] = {
    "allowed": lambda value: value is None or is_count(value),
    "expected": "a whole number from 1 up, or None for never",
}
_FUNCTION = 'itself or as ``"package.module.function"``'

COMMON: dict[str, Argument] = {
    "data": Argument("Data", '``"train"``, ``"val"``, a Dataset or a DataLoader: where the examples come from.'),
    "second_data": Argument("Data | None", "as ``data``: further examples, to compare with."),
    "num_examples": Argument("int", "at most this many, chosen once by ``seed``.", **_COUNT),
    "batch_size": Argument("int", "examples per pass.", **_COUNT),
    "every_n_epochs": Argument("int | None", "analyse after every n-th epoch; None for never.", **_NEVER_OR_COUNT),
    "every_n_train_steps": Argument(
        "int | None", "analyse after every n-th optimizer step; None for never.", **_NEVER_OR_COUNT
    ),
    "at_start": Argument("bool", "analyse the model before its first step."),
    "at_end": Argument("bool", "analyse when training ends, if the last event was earlier."),
    "loss_fn": Argument(
        "str | LossFn | None",
        f"``(module, batch) -> scalar``, the mean over the examples, {_FUNCTION}; by default the module's "
        "``training_step``.",
    ),
    "predict_fn": Argument("str | PredictFn | None", f"``(module, batch) -> (logits, targets)``, {_FUNCTION}."),
    "mode": Argument(
        "Mode | None",
        '``"eval"`` or ``"train"``: the flags that the submodules have during the analysis; ``"train"`` as the module '
        'is trained. None for ``"eval"``, unless that is another function than the one that is trained (dropout and '
        "batch normalisation aside): then train mode, and it says so.",
        lambda value: value in ("eval", "train", None),
        "'eval', 'train' or None",
    ),
    "seed": Argument("int", "of the choice of examples, and of whatever is random in the analysis."),
    "name": Argument("str | None", "tells several of these apart in the loggers: ``{group}/{name}/…``."),
    "on_error": Argument(
        "OnError",
        '``"warn"``: if the analysis fails, it warns once, with the reason or the traceback, and training goes on; '
        '``"raise"``: that ends training, in all processes.',
        lambda value: value in ("warn", "raise"),
        "'warn' or 'raise'",
    ),
}
"""Every common argument, in the order in which signatures have them."""


def check(given: Mapping[str, Any]) -> None:
    """Refuse values of common arguments that cannot work.

    Raises:
        ConfigurationError: naming the argument.
    """
    for name, value in given.items():
        argument = COMMON[name]
        if argument.allowed is not None and not argument.allowed(value):
            raise ConfigurationError(f"`{name}` must be {argument.expected}, got {value!r}")


def documented(cls: type) -> str | None:
    """A class's docstring with the common arguments of its signature added, but for those that it explains itself."""
    if not cls.__doc__ or "__init__" not in vars(cls):
        return cls.__doc__
    text = inspect.cleandoc(cls.__doc__)
    found = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", text + "\n", re.MULTILINE)
    if found is None:
        return cls.__doc__
    explained = set(re.findall(r"^    (\w+): ", found[1], re.MULTILINE))
    missing = [name for name in COMMON if name in inspect.signature(cls).parameters and name not in explained]
    lines = "".join(
        fill(f"{name}: {COMMON[name].meaning}", 112, initial_indent=" " * 4, subsequent_indent=" " * 8) + "\n"
        for name in missing
    )
    end = found.end(1) - (len(found[1]) - len(found[1].rstrip("\n"))) + 1
    return (text + "\n")[:end] + lines + (text + "\n")[end:]
