"""VoGCallback: what an event costs, beside the bare gradients and beside the authors' way, and whether it is exact.

Side by side in one run, in random order in every repetition: an event beside its roofline (the same gradients of the
same minibatches, and nothing else), beside a training step, and beside the official way, one image at a time; peak
memory in a fresh process each. Noise images and labels, a ResNet-20 of CIFAR size and a small MLP.

    python benchmarks/vog.py                    # everything: one thread, and as many as torch takes; some minutes
    python benchmarks/vog.py --quick            # fewer examples and repetitions
    python benchmarks/vog.py --threads 2 --net ResNet-20 --reps 15

`score_checkpoints` takes two passes over its first minibatch more, and reads the examples; with few of them it shows.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from nets import Classifier, mlp, resnet20
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

from lightning_dynamics import VoGCallback
from lightning_dynamics.analyses.vog import VoGResult, score_checkpoints
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.schedule import Length, Moment

BATCH = 128
"""Of training and of the examples, whoever takes them."""
CHECKPOINTS = 3
PLANNED = 1_000_000
"""Steps of the training that is acted: events before the middle are early, the others late."""
ROOFLINE_TARGET, LOOP_TARGET = 1.10, 5.0


# ---- networks ----------------------------------------------------------------------------------------------


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-20": (resnet20, (3, 32, 32)),
    "MLP": (mlp, (1, 28, 28)),
}


# ---- ways --------------------------------------------------------------------------------------------------


class Setting:
    """One network and its examples, without a Trainer around them."""

    def __init__(self, net: str, examples: int, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        make, shape = NETS[net]
        self.module = Classifier(make()).to(dtype)
        self.images, self.labels = torch.randn(examples, *shape).to(dtype), torch.randint(10, (examples,))
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.05)

    def training_step(self, lr: float = 1e-4) -> None:
        self.optimizer.param_groups[0]["lr"] = lr
        self.module.train()
        loss = self.module.training_step((self.images[:BATCH], self.labels[:BATCH]), 0)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def frozen(self) -> nn.Module:
        """A copy as it is now, whose parameters take no gradients."""
        return copy.deepcopy(self.module.net).eval().requires_grad_(False)

    def roofline(self, memory_format: torch.memory_format = torch.contiguous_format) -> Callable[[], None]:
        """The gradients, thrown away."""
        net = self.frozen()
        images = [part.contiguous(memory_format=memory_format) for part in self.images.split(BATCH)]
        batches = list(zip(images, self.labels[:, None].split(BATCH), strict=True))

        def run() -> None:
            for x, y in batches:
                leaf = x.detach().requires_grad_()
                torch.autograd.grad(net(leaf).gather(1, y).sum(), leaf)

        return run

    def checkpoints(self) -> Callable[[], None]:
        """From files to a result; the examples are read anew each time."""
        folder = tempfile.TemporaryDirectory()
        paths = [Path(folder.name) / f"{number}.ckpt" for number in range(CHECKPOINTS)]
        for number, path in enumerate(paths):
            saved = {"state_dict": self.module.state_dict(), "epoch": number, "global_step": 100 * (number + 1)}
            torch.save(saved, path)
        data = TensorDataset(self.images, self.labels)

        def run(_until_done: Any = folder) -> None:
            score_checkpoints(self.module, paths, data, batch_size=BATCH, show_progress=False)

        return run


class Ours:
    """Events, as :class:`AnalysisCallback` runs them: all but the panels and the loggers."""

    def __init__(self, setting: Setting, warmed: bool = True, pictures: bool = True, **options: Any) -> None:
        examples = len(setting.images)
        self.module = setting.module
        self.callback = VoGCallback(num_examples=examples, batch_size=BATCH, **options)
        self.pictures = pictures
        batches = tuple(tuple(part.tolist()) for part in torch.arange(examples).split(BATCH))
        data = TensorDataset(setting.images, setting.labels)
        self.probe = Probe(data, "noise", batches, default_collate, lambda batch: batch, seed=0)
        self.steps = iter(range(PLANNED // 2 + 1, PLANNED))
        with self.callback._undisturbed(self.module) as streams:
            self.callback.prepare(self.context(0, streams))
        if warmed:
            # As in the second half of a training: both windows have events, and every result has all scores.
            for step in (1, 2, next(self.steps), next(self.steps)):
                self.event(step)

    def context(self, step: int, streams: list[Any]) -> Context:
        moment, length = Moment("step", 0, step), Length(PLANNED, PLANNED // 10)
        return Context(self.module, self.probe, Ranks(), moment, None, None, streams, length)

    def __call__(self) -> None:
        self.event(next(self.steps))

    def event(self, step: int) -> VoGResult:
        callback = self.callback
        with callback._undisturbed(self.module) as streams:
            context = self.context(step, streams)
            context.ranks.synchronize_buffers(self.module)
            part = callback.measure(context)
        callback._history.settle()
        with _no_pictures() if not self.pictures else _as_it_is():
            callback._history.add(callback.combine(part, context), step)
        return callback.last_result

    def state(self) -> tuple[float, float, float]:
        """MB: what the per-pixel moments should take, what they take, and all the rest that is remembered."""
        memory = self.callback.memory
        pixels = sum(len(batch) * size for batch, size in zip(self.probe.batches, memory["sizes"], strict=True))
        stated = 2 * 4 * pixels * len(memory["patterns"])
        held = sum(kept[name].untyped_storage().nbytes() for kept in memory["gradients"].values() for name in MOMENTS)
        return stated / 2**20, held / 2**20, _bytes(memory) / 2**20 - held / 2**20


MOMENTS = ("mean", "m2")


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    return sum(map(_bytes, value.values())) if isinstance(value, dict) else 0


@contextmanager
def _no_pictures() -> Iterator[None]:
    with mock.patch("lightning_dynamics.analyses.vog.callback.renderings", lambda *_: {}):
        yield


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


class Loop:
    """The official way: one image after the other, its gradient's channel mean kept as a NumPy array.

    The authors' code, in TensorFlow, writes each to a file, and runs a minibatch of 100 for it; ours to compare with
    does neither.
    """

    def __init__(self, setting: Setting, examples: int, at_once: int = 1) -> None:
        self.net = setting.frozen()
        images, labels = setting.images[:examples], setting.labels[:examples, None]
        self.batches = list(zip(images.split(at_once), labels.split(at_once), strict=True))

    def gradients(self) -> list[NDArray[Any]]:
        found = []
        for image, label in self.batches:
            x = image.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.net(x).gather(1, label).sum(), x)
            found.extend(one.mean(axis=0) for one in gradient.numpy())
        return found

    def __call__(self) -> None:
        self.gradients()


def official(maps: list[NDArray[Any]]) -> float:
    """VoG of one image from its maps, as the authors' ImageNet code computes it."""
    mean = np.sum(np.array(maps), axis=0) / len(maps)
    squares = np.sum([(one - mean) ** 2 for one in maps], axis=0)
    return float(np.mean(np.sqrt(squares / len(maps))))


