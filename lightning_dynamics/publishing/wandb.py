"""Panels in Weights & Biases: one event becomes one row of the run's history."""

from __future__ import annotations

import hashlib
import io
import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_dynamics.core.lightning import both
from lightning_dynamics.panels import Download, Film, Page, Panel, Picture, Table
from lightning_dynamics.panels.encode import gif
from lightning_dynamics.panels.values import Cell
from lightning_dynamics.publishing.dispatch import Event, scalars, show

MAX_ROWS = 10_000  # what W&B shows of a table; it cuts longer ones without a word
ARTIFACT_TYPE = "lightning-dynamics"


def show_in_wandb(logger: Any, event: Event) -> None:
    """Show an event in a ``WandbLogger``.

    Everything goes into one ``log_metrics`` call, so all panels of the event share one W&B step, and the
    slider of one picks the same moment as the slider of the other. That slider counts log calls, not training
    steps; epoch and step are therefore in the captions. Scalars are plotted over ``trainer/global_step``, as
    Lightning sets it up.

    A table keeps its first 10,000 rows, in the order given; how many did not fit is logged beside it as
    ``{key}/rows_left_out`` (a number of its own, so that the table's key stays the same from run to run).
    W&B has no captions for tables and pages. Pictures in a table lie in the artifact that W&B makes of every
    table, each content once.

    A download becomes an artifact of the run, of the type "lightning-dynamics"; another event's is a further
    version of it, for which W&B stores only the files that have changed. An offline run keeps the content of
    artifacts, as of tables, outside its folder, in ``WANDB_DATA_DIR``: ``wandb sync`` must find it there.

    Keys of media are also file names, so the characters Windows forbids there (W&B refuses them on Windows)
    are written as ``_``.

    Args:
        logger: a ``WandbLogger`` of either Lightning package.
        event: what to show.
    """
    if logger.experiment.disabled:
        return  # no row is written, so no media need be encoded
    row: dict[str, Any] = scalars(event)
    for key, panel in event.panels.items():
        medium = _medium(panel)
        if medium is not None:
            row[re.sub(r'[\\:*?"<>|]', "_", key)] = medium
        if isinstance(panel, Table) and len(panel.rows) > MAX_ROWS:
            row[f"{key}/rows_left_out"] = len(panel.rows) - MAX_ROWS
    logger.log_metrics(row, step=event.step)
    for key, panel in event.panels.items():
        if isinstance(panel, Download):
            _log_artifact(logger.experiment, key, panel, event)


for _class in both("loggers.WandbLogger"):
    show.register(_class, show_in_wandb)


def _medium(panel: Panel) -> Any:
    import wandb
    from PIL import Image

    if isinstance(panel, Picture):
        # Through Pillow: an array one pixel high or wide would be squeezed to another shape.
        return wandb.Image(Image.fromarray(panel.image), caption=panel.caption)
    if isinstance(panel, Film):
        return wandb.Video(io.BytesIO(gif(panel)), caption=panel.caption, format="gif")
    if isinstance(panel, Page):
        # As a stream: a string would be tried as a path first.
        return wandb.Html(io.StringIO(panel.html), inject=False)
    if isinstance(panel, Table):
        rows = [[_finite(cell) for cell in row] for row in panel.rows[:MAX_ROWS]]
        data = [[_medium(cell) if isinstance(cell, Picture) else cell for cell in row] for row in rows]
        return wandb.Table(columns=list(panel.columns), data=data, allow_mixed_types=_mixed(rows))
    return None


def _finite(cell: Cell) -> Cell:
    """NaN and infinity have no place in JSON: they become null."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _mixed(rows: Sequence[Sequence[Cell]]) -> bool:
    """Whether a column holds two of text, numbers, booleans and pictures (W&B must be told)."""
    return any(len({_kind(cell) for cell in column if cell is not None}) > 1 for column in zip(*rows, strict=True))


def _kind(cell: Cell) -> type:
    return type(cell) if isinstance(cell, bool | str | Picture) else float


def _log_artifact(run: Any, key: str, download: Download, event: Event) -> None:
    import wandb

    artifact = wandb.Artifact(
        artifact_name(run.id, key),
        ARTIFACT_TYPE,
        description=download.caption,
        metadata={"key": key, "epoch": event.epoch, "step": event.step},
    )
    # W&B takes a copy of each file. Not its own `new_file`: that leaves its folder to the garbage collector.
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, content) in enumerate(download.files.items()):
            path = Path(folder, str(number))
            path.write_bytes(content)
            artifact.add_file(str(path), name=name, skip_cache=True)
        run.log_artifact(artifact)


def artifact_name(run_id: str, key: str) -> str:
    """The artifact of a panel: ``run-{id}-{key}``, as W&B names its own; distinct keys stay distinct.

    W&B allows ASCII letters, digits, ``-``, ``_`` and ``.``, and 128 characters.
    """
    wanted = f"run-{run_id}/{key}"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted)
    if re.fullmatch(r"[\w-]+(/\w+)+", wanted, re.ASCII) and len(wanted) <= 100:
        return name  # the key holds no "-" of its own, so it can be told from every other
    return f"{name[:100]}-{hashlib.sha256(wanted.encode()).hexdigest()[:10]}"
