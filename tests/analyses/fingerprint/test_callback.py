"""FingerprintCallback: does no harm, tells the truth, survives interruptions."""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_dynamics import ConfigurationError, LocalReport
from lightning_dynamics.analyses.fingerprint import FingerprintCallback, compare_fingerprints, digests
from lightning_dynamics.analyses.fingerprint.journal import file_in, files_in, previous
from tests.analyses.fingerprint.runs import fingerprint, fit, records
from tests.house.models import Convnet, NoisyImages, TwoOptimizers, loaders
from tests.house.test_config import module_for
from tests.house.test_neutrality import SETTINGS
from tests.house.test_resume import Quiet, Stops, Undisturbed
from tests.house.training import PACKAGES, Recorder, assert_identical, train, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EVERYTHING = {"gradients": True, "optimizer_state": True}


# ---- no harm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_training_is_bit_identical(setting: str, tmp_path: Path) -> None:
    model, data, options = SETTINGS[setting]
    without = train(tmp_path, model(), loaders(**data), [], **options)
    with_it = train(tmp_path, model(), loaders(**data), [fingerprint(tmp_path, **EVERYTHING)], **options)
    assert len(records(tmp_path)) == 9, "the callback did not write"
    assert_identical(without, with_it)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_seed_gives_the_same_fingerprint(setting: str, tmp_path: Path) -> None:
    model, data, options = SETTINGS[setting]
    words = []
    for name in ("a", "b"):
        callback = fingerprint(tmp_path / name, **EVERYTHING)
        train(tmp_path, model(), loaders(**data), [callback], **options)
        words.append(callback.run_digest)
    assert words[0] == words[1] != ""
    assert records(tmp_path / "a") == records(tmp_path / "b")
    assert compare_fingerprints(tmp_path / "a", tmp_path / "b") is None


class BreaksAt(FingerprintCallback):
    """Fails in the midst of training."""

    def _look(self, trainer: Any, batch: Any) -> None:
        super()._look(trainer, batch)
        if trainer.global_step == 3:
            raise RuntimeError("broken on purpose")


def test_a_failure_warns_once_and_training_goes_on(tmp_path: Path) -> None:
    without = train(tmp_path, Convnet(), loaders(), [])
    callback = BreaksAt(str(tmp_path))
    with pytest.warns(UserWarning, match="training goes on") as told:
        warnings.simplefilter("always")
        with_it = fit_and_keep_warnings(tmp_path, callback)
    assert len([one for one in told if "Traceback" in str(one.message)]) == 1
    assert_identical(without["parameters and buffers"], with_it)
    assert [one.n for one in records(tmp_path)] == [1, 2, 3]


def fit_and_keep_warnings(folder: Path, callback: Any) -> Any:
    from lightning_dynamics.core.random_state import seed_all

    model = Convnet()
    seed_all(0)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    trainer(folder, [callback]).fit(model, **loaders())
    return model.state_dict()


