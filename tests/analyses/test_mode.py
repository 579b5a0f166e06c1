"""Where eval mode is another function, what is trained is analysed unless the other is asked for, and it is said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_dynamics import CKACallback, CurvatureCallback, LandscapeCallback, LossContributionCallback
from tests.house.training import trainer
from tests.kinds.kind import Net, loader_of, numbers

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
X = numbers(24, 4)


class ScaledBack(Net):
    """In eval mode its predictions are in the units of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else 9 + 5 * self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self(batch[0])[:, 0] - batch[1]).square().mean()


def losses(tmp_path: Path, **words: Any) -> tuple[list[float], float, float, list[str]]:
    """Told by three analyses; those of train and eval mode; the warnings."""
    common = {"num_examples": 24, "on_error": "raise", **words}
    landscape = LandscapeCallback("random_line", resolution=3, explorer=False, **common)
    curvature = CurvatureCallback(trace_samples=0, density_samples=0, max_iterations=3, **common)
    contributions = LossContributionCallback(**common)
    module = ScaledBack()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        trainer(tmp_path, [landscape, curvature, contributions], max_epochs=1).fit(module, loader_of(X, X[:, 0]))
    assert landscape.last_result and curvature.last_result and contributions.last_result
    told = [
        float(landscape.last_result.loss[1]),
        curvature.last_result.loss,
        float(contributions.last_result.losses[-1]),
    ]
    with torch.no_grad():
        true = [float(module.train(flag).training_step((X, X[:, 0]), 0)) for flag in (True, False)]
    return told, *true, [str(warning.message) for warning in heard]


def test_what_is_trained_is_analysed_and_it_is_said(tmp_path: Path) -> None:
    told, trained, other, heard = losses(tmp_path)
    assert told == pytest.approx([trained] * 3, rel=1e-5) and trained < 0.1 * other
    said = [text for text in heard if "another function" in text]
    assert len(said) == 3 and all("ScaledBack differ" in text and "`mode='eval'`" in text for text in said)
    assert {text.split(":")[0] for text in said} == {
        "LandscapeCallback",
        "CurvatureCallback",
        "LossContributionCallback",
    }


def test_the_mode_that_is_asked_for_is_taken_without_a_word(tmp_path: Path) -> None:
    told, _, other, heard = losses(tmp_path, mode="eval")
    assert told == pytest.approx([other] * 3, rel=1e-5)
    assert not any("another function" in text for text in heard)


def test_a_second_training_decides_anew(tmp_path: Path) -> None:
    callback = CKACallback(num_examples=24, batch_size=24, on_error="raise")
    with pytest.warns(UserWarning, match="another function"):
        trainer(tmp_path, [callback], max_epochs=1).fit(ScaledBack(), loader_of(X, X[:, 0]))
    assert callback.mode == "train"

    class Plain(ScaledBack):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    trainer(tmp_path, [callback], max_epochs=1).fit(Plain(), loader_of(X, X[:, 0]))
    assert callback.mode == "eval"


def test_spectral_norm_and_batch_norm_are_no_other_function(tmp_path: Path) -> None:
    """What train mode estimates, eval mode uses."""

    class Estimating(ScaledBack):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(  # type: ignore[assignment]
                nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.BatchNorm1d(6), nn.Linear(6, 1)
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    callback = CKACallback(num_examples=24, batch_size=24, on_error="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers|The number of training|.*left out")
        trainer(tmp_path, [callback], max_epochs=1).fit(Estimating(), loader_of(X, X[:, 0]))
    assert callback.mode == "eval"
