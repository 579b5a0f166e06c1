"""The accumulator: every sum, count and moment against NumPy on all contributions kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution import accumulator as A
from lightning_dynamics.analyses.loss_contribution.coordinates import Channels
from tests.analyses.loss_contribution import reference as R

SHAPES = {"a": torch.Size([3, 2]), "b": torch.Size([]), "none": torch.Size([0]), "c": torch.Size([5])}
CHANNELS = {
    "a": Channels("x", (3, 2), (0,)),
    "b": Channels("b", (1,), (0,)),
    "none": Channels("none", (0,), (0,)),
    "c": Channels("c", (5,), (0,)),
}
SIZE = 12


def accumulator(state: dict[str, Any] | None = None, **options: Any) -> A.Accumulator:
    return A.Accumulator({} if state is None else state, SHAPES, CHANNELS, **({"elements": True} | options))


def entries(count: int, seed: int = 0) -> Tensor:
    """Contributions over many orders of magnitude, with zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
    values = values * torch.pow(10.0, -8 * torch.rand(count, SIZE, generator=generator, dtype=torch.float64))
    values[torch.rand(count, SIZE, generator=generator) < 0.2] = 0.0
    values[torch.rand(count, SIZE, generator=generator) < 0.1] = -0.0
    return values


def add(own: A.Accumulator, values: Tensor, step: int, **options: Any) -> None:
    facts: dict[str, Any] = {
        "step": step,
        "loss_start": 10.0 - step,
        "loss_end": 9.0 - step,
        "residual": 1e-3 * (-1) ** step,
        "buffers": 1e-4 * step,
        "resolved": step % 3 != 0,
    }
    own.add(values, **facts | options)


def test_everything_against_numpy() -> None:
    own, values = accumulator(), entries(57)
    for step, row in enumerate(values):
        add(own, row, step)
    v = values.numpy()
    pieces = dict(zip(SHAPES, np.split(v, np.cumsum([6, 1, 0]), axis=1), strict=True))
    assert list(own.named(own.state["totals"])) == list(SHAPES)
    for name, piece in pieces.items():
        assert own.named(own.state["totals"])[name] == pytest.approx(piece.sum(), abs=1e-14)
        count = max(1, piece.size)
        assert own.shares(0)[name] == pytest.approx((piece < 0).sum() / count)
        assert own.shares(1)[name] == pytest.approx((piece > 0).sum() / count)
        flips = chances = 0
        for column in np.sign(piece).T:
            signs = column[column != 0]
            flips, chances = flips + (signs[1:] != signs[:-1]).sum(), chances + max(0, len(signs) - 1)
        assert own.flip_rate()[name] == pytest.approx(flips / chances if chances else math.nan, nan_ok=True)
        found = own.element_totals()[name]
        assert found.shape == SHAPES[name]
        R.assert_close(found.reshape(-1), piece.sum(0), atol=1e-14)
    R.assert_close(own.state["channels"]["x"], pieces["a"].reshape(-1, 3, 2).sum((0, 2)), atol=1e-14)
    flat = v.ravel()
    assert own.kurtosis() == pytest.approx(((flat - flat.mean()) ** 4).mean() / flat.var() ** 2, rel=1e-10)
    edges, helping, hurting, zeros = own.histogram()
    R.assert_close(helping, np.histogram(-flat[flat < 0], edges)[0], rtol=0, atol=0)
    R.assert_close(hurting, np.histogram(flat[flat > 0], edges)[0], rtol=0, atol=0)
    assert zeros == (flat == 0).sum() and int(helping.sum() + hurting.sum()) + zeros == flat.size
    hurts = np.minimum((v > 0).sum(0) * 20 // 57, 19)
    R.assert_close(own.hurting_steps(), np.bincount(hurts, minlength=20), rtol=0, atol=0)
    rows = own.series.rows()
    R.assert_close(rows[:, 7:], np.stack([piece.sum(1) for piece in pieces.values()], 1), atol=1e-15)
    R.assert_close(rows[:, A.HELPING], (v < 0).mean(1))
    R.assert_close(rows[:, A.HURTING], (v > 0).mean(1))
    assert own.state["unresolved"] == 19 and own.state["events"] == 57
    assert own.state["absolute_residual"] == pytest.approx(0.057) and own.state["absolute_change"] == 57


@pytest.mark.parametrize("exponent", [-300, -120, -101, -100, -99, -1, 0, 1, 27, 28, 29, 100])
@pytest.mark.parametrize("mantissa", [1.0, 1.5, 2 - 2**-52])
def test_every_magnitude_has_a_bin(exponent: int, mantissa: float) -> None:
    own = accumulator()
    value = math.ldexp(mantissa, exponent)
    row = torch.zeros(SIZE, dtype=torch.float64)
    row[0], row[1] = value, -value
    add(own, row, 0)
    edges, helping, hurting, zeros = own.histogram()
    assert len(edges) == len(helping) + 1 == len(hurting) + 1
    place = min(max(exponent, -100), 27) + 100
    assert helping.nonzero().tolist() == hurting.nonzero().tolist() == [[place]]
    assert zeros == SIZE - 2
    if -100 <= exponent < 28:
        assert edges[place] <= value < edges[place + 1]


@pytest.mark.parametrize("count", [1, 9, 400])
def test_tail_shares_within_a_bin(count: int) -> None:
    own, values = accumulator(), entries(count, seed=5)
    for step, row in enumerate(values):
        add(own, row, step)
    flat = values.numpy().ravel()
    for found, chosen in zip(own.top_shares(), (-flat[flat < 0], flat[flat > 0]), strict=True):
        ordered = np.sort(chosen)[::-1]
        whole = int(0.01 * len(ordered))
        top = ordered[:whole].sum() + (0.01 * len(ordered) - whole) * ordered[whole]
        assert found == pytest.approx(top / ordered.sum(), rel=0.13)


def test_tail_shares_of_equal_entries_are_the_share_itself() -> None:
    own = accumulator()
    add(own, torch.full((SIZE,), -0.3, dtype=torch.float64), 0)
    helping, hurting = own.top_shares()
    assert helping == pytest.approx(0.01) and math.isnan(hurting)


def test_before_the_first_event() -> None:
    own = accumulator()
    assert math.isnan(own.kurtosis()) and all(map(math.isnan, own.top_shares()))
    assert not len(own.hurting_steps()) and not len(own.series.rows())
    assert all(math.isnan(rate) for rate in own.flip_rate().values())
    assert set(own.shares(0).values()) == {0.0}
    add(own, torch.zeros(SIZE, dtype=torch.float64), 0)
    assert math.isnan(own.kurtosis()) and own.hurting_steps().tolist() == [SIZE, *[0] * 19]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 15, 16, 17, 31, 100])