STEP, ROOFLINE, LAST = "training step", "roofline", "roofline, channels_last"
EVENT, LOOP, FILES = "event", "loop", "score_checkpoints"


class Way:
    """A row of the table.

    Args:
        words: what it is.
        make: from a setting and the number of examples of the loop.
        roofline: the one it is measured by, if any.
        times: of that roofline.
    """

    def __init__(self, words: str, make: Callable[..., Callable[[], Any]], roofline: str = "", times: int = 1) -> None:
        self.words, self.make, self.roofline, self.times = words, make, roofline, times


WAYS = {
    STEP: Way(f"training step, minibatch of {BATCH}", lambda s, n: s.training_step),
    ROOFLINE: Way("roofline: input gradients of the same minibatches, thrown away", lambda s, n: s.roofline()),
    LAST: Way("roofline with its inputs in channels_last", lambda s, n: s.roofline(torch.channels_last)),
    EVENT: Way("**event: isolation, gradients, moments, all scores, thumbnails**", lambda s, n: Ours(s), ROOFLINE),
    "event, no thumbnails": Way("event without thumbnails", lambda s, n: Ours(s, pictures=False), ROOFLINE),
    "event, channels_last": Way(
        "event, `channels_last=True` (× the roofline in channels_last)", lambda s, n: Ours(s, channels_last=True), LAST
    ),
    "event, mapped": Way(
        "event, `memory_limit=0`: all per-pixel numbers in files", lambda s, n: Ours(s, memory_limit=0), ROOFLINE
    ),
    FILES: Way(
        f"`score_checkpoints`, {CHECKPOINTS} checkpoints (× {CHECKPOINTS} rooflines)",
        lambda s, n: s.checkpoints(),
        ROOFLINE,
        CHECKPOINTS,
    ),
    LOOP: Way("official way: one image at a time", Loop, ROOFLINE),
}


