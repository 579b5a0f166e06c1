"""Which layers moved the loss? Loss change allocation of two networks, and what happens when a layer is frozen.

    python examples/02_loss_contribution.py                                      # FC net, digits
    python examples/02_loss_contribution.py --net resnet                         # a small ResNet with BatchNorm
    python examples/02_loss_contribution.py --net resnet --freeze "net.head.*"   # freeze a layer; who takes over?
    python examples/02_loss_contribution.py --data-file mnist.npz --probe 5000   # any .npz; see examples/data.py

Lan et al. (2019) found that the first and the last layer of a ResNet hurt on average, and that freezing the last one
at its initial value lets the others do its work. Run with and without ``--freeze`` and compare.
"""

from __future__ import annotations

from collections import OrderedDict
from fnmatch import fnmatchcase

import lightning.pytorch as pl
import logs
import torch
from common import parser, trainer
from data import load, shape_and_classes
from nets import Sgd, resnet
from torch import nn
from torch.utils.data import DataLoader

from lightning_dynamics import LossContributionCallback


def fc_net(shape: torch.Size, classes: int) -> nn.Module:
    """The paper's fully connected network: two hidden layers of 100 and 50 units."""
    return nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            fc1=nn.Linear(shape.numel(), 100),
            relu1=nn.ReLU(),
            fc2=nn.Linear(100, 50),
            relu2=nn.ReLU(),
            fc3=nn.Linear(50, classes),
        )
    )


class Freeze(pl.Callback):
    """Stop training some parameters from a certain step on."""

    def __init__(self, chosen: dict[str, nn.Parameter], from_step: int) -> None:
        self.chosen = chosen
        self.from_step = from_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step != self.from_step:
            return
        for parameter in self.chosen.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        print(f"step {trainer.global_step}: frozen: {', '.join(self.chosen)}")


def main() -> None:
    """Train, split the loss, print who helped."""
    made = parser(__doc__)
    made.add_argument("--net", choices=["fc", "resnet"], default="fc")
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--momentum", type=float, help="0 for the FC net, 0.9 for the ResNet")
    made.add_argument("--probe", type=int, default=1000, help="training examples that the loss is measured on")
    made.add_argument("--rule", choices=["left", "trapezoid", "simpson", "adaptive"], default="simpson")
    made.add_argument("--every", type=int, default=1, help="training steps that one event spans")
    made.add_argument("--freeze", metavar="GLOB", help="freeze the parameters of this name, e.g. 'net.head.*'")
    made.add_argument("--freeze-from-step", metavar="N", type=int, default=0)
    made.add_argument("--per-class", action="store_true")
    arguments = made.parse_args()

    pl.seed_everything(arguments.seed, verbose=False)
    train, validation = load(arguments.data_file)
    net = (fc_net if arguments.net == "fc" else resnet)(*shape_and_classes(train))
    momentum = arguments.momentum if arguments.momentum is not None else {"fc": 0.0, "resnet": 0.9}[arguments.net]
    callback = LossContributionCallback(
        num_examples=arguments.probe,
        rule=arguments.rule,
        every_n_train_steps=arguments.every,
        per_class=arguments.per_class,
        second_data="val",
    )
    name = f"loss_contribution_{arguments.net}"
    loggers = logs.loggers(arguments, run=name, report=name)
    model = Sgd(net, arguments.lr, momentum)
    callbacks: list[pl.Callback] = [callback]
    if arguments.freeze is not None:
        chosen = {name: p for name, p in model.named_parameters() if fnmatchcase(name, arguments.freeze)}
        if not chosen:
            names = ", ".join(name for name, _ in model.named_parameters())
            made.error(f"--freeze {arguments.freeze!r} matches no parameter; there are: {names}")
        callbacks.append(Freeze(chosen, arguments.freeze_from_step))
    trainer(arguments, loggers, callbacks).fit(
        model,
        DataLoader(train, arguments.batch_size, shuffle=True),
        DataLoader(validation, 1000),
    )

    result = callback.last_result
    print(f"\nloss of {result.num_examples} training examples: {result.initial_loss:.4f} -> {result.loss:.4f}")
    print(f"residual of the whole run: {100 * result.relative_residual:.4f} % of the change")
    print(f"\n{'layer':24}{'train':>12}{'val':>12}   (negative helps)")
    for layer, total in result.per_layer.items():
        print(f"{layer:24}{total:12.4f}{result.contrast['per_layer'][layer]:12.4f}")
    moving = result.helping_share + result.hurting_share
    share = result.helping_share / moving
    epoch = max(1, len(share) // arguments.epochs)
    print(
        f"\nof the parameters that change the loss, {100 * share[:epoch].nanmean():.1f} % help in the first epoch, "
        f"{100 * share[-epoch:].nanmean():.1f} % in the last"
    )
    logs.say_where(arguments, *loggers)


if __name__ == "__main__":
    main()
