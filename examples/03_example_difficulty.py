"""Which examples are hard, which labels are wrong, and does it help to know while training?

    python examples/03_example_difficulty.py                               # digits, a tenth of the labels corrupted
    python examples/03_example_difficulty.py --seeds 3                     # do runs agree?
    python examples/03_example_difficulty.py --corrupt-labels 0            # the data set as it is
    python examples/03_example_difficulty.py --data-file cifar10.npz --epochs 20 --lr 0.1 --samplers random

Trains a small ResNet with two VoGCallbacks, one on the training set and one on the validation set. Prints how well
each score finds the corrupted labels, the error rate by percentile of Variance of Gradients early and late in training,
and the validation accuracy with and without a DifficultySampler.
"""

from __future__ import annotations

import argparse
import logging
import math
from contextlib import nullcontext, redirect_stdout

import lightning.pytorch as pl
import logs
import torch
from common import parser, trainer
from data import load, shape_and_classes
from lightning.pytorch.loggers import Logger
from nets import AlongACosine, resnet
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import DifficultySampler, VoGCallback, VoGResult, vog


def corrupt(data: TensorDataset, share: float, seed: int) -> tuple[TensorDataset, Tensor]:
    """The data with a share of the labels replaced by other ones, and the indices ``(M,)`` of these examples."""
    images, labels = data.tensors
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    classes = int(labels.max()) + 1
    labels = labels.clone()
    labels[chosen] = (labels[chosen] + torch.randint(1, classes, chosen.shape, generator=generator)) % classes
    return TensorDataset(images, labels), chosen


def print_detection(result: VoGResult, corrupted: Tensor) -> None:
    """Precision and recall of every score that is taken for a detector of wrong labels."""
    count = len(corrupted)
    print(f"\nfinding the {count} corrupted labels among {result.num_examples} examples, hardest first")
    print(f"{'score':24}{'precision':>14}{'precision =':>14}{'recall':>14}{'AUROC':>9}")
    print(f"{'':24}{f'first {count // 2}':>14}{f'recall, {count}':>14}{f'first {2 * count}':>14}")
    is_wrong = torch.isin(result.indices, corrupted)
    for name in result.score_names:
        found = torch.isin(result.suspected_label_errors(2 * count, score=name), corrupted)
        hardness = result.hardness(name).nan_to_num(nan=-math.inf)
        print(
            f"{name:24}{found[: count // 2].double().mean():14.3f}{found[:count].double().sum() / count:14.3f}"
            f"{found.double().sum() / count:14.3f}{auroc(hardness, is_wrong):9.3f}"
        )


def auroc(hardness: Tensor, positive: Tensor) -> float:
    """Chance that a corrupted example is ranked above a clean one, ties counting half."""
    a, b = hardness[positive], hardness[~positive].sort().values
    below, up_to = torch.searchsorted(b, a), torch.searchsorted(b, a, right=True)
    return float((below + up_to).double().mean() / (2 * len(b)))


def print_errors(result: VoGResult) -> None:
    """Error rate by percentile of VoG normalised within the class: of each window's last model, and of the last one."""
    print(f"\nerror rate in % on {result.data}, by tenths of the examples, lowest VoG first")
    for window in result.scores:
        for when, predictions in (("then", result.window_predictions[window]), ("now", result.predictions)):
            if when == "now" and bool((predictions == result.window_predictions[window]).all()):
                continue
            rates = 100 * vog.error_by_percentile(result.class_normalized[window], predictions != result.labels)
            print(f"{f'{window}, errors {when}':24}" + "".join(f"{rate:7.1f}" for rate in rates.tolist()))


