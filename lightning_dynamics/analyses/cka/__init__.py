"""Centered kernel alignment: how similar the layers of networks represent the same examples."""

from lightning_dynamics.analyses.cka import figures  # noqa: F401  (registers how a CKAResult looks)
from lightning_dynamics.analyses.cka.callback import CKACallback
from lightning_dynamics.analyses.cka.estimator import cka
from lightning_dynamics.analyses.cka.metric import MinibatchCKA
from lightning_dynamics.analyses.cka.result import CKAResult
from lightning_dynamics.analyses.cka.structure import block_score, find_blocks

__all__ = ["CKACallback", "CKAResult", "MinibatchCKA", "block_score", "cka", "find_blocks"]
