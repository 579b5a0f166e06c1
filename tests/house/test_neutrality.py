"""House rule 1: training is bit-identical with and without the callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.house.models import Convnet, Frozen, TwoOptimizers, loaders
from tests.house.registry import TENANTS
from tests.house.training import assert_identical, train

SETTINGS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "plain": (Convnet, {}, {}),
    "frozen part, Adam": (Frozen, {}, {}),
    "two optimizers": (TwoOptimizers, {}, {}),
    "accumulation and clipping": (Convnet, {}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}),
    "persistent workers": (Convnet, {"workers": 1}, {}),
    "bf16": (Convnet, {}, {"precision": "bf16-mixed"}),
    "validation in mid-epoch": (Convnet, {}, {"val_check_interval": 2}),
}


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_training_is_bit_identical(tenant: str, setting: str, tmp_path: Path) -> None:
    model, data, options = SETTINGS[setting]
    without = train(tmp_path, model(), loaders(**data), [], **options)
    callback = TENANTS[tenant].make(every_n_train_steps=1, at_start=True)
    with_it = train(tmp_path, model(), loaders(**data), [callback], **options)
    assert len(callback.results) >= 3, "the analysis did not run"
    assert_identical(without, with_it)


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_failing_analysis_leaves_training_alone(
    tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = train(tmp_path, Convnet(), loaders(), [])
    callback = TENANTS[tenant].make(every_n_train_steps=1, on_error="warn")
    measure = callback.measure

    def fails_after_measuring(occasion: Any) -> Any:
        measure(occasion)
        for module in occasion.module.modules():
            module.training = True
        raise RuntimeError("no")

    monkeypatch.setattr(callback, "measure", fails_after_measuring)
    with_it = train(tmp_path, Convnet(), loaders(), [callback])
    assert callback.last_result is None
    assert_identical(without, with_it)