# ---- time --------------------------------------------------------------------------------------------------


def measure(net: str, threads: int, examples: int, looped: int, reps: int) -> dict[str, list[float]]:
    """Seconds of every way in every repetition; the loop's as if it had done all examples."""
    torch.set_num_threads(threads)
    setting = Setting(net, examples)
    ways = {name: way.make(setting, looped) for name, way in WAYS.items() if fits(name, net)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(reps + 1):
        # In another order each time: what ran before leaves its memory and caches behind.
        for name, run in order.sample(list(ways.items()), len(ways)):
            start = time.perf_counter()
            run()
            share = examples / min(examples, looped) if name == LOOP else 1.0
            times[name].append(share * (time.perf_counter() - start))
    return {name: values[1:] for name, values in times.items()}


def fits(name: str, net: str) -> bool:
    """Whether the row says anything about this network: vectors have no channels to put last."""
    return net != "MLP" or "channels_last" not in name


def ratio(times: dict[str, list[float]], name: str, other: str, count: int = 1) -> float:
    """Median over repetitions: what else the machine does then weighs on both."""
    return statistics.median(a / (count * b) for a, b in zip(times[name], times[other], strict=True))


# ---- memory ------------------------------------------------------------------------------------------------


def peak_memory(net: str, way: str, examples: int, looped: int) -> float:
    """MB above the start of the work, in a process of its own; with the state that an event leaves."""
    command = [sys.executable, __file__, "--peak-of", way, "--net", net]
    command += ["--examples", str(examples), "--looped", str(looped)]
    # Large tensors get pages of their own, and give them back: what is freed does not count any longer.
    large = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **large})
    return float(answer.stdout.split()[-1])


def print_peak(net: str, way: str, examples: int, looped: int) -> None:
    torch.set_num_threads(1)
    # What is loaded and set up at first use, whoever uses it.
    small = Setting(net, 16)
    for name in (STEP, ROOFLINE, EVENT, FILES):
        WAYS[name].make(small, looped)()
    setting = Setting(net, examples)
    setting.roofline()()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = memory("VmRSS")
    WAYS[way].make(setting, looped)()
    print(memory("VmHWM") - before)


