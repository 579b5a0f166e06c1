"""What a loss is a mean over, told by minibatches and their parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.loss_terms import Part, class_weights_of, counters, held_vectors, is_mean_over, is_sum
from lightning_dynamics.core.outputs import Reading
from lightning_dynamics.core.task import EXAMPLES, Counter

N, T, C = 8, 6, 4
DIVISIONS: tuple[list[int], ...] = ([0, 1, 2, 3], [0, 2, 4, 6], [0], [0, 7])
Batch = dict[str, Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integers(*shape: int, high: int = C, seed: int = 1) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def padded(value: int) -> Tensor:
    """Tokens of sequences of different lengths."""
    lengths = 1 + integers(N, high=T - 1, seed=3)
    return torch.where(torch.arange(T) < lengths[:, None], 1 + integers(N, T, high=C - 1), value)


def divided(batch: Batch, loss: Callable[[Batch], Tensor]) -> tuple[Part, list[list[Part]]]:
    """The minibatch, and divisions of it in two."""

    def part(rows: Sequence[int]) -> Part:
        own = {name: tensor[list(rows)] for name, tensor in batch.items()}
        return own, len(rows), float(loss(own))

    others = [[row for row in range(N) if row not in rows] for rows in DIVISIONS]
    return part(range(N)), [[part(a), part(b)] for a, b in zip(DIVISIONS, others, strict=True)]


def found_for(
    batch: Batch, loss: Callable[[Batch], Tensor], reading: Reading | None = None, mask: str | None = None
) -> Counter | None:
    """The first counter that the loss is a mean over."""
    whole, parts = divided(batch, loss)
    target = ("y",) if "y" in batch else None
    candidates = counters(batch, reading or Reading(), target, None if mask is None else (mask,))
    return next((one for one in (EXAMPLES, *candidates) if is_mean_over(one.count, whole, parts)), None)


def token_losses(batch: Batch, **words: Any) -> Tensor:
    return F.cross_entropy(batch["logits"].movedim(-1, 1), batch["y"], **words)


TOKENS = Reading("tokens", "logits", classes=C, class_axis=2)


def tokens(value: int) -> Batch:
    return {"logits": draw(N, T, C), "y": padded(value)}


# ---- means ------------------------------------------------------------------------------------------------------


def test_a_mean_over_examples() -> None:
    batch = {"logits": draw(N, C), "y": integers(N)}
    assert found_for(batch, lambda b: F.cross_entropy(b["logits"], b["y"])) is EXAMPLES


@pytest.mark.parametrize("value", [-100, 0])
def test_a_mean_over_tokens_that_count(value: int) -> None:
    reading = TOKENS if value < 0 else Reading("tokens", "logits", classes=C, class_axis=2, ignored=(0,))
    batch = tokens(value)
    counter = found_for(batch, lambda b: token_losses(b, ignore_index=value), reading)
    assert counter is not None and (counter.unit, counter.described) == ("tokens", "tokens that count")
    assert counter.count(batch, N) == float((batch["y"] > 0).sum())


def test_a_mean_over_next_tokens() -> None:
    batch = tokens(-100)
    batch["y"][:, 0] = torch.where(torch.arange(N) % 2 == 0, -100, 1)  # the first counts for nothing
    reading = Reading("tokens", "logits", classes=C, class_axis=2, shift=1)

    def loss(b: Batch) -> Tensor:
        return F.cross_entropy(b["logits"][:, :-1].movedim(-1, 1), b["y"][:, 1:])

    counter = found_for(batch, loss, reading)
    assert counter is not None and counter.count(batch, N) == float((batch["y"][:, 1:] >= 0).sum())


def test_a_mean_over_class_weights() -> None:
    weights = torch.tensor([1.0, 5.0, 0.2, 2.0], dtype=torch.float64)
    reading = Reading("multiclass", "logits", classes=C, class_axis=1, weights=weights)
    batch = {"logits": draw(N, C), "y": integers(N)}
    counter = found_for(batch, lambda b: F.cross_entropy(b["logits"], b["y"], weight=weights), reading)
    assert counter is not None and (counter.unit, counter.described) == ("weights", "class weights")
    assert counter.count(batch, N) == pytest.approx(float(weights[batch["y"]].sum()))


def test_the_weight_of_a_class_that_was_not_seen() -> None:
    weights = torch.tensor([1.0, float("nan"), 0.2, 2.0])
    reading = Reading("multiclass", "logits", classes=C, class_axis=1, weights=weights)
    (counter, *_) = counters({"y": integers(N)}, reading, ("y",), None)
    assert counter.count({"y": torch.tensor([0, 2])}, 2) == pytest.approx(1.2)
    with pytest.raises(ConfigurationError, match="the weight of one in this minibatch is not known.*give `loss_fn`"):
        counter.count({"y": torch.tensor([0, 1])}, 2)


def masked_mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / weights.sum()


def example_losses(batch: Batch) -> Tensor:
    return F.cross_entropy(batch["logits"], batch["y"], reduction="none")


ANYTHING: dict[str, tuple[Tensor, Callable[[Batch], Tensor], str, str]] = {
    "weights of examples": (
        draw(N).square(),
        lambda b: masked_mean(example_losses(b), b["w"]),
        "weights",
        "sum of 'w'",
    ),
    "flags": (
        torch.arange(N) % 4 != 1,
        lambda b: masked_mean(example_losses(b), b["w"].double()),
        "terms",
        "flags of 'w'",
    ),
    "flags of what is left out": (
        torch.arange(N) % 4 == 1,
        lambda b: masked_mean(example_losses(b), 1 - b["w"].double()),
        "terms",
        "flags that are not set of 'w'",
    ),
    "how often": (1 + integers(N), lambda b: masked_mean(example_losses(b), b["w"].double()), "terms", "sum of 'w'"),
    "tokens elsewhere": (
        padded(0),
        lambda b: (example_losses(b) * (b["w"] != 0).sum(1)).sum() / (b["w"] != 0).sum(),
        "terms",
        "entries that are not 0 of 'w'",
    ),
}


@pytest.mark.parametrize("name", ANYTHING)
def test_a_mean_over_anything_that_can_be_counted(name: str) -> None:
    tensor, loss, unit, described = ANYTHING[name]
    batch = {"logits": draw(N, C), "y": integers(N), "w": tensor}
    counter = found_for(batch, loss)
    assert counter is not None and (counter.unit, counter.described) == (unit, described)
    whole, parts = divided(batch, loss)
    counts = [counter.count(part, n) for part, n, _ in parts[0]]
    mean = sum(n * value for n, (_, _, value) in zip(counts, parts[0], strict=True)) / sum(counts)
    assert mean == pytest.approx(whole[2], rel=1e-9)


def test_known_targets_are_counted() -> None:
    y = draw(N, 3, seed=4)
    y[::3, 0], y[1::4, 2] = float("nan"), float("nan")

    def loss(b: Batch) -> Tensor:
        known = ~b["y"].isnan()
        return (b["out"] - b["y"])[known].square().mean()

    counter = found_for({"out": draw(N, 3), "y": y}, loss, Reading("regression", "values"))
    assert counter is not None and counter.count({"y": y}, N) == float((~y.isnan()).sum())


def test_flags_beside_the_targets() -> None:
    flags = torch.arange(N * T).reshape(N, T) % 5 > integers(N, 1, high=3)
    batch = {**tokens(0), "flags": flags}

    def loss(b: Batch) -> Tensor:
        return masked_mean(token_losses(b, reduction="none"), b["flags"].double())

    counter = found_for(batch, loss, TOKENS, mask="flags")
    assert counter is not None and counter.unit == "tokens"
    assert counter.count(batch, N) == float(flags.sum())


NO_MEANS: dict[str, Callable[[Batch], Tensor]] = {
    "pairs of examples": lambda b: torch.pdist(b["logits"]).mean() if len(b["y"]) > 1 else torch.zeros(()),
    "the hardest example": lambda b: example_losses(b).max(),
    "squares of sums": lambda b: example_losses(b).sum().square(),
    "batch statistics": lambda b: (b["logits"] - b["logits"].mean(0)).square().mean(),
}


@pytest.mark.parametrize("name", NO_MEANS)
def test_what_is_no_mean(name: str) -> None:
    batch = {"logits": draw(N, C), "y": integers(N)}
    assert found_for(batch, NO_MEANS[name], Reading("multiclass", "logits", classes=C, class_axis=1)) is None
    whole, parts = divided(batch, NO_MEANS[name])
    assert not is_sum(whole[2], parts)


def test_a_sum_is_no_mean() -> None:
    batch = {"logits": draw(N, C), "y": integers(N)}
    whole, parts = divided(batch, lambda b: example_losses(b).sum())
    assert is_sum(whole[2], parts)
    assert not is_mean_over(EXAMPLES.count, whole, parts)
    whole, parts = divided(batch, lambda b: example_losses(b).mean())
    assert not is_sum(whole[2], parts)


def test_equal_losses_do_not_make_up_for_counts_that_do_not_add_up() -> None:
    def length(batch: Any, _: int) -> float:
        return 5.0

    constant = (None, N, 1.0)
    assert not is_mean_over(length, constant, [[(None, 3, 1.0), (None, 5, 1.0)]])


def test_what_cannot_be_counted_is_no_mean() -> None:
    def missing(batch: Any, _: int) -> float:
        return float(batch["nothing"])

    assert not is_mean_over(missing, ({}, N, 1.0), [[({}, 3, 1.0), ({}, 5, 1.0)]])


def test_a_part_without_terms() -> None:
    """Its loss is 0, or nobody's business."""
    batch = {"logits": draw(N, C), "y": integers(N), "w": (torch.arange(N) > 0).double()}
    counter = found_for(batch, lambda b: (example_losses(b) * b["w"]).sum() / b["w"].sum().clamp(min=1e-9))
    assert counter is not None and counter.count(batch, N) == N - 1


