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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("package", PACKAGES)
def test_trainers_of_both_packages(case: str, package: str, tmp_path: Path) -> None:
    callback = CASES[case].make()
    trainer(tmp_path, [callback], package=PACKAGES[package]).fit(module_for(PACKAGES[package])())
    assert (callback.last_result.epoch, callback.last_result.step) == (1, 8)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("package", PACKAGES)
def test_lightning_cli_round_trip(case: str, package: str, tmp_path: Path) -> None:
    """Configured from YAML, and the configuration that the CLI writes back configures the same callback."""
    cli = importlib.import_module(f"{PACKAGES[package].__name__}.cli").LightningCLI
    cls = type(CASES[case].make())
    arguments = {"num_examples": 16, "batch_size": 8, "on_error": "raise"} | CASES[case].yaml
    config: dict[str, Any] = {
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": {"class_path": "lightning_dynamics.LocalReport", "init_args": {"save_dir": str(tmp_path)}},
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "default_root_dir": str(tmp_path),
            "callbacks": [{"class_path": f"lightning_dynamics.{cls.__name__}", "init_args": arguments}],
        }
    }
    for round_ in ("first", "again"):
        path = tmp_path / f"{round_}.yaml"
        path.write_text(yaml.safe_dump(config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = cli(module_for(PACKAGES[package]), args=["fit", "--config", str(path)], save_config_callback=None)
        callback = next(c for c in run.trainer.callbacks if isinstance(c, cls))
        assert callback.last_result.step == 4
        assert callback.num_examples == arguments["num_examples"]
        config = yaml.safe_load(run.parser.dump(run.config, skip_none=False))["fit"]
        config = {"trainer": config["trainer"]}


@pytest.mark.parametrize("case", CASES)
def test_fast_dev_run_and_sanity_checking(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make()
    trainer(tmp_path, [callback], fast_dev_run=True, logger=True).fit(Convnet(), **loaders())
    assert callback.last_result.step == 1
    callback = CASES[case].make(at_start=True)
    trainer(tmp_path, [callback], num_sanity_val_steps=2, max_epochs=1).fit(Convnet(), **loaders())
    assert [result.step for result in callback.results][:1] == [0]


@pytest.mark.parametrize("case", CASES)
def test_a_second_fit_goes_on_and_another_model_starts_anew(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make(every_n_train_steps=None)
    run = trainer(tmp_path, [callback], max_epochs=1)
    model = Convnet()
    run.fit(model, **loaders())
    before = len(callback.results)
    run.fit_loop.max_epochs = 3
    run.fit(model, **loaders())
    assert len(callback.results) == before + 2
    assert callback.last_result.step == 12
    trainer(tmp_path, [callback], max_epochs=1).fit(Convnet(), **loaders())
    assert callback.last_result.step == 4 and len(callback.results) == before


@pytest.mark.parametrize("case", CASES)
def test_validate_test_and_predict_are_left_alone(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make()
    trainer(tmp_path, [callback]).validate(Convnet(), DataLoader(NoisyImages(), 8), verbose=False)
    assert callback.last_result is None


@pytest.mark.parametrize("case", CASES)
def test_manual_optimisation_counts_batches(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make(every_n_epochs=None, every_n_train_steps=3, at_end=False)
    trainer(tmp_path, [callback]).fit(TwoOptimizers(), **loaders())
    assert [result.step for result in callback.results if result.step] == [3, 6]


@pytest.mark.parametrize("case", CASES)
def test_accumulated_batches_are_one_step(case: str, tmp_path: Path) -> None:
    callback = CASES[case].make(every_n_epochs=None, every_n_train_steps=1, at_end=False)
    trainer(tmp_path, [callback], accumulate_grad_batches=2).fit(Convnet(), **loaders())
    assert [result.step for result in callback.results if result.step] == [1, 2, 3, 4]


@pytest.mark.parametrize("case", CASES)
def test_compiled_submodules(case: str, tmp_path: Path) -> None:
    """Names are the user's, hooks fire, and training is not compiled a second time."""
    import torch._dynamo as dynamo

    def compilations(callbacks: list[Any]) -> int:
        dynamo.reset()
        dynamo.utils.counters.clear()
        model = module_for(PACKAGES["lightning"])()
        model.head = torch.compile(model.head, backend="eager")
        trainer(tmp_path, callbacks).fit(model)
        return dynamo.utils.counters["stats"]["unique_graphs"]

    callback = CASES[case].make(every_n_train_steps=1)
    assert compilations([]) == compilations([callback]) > 0
    assert "_orig_mod" not in str(callback.last_result.to_state())
    assert callback.last_result.step == 8
