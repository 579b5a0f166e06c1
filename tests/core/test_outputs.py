"""What outputs are beside their targets: of every kind and form, under the losses people use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_dynamics.core.outputs import Reading, read

C = 4
Loss = Callable[[Tensor, Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(*shape: int, seed: int = 1, high: int = C) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def with_value(targets: Tensor, value: int) -> Tensor:
    changed = targets.clone()
    changed.view(-1)[1::3] = value
    return changed


def seen(output: Tensor, targets: Tensor, loss: Loss, *, bounded: bool = False, **words: Any) -> Reading:
    """The reading with everything known that experiments can know."""
    leaf = output.detach().clone().requires_grad_()
    value = loss(leaf, targets)
    (gradient,) = torch.autograd.grad(value, leaf)
    return read(output, targets, value.item(), gradient, lambda: bounded, words.pop("weights", []), **words)


@dataclass
class Case:
    """Outputs, targets, a loss of them, and what they are."""

    output: Tensor
    targets: Tensor
    loss: Loss
    kind: str
    form: str
    matched: str = "cross_entropy"
    class_axis: int | None = None
    soft: bool = False
    sums: bool = False
    shift: int = 0
    ignored: tuple[int, ...] = ()
    bounded: bool = False


def last_axis(output: Tensor, targets: Tensor, **words: Any) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), targets.flatten(), **words)


def next_word(output: Tensor, targets: Tensor) -> Tensor:
    return last_axis(output[:, :-1], targets[:, 1:])


def bce(output: Tensor, targets: Tensor, **words: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, targets.reshape(output.shape).to(output), **words)


def bce_of_probabilities(output: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy(output, targets.reshape(output.shape).to(output))


def mse(output: Tensor, targets: Tensor, **words: Any) -> Tensor:
    return F.mse_loss(output, targets.reshape(output.shape).to(output), **words)


def focal(output: Tensor, targets: Tensor) -> Tensor:
    p = output.softmax(1).gather(1, targets[:, None])
    return (-((1 - p) ** 2) * p.log()).mean()


def hinge(output: Tensor, targets: Tensor) -> Tensor:
    return (1 - (2.0 * targets - 1) * output).clamp(min=0).mean()


YES_OR_NO = classes(9, high=2)
ANSWERS = classes(6, 5, high=2).double()
SOME_OF_ALL = torch.tensor([0, 0, 1, 2, 3, 1, 2, 3, 1])
ONE_HOT = F.one_hot(classes(9), C).double()
SHARES = draw(9, C, seed=3).softmax(1)

CASES = {
    "logits": Case(draw(9, C), classes(9), F.cross_entropy, "multiclass", "logits", class_axis=1),
    "sum": Case(
        *(draw(9, C), classes(9), lambda o, t: F.cross_entropy(o, t, reduction="sum"), "multiclass", "logits"),
        class_axis=1,
        sums=True,
    ),
    "log-probabilities": Case(
        draw(9, C).log_softmax(1), classes(9), F.nll_loss, "multiclass", "log_probabilities", class_axis=1
    ),
    "probabilities": Case(
        draw(9, C).softmax(1),
        classes(9),
        lambda o, t: F.nll_loss(o.log(), t),
        "multiclass",
        "probabilities",
        class_axis=1,
    ),
    "probabilities taken for logits": Case(
        draw(9, C).softmax(1), classes(9), F.cross_entropy, "multiclass", "logits", class_axis=1
    ),
    "whole numbers as floats": Case(
        draw(9, C), classes(9).double(), lambda o, t: F.cross_entropy(o, t.long()), "multiclass", "logits", class_axis=1
    ),
    "some do not count": Case(
        *(draw(9, C), with_value(classes(9), -100), F.cross_entropy, "multiclass", "logits"),
        class_axis=1,
        ignored=(-100,),
    ),
    "class 0 does not count": Case(
        *(draw(9, C), classes(9), lambda o, t: F.cross_entropy(o, t, ignore_index=0), "multiclass", "logits"),
        class_axis=1,
        ignored=(0,),
    ),
    "focal loss": Case(draw(9, C), classes(9), focal, "multiclass", "logits", "", class_axis=1),
    "focal loss, class 0 does not count": Case(
        *(draw(9, C), classes(9), lambda o, t: focal(o[t > 0], t[t > 0]), "multiclass", "logits", ""),
        class_axis=1,
        ignored=(0,),
    ),
    "places without a loss, among them all of class 0": Case(
        *(draw(9, C), SOME_OF_ALL, lambda o, t: focal(o[5:], t[5:]), "multiclass", "logits", ""), class_axis=1
    ),
    "margins that are kept by class 0 alone": Case(
        *(draw(9, C) + 30 * ONE_HOT * (classes(9) == 0)[:, None], classes(9), F.multi_margin_loss),
        *("multiclass", "logits", ""),
        class_axis=1,
    ),
    "label smoothing": Case(
        *(draw(9, C), classes(9), lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1), "multiclass", "logits", ""),
        class_axis=1,
    ),
    "margin loss": Case(draw(9, C), classes(9), F.multi_margin_loss, "multiclass", "logits", "", class_axis=1),
    "tokens": Case(draw(5, 7, C), classes(5, 7), last_axis, "tokens", "logits", class_axis=2),
    "tokens, classes second": Case(draw(5, C, 7), classes(5, 7), F.cross_entropy, "tokens", "logits", class_axis=1),
    "as many tokens as classes": Case(draw(5, C, C), classes(5, C), last_axis, "tokens", "logits", class_axis=2),
    "as many tokens as classes, classes second": Case(
        draw(5, C, C), classes(5, C), F.cross_entropy, "tokens", "logits", class_axis=1
    ),
    "padding of -100": Case(
        draw(5, 7, C), with_value(classes(5, 7), -100), last_axis, "tokens", "logits", class_axis=2, ignored=(-100,)
    ),
    "padding of 0": Case(
        *(
            draw(5, 7, C),
            with_value(classes(5, 7), 0),
            lambda o, t: last_axis(o, t, ignore_index=0),
            "tokens",
            "logits",
        ),
        class_axis=2,
        ignored=(0,),
    ),
    "padding of 0 that counts": Case(
        draw(5, 7, C), with_value(classes(5, 7), 0), last_axis, "tokens", "logits", class_axis=2
    ),
    "the next word": Case(draw(5, 7, C), classes(5, 7), next_word, "tokens", "logits", class_axis=2, shift=1),
    "outputs flattened over places": Case(
        draw(35, C), classes(5, 7), lambda o, t: F.cross_entropy(o, t.flatten()), "tokens", "logits", class_axis=1
    ),
    "pixels": Case(draw(3, C, 4, 5), classes(3, 4, 5), F.cross_entropy, "dense", "logits", class_axis=1),
    "pixels with a channel": Case(
        draw(3, C, 4, 5), classes(3, 1, 4, 5), lambda o, t: F.cross_entropy(o, t[:, 0]), "dense", "logits", class_axis=1
    ),
    "pixels of a void class": Case(
        *(draw(3, C, 4, 5), with_value(classes(3, 4, 5), 255), lambda o, t: F.cross_entropy(o, t, ignore_index=255)),
        *("dense", "logits"),
        class_axis=1,
        ignored=(255,),
    ),
    "one-hot": Case(draw(9, C), ONE_HOT, F.cross_entropy, "multiclass", "logits", class_axis=1, soft=True),
    "one-hot, focal loss": Case(
        *(draw(9, C), ONE_HOT, lambda o, t: focal(o, t.argmax(1)), "multiclass", "logits", ""), class_axis=1, soft=True
    ),
    "shares of classes": Case(draw(9, C), SHARES, F.cross_entropy, "multiclass", "logits", class_axis=1, soft=True),
    "yes or no": Case(draw(9), YES_OR_NO, bce, "binary", "logits", "binary_cross_entropy"),
    "yes or no, in a column": Case(draw(9, 1), YES_OR_NO, bce, "binary", "logits", "binary_cross_entropy"),
    "yes or no, sum": Case(
        draw(9), YES_OR_NO, lambda o, t: bce(o, t, reduction="sum"), "binary", "logits", "binary_cross_entropy"
    ),
    "flags": Case(draw(9), YES_OR_NO.bool(), bce, "binary", "logits", "binary_cross_entropy"),
    "yes or no, probabilities": Case(
        draw(9).sigmoid(), YES_OR_NO, bce_of_probabilities, "binary", "probabilities", "binary_cross_entropy"
    ),
    "yes or no, small logits": Case(draw(9).sigmoid(), YES_OR_NO, bce, "binary", "logits", "binary_cross_entropy"),
    "yes or no, squared errors of a sigmoid": Case(
        draw(9).sigmoid(), YES_OR_NO, mse, "binary", "probabilities", "mse", bounded=True
    ),
    "yes or no, hinge": Case(draw(9), YES_OR_NO, hinge, "binary", "logits", ""),
    "two classes": Case(draw(9, 2), YES_OR_NO, F.cross_entropy, "multiclass", "logits", class_axis=1),
    "several answers": Case(draw(6, 5), ANSWERS, bce, "multilabel", "logits", "binary_cross_entropy"),
    "one-hot, but yes or no each": Case(draw(9, C), ONE_HOT, bce, "multilabel", "logits", "binary_cross_entropy"),
    "a mask of pixels": Case(
        draw(3, 1, 4, 5), classes(3, 4, 5, high=2), bce, "dense", "logits", "binary_cross_entropy"
    ),
    "numbers": Case(draw(9, 3), draw(9, 3, seed=5), mse, "regression", "values", "mse"),
    "numbers in a column": Case(draw(9, 1), draw(9, seed=5), mse, "regression", "values", "mse"),
    "numbers, another loss": Case(draw(9, 3), draw(9, 3, seed=5), F.l1_loss, "regression", "values", ""),
    "whole numbers": Case(draw(9), classes(9), mse, "regression", "values", "mse"),
    "zeros and ones, but unbounded": Case(draw(9), YES_OR_NO, mse, "regression", "values", "mse"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_they_are(name: str) -> None:
    case = CASES[name]
    found = seen(case.output, case.targets, case.loss, bounded=case.bounded)
    assert (found.kind, found.output, found.matched) == (case.kind, case.form, case.matched)
    assert (found.class_axis, found.soft, found.sums) == (case.class_axis, case.soft, case.sums)
    assert (found.shift, found.ignored, found.weights) == (case.shift, case.ignored, None)
    assert found.classes == (0 if case.class_axis is None else case.output.shape[case.class_axis])


@pytest.mark.parametrize("name", ["logits", "tokens", "padding of 0", "pixels", "the next word"])
def test_also_in_single_precision(name: str) -> None:
    case = CASES[name]
    found = seen(case.output.float(), case.targets, case.loss)
    assert (found.kind, found.output, found.matched) == (case.kind, case.form, case.matched)
    assert (found.shift, found.ignored) == (case.shift, case.ignored)


def test_as_many_places_as_classes_and_a_loss_of_another_form() -> None:
    """The direction of the gradient tells the axis."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return focal(output.flatten(0, 1), targets.flatten())

    assert seen(draw(5, C, C), classes(5, C), loss).class_axis == 2
    assert seen(draw(5, C, C), classes(5, C), lambda o, t: loss(o.movedim(1, 2), t)).class_axis == 1