# ---- weights ----------------------------------------------------------------------------------------------------


def test_held_vectors() -> None:
    module = nn.Module()
    module.loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    module.plain = torch.tensor([0.5, 1.5])
    module.register_buffer("equal", torch.ones(3))
    module.register_buffer("signed", torch.tensor([1.0, -1.0]))
    module.register_buffer("square", torch.ones(2, 2) + torch.eye(2))
    module.register_buffer("counts", torch.tensor([1, 2, 3]))
    module.layer = nn.Linear(3, 2)
    found = held_vectors(module)
    assert sorted(vector.tolist() for vector in found) == [[0.5, 1.5], [1.0, 2.0, 3.0]]
    found[0].zero_()
    assert module.plain.tolist() == [0.5, 1.5] and module.loss.weight.tolist() == [1.0, 2.0, 3.0]


def measured(loss: Callable[[Tensor, Tensor], Tensor], y: Tensor, output: str = "logits") -> Tensor | None:
    logits = draw(len(y), C).requires_grad_()
    value = loss(logits, y)
    (gradient,) = torch.autograd.grad(value, logits)
    reading = Reading("multiclass", output, classes=C, class_axis=1)  # type: ignore[arg-type]
    return class_weights_of(reading, logits, y, gradient, value.item())


WEIGHTS = torch.tensor([1.0, 5.0, 0.2, 2.0], dtype=torch.float64)


