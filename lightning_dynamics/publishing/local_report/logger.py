"""The logger: what it is told becomes lines and files in a folder; nothing is kept in memory."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only

from lightning_dynamics.core.lightning import Logger
from lightning_dynamics.panels import Scalar
from lightning_dynamics.publishing.dispatch import Event, show
from lightning_dynamics.publishing.local_report import store
from lightning_dynamics.publishing.local_report.page import render

_METRICS_SECONDS = 30.0  # between two pages when only ordinary training scalars are new
_FREE_SECONDS = 1.0  # that writing the page may take in all; beyond, it is written seldom enough ...
_SHARE = 0.05  # ... to cost at most this share of the run


class LocalReport(Logger):
    """Writes every panel into a folder and shows the folder as one page, ``index.html``.

    The page is self-contained (pictures, styles and scripts inside), makes no network request and can be opened
    from disk or mailed; only the links to downloads need the folder. It lies in
    ``{save_dir}/{name}/version_{k}/`` beside what it is made from::

        events.jsonl    one line per event: its panels, with the names of their files
        metrics.jsonl   one line per ``self.log``: the ordinary training scalars
        run.json        hyperparameters and status
        media/          pictures (PNG), films (GIF), tables (JSON), pages (HTML)
        results/        the raw numbers (``Result.load`` reads them back)
        files/          downloads, if there are any: the latest of each, linked from the page

    The page is rewritten after every event that has more than numbers to show, and at most every 30 seconds for
    numbers alone. A long page is rewritten less often: writing it takes at most 5 % of the run's
    time.

    Args:
        save_dir: where reports lie.
        name: the folder of this experiment inside ``save_dir``.
        version: the run. None takes the next free number. An existing one is continued, so that an interrupted
            and resumed training gives one report; what is logged again for the same key and step replaces the old.
        max_history: how many steps of one panel the page embeds: the first, the last and an even choice between.
            The folder always holds all of them.

    Raises:
        ValueError: if ``max_history`` is below 2.

    Example::

        trainer = Trainer(logger=LocalReport(), callbacks=[CKACallback()])
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str] = "lightning_logs",
        name: str = "report",
        version: int | str | None = None,
        max_history: int = 50,
    ) -> None:
        """See the class."""
        super().__init__()
        if max_history < 2:
            raise ValueError(f"LocalReport(max_history={max_history}): at least 2 (the first and the last step)")
        self.max_history = max_history
        self._save_dir = os.fspath(save_dir)
        self._name = name
        self._version = version
        self._started = False
        self._told = False  # where the page is
        self._last_step = 0
        self._unwritten = False  # is there news that the page does not show yet?
        self._next_page = 0.0  # time.monotonic() before which training scalars do not rewrite the page
        self._rest_until = 0.0  # likewise for events; in the future only if writing has taken too long
        self._begin = 0.0  # time.monotonic() of the first news
        self._spent = 0.0  # seconds on writing the page

    @property
    def name(self) -> str:
        """The experiment."""
        return self._name

    @property
    def version(self) -> int | str:
        """The run: the one asked for, or the next free number."""
        if self._version is None:
            taken = [path.name.removeprefix("version_") for path in Path(self.root_dir).glob("version_*")]
            self._version = max((int(k) for k in taken if k.isdecimal()), default=-1) + 1
        return self._version

    @property
    def save_dir(self) -> str:
        """Where reports lie."""
        return self._save_dir

    @property
    def root_dir(self) -> str:
        """The folder of the experiment."""
        return os.path.join(self._save_dir, self._name)

    @property
    def log_dir(self) -> str:
        """The folder of this run."""
        version = self.version
        return os.path.join(self.root_dir, version if isinstance(version, str) else f"version_{version}")

    @property
    def index(self) -> Path:
        """The page."""
        return Path(self.log_dir) / "index.html"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep ordinary training scalars; what is not a number is left out."""
        self._last_step = self._last_step if step is None else int(step)
        store.add_metrics(self._folder(), metrics, self._last_step)
        self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace | None = None, *_: Any, **__: Any) -> None:
        """Keep the hyperparameters, beside those kept before."""
        params = vars(params) if isinstance(params, Namespace) else dict(params or {})
        store.update_run(self._folder(), hyperparameters=params)

    @rank_zero_only
    def log_event(self, event: Event) -> None:
        """Keep one event of an analysis and show it on the page."""
        store.add_event(self._folder(), event)
        if all(isinstance(panel, Scalar) for panel in event.panels.values()):
            self.save()  # numbers alone come as often as training scalars
        elif time.monotonic() >= self._rest_until:
            self._write()

    @rank_zero_only
    def save(self) -> None:
        """Bring the page up to date if the last one is old: Lightning calls this after every ``log_metrics``."""
        if self._unwritten and time.monotonic() >= max(self._next_page, self._rest_until):
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring the page up to date and say, once, where it is."""
        if not self._started:  # the main process of a spawned training, or nothing was logged
            return
        store.update_run(self._folder(), status=status)
        self._write()
        if not self._told:
            self._told = True
            rank_zero_info(f"Local report: {self.index.resolve()}")

    def _folder(self) -> Path:
        """The folder, for writing news into it; made the first time."""
        folder = Path(self.log_dir)
        if not self._started:
            for part in ("media", "results"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            store.update_run(folder, status="running")
            self._started = True
            self._begin = time.monotonic()
        self._unwritten = True
        return folder

    def _write(self) -> None:
        start = time.monotonic()
        folder = self._folder()
        html = render(folder, f"{self.name} · {folder.name}", self.max_history)
        store.replace_file(self.index, html.encode())
        self._unwritten = False
        end = time.monotonic()
        self._next_page = end + _METRICS_SECONDS
        self._spent += end - start
        self._rest_until = self._begin + (self._spent - _FREE_SECONDS) / _SHARE


@show.register(LocalReport)
def _(logger: LocalReport, event: Event) -> None:
    logger.log_event(event)
