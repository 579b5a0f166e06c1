"""Centered kernel alignment: how similar the layers of networks represent the same examples."""

from lightning_dynamics.cka.callback import CKACallback
from lightning_dynamics.cka.estimator import cka
from lightning_dynamics.cka.metric import MinibatchCKA
from lightning_dynamics.cka.result import CKAResult
from lightning_dynamics.cka.structure import block_score, find_blocks

__all__ = ["CKACallback", "CKAResult", "MinibatchCKA", "block_score", "cka", "find_blocks"]
