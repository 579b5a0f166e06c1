"""Margins, error norms, data maps and forgetting, against a NumPy loop over examples and events."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.vog.dynamics import MEASURED, Forgetting, measure
from lightning_dynamics.analyses.vog.estimator import Moments
from tests.analyses.vog import reference as R

NAN, INF = math.nan, math.inf


def course(events: int = 6, examples: int = 40, classes: int = 5, size: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = size * torch.randn(events, examples, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (examples,), generator=generator)


def column(name: str, logits: list[list[float]], labels: list[int]) -> list[float]:
    found = measure(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels))
    return found[:, MEASURED.index(name)].tolist()


def forgotten(courses: list[list[bool]]) -> list[float]:
    """Of courses ``[event][example]``."""
    forgetting = Forgetting.none(len(courses[0]))
    for correct in courses:
        forgetting.update(torch.tensor(correct))
    return forgetting.scores().tolist()


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_all_scores_over_all_events(classes: int, size: float, dtype: torch.dtype) -> None:
    logits, labels = course(classes=classes, size=size)
    logits = logits.to(dtype)
    moments, forgetting = Moments.zeros(len(labels), len(MEASURED)), Forgetting.none(len(labels))
    for event in logits:
        row = measure(event, labels)
        assert row.dtype == torch.float64
        moments.update(row)
        forgetting.update(row[:, MEASURED.index("correct")] == 1)
    expected = R.dynamics(logits.double().numpy(), labels.numpy())
    mean = dict(zip(MEASURED, moments.mean.unbind(1), strict=True))
    deviation = dict(zip(MEASURED, (moments.m2 / len(logits)).sqrt().unbind(1), strict=True))
    found = {
        "aum": mean["margin"],
        "el2n": mean["el2n"],
        "confidence": mean["confidence"],
        "variability": deviation["confidence"],
        "correctness": mean["correct"],
        "loss": mean["loss"],
        "loss_spread": deviation["loss"],
        "forgetting": forgetting.scores(),
    }
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values.numpy(), expected[name], rtol=1e-11, atol=1e-14, err_msg=name)


def test_by_hand() -> None:
    """softmax(ln 3, 0, 0) = (3, 1, 1) / 5."""
    logits, labels = torch.tensor([[math.log(3), 0.0, 0.0]] * 2, dtype=torch.float64), torch.tensor([0, 2])
    expected = [
        [math.log(3), math.sqrt(6) / 5, 3 / 5, 1, math.log(5 / 3)],
        [-math.log(3), math.sqrt(26) / 5, 1 / 5, 0, math.log(5)],
    ]
    np.testing.assert_allclose(measure(logits, labels).numpy(), expected, rtol=1e-14)
    assert MEASURED == ("margin", "el2n", "confidence", "correct", "loss")


def test_extreme_logits_stay_finite() -> None:
    logits = [[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [1e4, 1e4, -1e4]]
    labels = [0, 1, 1]
    assert column("margin", logits, labels) == [1e4, -2e4, 0]
    assert column("el2n", logits, labels) == pytest.approx([0, math.sqrt(2), math.sqrt(0.5)])
    assert column("confidence", logits, labels) == [1, 0, 0.5]
    assert column("loss", logits, labels) == pytest.approx([0, 2e4, math.log(2)])


def test_of_a_tie_the_first_class_is_the_prediction() -> None:
    assert column("correct", [[2.0, 2.0]] * 2, [0, 1]) == [1, 0]
    assert column("margin", [[2.0, 2.0]] * 2, [0, 1]) == [0, 0]


def test_two_classes_have_opposite_margins() -> None:
    assert column("margin", [[3.0, -1.0]] * 2, [0, 1]) == [4, -4]


def test_a_class_that_is_ruled_out() -> None:
    """A logit of −∞ is a probability of zero."""
    assert column("margin", [[1.0, -INF]], [0]) == [INF]
    assert column("confidence", [[1.0, -INF]] * 2, [0, 1]) == [1, 0]
    assert column("loss", [[1.0, -INF]] * 2, [0, 1]) == [0, INF]


def test_a_network_that_puts_out_nan_is_never_right() -> None:
    """Though argmax finds a NaN, and so class 0."""
    assert column("correct", [[NAN, NAN], [NAN, 1.0], [2.0, NAN]], [0, 0, 1]) == [0, 0, 0]
    assert all(math.isnan(x) for name in ("margin", "el2n", "loss") for x in column(name, [[NAN, NAN]], [0]))


def test_neither_logits_nor_labels_are_changed() -> None:
    logits, labels = course()
    before = logits[0].clone(), labels.clone()
    measure(logits[0], labels)
    assert torch.equal(logits[0], before[0]) and torch.equal(labels, before[1])


def test_forgetting_by_hand() -> None:
    """Never right, always right, forgotten once, learned and forgotten twice, learned late, wrong after the first."""
    courses = [
        [False, True, True, False, False, True],
        [False, True, False, True, False, False],
        [False, True, False, False, False, False],
        [False, True, True, True, False, False],
        [False, True, True, False, True, False],
    ]
    assert forgotten(courses) == [INF, 0, 1, 2, 0, 1]


def test_forgetting_against_the_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    courses = (torch.rand(9, 200, generator=generator) < 0.3).tolist()
    expected = [R.forgetting_events(list(one)) for one in zip(*courses, strict=True)]
    assert forgotten(courses) == expected
    assert {INF, 0.0, 1.0, 2.0} <= set(expected)


def test_before_the_first_event_nothing_is_learned() -> None:
    assert Forgetting.none(2).scores().tolist() == [INF, INF]
    assert forgotten([[True, False]]) == [0, INF]


def test_scores_leave_what_is_remembered_alone() -> None:
    forgetting = Forgetting.none(2)
    forgetting.scores()
    forgetting.update(torch.tensor([True, True]))
    forgetting.update(torch.tensor([False, True]))
    assert forgetting.events.tolist() == [1, 0]
