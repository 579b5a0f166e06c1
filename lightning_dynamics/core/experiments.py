"""Runs of a module on a few examples, in isolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.core import objective
from lightning_dynamics.core.batch_tree import replaced, tensors
from lightning_dynamics.core.batchnorm import batchnorms
from lightning_dynamics.core.calls import captured, first_tensor
from lightning_dynamics.core.forward_call import likely_templates
from lightning_dynamics.core.isolation import Mode
from lightning_dynamics.core.modes import Modes, compare_modes
from lightning_dynamics.core.module_state import plain_attributes, restores_of
from lightning_dynamics.core.objective import LossFn, PredictFn
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.random_state import seed_all
from lightning_dynamics.core.samples import Sample
from lightning_dynamics.core.task import Way, perturbed


class Experiments:
    """Runs of one module on a few examples; make and use them within ``isolated``.

    Args:
        module: isolated.
        probe: whose examples.
        loss_fn: the user's.
        predict_fn: the user's.
        streams: the module's generators.
        mode: in which the module is to be analysed. Train mode without dropout, and with the running statistics of
            batch normalisation.
        moved: perturb the parameters first.
    """

    def __init__(
        self,
        module: Any,
        probe: Probe,
        loss_fn: LossFn | None,
        predict_fn: PredictFn | None,
        streams: Sequence[Any],
        *,
        mode: Mode,
        moved: bool,
    ) -> None:
        """Choose the examples, and run the loss once."""
        self.module, self.probe, self.streams = module, probe, streams
        self.loss_fn, self.predict_fn = loss_fn, predict_fn
        self.sample = Sample(probe)
        self.whole, self.notes = self.sample.whole, self.sample.notes
        self._offset = 0
        self.carries_state = False
        self.modes = Modes()
        _give_statistics(module)
        self.loss(self.whole)  # lazy modules get their parameters
        if moved:
            perturbed(module, torch.Generator().manual_seed(probe.seed))
            self._calibrate()
        if self.sample.is_by_length and not self._is_exchangeable():
            self.sample.distrust()
            self.whole = self.sample.whole
        modes = compare_modes(module, lambda: self._loss(own_copy(self.whole)), self._output_now, self.reseed)
        # Where eval mode has no loss, train mode tells what can be known.
        self.modes = replace(modes, as_trained=modes.as_trained and (mode == "train" or bool(modes.eval_fails)))
        self.as_trained_only = modes.as_trained
        self.modes.apply(module)
        if self.loss(self.whole) is None and modes.as_trained:
            self.modes = modes
            self.modes.apply(module)
        self.carries_state = self._carries_state()
        self.base_loss = self.loss(self.whole)

    def _is_exchangeable(self) -> bool:
        """Whether the loss is the same with the examples in another order: it is not along an axis of time."""
        count = len(self.sample)
        turned = self.sample.split([*range(1, count), 0])
        loss, other = self.loss(self.whole), None if turned is None else self.loss(turned)
        if loss is None or other is None:
            return False
        noise = 0.0  # which stays where it is while examples change places
        for offset in (1, 2, 3, 4):
            self.reseed(offset)
            noise = max(noise, abs((self.loss(self.whole) or loss) - loss))
        self.reseed(0)
        return abs(other - loss) <= 1e-5 * abs(loss) + 4 * noise

    def _calibrate(self) -> None:
        """Give batch normalisation the statistics of this point: with others the signal may fade on its way."""
        layers = [layer for layer in batchnorms(self.module) if layer.running_mean is not None]
        if not layers:
            return
        held = [(layer, layer.training, layer.momentum) for layer in layers]
        for layer in layers:
            layer.training, layer.momentum = True, 1.0
        self.loss(self.whole)
        for layer, training, momentum in held:
            layer.training, layer.momentum = training, momentum

    def _carries_state(self) -> bool:
        """Whether a run changes what the next one gives: then every run begins with the state of the first."""
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.module.buffers()]
        self._start = restores_of(plain_attributes(self.module), (), self.module.buffers())
        values = [self.loss(self.whole) for _ in range(2)]
        changed = any(now.shape != before.shape or not torch.equal(now, before) for now, before in buffers)
        return changed or (values[0] is not None and values[0] != values[1])

    # ---- runs ----------------------------------------------------------------------------------------------

    def seeded(self) -> None:
        """Random streams, and the module's state, at their beginning: every run draws and finds the same."""
        if self.carries_state:
            for restore in reversed(self._start):
                restore()
        seed_all(self.probe.seed + self._offset, *self.streams)

    def reseed(self, offset: int) -> None:
        """Draw others from now on."""
        self._offset = offset

    def loss(self, batch: Any, *, quiet: bool = True) -> float | None:
        """Of a batch; None where it cannot be computed."""
        try:
            return float(self._loss(own_copy(batch)))
        except Exception:
            if quiet:
                return None
            raise

    def _loss(self, batch: Any) -> Tensor:
        self.seeded()
        return self.loss_now(batch)

    def loss_now(self, batch: Any) -> Tensor:
        """Of a batch, from the streams and the state as they are; raises what the module raises."""
        with torch.enable_grad():  # some losses take gradients of their own
            return objective.loss(self.module, batch, self.loss_fn, manual=True)

    def output(self, way: Way, batch: Any) -> Any:
        """The outputs on a batch; raises what the module raises."""
        if self.predict_fn is not None:
            self.seeded()
            return self.predict_fn(self.module, own_copy(batch))[0]
        if way.template is not None:
            self.seeded()
            return way.template(self.module, own_copy(batch))
        self.seeded()  # before anything is put in the module's way
        with captured(self.module, way.name, way.number, copies=True) as found:
            self.loss_now(own_copy(batch))
        return found.outputs[0]

    def _output_now(self) -> Tensor | None:
        """Whatever the module's ``forward`` returns on the whole, to compare modes where there is no loss."""
        for template in likely_templates(self.module, self.whole):
            try:
                self.seeded()
                return first_tensor(template(self.module, own_copy(self.whole)))
            except Exception:
                continue
        return None

    def is_random(self) -> bool:
        """Whether the loss is another one with other random numbers, though dropout is off."""
        self.reseed(1)
        other = self.loss(self.whole)
        self.reseed(0)
        return other != self.base_loss

    @property
    def is_degenerate(self) -> bool:
        """Whether this point tells nothing: the loss is not finite."""
        return self.base_loss is None or not isfinite(self.base_loss)

    def stays_bounded(self, way: Way) -> bool:
        """Whether outputs stay within [0, 1] when the parameters become large: those of a sigmoid or softmax do."""
        held = [(p, p.detach().clone()) for p in self.module.parameters() if p.is_floating_point()]
        try:
            for factor in (30.0, -30.0):
                for parameter, value in held:
                    parameter.data.copy_(value * factor)
                output = first_tensor(self.output(way, self.whole))
                if output is None or not bool(((output >= 0) & (output <= 1)).all()):
                    return False
            return True
        finally:
            for parameter, value in held:
                parameter.data.copy_(value)


def _give_statistics(module: nn.Module) -> None:
    """Fixed statistics for batch normalisations that keep none: else the examples of a minibatch hang together."""
    for layer in batchnorms(module):
        if layer.running_mean is None and layer.running_var is None:
            like = next(layer.parameters(), torch.empty(0))
            layer._buffers["running_mean"] = torch.zeros(layer.num_features, dtype=like.dtype, device=like.device)
            layer._buffers["running_var"] = torch.ones(layer.num_features, dtype=like.dtype, device=like.device)


def own_copy(batch: Any) -> Any:
    """A copy for one run, which may change it."""
    return replaced(batch, {path: tensor.clone() for path, tensor in tensors(batch).items()})


def close(a: Tensor, b: Tensor) -> bool:
    """Equal, but for rounding."""
    if a.shape != b.shape:
        return False
    return torch.allclose(a.detach().float(), b.detach().float(), rtol=1e-5, atol=1e-7, equal_nan=True)
