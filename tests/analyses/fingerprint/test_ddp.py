"""Two processes: a file each, the same parameters, other batches, and nobody waits for anybody."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dynamics.analyses.fingerprint import compare_fingerprints
from lightning_dynamics.analyses.fingerprint.journal import Reading, files_in
from tests.analyses.fingerprint.runs import fit, records
from tests.house.models import Convnet
from tests.house.test_ddp import TWO

# Gloo and Lightning have advice of their own about processes, samplers and thread counts.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class OnRankOne(Convnet):
    """Something that only the second process does, in the fifth step."""

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_rank == 1 and self.trainer.global_step == 3:
            self.norm.running_mean[0] += 1


def test_each_process_writes_what_it_sees(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit(tmp_path / name, **TWO, max_epochs=2)
    assert list(files_in(tmp_path / "a")) == [0, 1]
    first, second = records(tmp_path / "a", 0), records(tmp_path / "a", 1)
    assert [one.n for one in first] == [one.n for one in second] == [1, 2, 3, 4, 5]
    assert [Reading(path).header["world_size"] for path in files_in(tmp_path / "a").values()] == [2, 2]
    for one, two in zip(first, second, strict=True):
        assert one.sections["parameters"] == two.sections["parameters"]
        if not one.end:
            assert one.sections["batch"] != two.sections["batch"] and one.loss != two.loss
    assert compare_fingerprints(tmp_path / "a", tmp_path / "b") is None


def test_the_process_that_differs_is_named(tmp_path: Path) -> None:
    fit(tmp_path / "a", **TWO)
    fit(tmp_path / "b", OnRankOne, **TWO)
    found = compare_fingerprints(tmp_path / "a", tmp_path / "b")
    assert found is not None
    assert (found.kind, found.step, found.name, found.onsets[0].rank) == ("buffers", 3, "norm.running_mean", 1)
    assert "After step 3, process 1: buffer norm.running_mean" in str(found)


def test_one_process_that_cannot_write_does_not_hold_up_the_other(tmp_path: Path) -> None:
    (tmp_path / "fingerprint-rank1.jsonl" / "in the way").mkdir(parents=True)
    (tmp_path / "fingerprint-rank1.previous.jsonl").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(tmp_path, **TWO, on_error="warn")
    assert len(records(tmp_path, 0)) == 5


def test_all_processes_write_to_rank_zeros_folder(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    from lightning_dynamics.analyses.fingerprint import FingerprintCallback
    from tests.house.models import loaders
    from tests.house.training import trainer

    torch.manual_seed(0)
    logger = CSVLogger(tmp_path, "runs")
    trainer(tmp_path, [FingerprintCallback(on_error="raise")], logger=logger, **TWO).fit(Convnet(), **loaders())
    assert list(files_in(tmp_path / "runs" / "version_0" / "fingerprint")) == [0, 1]