def test_the_series_keeps_every_sum(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(A, "MOST_ROWS", 8)
    own, values = accumulator(classes=2), entries(count)
    for step, row in enumerate(values):
        add(own, row, step, classes=torch.tensor([step, 1.0], dtype=torch.float64))
    rows, stride = own.series.rows(), own.state["series"]["stride"]
    assert len(rows) == math.ceil(count / stride) <= 8
    chunks = torch.arange(count).split(stride)
    assert rows[:, A.EVENTS].tolist() == [len(chunk) for chunk in chunks]
    assert rows[:, A.STEP].tolist() == [int(chunk[-1]) for chunk in chunks]
    assert rows[:, A.LOSS].tolist() == [9.0 - int(chunk[-1]) for chunk in chunks]
    sums = [torch.stack([p.sum() for p in values[chunk].sum(0).split([6, 1, 0, 5])]) for chunk in chunks]
    R.assert_close(rows[:, 7:11], torch.stack(sums), atol=1e-13)
    R.assert_close(rows[:, 11], [float(chunk.sum()) for chunk in chunks])
    R.assert_close(rows[:, A.RESIDUAL], [sum(1e-3 * (-1) ** int(n) for n in chunk) for chunk in chunks], atol=1e-15)
    R.assert_close(own.state["classes"], [sum(range(count)), count])


def test_rows_are_a_copy() -> None:
    own = accumulator()
    add(own, entries(1)[0], 0)
    own.series.rows().zero_()
    assert own.series.rows()[0, A.EVENTS] == 1


@pytest.mark.parametrize("cut", [0, 1, 5, 13])
def test_it_goes_on_from_its_state(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import copy

    monkeypatch.setattr(A, "MOST_ROWS", 4)
    whole, first, values = accumulator(), accumulator(), entries(20)
    for step, row in enumerate(values):
        add(whole, row, step)
        if step < cut:
            add(first, row, step)
    resumed = accumulator(copy.deepcopy(first.state))
    for step in range(cut, 20):
        add(resumed, values[step], step)
    assert whole.state.keys() == resumed.state.keys()
    for name in ("totals", "counts", "codes", "moments", "element_totals", "element_hurts", "element_signs"):
        assert torch.equal(whole.state[name], resumed.state[name]), name
    assert torch.equal(whole.series.rows(), resumed.series.rows())


def test_memory_per_element() -> None:
    size = 1000
    one = A.Accumulator({}, {"w": torch.Size([size])}, {"w": Channels("w", (1, size), (0,))}, elements=True)
    per_element = [t for t in one.state.values() if isinstance(t, Tensor) and len(t) == size and t.ndim == 1]
    assert sum(t.element_size() for t in per_element) == 13
