"""A module that nobody here wrote, one analysis of its training, and what came of it."""

from __future__ import annotations

import copy
import random
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_dynamics import AnalysisCallback, ConfigurationError
from lightning_dynamics.core.random_state import seed_all
from tests.house.training import trainer
from tests.kinds.kind import Kind

Word = Literal["works", "rests", "refused"]
"""``"rests"``: training went on without the analysis, after a warning; ``"refused"``: it did not begin."""

ARGUMENTS = (
    *("data", "num_examples", "batch_size", "loss_fn", "predict_fn", "mode", "layers", "parameters", "reduction"),
    *("target", "with_respect_to", "example_loss_fn", "attribution", "batchnorm", "checkpoints"),
)
_REMEDY = re.compile(rf"`({'|'.join(ARGUMENTS)}|module\(batch\))(?!\w)")


@dataclass(frozen=True, eq=False)
class Case:
    """A family of modules.

    Args:
        package: which must be installed, as it is imported.
        load: the kind, made when it is wanted: nothing of the package is imported before.
        few: pattern of some parameters, at most a hundred numbers.
        layers: two whose outputs are ``(N, …)``, for a CKA written out; none where examples have no rows of their own.
        is_lazy: the first batch makes its weights.
        settings: arguments by the analysis's name, for the sake of a number that can be checked.
        given: likewise, arguments that a user has to give: what the complaints without them name.
    """

    package: str
    load: Callable[[], Kind]
    few: str
    layers: tuple[str, str] | None = None
    is_lazy: bool = False
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of it.

    Args:
        word: how it ended.
        text: the complaint, where there is one: the error's own words.
        callback: with its results.
        module: trained.
        left: all that training left behind.
        seen: the minibatches that the analysis measured last.
    """

    word: Word
    text: str
    callback: Any
    module: Any
    left: dict[str, Any]
    seen: list[Any]

    @property
    def remedies(self) -> list[str]:
        """Arguments that the complaint names; ``module(batch)`` is what lazy modules need before training."""
        return sorted(set(_REMEDY.findall(self.text)))


def train(kind: Kind, callback: Any, folder: Path) -> Outcome:
    """Two epochs from one seed."""
    module, loader = kind.make_module(), kind.make_loader()
    seen: list[Any] = []
    if isinstance(callback, AnalysisCallback):
        _spy(callback, seen)
    seed_all(0)
    run = trainer(folder, [] if callback is None else [callback])
    word: Word = "works"
    text = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run.fit(module, loader)
        except ConfigurationError as error:
            word, text = "refused", str(error)
    if word == "works":
        complaints = [str(each.message) for each in caught if "and training goes on" in str(each.message)]
        if complaints:
            word, text = "rests", complaint(complaints[0])
    left = {
        "weights and buffers": dict(module.state_dict()),
        "gradients": [parameter.grad for parameter in module.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in module.parameters()],
        "training flags": [part.training for part in module.modules()],
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "metrics": dict(run.callback_metrics),
        "steps": run.global_step,
    }
    return Outcome(word, text, callback, module, left, seen)


def _spy(callback: AnalysisCallback[Any], seen: list[Any]) -> None:
    """Keep the minibatches that it measured last."""
    measure = callback.measure

    def spied(context: Any) -> Any:
        seen[:] = [copy.deepcopy(batch.data) for batch in context.batches()]
        return measure(context)

    callback.measure = spied  # type: ignore[method-assign]


def complaint(warning: str) -> str:
    """The error at the end of a warning: what the user reads last."""
    lines = warning.rstrip().splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Warning)\b", line)]
    return "\n".join(lines[starts[-1] :]) if starts else warning.partition("stops it instead): ")[2]
