"""Large tensors in files: the same bits as in memory, and nothing left behind."""

from __future__ import annotations

import gc
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.vog.record import Record
from lightning_dynamics.analyses.vog.scoring import Measured
from lightning_dynamics.analyses.vog.storage import Shelf
from lightning_dynamics.analyses.vog.windows import Place, parse_windows
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.storage import Storage

MAPS = Path("/proc/self/maps")
needs_maps = pytest.mark.skipif(not MAPS.exists(), reason="only Linux says what is mapped")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mapped(folder: Path) -> int:
    """How many files of the folder are mapped."""
    return MAPS.read_text().count(str(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_zeros_are_zeros_that_can_be_written(dtype: torch.dtype, in_memory: int, tmp_path: Path) -> None:
    tensor = Storage(in_memory, str(tmp_path)).zeros(1000, dtype)
    assert tensor.shape == (1000,) and tensor.dtype == dtype and not tensor.any()
    values = random(1000, dtype=dtype)
    tensor.copy_(values).mul_(2)
    assert torch.equal(tensor, values * 2)


@needs_maps
@pytest.mark.parametrize(("in_memory", "files"), [(0, 1), (3999, 1), (4000, 0)])
def test_only_what_is_larger_than_the_limit_lies_in_a_file(in_memory: int, files: int, tmp_path: Path) -> None:
    storage = Storage(in_memory, str(tmp_path))
    zeros = storage.zeros(1000, torch.float32)
    assert mapped(tmp_path) == files
    store = storage.store(random(1000))
    assert mapped(tmp_path) == 2 * files
    del zeros, store
    assert mapped(tmp_path) == 0


def test_files_have_no_name_even_while_they_are_in_use(tmp_path: Path) -> None:
    tensor = Storage(0, str(tmp_path)).zeros(1000, torch.float32)
    assert list(tmp_path.iterdir()) == []
    assert tensor.add_(1).sum() == 1000


@needs_maps
def test_a_view_keeps_its_file(tmp_path: Path) -> None:
    view = Storage(0, str(tmp_path)).zeros(1000, torch.float32)[10:20].view(2, 5)
    assert mapped(tmp_path) == 1
    assert view.add_(1).sum() == 10


def test_two_files_are_not_one(tmp_path: Path) -> None:
    a, b = (Storage(0, str(tmp_path)).zeros(10, torch.float32) for _ in range(2))
    a.fill_(1)
    assert not b.any()


def test_nothing_at_all_needs_no_file() -> None:
    assert Storage(0).zeros(0, torch.float64).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_housed_is_the_tensor_or_a_copy_of_it(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = random(50, dtype=dtype)
    tensor[3], tensor[4], tensor[5] = math.nan, math.inf, -0.0
    assert Storage(2**20).store(tensor) is tensor
    copied = Storage(0, str(tmp_path)).store(tensor)
    assert copied.dtype == dtype and copied.data_ptr() != tensor.data_ptr()
    assert copied.numpy().tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("in_memory", [0, 2**20])
@pytest.mark.parametrize("expected", [0, 3, 11, 100])
def test_a_shelf_keeps_what_it_is_given_apart(in_memory: int, expected: int, tmp_path: Path) -> None:
    """Ragged sizes, mixed types, more or fewer examples than it was told."""
    shelf = Shelf(Storage(in_memory, str(tmp_path)), expected)
    shapes = [(4, 7), (4, 7), (1, 30), (2, 2), (3, 0), (1, 500), (4, 7)]
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float64, torch.float32, torch.float64]
    given = [random(*shape, seed=i, dtype=dtype) for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))]
    before = [values.clone() for values in given]
    kept = [shelf.put(values) for values in given]
    for values, copied in zip(given, kept, strict=True):
        values.zero_()
        assert copied.dtype == (torch.float64 if values.dtype is torch.float64 else torch.float32)
    assert all(torch.equal(copied, values.to(copied.dtype)) for copied, values in zip(kept, before, strict=True))
    kept[0].fill_(9)
    assert all(
        torch.equal(copied, values.to(copied.dtype)) for copied, values in zip(kept[1:], before[1:], strict=True)
    )


@needs_maps
def test_equal_minibatches_share_one_file(tmp_path: Path) -> None:
    shelf = Shelf(Storage(0, str(tmp_path)), 10)
    kept = [shelf.put(random(n, 6)) for n in (4, 4, 2)]
    assert mapped(tmp_path) == 1
    del shelf, kept
    assert mapped(tmp_path) == 0


# ---- all the way to the scores -----------------------------------------------------------------------------

LENGTHS, SIZES = (4, 3, 4, 1), (6, 11, 2, 6)


def run(storage: Storage, dtypes: tuple[torch.dtype, ...], resumed_at: int | None = None) -> Any:
    """Seven events of ragged minibatches, through a shelf each."""
    minibatches, start = [], 0
    for length in LENGTHS:
        minibatches.append(list(range(start, start + length)))
        start += length
    windows = parse_windows({"early": {"steps": [0, 4]}, "middle": {"steps": [2, 6]}})
    memory: dict[str, Any] = {}
    places: dict[int, int] = {}
    for event in range(7):
        record = Record(memory, minibatches, windows, storage)
        shelf = Shelf(storage, sum(LENGTHS))
        measured = []
        for number, (length, size, dtype) in enumerate(zip(LENGTHS, SIZES, dtypes, strict=True)):
            seed = 10 * event + number
            gradients = random(length, size, seed=seed, dtype=dtype)
            if event == 3:
                gradients[0, 0] = math.nan
            labels = torch.arange(length) % 2
            dynamics = random(length, 5, seed=seed + 5000, dtype=torch.float64)
            measured.append(Measured(number, shelf.put(gradients), dynamics, labels, labels))
        record.add(measured, Place(event, event, 7), Ranks())
        for pattern, moments in memory["gradients"].items():
            assert places.setdefault(pattern, moments["mean"].data_ptr()) == moments["mean"].data_ptr(), "moved"
        if event == resumed_at:
            places, memory = {}, torch.load(saved(memory), weights_only=True)
    return Record(memory, minibatches, windows, storage).read("vog", 0, Ranks())


def saved(memory: dict[str, Any]) -> Any:
    buffer = io.BytesIO()
    torch.save(memory, buffer)
    buffer.seek(0)
    return buffer


SINGLE, MIXED = (torch.float32,) * 4, (torch.float32, torch.float64, torch.float32, torch.float64)


@pytest.mark.parametrize("dtypes", [SINGLE, (torch.float64,) * 4, MIXED], ids=["single", "double", "mixed"])
@pytest.mark.parametrize("in_memory", [0, 200])
@pytest.mark.parametrize("resumed_at", [None, 3])
def test_scores_are_the_same_bits_in_memory_and_in_files(
    dtypes: Any, in_memory: int, resumed_at: int | None, tmp_path: Path
) -> None:
    """Some of it, or all, in files; and on again from a checkpoint."""
    expected = run(Storage(), dtypes)
    found = run(Storage(in_memory, str(tmp_path)), dtypes, resumed_at)
    assert list(found.scores) == ["all", "early", "middle"]
    assert all(scores.isfinite().all() for scores in expected.scores.values())
    assert all(torch.equal(found.scores[window], expected.scores[window]) for window in expected.scores)
    assert list(tmp_path.iterdir()) == []


@needs_maps
def test_no_file_is_mapped_when_the_scores_are_read(tmp_path: Path) -> None:
    reading = run(Storage(0, str(tmp_path)), SINGLE, 3)
    gc.collect()
    assert mapped(tmp_path) == 0
    assert reading.scores["all"].shape == (sum(LENGTHS),)
