from __future__ import annotations

import sys
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics import ConfigurationError
from lightning_dynamics.data import NotSoClevr
from lightning_dynamics.data.not_so_clevr import split_centres, square_centres, to_coordinates, to_pixels
from lightning_dynamics.data.pictures import position_map
from lightning_dynamics.nn import AddCoordinates


def test_every_place_at_which_the_whole_square_is_on_the_canvas() -> None:
    centres = square_centres()
    assert centres.shape == (3136, 2) and len(set(map(tuple, centres.tolist()))) == 56 * 56
    assert centres.min() - 4 == 0 and centres.max() + 4 == 63
    assert centres[0].tolist() == [4, 4] and centres[1].tolist() == [5, 4]  # row by row


def test_the_counts_of_the_uniform_split() -> None:
    chosen = split_centres("uniform", seed=0)
    assert int(chosen.sum()) == round(0.8 * 3136) == 2509 and int((~chosen).sum()) == 627
    assert torch.equal(chosen, split_centres("uniform", seed=0))
    assert not torch.equal(chosen, split_centres("uniform", seed=1))
    # At random: all quadrants have their share, up to four standard deviations.
    shares = chosen.view(2, 28, 2, 28).double().mean((1, 3))
    assert (shares - 0.8).abs().max() < 4 * (0.8 * 0.2 / 784) ** 0.5


def test_the_counts_of_the_quadrant_split() -> None:
    chosen = split_centres("quadrant")
    assert int(chosen.sum()) == 3 * 28 * 28 == 2352 and int((~chosen).sum()) == 784
    held_out = square_centres()[~chosen]
    assert held_out.min() == 32 and held_out.max() == 59
    assert torch.equal(chosen, split_centres("quadrant", seed=5))