def memory(what: str) -> float:
    """MB, from Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what + ":"))


# ---- exactness ---------------------------------------------------------------------------------------------


def largest_difference(
    net: str, examples: int, looped: int, dtype: torch.dtype, at_once: int = 1, events: int = 4
) -> float:
    """Between our scores and the official way's, relative, in both windows and all events of a short training."""
    setting = Setting(net, examples, dtype)
    ours = Ours(setting, warmed=False)
    maps: list[list[NDArray[Any]]] = []
    for number in range(events):
        for _ in range(3):
            setting.training_step(lr=0.05)
        maps.append(Loop(setting, looped, at_once).gradients())
        result = ours.event(1 + number if number < events // 2 else PLANNED // 2 + number)
    worst = 0.0
    windows = {"all": slice(None), "early": slice(events // 2), "late": slice(events // 2, None)}
    for window, which in windows.items():
        theirs = np.array([official(list(one)) for one in zip(*maps[which], strict=True)])
        found = result.scores[window].numpy()[: len(theirs)]
        worst = max(worst, float((np.abs(found - theirs) / theirs).max()))
    return worst


# ---- what is printed ---------------------------------------------------------------------------------------


def main() -> None:
    own = torch.get_num_threads()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer examples, repetitions and threads")
    parser.add_argument("--examples", type=int, help="of an event; 1000")
    parser.add_argument("--looped", type=int, help="of them, how many go through the official loop; 100")
    parser.add_argument("--reps", type=int, help="interleaved repetitions; 9 (5 times as many for the MLP)")
    parser.add_argument("--threads", type=int, nargs="+", help=f"one after the other; 1 and torch's own, {own}")
    parser.add_argument("--net", choices=list(NETS), help="only this one")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quick = arguments.quick
    examples = arguments.examples or (256 if quick else 1000)
    looped = min(examples, arguments.looped or (32 if quick else 100))
    reps = arguments.reps or (3 if quick else 9)
    if arguments.peak_of:
        print_peak(arguments.net, arguments.peak_of, examples, looped)
        return
    nets = [arguments.net] if arguments.net else list(NETS)
    peaks = {
        (net, name): peak_memory(net, name, examples, looped)
        for net in nets
        for name in WAYS
        if fits(name, net) and name != STEP
    }
    print(
        f"An event over {examples} noise images in minibatches of {BATCH}, torch {torch.__version__}, CPU. Medians of "
        f"{reps} interleaved repetitions (MLP: {5 * reps}), ratios repetition by repetition. Official way: gradients "
        f"of {looped} images, scaled up to {examples}; its formula at the end is not counted. Memory (one thread, a "
        "fresh process each): peak above that of the roofline, with the moments and the examples that stay, and with "
        "pages of files, which the system takes back when it needs them. Thumbnails: of the extreme examples of each "
        "class and window."
    )
    print()
    print(
        "| network | threads | | best ms | median ms | × roofline | × training step | × faster than official "
        "| MB over roofline |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    verdicts = []
    for net in nets:
        for threads in arguments.threads or ([own] if quick else sorted({1, own})):
            times = measure(net, threads, examples, looped, reps * (5 if net == "MLP" else 1))
            for name, values in times.items():
                way = WAYS[name]
                against = f"{ratio(times, name, way.roofline, way.times):.3f}" if way.roofline else ""
                count = {STEP: 0, LOOP: 0, FILES: CHECKPOINTS}.get(name, 1)
                than_loop = f"{1 / ratio(times, name, LOOP, count):.1f}" if count else ""
                over = f"{peaks[net, name] - peaks[net, ROOFLINE]:.1f}" if (net, name) in peaks else ""
                over = f"({peaks[net, name]:.1f} in all)" if name == ROOFLINE else over
                best, median = 1000 * min(values), 1000 * statistics.median(values)
                cells = [net, threads, way.words, f"{best:.1f}", f"{median:.1f}", against]
                cells += [f"{ratio(times, name, STEP):.2f}", than_loop, over]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            faster = (1 / ratio(times, name, LOOP) for name in (EVENT, ROOFLINE))
            verdicts.append((net, threads, ratio(times, EVENT, ROOFLINE), *faster))
    torch.set_num_threads(own)
    print(f"\nTargets (ResNet-20): at most {ROOFLINE_TARGET:.2f} × roofline; {LOOP_TARGET:g} × faster than official.")
    for net, threads, roofline, loop, bound in verdicts:
        if net == "ResNet-20":
            print(
                f"- {threads} thread{'s' * (threads > 1)}: {roofline:.3f} × roofline: "
                f"{'met' if roofline <= ROOFLINE_TARGET else 'MISSED'}; {loop:.1f} × faster: "
                f"{'met' if loop >= LOOP_TARGET else 'MISSED'} (the bare roofline: {bound:.1f})"
            )
    print("\nScores against the official formula, largest relative difference, in early, late and all of 4 events of a")
    print(
        "short training. In float32, an image alone and in a minibatch differ by rounding, and ReLUs near 0 may switch:"
    )
    for net in nets:
        single = largest_difference(net, min(examples, 2 * BATCH), looped, torch.float32)
        same = largest_difference(net, BATCH, BATCH, torch.float32, at_once=BATCH)
        double = largest_difference(net, 16, 16, torch.float64)
        print(
            f"- {net}: float32, {looped} images one at a time: {single:.1e}; float32, gradients of one minibatch: "
            f"{same:.1e}; float64, 16 images one at a time: {double:.1e}",
            flush=True,
        )
    print("\nMemory that stays, MB: per-pixel moments, 2 float32 per example and pixel, in two patterns of windows:")
    for net in nets:
        stated, held, rest = Ours(Setting(net, examples)).state()
        print(f"- {net}: stated {stated:.2f}, tensors held {held:.2f}; everything else that is remembered {rest:.2f}")


if __name__ == "__main__":
    main()
