"""What FingerprintCallback costs: candidates for the digest, and shares of a training step.

    python benchmarks/fingerprint.py            # about a minute
    python benchmarks/fingerprint.py --quick    # fewer repetitions

CPU seconds in one thread, medians. The candidates take turns in one process. The callback's time is what its own hooks
take, set against the rest of the same training steps (from the start of one batch to that of the next), on generated
data.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import logging
import statistics
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from nets import resnet20
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_dynamics import FingerprintCallback, fingerprint


def wide_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)
    )


def two_hundred_thousand() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MLP 784-200-200-10": (two_hundred_thousand, (1, 28, 28), 128),
    "MLP 784-800-500-10": (wide_mlp, (1, 28, 28), 128),
    "ResNet-20": (resnet20, (3, 32, 32), 16),
}


# ---- the digest -------------------------------------------------------------------------------------------


def of_bytes(digest: Callable[[Any], Any]) -> Callable[[list[Tensor]], Any]:
    return lambda tensors: [digest(memoryview(t.detach().view(-1).view(torch.uint8).numpy())) for t in tensors]


WAYS: dict[str, Callable[[list[Tensor]], Any]] = {
    "ours": fingerprint.digests,
    "BLAKE2b": of_bytes(lambda b: hashlib.blake2b(b, digest_size=8).digest()),
    "SHA-256": of_bytes(lambda b: hashlib.sha256(b).digest()),
    "SHA-1": of_bytes(lambda b: hashlib.sha1(b).digest()),
    "CRC-32 (32 bits)": of_bytes(zlib.crc32),
    "Adler-32 (32 bits)": of_bytes(zlib.adler32),
    "a sum, for comparison": lambda tensors: torch.stack([t.detach().sum() for t in tensors]).tolist(),
}


def candidates(repeats: int) -> None:
    print("The parameters of a network, digested: ms (GB/s)")
    for name, (make, _, _) in NETS.items():
        tensors = list(make().parameters())
        size = sum(t.numel() for t in tensors)
        times = interleaved({way: lambda f=f, t=tensors: f(t) for way, f in WAYS.items()}, repeats)  # type: ignore
        print(f"{name}, {size:,} parameters in {len(tensors)} tensors")
        for way, seconds in times.items():
            print(f"  {way:24s} {1e3 * seconds:8.3f} ({4e-9 * size / seconds:5.2f})")


def interleaved(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            start = time.process_time()
            run()
            times[way].append(time.process_time() - start)
    return {way: statistics.median(taken[1:]) for way, taken in times.items()}


# ---- a training step --------------------------------------------------------------------------------------


class Module(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


OPTIONS: dict[str, dict[str, Any]] = {
    "every step": {},
    "and gradients": {"gradients": True},
    "and optimizer state": {"gradients": True, "optimizer_state": True},
    "biases only": {"parameters": "*.bias"},
    "every 10th step": {"every_n_train_steps": 10},
    "a step that is not due": {"every_n_train_steps": 10**6},
}


class Timed(FingerprintCallback):
    """Takes the time of the hooks that run at every step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.own: list[float] = []
        self.starts: list[float] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        start = time.process_time()
        self.starts.append(start)
        super().on_train_batch_start(*arguments)
        self.own.append(time.process_time() - start)

    def on_train_batch_end(self, *arguments: Any) -> None:
        start = time.process_time()
        super().on_train_batch_end(*arguments)
        self.own[-1] += time.process_time() - start


def one_training(make: Callable[[], nn.Module], data: TensorDataset, batch: int, options: dict[str, Any]) -> Any:
    """Seconds of the callback and of the rest, per step, and bytes written per step."""
    torch.manual_seed(0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        callback = Timed(path=folder, on_error="raise", **options)
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, callbacks=[callback], **quiet)  # type: ignore
        trainer.fit(Module(make()), DataLoader(data, batch))
        steps = len(callback.own)
        written = sum(path.stat().st_size for path in Path(folder).iterdir()) / steps
    # The first steps of a process are slow; of the others the mean, as one in ten may be the only one that costs.
    own = callback.own[2:-1]
    lasted = [b - a - c for a, b, c in zip(callback.starts[2:], callback.starts[3:], own, strict=False)]
    return statistics.fmean(own), statistics.fmean(lasted), written


def shares(rounds: int, steps: int) -> None:
    print("\nA training step with Adam: ms of the callback, share of the rest of the step, bytes written per step")
    for name, (make, shape, batch) in NETS.items():
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch * steps, *shape, generator=generator)
        data = TensorDataset(images, torch.randint(0, 10, (len(images),), generator=generator))
        found: dict[str, list[Any]] = {way: [] for way in OPTIONS}
        for _ in range(rounds):
            for way, options in OPTIONS.items():
                found[way].append(one_training(make, data, batch, options))
        rest = statistics.median(seconds for values in found.values() for _, seconds, _ in values)
        size = sum(p.numel() for p in make().parameters())
        print(f"{name}, {size:,} parameters, minibatches of {batch}: {1e3 * rest:.2f} ms")
        for way, values in found.items():
            own = statistics.median(seconds for seconds, _, _ in values)
            share = statistics.median(seconds / lasted for seconds, lasted, _ in values)
            print(f"  {way:24s} {1e3 * own:8.3f}  {100 * share:6.2f} %  {values[0][2]:8.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    candidates(5 if arguments.quick else 40)
    shares(*((1, 13) if arguments.quick else (3, 13)))


if __name__ == "__main__":
    main()
