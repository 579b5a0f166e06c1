"""How a divergence spreads, as a picture."""

from __future__ import annotations

from collections import deque

import numpy as np

from lightning_dynamics.analyses.fingerprint.comparison import (
    CAUSAL,
    STATE,
    Divergence,
    Fingerprint,
    common_records,
    compare_fingerprints,
    differing,
    files_of,
)
from lightning_dynamics.analyses.fingerprint.journal import Reading, Sections
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.figures import raster
from lightning_dynamics.panels import Panels, Picture

_PREFIX = {"rng": "random state: ", "settings": "", "gradients": "gradient: ", "buffers": ""}


def spread_panels(a: Fingerprint, b: Fingerprint, *, before: int = 5, after: int = 25) -> Panels:
    """Draw which things differ around the first step at which two runs part: one row each, causes above effects.

    Args:
        a: as for :func:`~.comparison.compare_fingerprints`.
        b: likewise.
        before: steps shown before the divergence.
        after: and from it on.

    Returns:
        A picture under ``fingerprint/spread``; nothing if the runs are equal as far as both go, or cannot be compared.

    Raises:
        ConfigurationError: as :func:`~.comparison.compare_fingerprints`; or there is nothing to show.
    """
    if before < 0 or after < 1:
        raise ConfigurationError(f"`before` must be at least 0 and `after` at least 1, got {before} and {after}")
    found = compare_fingerprints(a, b)
    if found is None or not found.onsets:
        return {}
    onset = found.onsets[0]
    paths = (files_of(a, "a")[onset.rank], files_of(b, "b")[onset.rank])
    # A state stands in the record of the step after it.
    start = onset.step + (onset.kind in STATE)
    shown: deque[tuple[int, dict[str, bool]]] = deque()
    for one, two in common_records(Reading(paths[0]), Reading(paths[1])):
        if one.n >= start + after:
            break
        if one.n >= start - before:
            shown.append((one.n, _rows(one.sections, two.sections)))
    return {"fingerprint/spread": _picture(found, shown)}


def _rows(one: Sections, two: Sections) -> dict[str, bool]:
    """Every digest that both records have a kind of: whether it differs. States first: the step begins with them."""
    rows: dict[str, bool] = {}
    for kind in (*STATE, *(kind for kind in CAUSAL if kind not in STATE)):
        if kind in one and kind in two:
            names = differing(one[kind], two[kind])
            rows |= {_label(kind, name): name in names for name in {**one[kind], **two[kind]}}
    return rows


def _label(kind: str, name: str) -> str:
    return f"{_PREFIX.get(kind, '')}{name}"


def _picture(found: Divergence, shown: deque[tuple[int, dict[str, bool]]]) -> Picture:
    labels: dict[str, bool] = {}
    for _, rows in shown:
        for label, differs in rows.items():
            labels[label] = labels.get(label, False) or differs
    # What never differs is told in the footer: a row of nothing says less than its absence.
    rows_shown = [label for label, differs in labels.items() if differs]
    equal = len(labels) - len(rows_shown)
    steps = [n for n, _ in shown]
    events = np.array([[rows.get(label, False) for _, rows in shown] for label in rows_shown], dtype=np.bool_)
    onset = found.onsets[0]
    when = "before the first step" if onset.kind in STATE and not onset.step else f"step {onset.step}"
    what = (
        f"first: {_label(onset.kind, onset.names[0])}, {'after ' if onset.kind in STATE and onset.step else ''}{when}"
    )
    rest = f"; {equal} more digests that are equal throughout are not shown" if equal else ""
    end = "; then, the state after the last" if steps[-1] > max(found.lengths) else ""
    image = raster(
        np.array(steps, dtype=np.float64),
        events,
        labels=rows_shown,
        counts_name=f"of {len(labels)} digests, how many differ",
        title=f"Two runs part ({what})",
        footer="A tick: the bits differ; those of parameters, buffers, optimizer as this training step begins. Steps "
        f"{steps[0]} to {min(steps[-1], max(found.lengths))} of {max(found.lengths)}{end}{rest}; process {onset.rank}. "
        "Bits say whether, not how far: a rounding error and another network look alike.",
        x_title="training step",
    )
    return Picture(image, f"Bits that differ between two runs; {what}")
