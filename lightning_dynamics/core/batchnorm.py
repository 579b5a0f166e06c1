"""Batch normalisation: the layers that do it, by each process's own minibatch, with statistics measured anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batchnorms(module: nn.Module) -> list[_BatchNorm]:
    """All batch normalisations below, each once."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def use_batch_statistics(layer: _BatchNorm) -> None:
    """From now on by the minibatch's statistics, also where SyncBatchNorm would talk to the other processes.

    Those have other minibatches, or none. Call it within ``isolated``, which puts the layer back.
    """
    layer.training = True
    if isinstance(layer, nn.SyncBatchNorm):
        layer.__dict__["forward"] = partial(_BatchNorm.forward, layer)


def reestimate(layers: Iterable[_BatchNorm], batches: Iterable[tuple[Any, int]], run: Callable[[Any], Any]) -> None:
    """Measure running means and variances anew, for the weights as they are now.

    One pass in which every layer normalises by the minibatch; the running statistics become the mean of the
    minibatches', weighted by their numbers of examples (``bn_update`` of Izmailov et al. 2018, so a ragged last
    minibatch counts right; torch's ``update_bn`` counts it as a whole one). Call it within ``isolated``.

    Args:
        layers: whose; those that keep no running statistics have nothing to measure.
        batches: minibatches and their numbers of examples.
        run: a forward pass.
    """
    layers = [layer for layer in layers if layer.track_running_stats]
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
        use_batch_statistics(layer)
    seen = 0
    for batch, examples in batches:
        seen += examples
        for layer in layers:
            layer.momentum = examples / seen
        run(batch)
    for layer in layers:
        layer.training = False
