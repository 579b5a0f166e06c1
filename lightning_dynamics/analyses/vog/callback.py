"""VoGCallback: which examples are hard, and which labels may be wrong."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar

from lightning_dynamics.analyses.arguments import Data, OnError
from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.vog.arguments import check_words, describe, setup_of
from lightning_dynamics.analyses.vog.attribution import check
from lightning_dynamics.analyses.vog.estimator import Channel, Variant
from lightning_dynamics.analyses.vog.methods import IntegratedGradients, MethodName, SmoothGrad
from lightning_dynamics.analyses.vog.outputs import TargetFn
from lightning_dynamics.analyses.vog.record import Record
from lightning_dynamics.analyses.vog.rendering import RenderFn, render, renderings, shown_inputs
from lightning_dynamics.analyses.vog.result import VoGResult, result_of
from lightning_dynamics.analyses.vog.scoring import Measured, measure_minibatches, require_rows
from lightning_dynamics.analyses.vog.windows import Place, Plan, Window, parse_windows
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import PredictFn, resolve_function
from lightning_dynamics.core.storage import Storage


class VoGCallback(AnalysisCallback[VoGResult]):
    r"""Score every example by how much the gradient of its class logit varies over training: Variance of Gradients.

    C. Agarwal, D. D'souza, S. Hooker, "Estimating Example Difficulty using Variance of Gradients", CVPR 2022. At every
    event, S_t = ∂ logit_y / ∂ x for each example x with label y, before the softmax, in evaluation mode; colour
    channels averaged. The score is the standard deviation of S_t over events, averaged over pixels (eq. 1-3; see
    :func:`~lightning_dynamics.vog.variance_of_gradients` for what paper and code say), and by class in standard
    deviations from the class's mean (eq. 4). High means hard: atypical, cluttered, or wrongly labelled.

    The same forward passes give area under the margin, EL2N, forgetting events, and the data map's confidence,
    variability and correctness: definitions and sources in :mod:`lightning_dynamics.vog.dynamics`.

    Logged keys (``vog`` becomes ``vog/{name}`` with a ``name``), after every event from the second on:

    =====================================  =========  ========================================================
    ``vog/examples/{window}``              picture    easiest and hardest images of each class, at the window's events
    ``vog/error_by_percentile``            picture    error rate by VoG percentile, a line per window
    ``vog/histogram``                      picture    distribution of VoG
    ``vog/classes``                        picture    VoG by class, as boxes
    ``vog/data_map``                       picture    confidence against variability, coloured by correctness
    ``vog/values``                         table      examples and all their scores, the extremes with thumbnails
    ``vog/map``                            page       when training ends: any two scores against each other, to explore
    ``vog/scores``                         download   when training ends: all scores as ``.csv`` and ``.npz``
    ``vog/mean/{window}``                  scalar     mean VoG
    ``vog/error_of_easiest/{window}``      scalar     error rate of the tenth with the lowest normalised VoG
    ``vog/error_of_hardest/{window}``      scalar     of the tenth with the highest
    ``vog/accuracy``                       scalar     on the examples; ``never_learned``, ``undefined``
    =====================================  =========  ========================================================

    Cost of an event: one forward pass and one backward pass to the inputs (no gradients of weights) over the examples,
    about three quarters of what training on as many takes; ``samples`` times as many passes with SmoothGrad and
    integrated gradients. Memory, however long the training: the examples, and with the default windows, in
    process zero, four float32 numbers per example and pixel (two per set of windows that events fall into), and during
    an event one more; for 10,000 images of 32 x 32, 160 + 40 MB. Above ``memory_limit`` they lie in files of the
    temporary folder. Checkpoints hold them too.

    Args:
        data: ``"train"``, ``"val"``, a Dataset or a DataLoader. Error rates say more on data that was not trained on;
            wrong labels are found in the training set.
        num_examples: at most this many, chosen once by ``seed``; a number beyond the data set's size means all of it.
        batch_size: examples per pass; the scores do not depend on it, except through SmoothGrad's noise.
        windows: parts of training that are scored by themselves, by name:
            ``{"late": vog.Window(epochs=(10, None))}``, or ``{"late": {"epochs": [10, None]}}`` for short; see
            :class:`~lightning_dynamics.vog.Window`. By default ``early`` and ``late``: the first and the second half.
            ``"all"`` is always there.
        target: ``"label"``; ``"prediction"``, the class predicted at each event, which needs no labels; or a function
            ``(output, targets) -> (N,)`` of one number per example, itself or as ``"package.module.function"``, for
            regression, detection, segmentation. (``"final_prediction"`` is known only at the end: see
            :func:`~lightning_dynamics.vog.score_checkpoints`.)
        variant: ``"vog"``, ``"variance"`` or ``"literal"``.
        channel: ``"mean"`` or ``"none"``: whether colour channels are averaged first.
        ddof: 0 or 1.
        attribution: ``"gradient"``, ``"smoothgrad"``, ``"integrated_gradients"``, or, with settings of their own,
            ``vog.SmoothGrad(samples=16, noise=0.15)`` and ``vog.IntegratedGradients(samples=16)``.
        with_respect_to: ``"input"``, or the name of a layer (a glob that matches one) whose output to differentiate by,
            for inputs without a gradient: an embedding.
        channels_last: lay out images with their channels innermost: faster convolutions on many machines.
        memory_limit: bytes that one set of per-pixel numbers may take in memory.
        memory_folder: for the files of larger ones; None for the system's temporary folder.
        render_fn: what to show of an example: ``inputs -> (h, w, 3) uint8`` array or text; by default, inputs of one or
            three channels are shown as images.
        class_names: of the labels, from 0.
        mode: ``"eval"``, as in the paper, or ``"train"``, where batch statistics make examples influence each other.
        seed: of the choice of examples, of frozen augmentation and of SmoothGrad's noise.

    Raises:
        ConfigurationError: before training: no logits of classes (probabilities, say, whose gradient is another),
            labels out of range, no gradient path to the input or several inputs, examples that influence each other
            (batch statistics) or that the collate function merges, fewer than two events to come.

    Example::

        trainer = Trainer(callbacks=[VoGCallback(data="val", num_examples=10_000)])
    """

    group: ClassVar[str] = "vog"
    result_type: ClassVar[type[VoGResult]] = VoGResult

    def __init__(
        self,
        data: Data = "train",
        num_examples: int = 1000,
        batch_size: int = 128,
        windows: dict[str, Window | dict[str, list[float | None]]] | None = None,
        target: str | TargetFn = "label",
        variant: Variant = "vog",
        channel: Channel = "mean",
        ddof: int = 0,
        attribution: MethodName | SmoothGrad | IntegratedGradients = "gradient",
        with_respect_to: str = "input",
        every_n_epochs: int | None = 1,
        every_n_train_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = True,
        channels_last: bool = False,
        memory_limit: int = 2**30,
        memory_folder: str | None = None,
        predict_fn: str | PredictFn | None = None,
        render_fn: str | RenderFn | None = None,
        class_names: list[str] | None = None,
        mode: Mode | None = None,
        seed: int = 0,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        self._setup = setup_of(target, attribution, with_respect_to, channels_last, predict_fn)
        if target == "final_prediction":
            raise ConfigurationError(
                "`target='final_prediction'` is known only when training has ended: use 'label' or 'prediction', or "
                "score the checkpoints afterwards with `lightning_dynamics.vog.score_checkpoints`"
            )
        check_words(variant, channel, ddof)
        self._settings = describe(self._setup, variant, channel, ddof)
        self.windows = parse_windows(windows)
        named = {name: str(window) for name, window in self.windows.items()}
        super().__init__(locals(), identity={**self._settings, "windows": named})
        self._asked_for_windows = windows is not None
        self.variant: Variant = variant
        self.channel: Channel = channel
        self.ddof = ddof
        self.class_names = list(class_names or ())
        self._storage = Storage(memory_limit, memory_folder)
        self._render_fn: Any = resolve_function(render_fn, "render_fn")

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """See whether gradients can be taken, events will be enough, and the memory is of these examples."""
        minibatches = [list(batch) for batch in context.probe.batches]
        if self.memory and self.memory["examples"] != minibatches:
            raise ConfigurationError(
                "the events so far were measured on other examples, from a data set of another size: give the same "
                "data set as `data`, or a new VoGCallback"
            )
        if not self.memory and not context.length.is_fast_dev_run:
            events = (self.every_n_epochs, self.every_n_train_steps, self.at_start, self.at_end)
            plan = Plan(*events, context.length.steps, context.length.epoch_steps)
            told = plan.check(self.windows, self._asked_for_windows)
            if told and context.ranks.rank == 0:
                warnings.warn(f"{self.speaker}: {told}", stacklevel=2)
        self._record(context).resume()
        assert context.task is not None
        self._setup = replace(self._setup, task=context.task)
        batch = context.probe.batch(0)
        context.seed(batch)
        require_rows(batch, len(context.probe.batches[0]))
        check(context.module, batch.data, self._setup)
        if self._render_fn is not None:
            render(shown_inputs(context.probe.batch(0).data, self._setup), [0], self._render_fn)

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> list[Measured]:
        """Gradients and predictions of this process's minibatches."""
        return measure_minibatches(context, self._setup, self.channel, self._storage)

    def combine(self, part: list[Measured], context: Context) -> VoGResult:
        """Everybody's minibatches, merged into the moments so far -> all scores."""
        moment, ranks, probe = context.moment, context.ranks, context.probe
        record = self._record(context)
        # An event that failed later than this, in `render_fn` say, may be measured again: it counts once.
        if self.memory.get("step") != moment.step:
            record.add(part, Place(moment.epoch, moment.step, context.length.steps), ranks)
            self.memory["step"] = moment.step
        result = result_of(
            record.read(self.variant, self.ddof, ranks),
            [index for batch in probe.batches for index in batch],
            epoch=moment.epoch,
            step=moment.step,
            data=probe.name,
            settings=self._settings,
            windows=record.events(),
            undefined=self.memory["undefined"],
            class_names=self.class_names,
        )
        result.shown.update(renderings(result, probe, self._render_fn, ranks, self._setup))
        return result

    def _record(self, context: Context) -> Record:
        return Record(self.memory, context.probe.batches, self.windows, self._storage, is_first=context.ranks.rank == 0)