@pytest.mark.parametrize(
    "name", ["the next word", "tokens", "padding of 0", "padding of 0 that counts", "as many tokens as classes", "sum"]
)
def test_a_network_that_says_nothing_yet(name: str) -> None:
    """Every mean is log C there, whatever it is over: the gradient tells."""
    case = CASES[name]
    found = seen(1e-6 * case.output, case.targets, case.loss)
    assert (found.kind, found.output, found.matched) == (case.kind, case.form, case.matched)
    assert (found.shift, found.ignored, found.class_axis) == (case.shift, case.ignored, case.class_axis)


def test_class_weights_of_a_network_that_says_nothing_yet() -> None:
    output, targets = 1e-6 * draw(5, 7, C), classes(5, 7)
    found = seen(output, targets, lambda o, t: last_axis(o, t, weight=WEIGHTS), weights=[WEIGHTS])
    assert found.matched == "cross_entropy" and found.weights is WEIGHTS
    assert seen(output, targets, last_axis, weights=[WEIGHTS]).weights is None
    unseen = seen(output, targets, lambda o, t: last_axis(o, t, weight=WEIGHTS))  # the module holds no such vector
    assert unseen.kind == "tokens" and not unseen.matched


# ---- what nothing tells ------------------------------------------------------------------------------------------