def test_on_error_raise_ends_training(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="broken on purpose"):
        train(tmp_path, Convnet(), loaders(), [BreaksAt(str(tmp_path), on_error="raise")])


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_disk_that_is_full(on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_dynamics.analyses.fingerprint.journal import Journal

    write = Journal._write

    def fills_up(journal: Any, line: Any) -> None:
        if line.get("n") == 4:
            raise OSError(28, "No space left on device")
        write(journal, line)

    monkeypatch.setattr(Journal, "_write", fills_up)
    callback = FingerprintCallback(str(tmp_path), on_error=on_error)  # type: ignore[arg-type]
    if on_error == "raise":
        with pytest.raises(OSError, match="No space"):
            train(tmp_path, Convnet(), loaders(), [callback])
    else:
        assert train(tmp_path, Convnet(), loaders(), [callback])["steps"] == 8
    assert [one.n for one in records(tmp_path)] == [1, 2, 3]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    callback = FingerprintCallback(str(tmp_path / "file" / "folder"))
    with pytest.warns(UserWarning, match="training goes on"):
        fit_and_keep_warnings(tmp_path, callback)


# ---- the truth --------------------------------------------------------------------------------------------


class Notes(lightning.Callback):
    """What there was, seen by another callback at the same moments."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        parameters = {name: digests([p])[0] for name, p in pl_module.named_parameters()}
        buffers = {name: digests([b])[0] for name, b in pl_module.named_buffers()}
        self.seen.append({"parameters": parameters, "buffers": buffers})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        gradients = {name: digests([p.grad])[0] for name, p in pl_module.named_parameters()}
        self.seen[-1] |= {"gradients": gradients, "loss": {"loss": digests([outputs["loss"]])[0]}}
        self.seen[-1]["number"] = repr(outputs["loss"].item())


def test_records_hold_what_there_was(tmp_path: Path) -> None:
    notes = Notes()
    fit(tmp_path, more=[notes], **EVERYTHING)
    *steps, end = records(tmp_path)
    assert [one.n for one in steps] == list(range(1, 9)) and (end.n, end.end) == (9, True)
    assert [(one.epoch, one.batch_idx, one.step) for one in steps] == [(i // 4, i % 4, i + 1) for i in range(8)]
    for one, seen in zip(steps, notes.seen, strict=True):
        for kind in ("parameters", "buffers", "gradients", "loss"):
            assert one.sections[kind] == seen[kind]
        assert (one.loss, one.size) == (seen["number"], 8)
    assert list(end.sections) == ["parameters", "buffers", "optimizer"]


def test_without_options_less_is_written(tmp_path: Path) -> None:
    fit(tmp_path, parameters=["conv*.weight", "head.bias"])
    first = records(tmp_path)[0].sections
    assert set(first) == {"parameters", "buffers", "rng", "settings", "batch", "examples", "loss"}
    assert list(first["parameters"]) == ["conv.weight", "conv2.weight", "head.bias"]


def test_every_n_steps_with_all_batches_they_accumulate(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", accumulate_grad_batches=2)
    fit(tmp_path / "half", accumulate_grad_batches=2, every_n_train_steps=2)
    found = records(tmp_path / "half")
    assert [one.n for one in found] == [3, 4, 7, 8, 9]
    everything = {one.n: one.sections for one in records(tmp_path / "whole")}
    assert all(one.sections == everything[one.n] for one in found)
    assert len(everything) == 9 and whole.run_digest


def test_manual_optimisation(tmp_path: Path) -> None:
    fit(tmp_path, TwoOptimizers, every_n_train_steps=3, **EVERYTHING)
    found = records(tmp_path)
    assert [one.n for one in found] == [3, 6, 9]
    assert "optimizer[1].head.weight.exp_avg" in found[1].sections["optimizer"]
    assert "optimizer[1].group[0].betas" in found[1].sections["settings"]
    assert found[0].loss is not None


class SaysNothing(TwoOptimizers):
    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        super().training_step(batch, batch_idx)


def test_a_training_step_without_a_loss(tmp_path: Path) -> None:
    fit(tmp_path, SaysNothing)
    assert [(one.loss, one.sections.get("loss")) for one in records(tmp_path)[:2]] == [(None, {})] * 2


class Thaws(Convnet):
    """Adds a layer in mid-training."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.late = torch.nn.Linear(1, 1)


def test_layers_that_are_added(tmp_path: Path) -> None:
    fit(tmp_path, Thaws, max_epochs=3)
    names = [set(one.sections["parameters"]) for one in records(tmp_path)]
    assert names[-1] - names[0] == {"late.weight", "late.bias"}


def test_what_a_module_does_between_two_steps_is_seen(tmp_path: Path) -> None:
    class Meddles(Convnet):
        def on_validation_end(self) -> None:
            self.head.bias.data[0] += 1e-6

    fit(tmp_path / "a", num_sanity_val_steps=0)
    fit(tmp_path / "b", Meddles, num_sanity_val_steps=0)
    found = compare_fingerprints(tmp_path / "a", tmp_path / "b")
    assert found is not None and (found.kind, found.step, found.name) == ("parameters", 4, "head.bias")


def test_nan_is_no_failure(tmp_path: Path) -> None:
    class Diverges(Convnet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * float("nan")

    fit(tmp_path / "a", Diverges)
    fit(tmp_path / "b", Diverges)
    assert compare_fingerprints(tmp_path / "a", tmp_path / "b") is None
    assert records(tmp_path / "a")[0].loss == "nan"


# ---- interruptions ----------------------------------------------------------------------------------------


def but_for_random_states(folder: Path) -> list[Any]:
    """Lightning does not restore those."""
    sections = [{kind: words for kind, words in one.sections.items() if kind != "rng"} for one in records(folder)]
    return [replace(one, sections=rest) for one, rest in zip(records(folder), sections, strict=True)]


def resumable(folder: Path, *, stop: int = -1, checkpoint: str | None = None, **options: Any) -> FingerprintCallback:
    keeper = ModelCheckpoint(dirpath=folder / "kept", filename="{step}", save_top_k=-1, every_n_train_steps=3)
    return fit(
        folder,
        Undisturbed,
        {"train_dataloaders": DataLoader(Quiet(), 8)},
        [keeper, Stops(stop)],
        fit={"ckpt_path": checkpoint},
        enable_checkpointing=True,
        max_epochs=3,
        **EVERYTHING,
        **options,
    )


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("stop", [6, 9], ids=["mid-epoch", "later"])
def test_resumed_equals_uninterrupted(stop: int, every: int, tmp_path: Path) -> None:
    whole = resumable(tmp_path / "whole", every_n_train_steps=every)
    resumable(tmp_path / "cut", stop=stop, every_n_train_steps=every)
    resumed = resumable(
        tmp_path / "cut", checkpoint=str(tmp_path / "cut" / "kept" / f"step={stop}.ckpt"), every_n_train_steps=every
    )
    assert resumed.run_digest == whole.run_digest
    assert but_for_random_states(tmp_path / "cut") == but_for_random_states(tmp_path / "whole")
    assert compare_fingerprints(whole, resumed, ignore=["rng"]) is None
    found = compare_fingerprints(whole, resumed)
    assert found is not None and [onset.kind for onset in found.onsets] == ["rng"] and found.step > stop
    assert "no step has used these random numbers" in str(found) and "b was interrupted" in str(found)
    assert not previous(file_in(tmp_path / "cut", 0)).exists()


def test_resumed_from_an_older_checkpoint(tmp_path: Path) -> None:
    whole = resumable(tmp_path / "whole")
    before = file_in(tmp_path / "whole", 0).read_bytes()
    resumed = resumable(tmp_path / "whole", checkpoint=str(tmp_path / "whole" / "kept" / "step=3.ckpt"))
    assert resumed.run_digest == whole.run_digest
    assert previous(file_in(tmp_path / "whole", 0)).read_bytes() == before
    kept = previous(file_in(tmp_path / "whole", 0))
    assert compare_fingerprints(kept, tmp_path / "whole", ignore=["rng"]) is None


def test_resumed_into_another_folder(tmp_path: Path) -> None:
    whole = resumable(tmp_path / "old")
    before = file_in(tmp_path / "old", 0).read_bytes()
    resumed = resumable(tmp_path / "new", checkpoint=str(tmp_path / "old" / "kept" / "step=6.ckpt"))
    assert but_for_random_states(tmp_path / "new") == but_for_random_states(tmp_path / "old")
    assert resumed.run_digest == whole.run_digest
    assert file_in(tmp_path / "old", 0).read_bytes() == before


def test_resumed_where_the_old_folder_is_gone(tmp_path: Path) -> None:
    whole = resumable(tmp_path / "old")
    file_in(tmp_path / "old", 0).rename(tmp_path / "elsewhere.jsonl")
    resumed = resumable(tmp_path / "new", checkpoint=str(tmp_path / "old" / "kept" / "step=6.ckpt"))
    assert resumed.run_digest == whole.run_digest
    assert [one.n for one in records(tmp_path / "new")] == [7, 8, 9, 10, 11, 12, 13]
    assert compare_fingerprints(tmp_path / "elsewhere.jsonl", resumed, ignore=["rng"]) is None


def test_resumed_from_a_training_without_a_fingerprint(tmp_path: Path) -> None:
    """Steps are counted from the beginning of training all the same."""
    whole = resumable(tmp_path / "whole")
    checkpoint = torch.load(tmp_path / "whole" / "kept" / "step=6.ckpt", weights_only=True)
    del checkpoint["callbacks"][whole.state_key]
    torch.save(checkpoint, tmp_path / "without.ckpt")
    resumed = resumable(tmp_path / "late", checkpoint=str(tmp_path / "without.ckpt"))
    assert [one.n for one in records(tmp_path / "late")] == [7, 8, 9, 10, 11, 12, 13]
    assert compare_fingerprints(whole, resumed, ignore=["rng"]) is None


def test_checkpoints_load_as_weights_only(tmp_path: Path) -> None:
    callback = resumable(tmp_path)
    state = torch.load(tmp_path / "kept" / "step=3.ckpt", weights_only=True)["callbacks"][callback.state_key]
    assert state == {"n": 3, "digest": records(tmp_path)[2].digest, "folder": str(tmp_path)}


def test_a_crash_keeps_what_was_written(tmp_path: Path) -> None:
    class Crashes(Convnet):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 5:
                raise RuntimeError("power cut")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "b", Crashes)
    fit(tmp_path / "a")
    found = compare_fingerprints(tmp_path / "a", tmp_path / "b")
    assert found is not None and (found.kind, found.step, found.lengths) == ("length", 5, (8, 5))


def test_a_second_fit_goes_on_and_another_model_starts_anew(tmp_path: Path) -> None:
    callback = fingerprint(tmp_path)
    run = trainer(tmp_path, [callback], max_epochs=1)
    model = Convnet()
    run.fit(model, **loaders())
    run.fit_loop.max_epochs = 3
    run.fit(model, **loaders())
    assert [one.n for one in records(tmp_path)] == [*range(1, 13), 13]
    trainer(tmp_path, [callback], max_epochs=1).fit(Convnet(), **loaders())
    assert [one.n for one in records(tmp_path)] == [1, 2, 3, 4, 5]
    assert [one.n for one in records_of(previous(file_in(tmp_path, 0)))] == [*range(1, 13), 13]


def records_of(path: Path) -> list[Any]:
    from lightning_dynamics.analyses.fingerprint.journal import Reading

    return list(Reading(path).records())


# ---- Trainers and configurations --------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_cli_round_trip(package: str, tmp_path: Path) -> None:
    cli = importlib.import_module(f"{PACKAGES[package].__name__}.cli").LightningCLI
    arguments = {
        "path": str(tmp_path / "own"),
        "every_n_train_steps": 2,
        "parameters": ["head.*", "conv.*"],
        "gradients": True,
        "optimizer_state": True,
        "name": "mine",
        "on_error": "raise",
    }
    config: dict[str, Any] = {
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "lightning_dynamics.FingerprintCallback", "init_args": arguments}],
        }
    }
    for round_ in ("first", "again"):
        path = tmp_path / f"{round_}.yaml"
        path.write_text(yaml.safe_dump(config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = cli(module_for(PACKAGES[package]), args=["fit", "--config", str(path)], save_config_callback=None)
        callback = next(one for one in run.trainer.callbacks if isinstance(one, FingerprintCallback))
        assert {key: getattr(callback, key) for key in arguments} == arguments
        assert [one.n for one in records(tmp_path / "own")] == [2, 4, 5]
        config = yaml.safe_load(run.parser.dump(run.config, skip_none=False))["fit"]
        config = {"trainer": config["trainer"]}


def test_fast_dev_run_leaves_no_file(tmp_path: Path) -> None:
    callback = fit(tmp_path / "run", fast_dev_run=True, logger=True)
    assert callback.run_digest and not (tmp_path / "run").exists()


def test_sanity_checking_and_validation_are_no_training(tmp_path: Path) -> None:
    fit(tmp_path / "fit", num_sanity_val_steps=2, max_epochs=1)
    assert [one.n for one in records(tmp_path / "fit")] == [1, 2, 3, 4, 5]
    callback = fingerprint(tmp_path / "validate")
    run = trainer(tmp_path, [callback])
    run.validate(Convnet(), DataLoader(NoisyImages(), 8), verbose=False)
    assert callback.run_digest == "" and not (tmp_path / "validate").exists()


def test_default_folders(tmp_path: Path) -> None:
    def folder(name: str | None = None, **options: Any) -> str:
        callback = FingerprintCallback(name=name, on_error="raise")
        run = trainer(tmp_path, [callback], max_epochs=1, limit_train_batches=1, limit_val_batches=0, **options)
        run.fit(Convnet(), **loaders())
        assert callback.folder is not None and files_in(callback.folder)
        return str(callback.folder.relative_to(tmp_path))

    assert folder() == "fingerprint"
    assert folder("mine") == "fingerprint-mine"
    assert folder(logger=CSVLogger(tmp_path, "runs")) == os.path.join("runs", "version_0", "fingerprint")
    assert folder(logger=CSVLogger(tmp_path, "runs", version="best")) == os.path.join("runs", "best", "fingerprint")
    assert folder(logger=Recorder()) == os.path.join("recorder", "0", "fingerprint")


def test_two_of_them(tmp_path: Path) -> None:
    pair = [fingerprint(tmp_path / "all"), fingerprint(tmp_path / "few", every_n_train_steps=4)]
    train(tmp_path, Convnet(), loaders(), pair)
    assert [len(records(tmp_path / name)) for name in ("all", "few")] == [9, 3]
    clash = [fingerprint(tmp_path / "all"), fingerprint(tmp_path / "all", every_n_train_steps=4)]
    with pytest.raises(ConfigurationError, match="`path`"):
        train(tmp_path, Convnet(), loaders(), clash)


def test_compiled_submodules_keep_their_names(tmp_path: Path) -> None:
    class Compiled(Convnet):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.compile(self.head, backend="eager")  # type: ignore[assignment]

    fit(tmp_path, Compiled)
    assert "head.weight" in records(tmp_path)[0].sections["parameters"]


def test_the_digest_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = LocalReport(save_dir=str(tmp_path), name="report")
    callback = fit(tmp_path / "own", logger=report)
    assert f"run digest {callback.run_digest} after 8 training batches" in capsys.readouterr().out
    assert callback.run_digest in Path(report.index).read_text()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "path is no name": ({"path": 3}, "path"),
    "path is empty": ({"path": ""}, "path"),
    "every zero steps": ({"every_n_train_steps": 0}, "every_n_train_steps"),
    "every half step": ({"every_n_train_steps": 0.5}, "every_n_train_steps"),
    "every True": ({"every_n_train_steps": True}, "every_n_train_steps"),
    "no such policy": ({"on_error": "ignore"}, "on_error"),
    "no such parameter": ({"parameters": "no_such*"}, "no_such"),
    "no pattern": ({"parameters": []}, "parameters"),
    "path is a file": ({"path": __file__}, "path"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_before_training(case: str, tmp_path: Path) -> None:
    arguments, word = BAD[case]
    model = Convnet()
    with pytest.raises(ConfigurationError, match=word):
        callback = FingerprintCallback(**{"path": str(tmp_path)} | arguments)
        trainer(tmp_path, [callback]).fit(model, **loaders())
    assert not model.losses


def test_sharded_strategies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path, [])
    monkeypatch.setattr(run.strategy, "__class__", type("FSDPStrategy", (type(run.strategy),), {}))
    with pytest.raises(ConfigurationError, match="FSDPStrategy"):
        fingerprint(tmp_path).setup(run, Convnet(), "fit")


def test_idle_steps_touch_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two due steps no tensor is read and no state is asked for."""
    from lightning_dynamics.analyses.fingerprint import callback as module

    calls = []
    for name in ("random_states", "read_digests", "PendingDigests", "PendingBatch"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _f=original, _n=name, **k: calls.append(_n) or _f(*a, **k))
    fit(tmp_path, every_n_train_steps=100)
    assert set(calls) == {"PendingDigests", "read_digests"} and calls.count("read_digests") == 1  # the state at the end