def test_class_weights_are_measured() -> None:
    y = torch.tensor([0, 1, 1, 2, 3, 0, 2, 1])
    found = measured(lambda o, t: F.cross_entropy(o, t, weight=WEIGHTS), y)
    assert found is not None
    torch.testing.assert_close(found / found[0], WEIGHTS / WEIGHTS[0])


def test_weights_of_classes_that_are_not_there_are_unknown() -> None:
    found = measured(lambda o, t: F.cross_entropy(o, t, weight=WEIGHTS), torch.tensor([0, 1, 1, 0, 3]))
    assert found is not None and found.isnan().tolist() == [False, False, True, False]
    torch.testing.assert_close(found[[0, 1, 3]] / found[0], WEIGHTS[[0, 1, 3]] / WEIGHTS[0])


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: F.cross_entropy(o, t, weight=WEIGHTS, reduction="sum"),
        lambda o, t: F.cross_entropy(o, t, label_smoothing=0.2),
        lambda o, t: F.multi_margin_loss(o, t),
        lambda o, t: masked_mean(F.cross_entropy(o, t, reduction="none"), torch.arange(1.0, 1 + len(t))),
        lambda o, t: F.cross_entropy(o, t) + 0.1 * o.square().mean(),
    ],
    ids=["sum", "label smoothing", "margins", "weights of examples", "with a penalty"],
)
def test_other_losses_have_no_class_weights(loss: Any) -> None:
    assert measured(loss, torch.tensor([0, 1, 1, 2, 3, 0, 2, 1])) is None


def test_only_logits_have_measured_weights() -> None:
    assert measured(F.cross_entropy, integers(N), output="probabilities") is None