UNKNOWN: dict[str, tuple[Tensor, Tensor, Loss]] = {
    "whole numbers that are no classes": (draw(9, C), classes(9), lambda o, t: (o[:, 0] - t).square().mean()),
    "a loss of the outputs alone": (draw(9, C), classes(9), lambda o, t: o.square().mean()),
    "a loss that pulls the other way": (draw(9, C), classes(9), lambda o, t: -F.cross_entropy(o, t)),
    "yes or no, for something else": (draw(9), YES_OR_NO, lambda o, t: (o * (o.detach() - 0.3)).mean()),
    "shapes that do not fit": (draw(9, 3), draw(9, 2), lambda o, t: o.sum() * t.sum()),
    "two values out of range": (
        draw(9, C),
        torch.tensor([0, 1, 2, 3, -100, -1, 0, 1, 2]),
        lambda o, t: F.cross_entropy(o, t.clamp(min=0)),
    ),
    "class numbers beyond the outputs": (draw(9, C), 10 + classes(9), lambda o, t: o.mean()),
    "numbers all unknown": (draw(9), torch.full((9,), float("nan"), dtype=torch.float64), lambda o, t: o.mean()),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nothing_tells_is_unknown(name: str) -> None:
    assert seen(*UNKNOWN[name]) == Reading()


def test_shapes_and_values_alone_tell_nothing_of_classes() -> None:
    nothing = {"loss": None, "gradient": None, "bounded": lambda: False, "weights": []}
    assert read(draw(9, C), classes(9), **nothing) == Reading()
    assert read(draw(9), YES_OR_NO, **nothing) == Reading()


def test_outputs_that_are_no_numbers() -> None:
    nothing = {"loss": 1.0, "gradient": None, "bounded": lambda: False, "weights": []}
    assert read(classes(9), classes(9), **nothing) == Reading()
    assert read(draw(9, C).to(torch.complex128), classes(9), **nothing) == Reading()


def test_boundedness_is_asked_for_only_if_nothing_else_tells() -> None:
    def asked() -> bool:
        raise AssertionError("costs runs of the module")

    for name, case in CASES.items():
        if not case.bounded and name not in ("yes or no, hinge", "zeros and ones, but unbounded"):
            value = float(case.loss(case.output, case.targets))
            read(case.output, case.targets, value, None, asked, [])


@pytest.mark.parametrize(
    ("output", "targets", "kind", "form"),
    [
        (draw(9, C), classes(9), "multiclass", "logits"),
        (draw(9, C).log_softmax(1), classes(9), "multiclass", "logits"),
        (draw(9, C), ONE_HOT, "multiclass", "logits"),
        (draw(9), YES_OR_NO, "binary", "logits"),
        (draw(6, 5), ANSWERS, "multilabel", "logits"),
        (draw(9, 3), draw(9, 3, seed=4), "regression", "values"),
    ],
)
def test_what_the_user_declares_needs_no_loss(output: Tensor, targets: Tensor, kind: str, form: str) -> None:
    found = read(output, targets, None, None, lambda: False, [], declared=True)
    assert (found.kind, found.output) == (kind, form)


# ---- class weights -----------------------------------------------------------------------------------------------


WEIGHTS = torch.tensor([1.0, 5.0, 0.2, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("ignored", [False, True])
def test_class_weights_are_found_among_vectors(ignored: bool) -> None:
    targets = with_value(classes(5, 7), -100) if ignored else classes(5, 7)
    vectors = [torch.tensor([1.0, 2.0]), WEIGHTS + 1, WEIGHTS]
    found = seen(draw(5, 7, C), targets, lambda o, t: last_axis(o, t, weight=WEIGHTS), weights=vectors)
    assert found.kind == "tokens" and found.weights is WEIGHTS
    counted = targets[targets >= 0]
    assert found.terms(targets) == pytest.approx(float(WEIGHTS[counted].sum()))


def test_vectors_that_the_loss_does_not_use_are_no_weights() -> None:
    found = seen(draw(9, C), classes(9), F.cross_entropy, weights=[WEIGHTS])
    assert found.matched == "cross_entropy" and found.weights is None


# ---- counting and accuracy ---------------------------------------------------------------------------------------


def test_terms_are_those_that_count() -> None:
    targets = with_value(classes(5, 7), -100)
    plain = Reading("tokens", "logits", classes=C, class_axis=2)
    assert plain.terms(targets) == float((targets >= 0).sum())
    assert Reading("tokens", "logits", classes=C, class_axis=2, shift=1).terms(targets) == float(
        (targets[:, 1:] >= 0).sum()
    )
    padded = Reading("tokens", "logits", classes=C, class_axis=2, ignored=(0,))
    assert padded.terms(targets) == float((targets > 0).sum())
    numbers = draw(9, 3)
    numbers[::2, 1] = float("nan")
    assert Reading("regression", "values").terms(numbers) == 27 - 5
    assert Reading("multilabel", "logits").terms(ANSWERS.long()) == 30


def right_of(output: Tensor, targets: Tensor, axis: int, counted: Tensor) -> float:
    return float((output.argmax(axis) == targets)[counted].double().mean())


@pytest.mark.parametrize("ignored", [(), (-100,)])
def test_accuracy_leaves_out_what_does_not_count_even_if_it_was_not_among_the_examples_tried(
    ignored: tuple[int, ...],
) -> None:
    output, targets = draw(30, C), with_value(classes(30), -100)
    found = Reading("multiclass", "logits", classes=C, class_axis=1, ignored=ignored).accuracy(output, targets)
    assert found is not None and found.dtype == torch.float64
    assert float(found) == pytest.approx(right_of(output, targets, 1, targets >= 0), abs=1e-15)


def test_accuracy_of_classes() -> None:
    output, targets = draw(30, C), classes(30)
    plain = Reading("multiclass", "logits", classes=C, class_axis=1)
    everything = torch.ones(30, dtype=torch.bool)
    expected = right_of(output, targets, 1, everything)
    for scores in (output, output.softmax(1), output.log_softmax(1)):
        assert float(plain.accuracy(scores, targets)) == expected
    assert float(plain.accuracy(output, targets[:, None])) == expected
    soft = Reading("multiclass", "logits", classes=C, class_axis=1, soft=True)
    assert float(soft.accuracy(output, F.one_hot(targets, C).double())) == expected


def test_accuracy_of_places() -> None:
    output, targets = draw(5, 7, C), with_value(classes(5, 7), 0)
    padded = Reading("tokens", "logits", classes=C, class_axis=2, ignored=(0,))
    assert float(padded.accuracy(output, targets)) == pytest.approx(right_of(output, targets, 2, targets > 0))
    shifted = Reading("tokens", "logits", classes=C, class_axis=2, shift=1)
    expected = float((output[:, :-1].argmax(2) == targets[:, 1:]).double().mean())
    assert float(shifted.accuracy(output, targets)) == pytest.approx(expected)
    pixels, truth = draw(3, C, 4, 5), classes(3, 4, 5)
    dense = Reading("dense", "logits", classes=C, class_axis=1)
    assert float(dense.accuracy(pixels, truth)) == pytest.approx(float((pixels.argmax(1) == truth).double().mean()))


@pytest.mark.parametrize(("form", "threshold"), [("logits", 0.0), ("probabilities", 0.5)])
def test_accuracy_of_yes_or_no(form: Any, threshold: float) -> None:
    output = draw(6, 5) if form == "logits" else draw(6, 5).sigmoid()
    expected = float(((output > threshold) == (ANSWERS > 0.5)).double().mean())
    assert float(Reading("multilabel", form).accuracy(output, ANSWERS)) == pytest.approx(expected)
    unknown = ANSWERS.clone()
    unknown[:, 2] = float("nan")
    known = ~unknown.isnan()
    expected = float(((output > threshold) == (ANSWERS > 0.5))[known].double().mean())
    assert float(Reading("multilabel", form).accuracy(output, unknown)) == pytest.approx(expected)


@pytest.mark.parametrize("reading", [Reading(), Reading("regression", "values"), Reading("pairs", "embeddings")])
def test_nothing_is_right_where_nothing_is_classified(reading: Reading) -> None:
    assert reading.accuracy(draw(9), draw(9, seed=2)) is None
