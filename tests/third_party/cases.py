"""All of them: other people's, and the kinds written by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kinds.modules import KINDS, Kind
from tests.third_party import forecasts, graphs, huggingface, lightnings
from tests.third_party.case import Case

THIRD_PARTY: dict[str, dict[str, Case]] = {
    "Lightning and torchmetrics": lightnings.CASES,
    "Hugging Face transformers and peft": huggingface.CASES,
    "PyTorch Geometric": graphs.CASES,
    "PyTorch Forecasting": forecasts.CASES,
}
"""By whose they are, then by name."""


FEW = {"(user, item, rating)": "bias.*", "the next word": "head.bias"}


def _first_output(output: Any, targets: Any) -> Tensor:
    return output[:, 0]


def _itself(output: Any, targets: Any) -> Tensor:
    return output


def _before_the_last_layer(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return module.layers[:-1](batch[0]), batch[1].long()


def _two_logits(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Of no and yes: the sigmoid of one logit is the softmax of it and nothing."""
    yes = module.layers[:-1](batch[0])
    return torch.cat([torch.zeros_like(yes), yes], 1), batch[1].long()


def _cross_entropy(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


_LOSS: dict[str, Any] = {"loss_fn": _cross_entropy}
GIVEN: dict[str, dict[str, dict[str, Any]]] = {
    "manual optimisation": {name: _LOSS for name in lightnings.BY_LOSS},
    "(user, item, rating)": {"VoGCallback": {"with_respect_to": "users", "target": _itself}},
    "labels, any number of them": {"VoGCallback": {"target": _first_output}},
    "regression (N,)": {"VoGCallback": {"target": _first_output}},
    "regression (N, 1)": {"VoGCallback": {"target": _first_output}},
    "regression (N, 3)": {"VoGCallback": {"target": _first_output}},
    "sigmoid and BCELoss": {"VoGCallback": {"predict_fn": _two_logits}},
    "LogSoftmax and NLLLoss": {"VoGCallback": {"predict_fn": _before_the_last_layer}},
    "softmax and a loss of its own": {"VoGCallback": {"predict_fn": _before_the_last_layer}},
}


def _by_hand(name: str) -> Case:
    def load() -> Kind:
        return KINDS[name]

    return Case("lightning", load, few=FEW.get(name, "*bias"), given=GIVEN.get(name, {}))


BY_HAND = {name: _by_hand(name) for name in KINDS}