def test_the_split_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    NotSoClevr(seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_coordinates_are_those_of_the_canvas() -> None:
    grid = AddCoordinates()(torch.zeros(1, 0, 64, 64))[0]
    for x, y in ((0, 0), (63, 63), (4, 59), (31, 32)):
        assert torch.equal(to_coordinates(torch.tensor([x, y])), grid[:, y, x])
    pixels = torch.arange(64)
    assert torch.equal(to_pixels(to_coordinates(pixels)).round().long(), pixels)


def examples(task: Any, split: Any = "uniform") -> tuple[NotSoClevr, Tensor, Tensor]:
    """The data, and inputs and targets of all training examples in order."""
    data = NotSoClevr(task, split)
    inputs, targets = zip(*(data.train_set[i] for i in range(len(data.train_set))), strict=True)
    return data, torch.stack(inputs), torch.stack(targets)


def test_classification() -> None:
    data, places, pixels = examples("classification")
    assert places.dtype == torch.float32 and pixels.dtype == torch.int64
    onehot = F.one_hot(pixels, 64 * 64).view(-1, 64, 64)
    _, rows, columns = onehot.nonzero().T
    assert torch.equal(to_pixels(places).round().long(), torch.stack([columns, rows], 1))
    assert torch.equal(data.centres[data.for_training], torch.stack([columns, rows], 1))


def test_rendering() -> None:
    _, places, images = examples("rendering", "quadrant")
    assert images.shape == (2352, 1, 64, 64) and images.unique().tolist() == [0, 1]
    _, _, pixels = examples("classification", "quadrant")
    # The square is what a 9 x 9 box makes of the one-hot image of its centre: an independent way to draw it.
    onehot = F.one_hot(pixels, 64 * 64).view(-1, 1, 64, 64).float()
    assert torch.equal(images, F.conv2d(onehot, torch.ones(1, 1, 9, 9), padding=4))
    assert images.sum((1, 2, 3)).eq(81).all() and torch.equal(places, examples("classification", "quadrant")[1])


def test_regression_is_the_way_back() -> None:
    _, images, places = examples("regression")
    _, inputs, pixels = examples("classification")
    assert torch.equal(images.flatten(1).argmax(1), pixels) and images.sum((1, 2, 3)).eq(1).all()
    assert torch.equal(places, inputs)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"task": "segmentation"}, "`task` must be one of 'classification', 'rendering', 'regression', got 'segmenta"),
        ({"split": "half"}, "`split` must be one of 'uniform', 'quadrant', got 'half'"),
        ({"batch_size": 0}, "`batch_size` must be a whole number from 1 up, got 0"),
        ({"batch_size": 2.0}, "`batch_size` must be a whole number from 1 up, got 2.0"),
        ({"num_workers": -1}, "`num_workers` must be a whole number from 0 up, got -1"),
        ({"seed": True}, "`seed` must be a whole number from 0 up, got True"),
    ],
    ids=str,
)
def test_complaints(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        NotSoClevr(**options)


@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=lambda package: package.__name__)
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*GPU available but not used.*")
def test_it_feeds_the_trainers_of_both_packages(package: Any, tmp_path: Any) -> None:
    seen: dict[str, list[int]] = {"train": [], "val": [], "test": []}

    class Recorder(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 4096)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen["train"] += batch[1].tolist()
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen["val"] += batch[1].tolist()

        def test_step(self, batch: Any, batch_idx: int) -> None:
            seen["test"] += batch[1].tolist()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = package.Trainer(
        max_epochs=1, num_sanity_val_steps=0, enable_model_summary=False, default_root_dir=tmp_path, **quiet
    )
    data = NotSoClevr(batch_size=500)
    module = Recorder()
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    pixels = data.centres[:, 1] * 64 + data.centres[:, 0]
    train, test = pixels[data.for_training].tolist(), pixels[~data.for_training].tolist()
    assert seen["val"] == seen["test"] == test
    assert sorted(seen["train"]) == sorted(train) and seen["train"] != train


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # Lightning's, of jsonargparse
def test_every_argument_can_be_said_in_yaml(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.cli import LightningCLI
    from lightning.pytorch.demos.boring_classes import BoringModel

    config = tmp_path / "config.yaml"
    config.write_text("data: {task: regression, split: quadrant, batch_size: 8, num_workers: 0, seed: 4}")
    monkeypatch.setattr(sys, "argv", ["train", "--config", str(config)])
    quiet = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": str(tmp_path)}
    cli = LightningCLI(
        BoringModel,
        NotSoClevr,
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
        trainer_defaults=quiet,
    )
    data = cli.datamodule
    assert (data.task, data.split, data.batch_size, data.num_workers, data.seed) == ("regression", "quadrant", 8, 0, 4)
    assert next(iter(data.train_dataloader()))[0].shape == (8, 1, 64, 64)


COLOURS = {(1, 1): (0, 114, 178), (1, 0): (191, 217, 235), (0, 1): (213, 94, 0), (0, 0): (246, 214, 190)}


def test_the_map_has_a_cell_for_every_place() -> None:
    """Places that are neither symmetric nor equal in number: a swapped axis or colour would show."""
    centres = torch.tensor([[4, 59], [5, 59], [50, 10], [30, 8], [31, 8], [32, 8], [33, 9]])
    train = torch.tensor([1, 1, 1, 0, 0, 0, 0], dtype=torch.bool)
    right = torch.tensor([1, 1, 0, 1, 0, 0, 0], dtype=torch.bool)
    image = position_map(centres, train, right, title="t", footer="f")
    empty = position_map(centres[:0], train[:0], right[:0], title="t", footer="f")
    assert image.shape == empty.shape
    square = image[:, :600]  # without the legend
    paper = np.argwhere((empty[:, :600] == (250, 250, 250)).all(2))
    top, left = paper.min(0)
    for (x, y), kind, good in zip(centres.tolist(), train.tolist(), right.tolist(), strict=True):
        cell = square[top + 9 * y + 1 : top + 9 * y + 9, left + 9 * x + 1 : left + 9 * x + 9]
        assert (cell == COLOURS[int(kind), int(good)]).all(), (x, y)
    for (kind, good), colour in COLOURS.items():
        count = int(((train == bool(kind)) & (right == bool(good))).sum())
        assert (square == colour).all(2).sum() == 64 * count


def test_the_map_refuses_what_does_not_fit() -> None:
    centres = square_centres()
    with pytest.raises(ValueError, match="do not fit"):
        position_map(
            centres, torch.ones(3136, dtype=torch.bool), torch.ones(3135, dtype=torch.bool), title="", footer=""
        )
    with pytest.raises(ValueError, match="from 0 to 63, got 60 to 64"):
        position_map([[64, 60]], [True], [True], title="", footer="")
