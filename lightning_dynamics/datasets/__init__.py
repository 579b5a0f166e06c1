"""Data sets that are generated, not downloaded."""

from lightning_dynamics.datasets.not_so_clevr import NotSoClevr

__all__ = ["NotSoClevr"]
