"""What else one forward pass says about an example: the scores that people use beside VoG.

All are measured with the model in evaluation mode at the callback's events, not on the training minibatches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MEASURED = ("margin", "el2n", "confidence", "correct", "loss")
"""What is known of an example at one event; columns of :func:`measure`."""


def measure(logits: Tensor, labels: Tensor) -> Tensor:
    """Of one event.

    - margin: z_y − max_{j≠y} z_j. Its mean over events is the *area under the margin* (Pleiss, Zhang, Elenberg,
      Weinberger, NeurIPS 2020, eq. 1-2): low where the label is at odds with what the network makes of the input.
    - el2n: ‖softmax(z) − onehot(y)‖₂ (Paul, Ganguli, Dziugaite, NeurIPS 2021, def. 2.2), there measured early in
      training and averaged over runs.
    - confidence: softmax(z)_y. Mean and standard deviation (ddof 0) over events are *confidence* and *variability*,
      the share of events in which the prediction is right is *correctness* (Swayamdipta et al., EMNLP 2020, sec. 2).
    - correct: 1 if argmax z = y, else 0, as for logits with a NaN.
    - loss: the cross-entropy, −log softmax(z)_y.

    Args:
        logits: ``(N, C)``, C ≥ 2.
        labels: ``(N,)`` integers below C.

    Returns:
        ``(N, 5)`` float64, in the order of :data:`MEASURED`.
    """
    logits = logits.double()
    rows = torch.arange(len(logits), device=logits.device)
    own = logits[rows, labels]
    others = logits.clone()
    others[rows, labels] = -math.inf
    log_probabilities = logits.log_softmax(1)
    errors = log_probabilities.exp()
    confidence = errors[rows, labels].clone()
    errors[rows, labels] -= 1
    correct = ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).double()
    el2n = errors.square().sum(1).sqrt()
    return torch.stack([own - others.amax(1), el2n, confidence, correct, -log_probabilities[rows, labels]], dim=1)


@dataclass(frozen=True, eq=False)
class Forgetting:
    """Forgetting events (Toneva et al., ICLR 2019, def. 2.1): right at one event and wrong at the next.

    Args:
        events: ``(N,)`` float64: how often so far.
        was_correct: ``(N,)`` bool: at the latest event.
        ever_correct: ``(N,)`` bool.
    """

    events: Tensor
    was_correct: Tensor
    ever_correct: Tensor

    @classmethod
    def none(cls, examples: int) -> Forgetting:
        """Before the first event."""
        never = torch.zeros(examples, dtype=torch.bool)
        return cls(torch.zeros(examples, dtype=torch.float64), never, never.clone())

    def update(self, correct: Tensor) -> None:
        """Take in one event ``(N,)`` bool, in place."""
        self.events.add_(self.was_correct & ~correct)
        self.was_correct.copy_(correct)
        self.ever_correct.logical_or_(correct)

    def scores(self) -> Tensor:
        """``(N,)``: forgetting events; infinity for examples that were never right, as the paper ranks them."""
        return self.events.masked_fill(~self.ever_correct, math.inf)
