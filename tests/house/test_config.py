"""House rule 5, continued: the Trainers and configurations people have."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from lightning_dynamics import AnalysisCallback
from tests.house.cases import make, together
from tests.house.models import Convnet, NoisyImages, TwoOptimizers, loaders
from tests.house.registry import CASES
from tests.house.training import PACKAGES, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def module_for(package: Any) -> Any:
    """A LightningModule of either package."""

    class Net(package.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 4, 3)
            self.head = torch.nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).relu().flatten(1))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def train_dataloader(self) -> Any:
            return DataLoader(NoisyImages(), 8)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Net


@together
@pytest.mark.parametrize("package", PACKAGES)
def test_trainers_of_both_packages(names: tuple[str, ...], package: str, tmp_path: Path) -> None:
    callbacks = make(names)
    trainer(tmp_path, list(callbacks.values()), package=PACKAGES[package]).fit(module_for(PACKAGES[package])())
    for name, callback in callbacks.items():
        assert (callback.last_result.epoch, callback.last_result.step) == (1, 8), name


@together
@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_cli_round_trip(names: tuple[str, ...], package: str, tmp_path: Path) -> None:
    """Configured from YAML, and the configuration that the CLI writes back configures the same callbacks."""
    cli = importlib.import_module(f"{PACKAGES[package].__name__}.cli").LightningCLI
    arguments = [
        {"num_examples": 16, "batch_size": 8, "on_error": "raise", "name": str(number)} | CASES[name].yaml
        for number, name in enumerate(names)
    ]
    classes = [type(CASES[name].make()) for name in names]
    config: dict[str, Any] = {
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            # Pictures are drawn elsewhere; `LocalReport` in YAML: tests/publishing.
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "default_root_dir": str(tmp_path),
            "callbacks": [
                {"class_path": f"lightning_dynamics.{cls.__name__}", "init_args": own}
                for cls, own in zip(classes, arguments, strict=True)
            ],
        }
    }
    for round_ in ("first", "again"):
        path = tmp_path / f"{round_}.yaml"
        path.write_text(yaml.safe_dump(config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = cli(module_for(PACKAGES[package]), args=["fit", "--config", str(path)], save_config_callback=None)
        callbacks = [callback for callback in run.trainer.callbacks if isinstance(callback, AnalysisCallback)]
        assert list(map(type, callbacks)) == classes
        for callback, own in zip(callbacks, arguments, strict=True):
            assert callback.last_result.step == 4
            assert (callback.num_examples, callback.name) == (own["num_examples"], own["name"])
        keys = [callback.state_key for callback in callbacks]
        if round_ == "first":
            first_keys = keys
        config = yaml.safe_load(run.parser.dump(run.config, skip_none=False))["fit"]
        config = {"trainer": config["trainer"]}
    assert keys == first_keys


@together
def test_fast_dev_run_and_sanity_checking(names: tuple[str, ...], tmp_path: Path) -> None:
    callbacks = make(names)
    trainer(tmp_path, list(callbacks.values()), fast_dev_run=True, logger=True).fit(Convnet(), **loaders())
    for name, callback in callbacks.items():
        assert callback.last_result.step == 1, name
    callbacks = make(names, at_start=True)
    options: dict[str, Any] = {"num_sanity_val_steps": 2, "max_epochs": 1}
    trainer(tmp_path, list(callbacks.values()), **options).fit(Convnet(), **loaders())
    for name, callback in callbacks.items():
        assert [result.step for result in callback.results][:1] == [0], name


@together
def test_a_second_fit_goes_on_and_another_model_starts_anew(names: tuple[str, ...], tmp_path: Path) -> None:
    callbacks = make(names, every_n_train_steps=None)
    run = trainer(tmp_path, list(callbacks.values()), max_epochs=1)
    model = Convnet()
    run.fit(model, **loaders())
    before = {name: len(callback.results) for name, callback in callbacks.items()}
    run.fit_loop.max_epochs = 3
    run.fit(model, **loaders())
    for name, callback in callbacks.items():
        assert len(callback.results) == before[name] + 2, name
        assert callback.last_result.step == 12, name
    trainer(tmp_path, list(callbacks.values()), max_epochs=1).fit(Convnet(), **loaders())
    for name, callback in callbacks.items():
        assert callback.last_result.step == 4 and len(callback.results) == before[name], name


@together
def test_validate_test_and_predict_are_left_alone(names: tuple[str, ...], tmp_path: Path) -> None:
    callbacks = make(names)
    loader = DataLoader(NoisyImages(), 8)
    trainer(tmp_path, list(callbacks.values())).validate(Convnet(), loader, verbose=False)
    assert all(callback.last_result is None for callback in callbacks.values())


@together
def test_manual_optimisation_counts_batches(names: tuple[str, ...], tmp_path: Path) -> None:
    callbacks = make(names, every_n_epochs=None, every_n_train_steps=3, at_end=False)
    trainer(tmp_path, list(callbacks.values())).fit(TwoOptimizers(), **loaders())
    for name, callback in callbacks.items():
        assert [result.step for result in callback.results if result.step] == [3, 6], name


@together
def test_accumulated_batches_are_one_step(names: tuple[str, ...], tmp_path: Path) -> None:
    callbacks = make(names, every_n_epochs=None, every_n_train_steps=1, at_end=False)
    trainer(tmp_path, list(callbacks.values()), accumulate_grad_batches=2).fit(Convnet(), **loaders())
    for name, callback in callbacks.items():
        assert [result.step for result in callback.results if result.step] == [1, 2, 3, 4], name


@together
def test_compiled_submodules(names: tuple[str, ...], tmp_path: Path) -> None:
    """Names are the user's, hooks fire, and training is not compiled a second time."""
    import torch._dynamo as dynamo

    def compilations(callbacks: list[Any]) -> int:
        dynamo.reset()
        dynamo.utils.counters.clear()
        model = module_for(PACKAGES["lightning"])()
        model.head = torch.compile(model.head, backend="eager")
        trainer(tmp_path, callbacks).fit(model)
        return dynamo.utils.counters["stats"]["unique_graphs"]

    callbacks = make(names, every_n_train_steps=4)
    assert compilations([]) == compilations(list(callbacks.values())) > 0
    for name, callback in callbacks.items():
        assert "_orig_mod" not in str(callback.last_result.to_state()), name
        assert callback.last_result.step == 8, name
