"""One thread: the tensors of the tests are tiny, and float32 sums are then the same bits in every process."""

from __future__ import annotations

import pytest
import torch

from lightning_dynamics.figures import raycast

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def coarse_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surfaces in 3-D are drawn with a tenth of the rays: what they show is tested, not how smooth it is."""
    monkeypatch.setattr(raycast, "_FINER", 1)
    monkeypatch.setattr(raycast, "_SAMPLES", 150)
