"""Pictures say what their loss is, where it is not simply the mean over the examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_dynamics import CurvatureCallback, LandscapeCallback, LossContributionCallback
from lightning_dynamics.analyses.landscape.wording import basis
from lightning_dynamics.analyses.loss_contribution.wording import basis as basis_of_contributions
from tests.house.training import trainer
from tests.kinds.kind import BATCH
from tests.kinds.modules import KINDS

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("(inputs, classes)", ""),
        ("a tag per token, batch first", "loss is a mean over tokens that count"),
        ("class weights", "loss is a mean over class weights"),
        ("summed loss", "loss per example (a sum in training)"),
        ("two views, NT-Xent", f"loss of minibatches of {BATCH}, which depends on their size"),
    ],
)
def test_what_the_loss_is(tmp_path: Path, name: str, words: str) -> None:
    kind = KINDS[name]
    common = {"num_examples": 22, "on_error": "raise"}
    landscape = LandscapeCallback("random_line", resolution=3, explorer=False, **common)
    curvature = CurvatureCallback(trace_samples=0, density_samples=0, max_iterations=3, **common)
    contributions = LossContributionCallback(**common)
    trainer(tmp_path, [landscape, curvature, contributions], max_epochs=1).fit(kind.make_module(), kind.make_loader())
    assert landscape.last_result and curvature.last_result and contributions.last_result
    told = [basis(landscape.last_result), curvature.last_result.estimator]
    assert all(words in text for text in (*told, basis_of_contributions(contributions.last_result)))
    assert words or not any("loss" in text for text in told)
