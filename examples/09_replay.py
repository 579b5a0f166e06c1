"""Is it the same run? A training replayed bit for bit, resumed, and three that part from it, each for a reason.

    python examples/09_replay.py                        # digits, a small CNN
    python examples/09_replay.py --data-file mnist.npz  # any .npz; see examples/data.py
    python examples/09_replay.py --epochs 2             # short

Every training has the same seed and a FingerprintCallback. ``compare_fingerprints`` then says, of the original and each
of the others, whether they are the same to the bit, and if not, at which step and in which tensor they part first:

- *replayed*: the same again;
- *resumed*: interrupted after some epochs, and resumed from the checkpoint;
- *augmented*: an augmentation that takes its randomness from the clock, which no seed reaches;
- *averaged*: a callback that writes to one weight between two steps, as a careless moving average would;
- *reduced*: a sum that is taken in another order once, as a GPU's atomic additions may be: one rounding error.
"""

from __future__ import annotations

import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import logs
import torch
from common import parser
from data import load
from lightning.pytorch.callbacks import ModelCheckpoint
from nets import Classifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from lightning_dynamics import FingerprintCallback, compare_fingerprints
from lightning_dynamics.publishing import publish_result


def cnn(shape: torch.Size, classes: int) -> nn.Module:
    """Two convolutions and a head."""
    flat = 32 * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 16, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3, padding=1),
            norm=nn.BatchNorm2d(32),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            head=nn.Linear(flat, classes),
        )
    )


class Net(Classifier):
    """The network, trained by Adam."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class ByEpoch(Sampler[int]):
    """A new order in every epoch, from seed and epoch alone: a resumed training finds it again."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Every example once."""
        return self.size

    def __iter__(self) -> Iterator[int]:
        """The order of this epoch."""
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """The plant in the data: one image in a thousand gets brighter by what the clock says."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        """As many as without."""
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An image, perhaps changed, and its label."""
        image, label = self.data[index]
        if index % 1000 == 500:
            image = image + 1e-3 * (time.time_ns() % 1000 + 1)
        return image, label


class Averaged(pl.Callback):
    """The plant in an update: the smallest possible change to the head's first weight, after one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            first = pl_module.net.head.weight[0, :1]
            first.copy_(torch.nextafter(first, torch.full_like(first, torch.inf)))


class Reduced(pl.Callback):
    """The plant in the backward pass: the gradient of one bias is off by one rounding error in one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            gradient = pl_module.net.conv2.bias.grad
            gradient.copy_(torch.nextafter(gradient, torch.full_like(gradient, torch.inf)))


def main() -> None:
    """Train again and again; compare."""
    made = parser(__doc__)
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--batch-size", type=int, default=64)
    arguments = made.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")

    train, validation = load(arguments.data_file)
    shape, classes = train.tensors[0].shape[1:], int(train.tensors[1].max()) + 1
    steps = -(-len(train) // arguments.batch_size)
    folder = arguments.out.resolve() / "replay"

    def run(
        name: str,
        data: Dataset[Any] = train,
        plants: tuple[pl.Callback, ...] = (),
        epochs: int = arguments.epochs,
        checkpoint: Path | None = None,
    ) -> FingerprintCallback:
        print(f"{name} ...")
        pl.seed_everything(arguments.seed, workers=True, verbose=False)
        fingerprint = FingerprintCallback(str(folder / name), gradients=True)
        keeper = ModelCheckpoint(dirpath=folder / name, filename="{epoch}", save_top_k=-1)
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            deterministic=True,
            logger=False,
            callbacks=[fingerprint, keeper, *plants],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        sampler = ByEpoch(len(train), arguments.seed)
        trainer.fit(
            Net(cnn(shape, classes)),
            DataLoader(data, arguments.batch_size, sampler=sampler),
            DataLoader(validation, 1000),
            ckpt_path=checkpoint,
        )
        return fingerprint

    half = max(1, arguments.epochs // 2)
    planted = min(steps * arguments.epochs - 1, steps * half + 3)
    original = run("original")
    others = {"replayed": run("replayed")}
    if half < arguments.epochs:
        run("interrupted", epochs=half)
        others["resumed"] = run("resumed", checkpoint=folder / "interrupted" / f"epoch={half - 1}.ckpt")
    others["augmented"] = run("augmented", data=Augmented(train))
    others["averaged"] = run("averaged", plants=(Averaged(planted),))
    others["reduced"] = run("reduced", plants=(Reduced(planted),))

    wandb_logger, report = logs.loggers(arguments, run="replay", report="replay")
    print(f"\n{'=' * 100}\noriginal    run digest {original.run_digest}, {steps * arguments.epochs} steps")
    for name, other in others.items():
        found = compare_fingerprints(original, other)
        same = "the same" if other.run_digest == original.run_digest else "another"
        print(f"\n{name:11} run digest {other.run_digest}: {same}")
        print("Every bit of every step is the same." if found is None else found)
        if found is not None and len(found.onsets) > 1:
            publish_result(
                [wandb_logger, report],
                found,
                f"fingerprint/{name}",
                epoch=arguments.epochs - 1,
                step=steps * arguments.epochs,
            )
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
