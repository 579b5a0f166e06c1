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
from lightning_dynamics.core.layers import Layer, capture_outputs, executed_layers, named_layers, select_layers
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Batch


@dataclass(frozen=True)
class Observer:
    """How to look at a network.

    Args:
        run: ``run(module, batch)`` runs the layers.
        reduce: a layer's output -> features, one row per example.
        kernel: of the Gram matrices.
        bandwidth: of the RBF kernel.
        debiased: how they are centred.
        components: whether first principal components are wanted.
    """

    run: Callable[[nn.Module, Any], object]
    reduce: Reduction
    kernel: Kernel
    bandwidth: float
    debiased: bool
    components: bool

    def layers_that_run(
        self, module: nn.Module, batch: Batch, patterns: str | Sequence[str], argument: str
    ) -> tuple[list[Layer], str]:
        """The selected layers that a forward pass runs, in order, and in words which selected ones are left out.

        Raises:
            ConfigurationError: naming ``argument``: a pattern matches nothing, or none of the layers is usable.
        """
        selected = select_layers(module, patterns, argument=argument)
        wanted = {patterns} if isinstance(patterns, str) else set(patterns)
        order, never_run, refused = executed_layers(
            selected,
            run=lambda: self.run(module, batch.data),
            usable=lambda layer, output: features(layer, output, len(batch)) is not None,
            keep=wanted,
        )
        if not order:
            raise ConfigurationError(
                f"`{argument}={patterns!r}`: none of these layers runs in a forward pass of {type(module).__name__} "
                "and puts out one row of floating-point numbers per example; choose others, or pass `predict_fn`"
            )
        reasons = [(never_run, "never run in a forward pass"), (refused, "no row of numbers per example")]
        return order, "; ".join(f"{', '.join(names)} ({reason})" for names, reason in reasons if names)

    def see(self, module: nn.Module, order: list[Layer], batch: Batch) -> Representation:
        """Run the module once; every layer's activation becomes a Gram matrix at once and is dropped."""
        places = {layer: place for place, layer in enumerate(order)}
        modules = named_layers(module)
        n = len(batch)
        grams: Tensor | None = None
        scratch: Tensor | None = None

        def take(layer: Layer, output: Any) -> None:
            tensor = features(modules[layer.name], output, n) if layer in places else None
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
            x = self.reduce(tensor)
            estimator.gram(x, kernel=self.kernel, bandwidth=self.bandwidth, out=grams[places[layer]], scratch=scratch)

        with capture_outputs({layer.name: modules[layer.name] for layer in order}, take):
            self.run(module, batch.data)
        if grams is None:
            raise RuntimeError("none of the layers ran in this forward pass, though they did before training")
        return Representation.of(grams, debiased=self.debiased, components=self.components)
