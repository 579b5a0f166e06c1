"""Scores from checkpoints that are already on disk."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_dynamics.analyses.vog.arguments import check_words, describe, setup_of
from lightning_dynamics.analyses.vog.attribution import check, predict
from lightning_dynamics.analyses.vog.dynamics import MEASURED, measure
from lightning_dynamics.analyses.vog.estimator import Channel, Variant, per_pixel
from lightning_dynamics.analyses.vog.methods import IntegratedGradients, MethodName, SmoothGrad
from lightning_dynamics.analyses.vog.outputs import Setup, TargetFn
from lightning_dynamics.analyses.vog.record import Reading, Record
from lightning_dynamics.analyses.vog.rendering import RenderFn, renderings
from lightning_dynamics.analyses.vog.result import VoGResult, result_of
from lightning_dynamics.analyses.vog.scoring import measure_minibatches, require_rows
from lightning_dynamics.analyses.vog.windows import FEWEST_EVENTS, Place, Window, WindowSpecs, parse_windows
from lightning_dynamics.core.checkpoints import at_checkpoint, epoch_and_step_of
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import PredictFn, resolve_function
from lightning_dynamics.core.probe import Probe, probe_without_trainer
from lightning_dynamics.core.progress import progress
from lightning_dynamics.core.quiet import logging_disabled
from lightning_dynamics.core.schedule import Moment
from lightning_dynamics.core.storage import Storage
from lightning_dynamics.core.understanding import understand

Path = str | PathLike[str]


def score_checkpoints(
    module: nn.Module,
    checkpoints: Sequence[Path],
    data: Dataset[Any] | DataLoader[Any],
    *,
    num_examples: int | None = None,
    batch_size: int = 128,
    windows: WindowSpecs | None = None,
    target: str | TargetFn = "label",
    variant: Variant = "vog",
    channel: Channel = "mean",
    ddof: int = 0,
    attribution: MethodName | SmoothGrad | IntegratedGradients = "gradient",
    with_respect_to: str = "input",
    channels_last: bool = False,
    memory_limit: int = 2**28,
    predict_fn: str | PredictFn | None = None,
    render_fn: str | RenderFn | None = None,
    class_names: Sequence[str] = (),
    seed: int = 0,
    show_progress: bool = True,
) -> VoGResult:
    """What :class:`~lightning_dynamics.VoGCallback` would have found with an event at each of these checkpoints.

    Examples outside, checkpoints inside: as many examples at a time as ``memory_limit`` allows go through all
    checkpoints, so nothing grows with the data set.

    Cost: a forward pass and a backward pass to the inputs per example and checkpoint (``samples`` times as many with
    SmoothGrad and integrated gradients), one forward pass more with ``target="final_prediction"``; every
    checkpoint is read once, and once per group of examples. Memory: ``memory_limit`` and the module's weights twice.

    Args:
        module: of the architecture of the checkpoints; on the device to compute on. Comes back as it was, bit for bit.
        checkpoints: paths of Lightning checkpoints, two or more (three are enough), in any order: they are sorted by
            step.
        data: a Dataset or a DataLoader (its data set and collate function). Give it without random augmentation: what
            there is of it is drawn once, by ``seed``.
        num_examples: at most this many, chosen by ``seed``; None for all.
        batch_size: examples per pass.
        windows: as of the callback; a ``"share"`` is one of the last checkpoint's steps.
        target: as of the callback, or ``"final_prediction"``: the class predicted at the last checkpoint.
        variant: as of the callback, like all that follow.
        channel: see there.
        ddof: see there.
        attribution: see there.
        with_respect_to: see there.
        channels_last: see there.
        memory_limit: bytes for per-pixel numbers.
        predict_fn: see there. A plain ``nn.Module`` has no loss to tell which item holds the labels, so it needs one:
            ``lambda module, batch: (module(batch[0]), batch[1])``, say; or ``target="prediction"``.
        render_fn: see there.
        class_names: see there.
        seed: see there.
        show_progress: a bar, if it takes more than a few seconds.

    Raises:
        ConfigurationError: fewer than two checkpoints (or in a window that was asked for), two of the same step, one
            that cannot be read or is of another architecture; labels that nobody knows; whatever the callback complains
            about.
    """
    setup = setup_of(target, attribution, with_respect_to, channels_last, predict_fn)
    check_words(variant, channel, ddof)
    spans = parse_windows(windows)
    render_with: Any = resolve_function(render_fn, "render_fn")
    stops = _in_order(checkpoints)
    for name, window in spans.items() if windows is not None else ():
        inside = sum(map(window.holds, (stop.place for stop in stops)))
        if window.measure != "accuracy" and inside < FEWEST_EVENTS:
            raise ConfigurationError(
                f"`windows[{name!r}]` ({window}) holds {inside} of {len(stops)} checkpoints, and needs two: "
                "make it wider, or give more `checkpoints`"
            )
    count = sys.maxsize if num_examples is None else num_examples
    probe = probe_without_trainer(module, data, num_examples=count, batch_size=batch_size, seed=seed)
    with at_checkpoint(module, stops[-1].path, argument="checkpoints"):
        setup = replace(setup, task=understand(module, probe, predict_fn=setup.predict_fn))
    scorer = _Scorer(module, probe, setup, channel, spans, Storage(memory_limit), show_progress)
    readings, last = scorer.run(stops, variant, ddof)
    result = result_of(
        Reading.joined(readings),
        [index for batch in probe.batches for index in batch],
        epoch=stops[-1].place.epoch,
        step=stops[-1].place.step,
        data=probe.name,
        settings=describe(setup, variant, channel, ddof),
        windows=last.events(),
        undefined=scorer.undefined,
        class_names=class_names,
    )
    result.shown.update(renderings(result, probe, render_with, Ranks(), setup))
    return result


@dataclass(frozen=True)
class _Stop:
    """A checkpoint, and where in training it was written."""

    path: Path
    place: Place


def _in_order(checkpoints: Sequence[Path]) -> list[_Stop]:
    if isinstance(checkpoints, str | PathLike) or len(checkpoints) < FEWEST_EVENTS:
        count = 1 if isinstance(checkpoints, str | PathLike) else len(checkpoints)
        raise ConfigurationError(
            f"`checkpoints` must be a list of two or more, got {count}: the gradients of one checkpoint do not vary; "
            "save more with `ModelCheckpoint(save_top_k=-1)`; three are enough"
        )
    placed = sorted(
        ((path, *epoch_and_step_of(path, argument="checkpoints")) for path in checkpoints), key=lambda one: one[2]
    )
    for (a, _, step), (b, _, other) in zip(placed[:-1], placed[1:], strict=True):
        if step == other:
            raise ConfigurationError(f"`checkpoints` {str(a)!r} and {str(b)!r} are both of step {step}: leave one out")
    return [_Stop(path, Place(epoch, step, placed[-1][2])) for path, epoch, step in placed]


class _Scorer:
    """Takes groups of examples through all checkpoints."""

    def __init__(
        self,
        module: nn.Module,
        probe: Probe,
        setup: Setup,
        channel: Channel,
        windows: Mapping[str, Window],
        storage: Storage,
        show_progress: bool,
    ) -> None:
        self.module, self.probe, self.setup, self.channel = module, probe, setup, channel
        self.windows, self.storage, self.show_progress = windows, storage, show_progress
        self.undefined = 0

    def run(self, stops: Sequence[_Stop], variant: Variant, ddof: int) -> tuple[list[Reading], Record]:
        """The groups' readings, and the last one's record."""
        with self._at(stops[-1]):
            batch = self.probe.batch(0)
            require_rows(batch, len(self.probe.batches[0]))
            outcome = check(self.module, batch.data, self.setup)
            pixels = per_pixel(outcome.gradient, self.channel)
        groups = self._groups(pixels.shape[1] * max(4, pixels.element_size()))
        if len(groups) > 1 and any(window.measure == "accuracy" for window in self.windows.values()):
            accuracies = self._accuracies(groups, stops)
            stops = [
                replace(stop, place=replace(stop.place, accuracy=accuracy))
                for stop, accuracy in zip(stops, accuracies, strict=True)
            ]
        readings = []
        passes = progress(
            [(group, stop) for group in groups for stop in stops],
            total=len(groups) * len(stops),
            description="vog" if self.show_progress else None,
        )
        for group, stop in passes:
            if stop is stops[0]:
                record = Record({}, group.batches, self.windows, self.storage)
                chosen = self._final_predictions(group, stops[-1])
            with self._at(stop):
                context = self._context(group, stop)
                measured = measure_minibatches(context, self.setup, self.channel, self.storage, chosen)
            record.add(measured, stop.place, Ranks())
            if stop is stops[-1]:
                readings.append(record.read(variant, ddof, Ranks()))
                self.undefined += record.memory["undefined"]
                group.release()
        return readings, record

    def _groups(self, bytes_per_example: int) -> list[Probe]:
        """Parts of the probe whose moments fit into memory."""
        # Mean and squares for every pattern, and the event's own gradients.
        patterns = 2 ** min(len(self.windows), 2)
        per_batch = max(map(len, self.probe.batches)) * bytes_per_example * (2 * patterns + 1)
        count = max(1, self.storage.in_memory // per_batch)
        starts = range(0, len(self.probe.batches), count)
        # Random draws go by seed + number of the minibatch, as they would in the whole probe.
        return [
            replace(
                self.probe,
                batches=self.probe.batches[i : i + count],
                seed=self.probe.seed + i,
                terms={},
                _kept={},
                _views={},
            )
            for i in starts
        ]

    @contextmanager
    def _at(self, stop: _Stop) -> Iterator[None]:
        with isolated(self.module, mode="eval", seed=self.probe.seed), logging_disabled(self.module):
            with at_checkpoint(self.module, stop.path, argument="checkpoints"):
                yield

    def _context(self, probe: Probe, stop: _Stop) -> Context:
        return Context(self.module, probe, Ranks(), Moment("epoch", stop.place.epoch, stop.place.step))

    def _accuracies(self, groups: Sequence[Probe], stops: Sequence[_Stop]) -> list[float]:
        """Of all examples at each checkpoint; NaN if the output is not logits of classes."""
        right: list[list[Tensor]] = [[] for _ in stops]
        for group in groups:
            for found, stop in zip(right, stops, strict=True):
                with self._at(stop):
                    for batch in self._context(group, stop).batches():
                        logits, labels = predict(self.module, batch.data, self.setup)
                        if logits is not None and labels is not None:
                            found.append(measure(logits.cpu(), labels.cpu())[:, MEASURED.index("correct")])
            group.release()
        return [float(torch.cat(found).mean()) if found else math.nan for found in right]

    def _final_predictions(self, probe: Probe, last: _Stop) -> list[Tensor] | None:
        """Of each minibatch, if they are what gradients are taken of."""
        if self.setup.target != "final_prediction":
            return None
        predictions = []
        with self._at(last):
            for batch in self._context(probe, last).batches():
                logits, _ = predict(self.module, batch.data, self.setup)
                assert logits is not None
                predictions.append(logits.argmax(1))
        return predictions
