"""How a Divergence looks: how the difference spreads."""

from __future__ import annotations

import numpy as np

from lightning_dynamics.analyses.fingerprint.comparison import Fingerprint, compare_fingerprints
from lightning_dynamics.analyses.fingerprint.onset import STATE, label
from lightning_dynamics.analyses.fingerprint.result import Divergence
from lightning_dynamics.figures import raster
from lightning_dynamics.figures.result import Pictures, pictures
from lightning_dynamics.panels import Panels, Picture


def spread_panels(a: Fingerprint, b: Fingerprint, *, before: int = 5, after: int = 25) -> Panels:
    """Draw which things differ around the first step at which two runs part: one row each, causes above effects.

    The same as ``compare_fingerprints(a, b).panels()``.

    Args:
        a: as for :func:`~lightning_dynamics.compare_fingerprints`.
        b: likewise.
        before: steps shown before the divergence.
        after: and from it on.

    Returns:
        A picture under ``fingerprint/spread``; nothing if the runs are equal as far as both go, or cannot be compared.

    Raises:
        ConfigurationError: as :func:`~lightning_dynamics.compare_fingerprints`.
    """
    found = compare_fingerprints(a, b, before=before, after=after)
    return {} if found is None else {f"fingerprint/{name}": panel for name, panel in found.panels().items()}


@pictures.register
def _pictures(found: Divergence) -> Pictures:
    return {"spread": lambda: spread(found)} if found.onsets else {}


def spread(found: Divergence) -> Picture:
    """A tick for every digest and step at which the bits differ; digests that never do are only counted."""
    onset, last = found.onsets[0], max(found.lengths)
    steps = found.spread_steps.tolist()
    when = "before the first step" if onset.kind in STATE and not onset.step else f"step {onset.step}"
    what = f"first: {label(onset.kind, onset.names[0])}, {'after ' if onset.kind in STATE and onset.step else ''}{when}"
    rest = f"; {found.spread_equal} more digests that are equal throughout are not shown" if found.spread_equal else ""
    end = "; then, the state after the last" if steps[-1] > last else ""
    image = raster(
        np.array(steps, dtype=np.float64),
        found.spread.numpy(),
        labels=list(found.spread_names),
        counts_name=f"of {len(found.spread_names) + found.spread_equal} digests, how many differ",
        title=f"Two runs part ({what})",
        footer="A tick: the bits differ; those of parameters, buffers, optimizer as this training step begins. Steps "
        f"{steps[0]} to {min(steps[-1], last)} of {last}{end}{rest}; process {onset.rank}. "
        "Bits say whether, not how far: a rounding error and another network look alike.",
        x_title="training step",
    )
    return Picture(image, f"Bits that differ between two runs; {what}")
