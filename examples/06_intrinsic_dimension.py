"""How hard is this task for that network? Trainings in random subspaces of growing dimension.

    python examples/06_intrinsic_dimension.py                                   # FC and conv net on digits
    python examples/06_intrinsic_dimension.py --shuffle pixels                  # what does the conv net owe to places?
    python examples/06_intrinsic_dimension.py --shuffle labels --epochs 150     # memorising; training accuracy
    python examples/06_intrinsic_dimension.py --data-file mnist.npz --nets lenet --epochs 10 --batch-size 100

Li, Farkhoor, Liu and Yosinski (2018) found that 750 random directions suffice for a fully connected network to reach
90 % on MNIST, and 290 for LeNet, of 199,210 and 44,426 parameters; that shuffled pixels cost LeNet its advantage; and
that memorising shuffled labels takes far more. Trainings are logged one by one under ``--out``: an interrupted search
goes on where it was, and further searches in the same folder appear in one table.
"""

from __future__ import annotations

import argparse
import time
from collections import OrderedDict

import logs
import torch
from common import parser
from data import load, shape_and_classes
from nets import Classifier, along_a_cosine
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset, default_collate

from lightning_dynamics import (
    IntrinsicDimension,
    RandomSubspaceCallback,
    compare_intrinsic_dimensions,
    intrinsic_dimension,
    problems,
    publishing,
)


def fc_net(shape: torch.Size, classes: int) -> nn.Module:
    """The paper's fully connected network: two hidden layers of 200 units."""
    sizes = [shape.numel(), 200, 200, classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet(shape: torch.Size, classes: int) -> nn.Module:
    """The paper's LeNet (44,426 parameters on MNIST); on images as small as the digits, with smaller kernels."""
    kernel, last = (5, 4) if shape[-1] >= 20 else (3, 2)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 6, kernel, padding=0 if kernel == 5 else 1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, kernel, padding=0 if kernel == 5 else 1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            fc1=nn.LazyLinear(120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )


NETS = {"fc": fc_net, "lenet": lenet}


class Adam(Classifier):
    """Any network, trained by Adam with a rate that falls to zero along a cosine.

    Adam moves each coordinate by about its rate. In a subspace, where a coordinate is a direction of length 1 over all
    weights, that is a short way for every single weight, so the rate there is larger.
    """

    def __init__(self, net: nn.Module, lr: float, direct_lr: float) -> None:
        super().__init__(net)
        self.lr = {True: lr, False: direct_lr}

    def configure_optimizers(self) -> dict[str, object]:
        in_subspace = any(isinstance(callback, RandomSubspaceCallback) for callback in self.trainer.callbacks)
        return along_a_cosine(self, torch.optim.Adam(self.parameters(), lr=self.lr[in_subspace]))


def batches(data: TensorDataset, batch_size: int, *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
    """Whole minibatches cut out of the tensors: collecting single examples would take longer than training."""
    order = RandomSampler(data) if shuffle else SequentialSampler(data)
    return DataLoader(data, batch_size=None, sampler=BatchSampler(order, batch_size, drop_last=False))


def shuffled(data: TensorDataset, what: str | None) -> TensorDataset:
    """The same data with one permutation of its pixels, or of its labels."""
    if what is None:
        return data
    wrapped = problems.ShuffledPixels(data) if what == "pixels" else problems.ShuffledLabels(data)
    images, labels = default_collate([wrapped[i] for i in range(len(wrapped))])
    return TensorDataset(images, labels)


def parse() -> argparse.Namespace:
    """What to search for, and how."""
    made = parser(__doc__, seed=False)
    made.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    made.add_argument("--shuffle", choices=["pixels", "labels"])
    made.add_argument("--examples", type=int, help="use so many training examples only")
    made.add_argument("--epochs", type=int, default=20)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--lr", type=float, default=0.03, help="Adam's in subspaces")
    made.add_argument("--direct-lr", type=float, default=0.003, help="Adam's in direct training")
    made.add_argument("--baseline", type=float, default=1.0, help="the global one: an accuracy")
    made.add_argument("--threshold", type=float, default=0.9)
    made.add_argument("--dims", type=int, nargs="+", help="by default 8, 16, 32, ... until it is reached")
    made.add_argument("--resolution", type=float, default=1.1, help="ratio at which bisection ends")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--projection", choices=["dense", "sparse", "fastfood"], default="fastfood")
    return made.parse_args()


def main() -> None:
    """Search, print, and show."""
    arguments = parse()
    train, validation = load(arguments.data_file)
    shape, classes = shape_and_classes(train)
    if arguments.examples is not None:
        train = TensorDataset(*(tensor[: arguments.examples] for tensor in train.tensors))
    train = shuffled(train, arguments.shuffle)
    # Shuffled labels can only be memorised: what counts is the accuracy on the training examples themselves.
    validation = train if arguments.shuffle == "labels" else shuffled(validation, arguments.shuffle)
    data = batches(train, arguments.batch_size, shuffle=True), batches(validation, 1000, shuffle=False)

    task = "digits" if arguments.data_file is None else arguments.data_file.stem
    task += f" with shuffled {arguments.shuffle}" if arguments.shuffle else ""
    searches = arguments.out / "intrinsic_dimension"
    for net in arguments.nets:

        def module(net: str = net) -> Adam:
            made = Adam(NETS[net](shape, classes), arguments.lr, arguments.direct_lr)
            made.net(torch.zeros(1, *shape))  # lazy layers take their shapes
            return made

        begun = time.perf_counter()
        found = intrinsic_dimension(
            module,
            data,
            baseline=arguments.baseline,
            threshold=arguments.threshold,
            seeds=arguments.seeds,
            dims=arguments.dims,
            resolution=arguments.resolution,
            max_epochs=arguments.epochs,
            projection=arguments.projection,
            log=searches / f"{net}, {task}.jsonl",
        )
        say(f"{net}, {task}", found, time.perf_counter() - begun)

    # Everything that was ever searched for in this folder, in one table.
    paths = sorted(searches.glob("*.jsonl"), key=lambda path: path.stem)
    everything = {path.stem: IntrinsicDimension.from_log(path) for path in paths}
    loggers = logs.loggers(arguments, run="intrinsic_dimension", report="intrinsic_dimension")
    publishing.publish_result(loggers, compare_intrinsic_dimensions(everything), "subspace")
    for name, found in everything.items():
        publishing.publish_result(loggers, found, f"subspace/{name}")
    logs.say_where(arguments, *loggers)


def say(name: str, found: IntrinsicDimension, seconds: float) -> None:
    """Print what was found."""
    print(f"\n{name}: {found.size:,} parameters, direct training {found.own_baseline:.4f}, {seconds:.0f} s")
    for kind, crossing in (("global", found.by_global_baseline), ("own", found.by_own_baseline)):
        if crossing is not None:
            low, high = crossing.interval
            print(
                f"  {kind + ' baseline':16} reaches {crossing.target:.4f} with {crossing.dim} dimensions "
                f"({crossing.below} are not enough); single seeds in ({low}, {high}]"
            )
    for dim, row in zip(found.dims.tolist(), found.performance, strict=True):
        print(f"  {dim:8}  {row.mean():.4f}   {'  '.join(f'{value:.4f}' for value in row)}")


if __name__ == "__main__":
    main()
