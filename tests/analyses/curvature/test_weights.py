"""A minibatch's mean loss counts by its terms: eigenvalues do not depend on how the examples lie in minibatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics.analyses.critical_points import CriticalPointsCallback, Trajectory, find
from lightning_dynamics.analyses.curvature import (
    CurvatureCallback,
    extreme_eigenvalues,
    gradient_flatness,
    hessian_vector_product,
    hutchinson_trace,
    spectral_density,
)
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.parameters import flatten
from lightning_dynamics.core.probe import Batch, Probe
from tests.analyses.curvature import reference as R
from tests.house import training

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]
N, CLASS_WEIGHTS = 32, torch.tensor([1.0, 4.0, 0.5])


class Tagger(nn.Module):
    """A tag for every token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, R.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(x)))


def token_loss(logits: Tensor, tags: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), tags.flatten(), ignore_index=-1)


def weighted_loss(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits, classes, CLASS_WEIGHTS.to(logits))


def tokens() -> tuple[nn.Module, Tensor, Tensor]:
    """Sentences of 1 to 7 tokens, padded."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(9, (N, 7), generator=generator)
    tags = torch.randint(R.CLASSES, (N, 7), generator=generator)
    tags[torch.arange(7) >= 1 + torch.arange(N)[:, None] % 7] = -1
    return Tagger().double(), x, tags


def classes() -> tuple[nn.Module, Tensor, Tensor]:
    """Sorted, so that minibatches are of one class each."""
    x, y = R.data(4, n=N)
    return R.mlp(), x, y.sort().values


Case = tuple[Callable[[], tuple[nn.Module, Tensor, Tensor]], Callable[[Tensor, Tensor], Tensor], Callable[..., float]]
CASES: dict[str, Case] = {
    "padded tokens": (tokens, token_loss, lambda y: float((y >= 0).sum())),
    "class weights": (classes, weighted_loss, lambda y: float(CLASS_WEIGHTS[y].sum())),
}


def batches_of(size: int, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_eigenvalues_do_not_depend_on_the_minibatches(case: str) -> None:
    make, loss, count = CASES[case]
    net, x, y = make()
    matrix = R.exact_hessian(net, x, y, loss)
    truth = torch.linalg.eigvalsh(matrix)
    mean = float(loss(net(x), y).detach())
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    by_examples = []
    for size in (32, 4, 1):
        parts = batches_of(size, x, y)
        given: dict[str, Any] = {"weights": [count(part[1]) for part in parts]}
        arguments: tuple[Any, ...] = (net, lambda module, batch: loss(module(batch[0]), batch[1]), parts)
        found = extreme_eigenvalues(*arguments, k=3, tolerance=0, **given)
        np.testing.assert_allclose(found.largest, truth.flip(0)[:3], atol=1e-10)
        np.testing.assert_allclose(found.smallest, truth[:3], atol=1e-10)
        torch.testing.assert_close(flatten(hessian_vector_product(*arguments, v, **given)), matrix @ flatten(v))
        assert gradient_flatness(*arguments, **given).loss == pytest.approx(mean, rel=1e-12)
        probe = hutchinson_trace(*arguments, num_samples=200, **given)
        assert abs(probe.trace - float(truth.sum())) < 4 * probe.standard_error
        density = spectral_density(*arguments, num_samples=1, num_iterations=len(truth), **given)
        assert float(density.nodes.max()) == pytest.approx(float(truth[-1]), abs=1e-8)
        by_examples.append(float(extreme_eigenvalues(*arguments).largest))
    assert max(by_examples) - min(by_examples) > 0.01, "the weights would not matter"


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [True, 1.0], 3.0, ["a", "b"]])
def test_weights_that_do_not_fit_are_refused(weights: Any) -> None:
    net, x, y = classes()
    for call in (extreme_eigenvalues, find):
        with pytest.raises(ConfigurationError, match="`weights"):
            call(net, R.cross_entropy, batches_of(16, x, y), weights=weights)


def test_critical_points_are_those_of_the_mean_over_terms() -> None:
    net = nn.Linear(2, R.CLASSES, bias=False).double()
    x, y = R.data(2, n=N)

    def loss(module: Any, batch: Any) -> Tensor:
        decay = sum(p.square().sum() for p in module.parameters())
        return weighted_loss(module(batch[0]), batch[1]) + 0.1 * decay

    y = y.sort().values
    (whole,) = find(net, loss, [(x, y)], description=None)
    parts = batches_of(4, x, y)
    counted = [float(CLASS_WEIGHTS[part[1]].sum()) for part in parts]
    (weighted,) = find(net, loss, parts, weights=counted, description=None)
    assert whole.status == weighted.status == "critical"
    torch.testing.assert_close(weighted.point, whole.point, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(find(net, loss, parts, description=None)[0].point, whole.point, rtol=1e-3)


class Weighted(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = R.mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return weighted_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("sizes", [(32, 5)])
def test_the_callbacks_ask_for_the_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int]) -> None:
    def terms(context: Context, batch: Batch, probe: Probe | None = None) -> float:
        return float(CLASS_WEIGHTS[batch.data[1]].sum())

    monkeypatch.setattr(Context, "terms", terms)
    _, x, y = classes()
    options: dict[str, Any] = {"num_examples": N, "on_error": "raise"}
    curved, critical = [], []
    for size in sizes:
        one = CurvatureCallback(**options, batch_size=size, trace_samples=0, density_samples=0, tolerance=1e-8)
        other = CriticalPointsCallback(
            **options,
            batch_size=size,
            trajectory=Trajectory(max_snapshots=4, snapshot_every_n_steps=10),
            parameters="net.4.bias",
            keep_points=True,
        )
        torch.manual_seed(0)
        run = training.trainer(tmp_path, [one, other], max_epochs=1)
        run.fit(Weighted(), DataLoader(TensorDataset(x, y), batch_size=16))
        curved.append(one.last_result)
        critical.append(other.last_result)
    for name in ("loss", "gradient_norm"):
        assert getattr(curved[0], name) == pytest.approx(getattr(curved[1], name), rel=1e-10)
    torch.testing.assert_close(curved[0].largest, curved[1].largest, rtol=1e-6, atol=0)
    torch.testing.assert_close(critical[0].points, critical[1].points, rtol=1e-8, atol=1e-10)