def train(
    arguments: argparse.Namespace,
    data: TensorDataset,
    validation: TensorDataset,
    seed: int,
    sampler: str = "random",
    loggers: tuple[Logger, ...] = (),
) -> tuple[VoGResult, VoGResult | None, float]:
    """Scores of the training set, of the validation set (with loggers only), and the validation accuracy at the end."""
    pl.seed_everything(seed, verbose=False)
    events = {"every_n_epochs": arguments.every, "batch_size": 250, "channels_last": True}
    on_train = VoGCallback("train", num_examples=len(data), **events)
    on_validation = VoGCallback("val", num_examples=len(validation), name="val", **events)
    order, _, score = sampler.partition(":")
    chosen = None
    if order != "random":
        share = {"share": arguments.drop} if order.startswith("drop") else {}
        chosen = DifficultySampler(data, on_train, order=order, score=score or "vog", seed=seed, **share)
    loader = DataLoader(data, arguments.batch_size, shuffle=chosen is None, sampler=chosen, drop_last=True)
    run = trainer(
        arguments, loggers, [on_train, on_validation] if loggers else [on_train], enable_progress_bar=bool(loggers)
    )
    net = resnet(*shape_and_classes(data))
    with nullcontext() if loggers else redirect_stdout(None):  # only the first run has something to say
        run.fit(AlongACosine(net, arguments.lr), loader, DataLoader(validation, 1000))
    return on_train.last_result, on_validation.last_result, float(run.callback_metrics["val/accuracy"])


def main() -> None:
    """Corrupt, train, score, compare."""
    made = parser(__doc__, seed=False)
    made.add_argument("--corrupt-labels", metavar="SHARE", type=float, default=0.1)
    made.add_argument("--epochs", type=int, default=20)
    made.add_argument("--every", type=int, default=1, help="epochs from one event to the next")
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--lr", type=float, default=0.05)
    made.add_argument("--seeds", type=int, default=1, help="runs of each kind")
    made.add_argument(
        "--samplers",
        nargs="*",
        metavar="ORDER[:SCORE]",
        default=["random", "drop_hardest:aum", "drop_hardest:vog", "proportional:vog", "easy_first:vog"],
        help="ways to draw the training examples, compared by validation accuracy",
    )
    made.add_argument(
        "--drop", metavar="SHARE", type=float, help="for drop_*; by default the share of corrupted labels"
    )
    arguments = made.parse_args()
    if not 0 <= arguments.corrupt_labels < 1:
        made.error(f"--corrupt-labels {arguments.corrupt_labels}: a share, from 0 to below 1")
    if arguments.drop is None:
        arguments.drop = arguments.corrupt_labels or 0.1

    train_data, validation = load(arguments.data_file)
    train_data, corrupted = corrupt(train_data, arguments.corrupt_labels, seed=1)
    wandb_logger, report = logs.loggers(arguments, run="example_difficulty", report="example_difficulty")
    runs = [train(arguments, train_data, validation, 0, loggers=(wandb_logger, report))]
    logging.disable(logging.INFO)
    runs += [train(arguments, train_data, validation, seed) for seed in range(1, arguments.seeds)]
    on_train, on_validation, _ = runs[0]

    if len(corrupted):
        print_detection(on_train, corrupted)
        print("most suspicious:", *on_train.suspected_label_errors(10).tolist())
    print_errors(on_train)
    if on_validation is not None:
        print_errors(on_validation)
    if len(runs) > 1:
        comparison = vog.compare_runs([one for one, _, _ in runs], names=[f"seed {seed}" for seed in range(len(runs))])
        comparison.publish([wandb_logger, report])
        print(f"\nrank correlation of the scores of {len(runs)} runs")
        for score in comparison.correlations:
            print(f"{score:24}{comparison.mean(score):14.3f}")
    print(f"\nvalidation accuracy in % after {arguments.epochs} epochs")
    for sampler in arguments.samplers:
        accuracies = [accuracy for _, _, accuracy in runs]
        if sampler != "random":
            seeds = range(arguments.seeds)
            accuracies = [train(arguments, train_data, validation, seed, sampler)[2] for seed in seeds]
        values = 100 * torch.tensor(accuracies, dtype=torch.float64)
        spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
        print(f"{sampler:24}{values.mean():14.2f}{spread}", flush=True)
    logs.say_where(arguments, wandb_logger, report)


if __name__ == "__main__":
    main()
