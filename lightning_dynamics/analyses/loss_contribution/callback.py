"""LossContributionCallback: which parameters moved the loss, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_dynamics.analyses.arguments import Data, OnError
from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.loss_contribution.batchnorm import BATCHNORM_MODES, BatchNormMode, running_statistics
from lightning_dynamics.analyses.loss_contribution.checks import check_examples, check_loss, check_parameters
from lightning_dynamics.analyses.loss_contribution.classes import ExampleLosses, ExampleLossFn, cross_entropies
from lightning_dynamics.analyses.loss_contribution.coordinates import Coordinates, layers_of
from lightning_dynamics.analyses.loss_contribution.estimator import Adaptive, RuleName, rule_named
from lightning_dynamics.analyses.loss_contribution.memory import Part, accumulators, add, begin, start_of
from lightning_dynamics.analyses.loss_contribution.probe_loss import ProbeLoss, Value, differentiable
from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult
from lightning_dynamics.analyses.loss_contribution.segment import Point, attribute_segment
from lightning_dynamics.analyses.loss_contribution.summary import summarize
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, PredictFn, resolve_function
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.schedule import Due, Never, Schedule


class LossContributionCallback(AnalysisCallback[LossContributionResult]):
    r"""Split every change of the loss along the training path over the parameters: loss change allocation.

    J. Lan, R. Liu, H. Zhou, J. Yosinski, "LCA: Loss Change Allocation for Neural Network Training", NeurIPS 2019.
    For parameter i and a step from θ to θ + Δ (eq. 2-4): A = Δᵢ ∫₀¹ ∂L/∂θᵢ(θ + αΔ) dα. Negative helps, positive
    hurts; over all parameters they add up to the change of the loss, up to the error of the integration, which is
    known (the loss itself is measured) and always shown: the residual.

    L is the loss on a fixed probe: without augmentation (random draws are made once and frozen), dropout off, as the
    module's ``training_step`` computes it, a mean over examples; it must not change by itself (an annealed weight in
    the loss would be taken for a residual), nor talk to other processes. Weight decay of the optimizer moves
    parameters, but its penalty is no part of L; nor is it in the paper's code. A penalty that ``training_step`` adds
    is: give ``loss_fn`` to leave it out. A path is followed wherever the parameters go, whoever moves them: several
    optimizers, manual optimisation, clipping, weight averaging. A step that AMP skips moves nothing and counts as
    nothing. Tied weights count once; frozen parameters contribute zero, and their share when they are unfrozen.

    Logged keys (``loss_contribution`` becomes ``loss_contribution/{name}`` with a ``name``). Numbers are logged after
    every event, as often as the Trainer's ``log_every_n_steps`` says; pictures after every ``every_n_epochs`` epochs
    and at the end:

    =======================================  =========  ======================================================
    ``loss_contribution/cumulative``         picture    cumulative by layer; the lines add up to the loss curve
    ``loss_contribution/layers_over_time``   picture    layer x time: green helps, purple hurts
    ``loss_contribution/shares``             picture    share of the parameters that help, hurt, do neither
    ``loss_contribution/histogram``          picture    contributions by sign and magnitude; tails, kurtosis
    ``loss_contribution/hurting_steps``      picture    parameters by the share of steps in which they hurt
    ``loss_contribution/layers``             picture    totals by layer
    ``loss_contribution/difference``         picture    totals by layer on both probes (``second_data``)
    ``loss_contribution/parameters``         picture    every weight tensor as a mosaic
    ``loss_contribution/synchrony``          picture    moments of learning of the layers, and whether they coincide
    ``loss_contribution/classes``            picture    class x time (``per_class``); ``classes_by_layer``
    ``loss_contribution/film``               film       the mosaics and the layers over training, when it ends
    ``loss_contribution/values``             table      one row per tensor
    ``loss_contribution/loss``               scalar     of the probe
    ``loss_contribution/residual``           scalar     of the latest event; ``relative_residual`` of the whole path
    ``loss_contribution/helping_share``      scalar     at the latest event; ``hurting_share``
    ``loss_contribution/layer/{layer}``      scalar     cumulative
    =======================================  =========  ======================================================

    Cost of an event: two passes (forward and backward) over the probe with ``"simpson"``, one with ``"left"`` and
    ``"trapezoid"``, 2 to ``max_splits`` with ``"adaptive"``; a pass is ``num_examples / batch size`` training steps.
    So with the default probe and training minibatches of 250, every step costs 8 further ones; 1.6 with
    ``every_n_train_steps=5``. One pass more with ``batchnorm="frozen"`` if there are running statistics, and as many
    again with ``second_data``. ``per_class``: see there. Memory, however long the training: the parameters, their
    gradient in float64 (one per probe), and 13 bytes per parameter of statistics (none with
    ``per_parameter=False``); during an event four more copies in float64. Checkpoints grow by the parameters, those 13
    bytes, and a few megabytes.

    Args:
        num_examples: at most this many, chosen once by ``seed``. The paper takes the whole training set.
        batch_size: examples per pass; with ``batchnorm="batch"`` the result depends on it.
        rule: ``"left"``, ``"trapezoid"``, ``"simpson"`` (the paper's Runge-Kutta), ``"adaptive"`` (the paper's code),
            or, with limits of its own, ``loss_contribution.Adaptive(tolerance=1e-3, max_splits=32)``. Events that miss
            the tolerance are counted.
        batchnorm: ``"batch"``: statistics of the probe's minibatches, which never change: what the paper's code does
            (in all layers, also those that the module keeps in eval mode).
            ``"frozen"``: running statistics, as the deployed network; the loss change that their moving makes is a
            line of its own (``buffers``). ``"attributed"``: running statistics are further coordinates of the path,
            with contributions of their own, and everything adds up.
        every_n_train_steps: an event spans n steps, and takes the straight way between their ends.
        every_n_epochs: show the pictures after every n-th epoch; None for never.
        at_end: show them when training ends.
        per_class: contributions by class and by example too, from forward-mode products: per node of the rule one
            (about two forward passes) for examples and classes, and for classes by layer one per layer or one
            backward pass per class, whichever are fewer. Where an operation has no forward-mode derivative, two
            backward passes take the place of a product. In every minibatch, the loss must be the mean
            of the examples' losses.
        per_parameter: keep the totals, hurting steps and signs of every single parameter.
        second_data: as ``data``: split the loss on these examples too, e.g. ``"val"``, and show the difference.
        example_loss_fn: for ``per_class``: ``(module, batch) -> (losses (N,), classes (N,))``; by default the
            cross-entropy of what the module's ``forward`` returns.
        predict_fn: for ``per_class``: ``(module, batch) -> (logits, classes)``.
        mode: ``"eval"``, or ``"train"``: as the module is trained, dropout too (the same draws at every event); batch
            normalisation does as ``batchnorm`` says in both.
        seed: of the choice of examples and of frozen augmentation.

    Raises:
        ConfigurationError: before training: a loss that is no scalar or does not depend on the parameters, manual
            optimisation without ``loss_fn``, parameters in half precision, minibatches that BatchNorm refuses, a loss
            that changes by itself, re-entrant activation checkpointing, example losses whose mean is not the loss.

    Example::

        trainer = Trainer(callbacks=[LossContributionCallback(every_n_train_steps=5)])
    """

    group: ClassVar[str] = "loss_contribution"
    result_type: ClassVar[type[LossContributionResult]] = LossContributionResult

    def __init__(
        self,
        data: Data = "train",
        num_examples: int = 1000,
        batch_size: int = 250,
        rule: RuleName | Adaptive = "simpson",
        batchnorm: BatchNormMode = "batch",
        every_n_train_steps: int | None = 1,
        every_n_epochs: int | None = 1,
        at_end: bool = True,
        per_class: bool = False,
        per_parameter: bool = True,
        second_data: Data | None = None,
        loss_fn: str | LossFn | None = None,
        example_loss_fn: str | ExampleLossFn | None = None,
        predict_fn: str | PredictFn | None = None,
        mode: Mode | None = None,
        seed: int = 0,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        shows: Due = Schedule(every_n_epochs, None, False, at_end) if every_n_epochs is not None or at_end else Never()
        try:
            self.rule = rule_named(rule)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        super().__init__(
            locals(),
            at_start=True,
            shows=shows,
            identity={
                "rule": str(self.rule),
                "batchnorm": batchnorm,
                "per_class": per_class,
                "per_parameter": per_parameter,
                "functions": [
                    function if function is None or isinstance(function, str) else getattr(function, "__name__", "")
                    for function in (loss_fn, example_loss_fn, predict_fn)
                ],
            },
        )
        if batchnorm not in BATCHNORM_MODES:
            raise ConfigurationError(f"`batchnorm` must be 'batch', 'frozen' or 'attributed', got {batchnorm!r}")
        self.batchnorm: BatchNormMode = batchnorm
        self.per_class = per_class
        self.per_parameter = per_parameter
        own = resolve_function(example_loss_fn, "example_loss_fn")
        self._losses_of: Any = own or cross_entropies(self._predictions)
        self._values: list[Value] = []
        self._forward_mode = True

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """See whether the loss can be split, and whether what is remembered belongs to this module and probe."""
        self._values = []
        coordinates = Coordinates.of(context.module, self.batchnorm)
        check_parameters(context.module, coordinates)
        if self.memory and self.memory["examples"] != self._minibatches(context):
            raise ConfigurationError(
                "the path so far was measured on other examples, from a data set of another size: give the same data "
                "set as `data`, or a new callback"
            )
        if self.memory and self.memory["names"] != list(coordinates.tensors):
            raise ConfigurationError(
                "the path so far was that of a module with other parameters: give a new LossContributionCallback, or "
                f"the same `batchnorm={self.batchnorm!r}` and module"
            )
        wanted = coordinates.wanting_gradient([False] * len(coordinates.tensors))
        with differentiable(context, coordinates, self.batchnorm, wanted):
            for probe in self._all_probes(context):
                check_loss(context, probe, coordinates, self.loss_fn, self.batchnorm)
            if self.per_class:
                self._forward_mode = check_examples(context, self._examples(context, coordinates), self.loss_fn)

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> Part:
        """The way since the last event, split; or where the path begins."""
        coordinates = Coordinates.of(context.module, self.batchnorm)
        if self.memory and self.memory["names"] != list(coordinates.tensors):
            raise RuntimeError("the module's parameters are not those of the event before: were some replaced?")
        end = Point(coordinates.read(), coordinates.read_buffers())
        losses = [ProbeLoss(context, probe, coordinates, self.loss_fn) for probe in self._all_probes(context)]
        known_values: list[Value | None] = [*self._values] if self._values else [None] * len(losses)
        start = start_of(self.memory, coordinates)
        delta = None if start is None else end.coordinates.double() - start.coordinates.double()
        moved = [False] * len(coordinates.tensors)
        if delta is not None:
            moved = [float(piece @ piece) != 0 for piece in delta.split(coordinates.sizes)]  # NaN has moved
        wanted = coordinates.wanting_gradient(moved)
        with differentiable(context, coordinates, self.batchnorm, wanted):
            if start is None or delta is None:
                classes = None
                if self.per_class and "classes" not in self.memory:
                    classes = context.ranks.run_checked(self._examples(context, coordinates).own_classes)
                return Part(coordinates, end, [evaluate(wanted) for evaluate in losses], [], classes)
            segments = [
                attribute_segment(
                    start,
                    end,
                    coordinates,
                    evaluate,
                    delta=delta,
                    moved=moved,
                    known=known,
                    wanted=wanted,
                    rule=self.rule,
                    examples=self._examples(context, coordinates) if self.per_class and number == 0 else None,
                )
                for number, (evaluate, known) in enumerate(zip(losses, known_values, strict=True))
            ]
        return Part(coordinates, end, [segment.next for segment in segments], segments)

    def combine(self, part: Part, context: Context) -> Callable[[], LossContributionResult]:
        """Add the segment to the sums; the result is made from them when somebody asks."""
        begin(self.memory, part, context, self._minibatches(context))
        sums = accumulators(self.memory, part.coordinates, context, elements=self.per_parameter)
        if add(self.memory, part, context, sums):
            self._values = part.values
        return partial(
            summarize,
            sums,
            self.memory,
            context,
            rule="adaptive" if isinstance(self.rule, Adaptive) else self.rule,
            batchnorm=self.batchnorm if running_statistics(context.module) else "",
            every_n_train_steps=self.every_n_train_steps or 0,
        )

    # ---- probes and examples -------------------------------------------------------------------------------

    def _all_probes(self, context: Context) -> list[Probe]:
        return [probe for probe in (context.probe, context.second_probe) if probe is not None]

    def _predictions(self, module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        assert self._task is not None
        return self._task.predictions(module, batch)

    def _minibatches(self, context: Context) -> list[list[list[int]]]:
        """Data set indices of the minibatches, per probe."""
        return [list(map(list, probe.batches)) for probe in self._all_probes(context)]

    def _examples(self, context: Context, coordinates: Coordinates) -> ExampleLosses:
        order = {name: index for index, name in enumerate(coordinates.tensors)}
        layers = [[order[name] for name in names] for names in layers_of(list(order)).values()]
        classes = self.memory.get("classes", torch.zeros(0, dtype=torch.int64))
        return ExampleLosses(context, context.probe, coordinates, self._losses_of, layers, classes, self._forward_mode)
