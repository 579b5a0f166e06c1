"""Data sets that are generated, not downloaded."""

from lightning_dynamics.data.not_so_clevr import NotSoClevr

__all__ = ["NotSoClevr"]
