"""What is asked of an analysis of any module: training as without it, and numbers that are true, or a remedy."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_dynamics import compare_fingerprints
from lightning_dynamics.core.precision import default_dtype
from tests.house.training import assert_identical
from tests.kinds.kind import SIZE, Kind, batches, doubled
from tests.third_party.analyses import ANALYSES
from tests.third_party.case import Case, Outcome, train

EXACT = 1e-4
"""Relative: analyses compute in float32; the truth is in float64. Wrong weights of minibatches cost far more."""


@lru_cache
def unwatched(case: Case) -> Outcome:
    """The training without any analysis; it is not changed."""
    return train(case.load(), None, Path("unused"))


def examined(case: Case, name: str, folder: Path, **given: Any) -> Outcome:
    """Train with an analysis and see that it did no harm and told no untruth.

    Raises:
        AssertionError: it did.
    """
    kind = case.load()
    outcome = train(kind, ANALYSES[name](case.few, folder, **dict(case.settings.get(name, {})) | given), folder)
    if outcome.word == "refused":
        assert outcome.left["steps"] == 0, "refused in the middle of training"
    else:
        assert_identical(unwatched(case).left, outcome.left)
    if outcome.word == "works":
        assert name == "FingerprintCallback" or outcome.callback.last_result is not None, "no result, and no word"
        _NUMBERS[name](case, kind, outcome, folder)
    else:
        assert outcome.remedies, f"names no argument to give: {outcome.text}"
    return outcome


def same(name: str, told: float, true: float) -> None:
    """Equal to :data:`EXACT`."""
    assert math.isclose(told, true, rel_tol=EXACT, abs_tol=EXACT), f"{name} is said to be {told}, and is {true}"


def _end(kind: Kind, outcome: Outcome) -> float:
    return kind.true_loss(outcome.module, _examples(kind, outcome))


def _examples(kind: Kind, outcome: Outcome) -> Any:
    """The data set; the very minibatches of the analysis where it cannot have that, or others have another loss."""
    loader = kind.make_loader()
    is_indexed = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return loader if is_indexed and kind.expected.loss_unit != "batch" else outcome.seen


def _accuracy(kind: Kind, outcome: Outcome, told: float | None) -> None:
    """None and NaN say nothing; any number must be true."""
    if told is not None and not math.isnan(told):
        true = kind.true_accuracy(outcome.module, _examples(kind, outcome))
        assert true is not None, f"an accuracy of {told} where nothing is classified"
        same("accuracy", told, true)


def _landscape(case: Case, kind: Kind, outcome: Outcome, folder: Path) -> None:
    result = outcome.callback.last_result
    same("loss at the centre", result.center, _end(kind, outcome))
    assert result.loss.isfinite().all()
    _accuracy(kind, outcome, None if result.accuracy is None else float(result.accuracy[1, 1]))


def _curvature(case: Case, kind: Kind, outcome: Outcome, folder: Path) -> None:
    result = outcome.callback.last_result
    same("loss", result.loss, _end(kind, outcome))
    assert math.isfinite(result.trace) and result.largest.isfinite().all()


def _critical_points(case: Case, kind: Kind, outcome: Outcome, folder: Path) -> None:
    result = outcome.callback.last_result
    same("loss where the search starts", float(result.losses[-1, 0]), _end(kind, outcome))


def _loss_contribution(case: Case, kind: Kind, outcome: Outcome, folder: Path) -> None:
    result = outcome.callback.last_result
    same("last loss", float(result.losses[-1]), _end(kind, outcome))
    if not case.is_lazy and result.initial_step == 0:  # streams are known later
        same("first loss", result.initial_loss, kind.true_loss(kind.make_module(), _examples(kind, outcome)))
    change = float(result.losses[-1]) - result.initial_loss
    told = sum(result.totals.values()) + result.total_residual + result.total_buffers
    same("change of the loss", told, change)


def _vog(case: Case, kind: Kind, outcome: Outcome, folder: Path) -> None:
    result = outcome.callback.last_result
    _accuracy(kind, outcome, result.accuracy)
    assert 0 < len(result.indices.unique()) == len(result.indices) <= SIZE
    assert result.score().isfinite().any()


def _cka(case: Case, kind: Kind, outcome: Outcome, folder: Path) -> None:
    result = outcome.callback.last_result
    layers = dict(outcome.module.named_modules())
    assert result.layers_x and {layer.split(":")[0] for layer in result.layers_x} <= layers.keys()
    diagonal = result.matrix.diagonal()
    torch.testing.assert_close(diagonal[diagonal.isfinite()], torch.ones_like(diagonal[diagonal.isfinite()]))
    if case.layers is not None:
        x, y = (result.layers_x.index(layer) for layer in case.layers)
        same("similarity", float(result.matrix[x, y]), float(cka(*activations(kind, outcome.module, case.layers))))


def activations(kind: Kind, module: Any, layers: tuple[str, str]) -> list[Tensor]:
    """What two layers hand on, ``(N, …)`` flattened to ``(N, D)`` float64, over the data set."""
    again = kind.make_module()
    again.load_state_dict(module.state_dict())
    again.double().eval()
    parts = dict(again.named_modules())
    seen: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for layer in layers:
        parts[layer].register_forward_hook(lambda _, __, out, layer=layer: seen[layer].append(out.flatten(1)))
    read = [doubled(batch) for batch in batches(kind.make_loader())]
    with torch.no_grad(), default_dtype(torch.float64):
        for batch in read:
            kind.loss_terms(again, batch)
    return [torch.cat(seen[layer]) for layer in layers]


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear CKA with the unbiased HSIC of Song et al., by its formula."""

    def hsic(k: Tensor, q: Tensor) -> Tensor:
        n = len(k)
        product = k @ q
        return (product.trace() + k.sum() * q.sum() / ((n - 1) * (n - 2)) - 2 * product.sum() / (n - 2)) / (n * (n - 3))

    kernels = [(z @ z.T).fill_diagonal_(0) for z in (x, y)]
    return hsic(*kernels) / (hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1])).sqrt()


def _fingerprint(case: Case, kind: Kind, outcome: Outcome, folder: Path) -> None:
    """A second run leaves the same fingerprint."""
    again = train(kind, ANALYSES["FingerprintCallback"](case.few, folder / "again"), folder)
    assert outcome.callback.run_digest == again.callback.run_digest
    assert not compare_fingerprints(folder / "fingerprint", folder / "again" / "fingerprint")


_NUMBERS = {
    "CKACallback": _cka,
    "VoGCallback": _vog,
    "LossContributionCallback": _loss_contribution,
    "LandscapeCallback": _landscape,
    "CurvatureCallback": _curvature,
    "CriticalPointsCallback": _critical_points,
    "FingerprintCallback": _fingerprint,
}
