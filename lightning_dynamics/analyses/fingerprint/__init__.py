"""Fingerprints: a digest of every training step, so that two runs can be compared bit by bit."""

from lightning_dynamics.analyses.fingerprint.callback import FingerprintCallback
from lightning_dynamics.analyses.fingerprint.comparison import compare_fingerprints
from lightning_dynamics.analyses.fingerprint.digest import digests
from lightning_dynamics.analyses.fingerprint.figures import spread_panels
from lightning_dynamics.analyses.fingerprint.onset import Onset
from lightning_dynamics.analyses.fingerprint.result import Divergence

__all__ = ["Divergence", "FingerprintCallback", "Onset", "compare_fingerprints", "digests", "spread_panels"]
