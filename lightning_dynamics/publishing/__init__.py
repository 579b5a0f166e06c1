"""Where panels are shown: one module per kind of logger, dispatched on the logger's type.

Register your own logger with::

    @lightning_dynamics.publishing.show.register
    def _(logger: MyLogger, event: Event) -> None: ...
"""

from lightning_dynamics.publishing import tensorboard, wandb  # noqa: F401  (each registers its logger)
from lightning_dynamics.publishing.dispatch import Event, publish, publish_panels, publish_result, show
from lightning_dynamics.publishing.local_report import LocalReport

__all__ = ["Event", "LocalReport", "publish", "publish_panels", "publish_result", "show"]
