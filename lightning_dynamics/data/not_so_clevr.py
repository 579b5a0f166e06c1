"""Not-so-Clevr (Liu et al. 2018): a square on a canvas, and where it is. Generated, never downloaded."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_dynamics.core.checks import check_count
from lightning_dynamics.core.lightning import ConfigurationError, LightningDataModule

Task = Literal["classification", "rendering", "regression"]
Split = Literal["uniform", "quadrant"]

CANVAS = 64
"""Side of the canvas, in pixels."""
SQUARE = 9
"""Side of the square, in pixels; odd, so that it has a middle one."""
_REACH = SQUARE // 2


def square_centres() -> Tensor:
    """All places at which the whole square fits on the canvas: ``(3136, 2)`` int64 pixels (x, y), row by row."""
    along = torch.arange(_REACH, CANVAS - _REACH)
    return torch.cartesian_prod(along, along).flip(1)


def split_centres(split: Split, seed: int = 0) -> Tensor:
    """Which of :func:`square_centres` are for training: ``(3136,)`` bool.

    - ``"uniform"``: 80 % at random, 2,509 for training and 627 for testing.
    - ``"quadrant"``: all but the quadrant of large x and y (the lower right one), 2,352 and 784.

    The counts follow from the text [Liu 2018, section 4]. The authors' published generator gives others: it puts
    each place into the test set with probability 25 %, and the quadrant begins one pixel further out (27 × 27 = 729
    places).

    Args:
        split: see above.
        seed: of the uniform split; the quadrant is not random.
    """
    centres = square_centres()
    if split == "quadrant":
        return (centres < CANVAS // 2).any(1)
    order = torch.randperm(len(centres), generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(len(centres), dtype=torch.bool)
    chosen[order[: round(0.8 * len(centres))]] = True
    return chosen


def to_coordinates(pixels: Tensor) -> Tensor:
    """Pixels 0 … 63 -> coordinates -1 … 1, float32: the scale of ``AddCoordinates`` on the canvas."""
    return (2 * pixels - (CANVAS - 1)) / (CANVAS - 1)


def to_pixels(coordinates: Tensor) -> Tensor:
    """The inverse of :func:`to_coordinates`, not rounded."""
    return (coordinates * (CANVAS - 1) + (CANVAS - 1)) / 2


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """The examples of one task at given places, made on access.

    Args:
        task: see :class:`NotSoClevr`.
        centres: ``(N, 2)`` int64 pixels (x, y).
    """

    def __init__(self, task: Task, centres: Tensor) -> None:
        """Store the places."""
        self.task = task
        self.centres = centres

    def __len__(self) -> int:
        """How many places."""
        return len(self.centres)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Input and target of the example at one place."""
        centre = self.centres[index]
        x, y = int(centre[0]), int(centre[1])
        if self.task == "classification":
            return to_coordinates(centre), torch.tensor(y * CANVAS + x)
        image = torch.zeros(1, CANVAS, CANVAS)
        if self.task == "rendering":
            image[:, y - _REACH : y + _REACH + 1, x - _REACH : x + _REACH + 1] = 1
            return to_coordinates(centre), image
        image[:, y, x] = 1
        return image, to_coordinates(centre)


class NotSoClevr(LightningDataModule):
    """The coordinate transform problem: 9 × 9 squares on a 64 × 64 canvas, one example for each of 3,136 places.

    Three tasks [Liu 2018, section 4]; places are given as coordinates (x, y) from -1 to 1, ``(2,)`` float32, x to the
    right and y downwards:

    - ``"classification"``: place -> the pixel of the square's centre, of 4,096: int64 ``64 * row + column``, for
      ``cross_entropy`` on flattened maps (the paper's softmax over a one-hot image).
    - ``"rendering"``: place -> the image of the square, ``(1, 64, 64)`` float32, 1 on the square and 0 around it.
    - ``"regression"``: the one-hot image of the centre, ``(1, 64, 64)`` float32 -> place.

    The paper has a training and a test set and no validation set: ``val_dataloader`` and ``test_dataloader``
    both give the test places, in order. The authors' code gives places in pixels, 4 to 59, to the first two tasks and
    in pixels / 64 to the third, and renders grey (128/255) squares; ours differ by a linear map.

    Args:
        task: see above.
        split: ``"uniform"`` or ``"quadrant"``, as in :func:`split_centres`.
        batch_size: examples per minibatch; the paper has 16 and 32.
        num_workers: as for a DataLoader.
        seed: of the uniform split. The order of training examples comes from the global generator, as in any
            DataLoader.

    Raises:
        ConfigurationError: invalid values.

    Source:
        R. Liu et al., An intriguing failing of convolutional neural networks and the CoordConv solution, NeurIPS 2018.
    """

    def __init__(
        self,
        task: Task = "classification",
        split: Split = "uniform",
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        """Store and check the arguments."""
        super().__init__()
        for argument, value, kind in (("task", task, Task), ("split", split, Split)):
            if value not in get_args(kind):
                allowed = ", ".join(map(repr, get_args(kind)))
                raise ConfigurationError(f"`{argument}` must be one of {allowed}, got {value!r}")
        for argument, number, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            check_count(argument, number, least)
        self.task: Task = task
        self.split: Split = split
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.centres = square_centres()
        self.for_training = split_centres(split, seed)

    @property
    def train_set(self) -> Squares:
        """The examples to train on."""
        return Squares(self.task, self.centres[self.for_training])

    @property
    def test_set(self) -> Squares:
        """The examples held out."""
        return Squares(self.task, self.centres[~self.for_training])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Training examples, shuffled."""
        return DataLoader(self.train_set, self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Held-out examples, in order."""
        return DataLoader(self.test_set, self.batch_size, num_workers=self.num_workers)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Held-out examples, in order."""
        return self.val_dataloader()
