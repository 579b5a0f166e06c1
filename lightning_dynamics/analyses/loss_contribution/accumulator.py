"""What is kept of all contributions so far: sums, counts, moments; as much after a million steps as after one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution.coordinates import Channels

MOST_ROWS = 2048
"""Rows of the series over training; when they are full, neighbours are added up."""
STEP, LOSS, EVENTS, RESIDUAL, BUFFERS, HELPING, HURTING = range(7)
"""Columns of a row before those of the tensors and of the classes."""

_MANTISSA_BITS = 3  # bins per octave: 2³
_CODES = 1 << (12 + _MANTISSA_BITS)  # sign, exponent and first mantissa bits of a float64
_TOP = 0.01


class Series:
    """Rows over training, at most :data:`MOST_ROWS`; each adds up equally many events, the last perhaps fewer."""

    def __init__(self, state: dict[str, Any], width: int) -> None:
        """Go on from a state; an empty one is filled."""
        self.state = state
        if not state:
            state |= {"rows": torch.zeros(MOST_ROWS, width, dtype=torch.float64), "used": 0, "stride": 1}

    def add(self, row: Tensor) -> None:
        """The next event: step and loss are those at its end, everything else is summed."""
        rows, used = self.state["rows"], self.state["used"]
        if used and rows[used - 1, EVENTS] < self.state["stride"]:
            rows[used - 1, EVENTS:] += row[EVENTS:]
            rows[used - 1, :EVENTS] = row[:EVENTS]
            return
        if used == MOST_ROWS:
            pairs = rows.view(-1, 2, rows.shape[1])
            merged = pairs.sum(1)
            merged[:, :EVENTS] = pairs[:, 1, :EVENTS]
            rows[: MOST_ROWS // 2] = merged
            used, self.state["stride"] = MOST_ROWS // 2, 2 * self.state["stride"]
        rows[used] = row
        self.state["used"] = used + 1

    def rows(self) -> Tensor:
        """``(T, width)``, a copy."""
        return self.state["rows"][: self.state["used"]].clone()


class Accumulator:
    """Sums over all contributions on one probe: each is added once, and none is kept.

    Args:
        state: tensors and plain values, filled if empty; goes into checkpoints.
        shapes: of the tensors, by name.
        channels: how they add up to neurons or output channels, by name.
        elements: whether totals, hurting steps and signs of every element are kept.
        classes: how many classes have a column in the series.

    Memory: with ``elements``, 8 + 4 + 1 bytes per element; else a few hundred kilobytes.
    """

    def __init__(
        self,
        state: dict[str, Any],
        shapes: Mapping[str, torch.Size],
        channels: Mapping[str, Channels],
        *,
        elements: bool,
        classes: int = 0,
    ) -> None:
        """Go on from a state."""
        self.state = state
        self.shapes = shapes
        self.channels = channels
        self.elements = elements
        self.sizes = [shape.numel() for shape in shapes.values()]
        count, total = len(shapes), sum(self.sizes)
        if not state:
            state |= {
                "totals": torch.zeros(count, dtype=torch.float64),
                "counts": torch.zeros(4, count, dtype=torch.int64),  # helping, hurting, flips, chances to flip
                "channels": {},
                "latest_channels": {},
                "codes": torch.zeros(_CODES, dtype=torch.int64),
                "moments": torch.zeros(4, dtype=torch.float64),
                "events": 0,
                "unresolved": 0,
                "absolute_residual": 0.0,
                "absolute_change": 0.0,
                "series": {},
                "classes": torch.zeros(classes, dtype=torch.float64),
            }
            if elements:
                state["element_totals"] = torch.zeros(total, dtype=torch.float64)
                state["element_hurts"] = torch.zeros(total, dtype=torch.int32)
                state["element_signs"] = torch.zeros(total, dtype=torch.int8)
        self.series = Series(state["series"], 7 + count + classes)

    def add(
        self,
        contributions: Tensor,
        *,
        step: int,
        loss_start: float,
        loss_end: float,
        residual: float,
        buffers: float,
        resolved: bool,
        classes: Tensor | None = None,
    ) -> None:
        """One event.

        Args:
            contributions: ``(P,)`` float64, all finite.
            step: at its end.
            loss_start: at its start.
            loss_end: at its end.
            residual: loss change minus everything attributed.
            buffers: the part of it that moving buffers made.
            resolved: whether the rule reached its tolerance.
            classes: ``(C,)`` the contributions' sum by class.
        """
        state = self.state
        for key in ("element_totals", "element_hurts", "element_signs"):
            if key in state and state[key].device != contributions.device:
                state[key] = state[key].to(contributions.device)
        sums = torch.stack([piece.sum() for piece in contributions.split(self.sizes)]).cpu()
        signs = contributions.sign().to(torch.int8)
        helping, hurting = self._count(signs)
        state["totals"] += sums
        state["counts"][0] += helping
        state["counts"][1] += hurting
        if self.elements:
            state["element_totals"] += contributions
            state["element_hurts"] += signs.clamp(min=0)
            flips, repeats = self._count(signs * state["element_signs"])
            state["counts"][2] += flips
            state["counts"][3] += flips + repeats
            # The sign of a contribution of zero is the one before.
            state["element_signs"].mul_(1 - signs.abs()).add_(signs)
        state["codes"] += torch.bincount(_code(contributions), minlength=_CODES).cpu()
        squares = contributions * contributions
        moments = (contributions.sum(), squares.sum(), squares @ contributions, squares @ squares)
        state["moments"] += torch.stack(moments).cpu()
        self._add_channels(contributions)
        state["events"] += 1
        state["unresolved"] += not resolved
        state["absolute_residual"] += abs(residual)
        state["absolute_change"] += abs(loss_end - loss_start)
        size = max(1, len(contributions))
        shares = [int(helping.sum()) / size, int(hurting.sum()) / size]
        head = torch.tensor([step, loss_end, 1, residual, buffers, *shares], dtype=torch.float64)
        by_class = state["classes"].new_zeros(0) if classes is None else classes.cpu()
        state["classes"] += by_class
        self.series.add(torch.cat([head, sums, by_class]))

    def _count(self, signs: Tensor) -> tuple[Tensor, Tensor]:
        """How many of each tensor are -1, and how many 1; sums of int8 take a fraction of a comparison's time."""
        sums = [piece.sum() for values in (signs, signs.abs()) for piece in values.split(self.sizes)]
        total, nonzero = torch.stack(sums).cpu().view(2, -1)
        return (nonzero - total) // 2, (nonzero + total) // 2

    def _add_channels(self, contributions: Tensor) -> None:
        latest: dict[str, Tensor] = {}
        for channels, piece in zip(self.channels.values(), contributions.split(self.sizes), strict=True):
            sums = channels.sums(piece).cpu()
            latest[channels.unit] = latest[channels.unit] + sums if channels.unit in latest else sums
        so_far = self.state["channels"]
        for unit, sums in latest.items():
            so_far[unit] = so_far[unit] + sums if unit in so_far else sums
        self.state["latest_channels"] = latest

    # ---- statistics of the contributions so far --------------------------------------------------------------

    def named(self, values: Tensor) -> dict[str, float]:
        """One value per tensor -> by name."""
        return dict(zip(self.shapes, values.tolist(), strict=True))

    def shares(self, row: int) -> dict[str, float]:
        """Share of all entries of each tensor that helped (0), hurt (1)."""
        entries = torch.tensor(self.sizes, dtype=torch.float64) * max(1, self.state["events"])
        return self.named(self.state["counts"][row] / entries.clamp(min=1))

    def flip_rate(self) -> dict[str, float]:
        """How often an entry had another sign than the last one; NaN where there was no chance."""
        flips, chances = self.state["counts"][2].double(), self.state["counts"][3].double()
        return self.named(flips / chances)

    def element_totals(self) -> dict[str, Tensor]:
        """Cumulative contribution of every element, on the CPU; empty without ``elements``."""
        if not self.elements:
            return {}
        pieces = self.state["element_totals"].cpu().clone().split(self.sizes)
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}

    def hurting_steps(self, bins: int = 20) -> Tensor:
        """``(bins,)`` elements by the share of events in which they hurt."""
        if not self.elements or not self.state["events"]:
            return torch.zeros(0, dtype=torch.int64)
        bin_of = self.state["element_hurts"].long() * bins // self.state["events"]
        return torch.bincount(bin_of.clamp(max=bins - 1), minlength=bins).cpu()

    def kurtosis(self) -> float:
        """Fourth central moment over the square of the second, of all entries."""
        n = sum(self.sizes) * self.state["events"]
        if not n:
            return math.nan
        mean, second, third, fourth = (self.state["moments"] / n).tolist()
        variance = second - mean**2
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
        return central / variance**2 if variance > 0 else math.nan

    def histogram(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """Edges ``(B + 1,)`` one octave apart, helping ``(B,)``, hurting ``(B,)``, and how many were zero."""
        hurting, helping = self._by_sign()
        octaves = [half.view(-1, 1 << _MANTISSA_BITS).sum(1) for half in (helping, hurting)]
        # Exponents from 2⁻¹⁰⁰ to 2²⁸; beyond, entries go into the outermost bins.
        low, high = 1023 - 100, 1023 + 28
        kept = []
        for counts in octaves:
            middle = counts[low:high].clone()
            middle[0] += counts[1:low].sum()
            middle[-1] += counts[high:].sum()
            kept.append(middle)
        edges = torch.pow(2.0, torch.arange(-100, 29, dtype=torch.float64))
        return edges, kept[0], kept[1], int(octaves[0][0] + octaves[1][0])

    def top_shares(self, top: float = _TOP) -> tuple[float, float]:
        """Share of all help, and of all hurt, that the largest 1 % of the entries of that sign give.

        From bins an eighth of an octave wide, whose entries are taken to be the middle of the bin.
        """
        hurting, helping = self._by_sign()
        codes = torch.arange(len(helping), dtype=torch.int64)
        edge = (codes << (52 - _MANTISSA_BITS)).view(torch.float64)
        middle = edge * (1 + 0.5 / (1 << _MANTISSA_BITS))
        first = 1 << _MANTISSA_BITS  # below are zeros
        return tuple(_top_share(half[first:], middle[first:], top) for half in (helping, hurting))  # type: ignore[return-value]

    def _by_sign(self) -> tuple[Tensor, Tensor]:
        positive, negative = self.state["codes"].view(2, -1).flip(0)
        return positive, negative


def _code(values: Tensor) -> Tensor:
    """Sign, exponent and leading mantissa bits as a number: the place of a value on a signed logarithmic scale.

    Negative values come first; within a sign, larger magnitudes have larger numbers.
    """
    return (values.view(torch.int64) >> (52 - _MANTISSA_BITS)) + _CODES // 2


def _top_share(counts: Tensor, values: Tensor, top: float) -> float:
    total = int(counts.sum())
    if not total:
        return math.nan
    descending, sizes = counts.flip(0).double(), values.flip(0)
    before = descending.cumsum(0) - descending
    taken = torch.minimum(descending, (top * total - before).clamp(min=0))
    sums = torch.where(descending > 0, sizes, 0.0)
    return float((taken * sums).sum() / (descending * sums).sum())
