"""A report on disk: one folder, one self-contained ``index.html``, no account and no network."""

from lightning_dynamics.publishing.local_report.logger import LocalReport

__all__ = ["LocalReport"]
