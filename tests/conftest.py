"""One thread: the tensors of the tests are tiny, and float32 sums are then the same bits in every process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

from lightning_dynamics.figures import raycast
from tests import browser

if TYPE_CHECKING:
    from tests.chrome import Chrome

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def coarse_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surfaces in 3-D are drawn with a tenth of the rays: what they show is tested, not how smooth it is."""
    monkeypatch.setattr(raycast, "_FINER", 1)
    monkeypatch.setattr(raycast, "_SAMPLES", 150)


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests that look at a page while it runs."""
    if browser.find() is None:
        pytest.skip("no Chromium here")
    from tests.chrome import Chrome

    chrome = Chrome(tmp_path_factory.mktemp("chrome"))
    yield chrome
    chrome.close()
