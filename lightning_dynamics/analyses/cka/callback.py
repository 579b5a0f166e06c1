"""CKACallback: which layers of a network represent the examples alike, as it trains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from lightning_dynamics.analyses.arguments import Data, OnError
from lightning_dynamics.analyses.callback import AnalysisCallback
from lightning_dynamics.analyses.cka import estimator
from lightning_dynamics.analyses.cka.comparison import Sums, compare
from lightning_dynamics.analyses.cka.estimator import Kernel
from lightning_dynamics.analyses.cka.features import Reduction, reduction_named
from lightning_dynamics.analyses.cka.observer import Observed, Observer, Run
from lightning_dynamics.analyses.cka.reference import Reference
from lightning_dynamics.analyses.cka.result import CKAResult
from lightning_dynamics.analyses.cka.structure import block_score, find_blocks
from lightning_dynamics.core.checkpoints import at_checkpoint, short_names
from lightning_dynamics.core.context import Context
from lightning_dynamics.core.isolation import Mode, isolated
from lightning_dynamics.core.layers import check_patterns
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import PredictFn
from lightning_dynamics.core.quiet import logging_disabled
from lightning_dynamics.core.task import Task
from lightning_dynamics.core.understanding import understand

_FORMER_SELVES = {
    "initialization": "initialization",
    "initialisation": "initialization",
    "previous": "previous event",
}


class CKACallback(AnalysisCallback[CKAResult]):
    r"""Map the similarity of all pairs of layers by centered kernel alignment, as the network trains.

    Minibatch CKA with the unbiased HSIC₁ estimator: Nguyen, Raghu, Kornblith, "Do wide and deep networks learn
    the same things?" (ICLR 2021), eq. 1-3; Song et al. 2012; Kornblith et al. 2019. Sums over minibatches first,
    ratio last; features centred in float32 before the Gram matrix, sums in float64, negative values kept. A
    ragged last minibatch of n examples counts with n(n - 3).

    Logged keys (``cka`` becomes ``cka/{name}`` with a ``name``; ``-2`` is added for a second of the same name):

    ==============================  =========  ==========================================================
    ``cka/similarity``              picture    the map: input bottom left, scale 0-1, blocks outlined
    ``cka/without_first_pc``        picture    the map after removing every layer's first component
    ``cka/first_pc``                picture    share of variance of each layer's first component
    ``cka/first_pc_cosine``         picture    \|cos\| between the layers' first components
    ``cka/similarity_film``         film       the map over training, when training ends
    ``cka/values``                  table      layer x, layer y, cka
    ``cka/mean_off_diagonal``       scalar     mean of the map without its diagonal
    ``cka/block_score``             scalar     share of the pairs of layers that lie in a block
    ``cka/similarity_to/{ref}/…``   scalar     a layer's similarity to itself in a reference, mean per stage
    ==============================  =========  ==========================================================

    Cost of an event: about three training steps of the same batch size with the default probe of four minibatches
    (see ``docs/cka.md``). In passes: one forward pass over the probe, 2 n² operations per feature and minibatch
    of n, and, with ``components``, one n×n eigendecomposition per layer and minibatch. Memory: L n² numbers (twice
    that with ``components``), whatever the width of the layers and the number of minibatches, and one copy of the
    model while an event lasts. ``compare_to`` anything but ``"self"`` keeps L n² (or twice that) numbers per minibatch
    on the CPU; for ``"initialization"`` and ``"previous"`` checkpoints grow by as much.

    Args:
        layers: which layers: globs, ``"re:…"`` regular expressions or class names; see
            :func:`~lightning_dynamics.core.layers.select_layers`. A module called twice is two layers. With
            patterns, a module that only hands on another's output (a container, dropout in eval mode) is left
            out.
        compare_to: ``"self"``; ``"initialization"`` or ``"previous"`` (event) for the change of representation;
            the path of a Lightning checkpoint of the same class, or several; or any ``nn.Module``.
        reference_layers: layers of an ``nn.Module`` given as ``compare_to``; by default ``layers``.
        debiased: HSIC₁; else the biased estimate, which depends on the minibatch size.
        kernel: ``"linear"`` or ``"rbf"``.
        bandwidth: of the RBF kernel, as a multiple of the median distance in the minibatch.
        reduction: ``"flatten"`` (the paper), ``"mean"`` over space or tokens, ``"cls"`` (first token), ``"last"``
            (last token), or a function of the output, itself or as ``"package.module.function"``.
        components: first principal components: their share, the map without them, their cosines.
        batch_size: n, at least 4.
        at_start: analyse the untrained model (always done for ``"initialization"`` and ``"previous"``).
        predict_fn: runs the layers on a batch, ``predict_fn(module, batch)``, itself or as
            ``"package.module.function"``; by default the module's ``forward``, or ``training_step`` if it has none.

    Raises:
        ConfigurationError: a pattern that matches nothing, minibatches under 4 examples, a checkpoint that is
            missing or does not fit, a layer selection that never runs; before training starts.

    Example::

        trainer = Trainer(callbacks=[CKACallback(layers="*", every_n_epochs=1)])
    """

    group: ClassVar[str] = "cka"
    smallest_batch: ClassVar[int] = estimator.MIN_EXAMPLES
    result_type: ClassVar[type[CKAResult]] = CKAResult

    def __init__(
        self,
        layers: str | Sequence[str] = "*",
        compare_to: str | PathLike[str] | Sequence[str | PathLike[str]] | nn.Module = "self",
        reference_layers: str | Sequence[str] | None = None,
        debiased: bool = True,
        kernel: Kernel = "linear",
        bandwidth: float = 1.0,
        reduction: str | Reduction = "flatten",
        components: bool = True,
        data: Data = "train",
        num_examples: int = 512,
        batch_size: int = 128,
        every_n_epochs: int | None = 1,
        every_n_train_steps: int | None = None,
        at_start: bool = False,
        at_end: bool = True,
        predict_fn: str | PredictFn | None = None,
        mode: Mode | None = None,
        seed: int = 0,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        """Store and check the arguments."""
        former_self = isinstance(compare_to, str) and compare_to in _FORMER_SELVES
        super().__init__(
            locals(),
            at_start=at_start or former_self,
            identity={
                "layers": layers,
                "compare_to": type(compare_to).__name__ if isinstance(compare_to, nn.Module) else str(compare_to),
                "debiased": debiased,
                "kernel": kernel,
                "reduction": reduction if isinstance(reduction, str) else getattr(reduction, "__name__", "function"),
            },
        )
        if kernel not in ("linear", "rbf"):
            raise ConfigurationError(f"`kernel` must be 'linear' or 'rbf', got {kernel!r}")
        if not bandwidth > 0:
            raise ConfigurationError(f"`bandwidth` must be positive, got {bandwidth!r}")
        for argument, value in (("batch_size", batch_size), ("num_examples", num_examples)):
            if value < estimator.MIN_EXAMPLES:
                raise ConfigurationError(
                    f"`{argument}={value}` is too few: HSIC₁ needs minibatches of {estimator.MIN_EXAMPLES} or more"
                )
        check_patterns(layers, "layers")
        if reference_layers is not None:
            check_patterns(reference_layers, "reference_layers")
        self.layers = layers
        self.reference_layers = reference_layers
        self.debiased = debiased
        self.kernel: Kernel = kernel
        self.components = components
        self._observer = Observer(reduction_named(reduction), kernel, bandwidth, debiased, components)
        self._former_self = _FORMER_SELVES[compare_to] if former_self else None  # type: ignore[index]
        self._other = compare_to if isinstance(compare_to, nn.Module) else None
        self._checkpoints: list[str] = []
        if isinstance(compare_to, str | PathLike):
            self._checkpoints = [] if former_self or compare_to == "self" else [str(compare_to)]
        elif isinstance(compare_to, list | tuple) and compare_to:
            self._checkpoints = list(dict.fromkeys(map(str, compare_to)))
        elif self._other is None:
            raise ConfigurationError(
                f"`compare_to` must be 'self', 'initialization', 'previous', a checkpoint's path, a list of at least "
                f"one, or an nn.Module; got {compare_to!r}"
            )
        if reference_layers is not None and self._other is None:
            raise ConfigurationError("`reference_layers` chooses layers of an nn.Module: give one as `compare_to`")
        for path in self._checkpoints:
            if not Path(path).is_file():
                raise ConfigurationError(
                    f"`compare_to={path!r}` is no file; give 'self', 'initialization', 'previous', a checkpoint's path "
                    "or an nn.Module"
                )
        self._observed = Observed([], {}, "")
        self._references: list[Reference] = []
        self._tasks: WeakKeyDictionary[nn.Module, Task] = WeakKeyDictionary()

    # ---- before training -----------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Find the layers that run, and look at the references once."""
        *whole, last = map(len, context.probe.batches)
        if last < estimator.MIN_EXAMPLES:
            advice = f"`num_examples={sum(whole)}`" if whole else "more examples"
            raise ConfigurationError(
                f"{len(context.probe)} examples in minibatches of `batch_size={self.batch_size}` leave a last one of "
                f"{last}, and HSIC₁ needs {estimator.MIN_EXAMPLES}: give {advice}, or another `batch_size`"
            )
        if self.memory and self.memory["examples"] != list(map(list, context.probe.batches)):
            raise ConfigurationError(
                f"the reference ({self._former_self}) was measured on other examples, from a data set of another size: "
                "give the same data set as `data`, or a new callback"
            )
        self._observed = self._layers_that_run(context.module, context, self.layers, "layers")
        self._references = []
        for path, label in zip(self._checkpoints, short_names(self._checkpoints), strict=True):
            with at_checkpoint(context.module, path, argument="compare_to"):
                self._references.append(self._look(context.module, self._observed, context, label))
        if self._other is not None:
            device = next((p.device for p in context.module.parameters()), torch.device("cpu"))
            home = next((p.device for p in self._other.parameters()), device)
            with isolated(self._other, mode=self.mode, seed=self.seed), logging_disabled(self._other):
                try:
                    other = self._other.to(device)
                    patterns = self.reference_layers or self.layers
                    observed = self._layers_that_run(other, context, patterns, "reference_layers")
                    self._references = [self._look(other, observed, context, type(other).__name__)]
                finally:
                    self._other.to(home)

    # ---- an event ------------------------------------------------------------------------------------------

    def measure(self, context: Context) -> tuple[list[Sums], Reference]:
        """One forward pass over this process's minibatches; sums for every reference, and what was seen."""
        names = [str(layer) for layer in self._observed.order]
        references = self._compared_with()
        seen = Reference(self._name_of(context), names)
        keep = self._becomes_reference()
        sums = [Sums.zero(len(names), len(reference.layers)) for reference in references or [seen]]
        for batch in context.batches():
            now = self._observer.see(context.module, self._run(context.module, context), self._observed, batch)
            if keep:
                seen.add(batch.number, now)
            if not references:
                sums[0] += compare(now, now)
            for total, reference in zip(sums, references, strict=False):
                total += compare(now, reference.on(batch.number, now.rows.device))
        return sums, seen

    def combine(self, part: tuple[list[Sums], Reference], context: Context) -> CKAResult:
        """Sums over processes, then ratios."""
        own, seen = part
        sums = [total.over(context.ranks) for total in own]
        references = self._compared_with() or [seen]
        if self._becomes_reference():
            shared = seen.shared(context.probe, context.ranks, components=self.components)
            label = seen.label if self._former_self == "initialization" else self._former_self
            self.memory["reference"] = shared.to_state() | {"label": label}
            self.memory["examples"] = list(map(list, context.probe.batches))
        labels = [reference.label for reference in references]
        matrices = dict(zip(labels, (total.similarity() for total in sums), strict=True))
        matrix = torch.stack(list(matrices.values())).mean(0)
        without = torch.stack([total.similarity_without_first() for total in sums]).mean(0)
        with_itself = references == [seen] and self._former_self is None
        blocks = find_blocks(matrix) if with_itself else []
        return CKAResult(
            epoch=context.moment.epoch,
            step=context.moment.step,
            num_examples=len(context.probe),
            matrix=matrix,
            layers_x=seen.layers,
            layers_y=references[0].layers,
            compared_to=", ".join(labels),
            matrices=matrices,
            first_pc_variance=sums[0].first_share(),
            matrix_without_first_pc=without,
            first_pc_cosine=torch.stack([total.first_cosine() for total in sums]).mean(0),
            blocks=[list(block) for block in blocks],
            block_score=block_score(blocks, len(matrix)) if with_itself else float("nan"),
            block_score_without_first_pc=(
                block_score(find_blocks(without), len(matrix)) if with_itself and self.components else float("nan")
            ),
            data=context.probe.name,
            estimator=f"{'unbiased' if self.debiased else 'biased'} {self.kernel} minibatch CKA, n = {self.batch_size}",
        )

    # ---- layers --------------------------------------------------------------------------------------------

    def _layers_that_run(
        self, module: nn.Module, context: Context, patterns: str | Sequence[str], argument: str
    ) -> Observed:
        """The selected layers that run, in order; says which were left out."""
        assert context.task is not None
        run, placed = self._run(module, context), context.task.axes
        observed = self._observer.layers_that_run(module, run, context.probe, placed, patterns, argument)
        if observed.left_out and context.ranks.rank == 0:
            warnings.warn(f"{type(self).__name__}: layers left out of the map: {observed.left_out}", stacklevel=2)
        return observed

    def _run(self, module: nn.Module, context: Context) -> Run:
        """What runs the layers: ``predict_fn``, or what the task says of this module."""
        assert context.task is not None
        if self.predict_fn is not None or module is context.module:
            return context.task.run
        if module not in self._tasks:
            self._tasks[module] = understand(module, context.probe, predict_fn=self.predict_fn)
        return self._tasks[module].run

    def _name_of(self, context: Context) -> str:
        """What the network as it is now is called when it is compared with itself, and by later events."""
        step = context.moment.step
        if self._former_self == "initialization":
            return "initialization" if step == 0 else f"step {step}"  # first seen in mid-training
        if self._former_self == "previous event":
            return "previous event" if self.memory else "itself, the first event"
        return "itself"

    def _compared_with(self) -> list[Reference]:
        """What there is to compare with; nothing if with itself."""
        return [Reference(**self.memory["reference"])] if self.memory else self._references

    def _becomes_reference(self) -> bool:
        """Whether what this event sees is what later ones are compared with."""
        return self._former_self == "previous event" or (self._former_self is not None and not self.memory)

    def _look(self, module: nn.Module, observed: Observed, context: Context, label: str) -> Reference:
        """A reference: the module as it is now, on this process's minibatches."""
        reference = Reference(label, [str(layer) for layer in observed.order])
        run = self._run(module, context)
        for batch in context.batches():
            reference.add(batch.number, self._observer.see(module, run, observed, batch))
        return reference
