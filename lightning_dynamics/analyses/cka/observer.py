"""From a network and a minibatch to centred Gram matrices, one per layer, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.cka import estimator
from lightning_dynamics.analyses.cka.estimator import Kernel
from lightning_dynamics.analyses.cka.features import Reduction, features
from lightning_dynamics.analyses.cka.reference import Representation
from lightning_dynamics.core.batch_tree import Axes, moving_axis
from lightning_dynamics.core.collating import sizes_to_compare
from lightning_dynamics.core.layers import (
    Layer,
    capture_outputs,
    executed_layers,
    named_layers,
    output_shapes,
    select_layers,
)
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Batch, Probe
from lightning_dynamics.core.samples import Sample

_OF_ONE_SIZE = (
    " (which row is which example cannot be told of recorded minibatches that all have one size, unless the DataLoader "
    "has the default `collate_fn`: give a map-style Dataset as `data`)"
)

Run = Callable[[nn.Module, Any], object]
"""``run(module, batch)`` runs the layers."""


@dataclass(frozen=True)
class Observed:
    """The layers to look at.

    Args:
        order: in which they run.
        axes: of each layer's output, along which the examples lie.
        left_out: which layers are not among them, and why, in words.
    """

    order: list[Layer]
    axes: dict[Layer, int]
    left_out: str


@dataclass(frozen=True)
class Observer:
    """How to look at a network.

    Args:
        reduce: a layer's output -> features, one row per example.
        kernel: of the Gram matrices.
        bandwidth: of the RBF kernel.
        debiased: how they are centred.
        components: whether first principal components are wanted.
    """

    reduce: Reduction
    kernel: Kernel
    bandwidth: float
    debiased: bool
    components: bool

    def layers_that_run(
        self, module: nn.Module, run: Run, probe: Probe, placed: Axes, patterns: str | Sequence[str], argument: str
    ) -> Observed:
        """The selected layers that a forward pass runs, in order.

        Args:
            module: isolated.
            run: runs them.
            probe: on what.
            placed: axes of the examples in its minibatches, as far as they are known.
            patterns: of the layers.
            argument: what the user calls them.

        Raises:
            ConfigurationError: naming ``argument``: a pattern matches nothing, or none of the layers is usable.
        """
        selected = select_layers(module, patterns, argument=argument)
        wanted = {patterns} if isinstance(patterns, str) else set(patterns)
        axes = _example_axes(module, run, probe, placed, selected)
        batch = probe.batch(0)
        order, never_run, refused = executed_layers(
            selected,
            run=lambda: run(module, batch.data),
            usable=lambda layer, output: features(output, axes.get(layer)) is not None,
            keep=wanted,
        )
        if not order:
            raise ConfigurationError(
                f"`{argument}={patterns!r}`: none of these layers runs in a forward pass of {type(module).__name__} "
                "and puts out one row of floating-point numbers per example; choose others, or pass `predict_fn`"
                + (_OF_ONE_SIZE if probe.recorded is not None and not placed else "")
            )
        reasons = [(never_run, "never run in a forward pass"), (refused, "no row of numbers per example")]
        left_out = "; ".join(f"{', '.join(names)} ({reason})" for names, reason in reasons if names)
        return Observed(order, {layer: axes[layer] for layer in order}, left_out)

    def see(self, module: nn.Module, run: Run, observed: Observed, batch: Batch) -> Representation:
        """Run the module once; every layer's activation becomes a Gram matrix at once and is dropped."""
        order = observed.order
        places = {layer: place for place, layer in enumerate(order)}
        modules = named_layers(module)
        n = len(batch)
        grams: Tensor | None = None
        scratch: Tensor | None = None

        def take(layer: Layer, output: Any) -> None:
            tensor = features(output, observed.axes[layer]) if layer in places else None
            if tensor is not None:
                # The user's own `forward` may be in inference mode here; what we write to must not be of it.
                with torch.inference_mode(False), torch.no_grad():
                    form(layer, tensor)

        def form(layer: Layer, tensor: Tensor) -> None:
            nonlocal grams, scratch
            if grams is None or scratch is None:
                dtype = estimator.gram_dtype(tensor)
                # A layer that does not run this time stays zero: it does not vary, so its row will be NaN.
                grams = torch.zeros(len(order), n, n, dtype=dtype, device=tensor.device)
                scratch = estimator.scratch_for(n, dtype, tensor.device)
            if len(tensor) != n:
                raise RuntimeError(f"layer {layer} put out {len(tensor)} rows for {n} examples")
            x = self.reduce(tensor)
            estimator.gram(x, kernel=self.kernel, bandwidth=self.bandwidth, out=grams[places[layer]], scratch=scratch)

        with capture_outputs({layer.name: modules[layer.name] for layer in order}, take):
            run(module, batch.data)
        if grams is None:
            raise RuntimeError("none of the layers ran in this forward pass, though they did before training")
        return Representation.of(grams, debiased=self.debiased, components=self.components)


def _example_axes(
    module: nn.Module, run: Run, probe: Probe, placed: Axes, layers: dict[str, nn.Module]
) -> dict[Layer, int]:
    """Along which axis of each layer's output the examples lie: the one that is as long as they are many.

    Seen in minibatches of different sizes. A weight, a table of positions, or a state has no such axis.
    """
    sample = Sample(probe)
    runs = [(probe.batch(number).data, len(own)) for number, own in enumerate(probe.batches)] if probe.recorded else []
    if placed or not runs:  # recorded minibatches can be cut where the axes of their tensors are known
        cut = [(sample.split(range(size)), size) for size in sizes_to_compare(len(sample))]
        runs = [(batch, size) for batch, size in cut if batch is not None] or runs
    runs = list({size: (batch, size) for batch, size in runs}.values())
    shapes = [output_shapes(layers, lambda batch=batch: run(module, batch)) for batch, _ in runs]  # type: ignore[misc]
    sizes = [size for _, size in runs]
    found = {layer: moving_axis([own.get(layer, ()) for own in shapes], sizes) for layer in shapes[0]}
    return {layer: axis for layer, axis in found.items() if axis is not None}
