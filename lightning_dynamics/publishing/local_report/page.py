"""The page: reads a report's folder, chooses what to embed, fills the template. Writes nothing."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from lightning_dynamics.publishing.local_report.store import read_lines, read_run, safe

T = TypeVar("T")
Curve = dict[int, float]

_KINDS = ("picture", "film", "page", "table")  # the order within a section; the scalars' charts stand before the tables
_PANEL_BYTES = 8 * 2**20  # per panel: a page of long films or heavy documents must still open on a phone
_CURVE_POINTS = 1000


@dataclass
class Section:
    """What one analysis logged: per scalar key its curve, per panel its entries by step, per download the latest."""

    scalars: dict[str, Curve] = field(default_factory=dict)
    panels: dict[tuple[str, str], dict[int, dict[str, Any]]] = field(default_factory=dict)
    downloads: dict[str, dict[str, Any]] = field(default_factory=dict)


def render(folder: Path, title: str, max_history: int) -> str:
    """The page for what the folder holds now.

    Args:
        folder: of one run, as :mod:`~lightning_dynamics.publishing.local_report.store` writes it.
        title: the name of the run.
        max_history: how many steps of one panel may be embedded.
    """
    sections, num_events = _read_events(folder)
    run = read_run(folder)
    shown = [
        {
            "name": group,
            "charts": [_chart(key, group, curve) for key, curve in section.scalars.items() if curve],
            "panels": [
                panel
                for (key, kind), entries in sorted(section.panels.items(), key=lambda item: _KINDS.index(item[0][1]))
                if (panel := _panel(folder, key, group, kind, entries, max_history))["frames"]
            ],
            "downloads": [
                download
                for key, entry in section.downloads.items()
                if (download := _download(folder, key, group, entry))["files"]
            ],
        }
        for group, section in sections.items()
    ]
    training = [_chart(key, "", curve) for key, curve in sorted(_read_metrics(folder).items())]
    if training:
        shown.append({"name": "training", "charts": training, "panels": [], "downloads": []})
    return _template().render(
        title=title,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        status=run.get("status", ""),
        num_events=num_events,
        hyperparameters=list(_flat(run.get("hyperparameters", {}))),
        sections=shown,
        style=_text("style.css"),
        script=_text("script.js"),
    )


def thin(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` (2 or more) of the items: the first, the last, and an even choice between."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def thin_curve(points: Sequence[tuple[int, float]], count: int = _CURVE_POINTS) -> list[tuple[int, float]]:
    """At most ``count`` of a curve's points: both ends, and between them the envelope.

    Every stretch keeps its lowest and its highest point, so that no spike is lost.
    """
    if len(points) <= count:
        return list(points)
    inner = points[1:-1]
    stretches = (count - 2) // 2
    kept = [points[0]]
    for i in range(stretches):
        stretch = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return [*kept, points[-1]]


def _read_events(folder: Path) -> tuple[dict[str, Section], int]:
    """Sections in order of first appearance, and how many events there are."""
    sections: dict[str, Section] = {}
    events = set()
    for line in read_lines(folder / "events.jsonl"):
        step = line["step"]
        events.add((line["group"], step))
        section = sections.setdefault(line["group"], Section())
        for key, entry in line["panels"].items():
            if entry["kind"] == "scalar":
                curve = section.scalars.setdefault(key, {})
                curve.pop(step, None)  # logged again as NaN, it is gone
                if math.isfinite(entry["value"]):
                    curve[step] = entry["value"]
            elif entry["kind"] == "download":  # the files of the last line are there, also if its step is not the last
                section.downloads[key] = entry | {"epoch": line["epoch"], "step": step}
            else:
                entries = section.panels.setdefault((key, entry["kind"]), {})
                entries[step] = entry | {"epoch": line["epoch"], "step": step}
    return sections, len(events)


def _read_metrics(folder: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for line in read_lines(folder / "metrics.jsonl"):
        for key, value in line["values"].items():
            if key != "epoch" and math.isfinite(value):  # Lightning adds the epoch to every call
                curves.setdefault(key, {})[line["step"]] = value
    return curves


def _chart(key: str, group: str, curve: Curve) -> dict[str, Any]:
    points = sorted(curve.items())
    return {"label": _label(key, group), "points": thin_curve(points), "latest": f"{points[-1][1]:.4g}"}


def _panel(
    folder: Path, key: str, group: str, kind: str, entries: dict[int, dict[str, Any]], max_history: int
) -> dict[str, Any]:
    steps = [entries[step] for step in sorted(entries)]
    affordable = _PANEL_BYTES * len(steps) // max(1, sum(entry["bytes"] for entry in steps))
    chosen = thin(steps, max(2, min(max_history, affordable)))
    frames = [_frame(folder, entry, _PANEL_BYTES // len(chosen)) for entry in chosen]
    present = [frame for frame in frames if frame is not None]
    last = present[-1] if present else None
    if last is not None and kind in ("picture", "film"):  # it stands in the page itself; not twice
        present[-1] = last | {"content": None}
    return {
        "id": "panel-" + safe(f"{group} {key} {kind}"),
        "label": _label(key, group),
        "kind": kind,
        "frames": present,
        "last": last,
        "total": len(steps),
        "some_left_out": any(frame.pop("images_left_out", 0) for frame in present),
    }


def _download(folder: Path, key: str, group: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Links to the files that are still there."""
    present = [name for name in entry["files"] if (folder / name).is_file()]
    return {
        "id": "panel-" + safe(f"{group} {key} download"),
        "label": _label(key, group),
        "files": [
            {"name": Path(name).name, "href": quote(name), "bytes": (folder / name).stat().st_size} for name in present
        ],
        **{name: entry[name] for name in ("epoch", "step", "caption")},
    }


def _frame(folder: Path, entry: dict[str, Any], budget: int) -> dict[str, Any] | None:
    """One step of a panel with its content; None if somebody has deleted the file."""
    path = folder / entry["file"]
    if not path.exists():
        return None
    frame: dict[str, Any] = {
        name: entry[name] for name in ("epoch", "step", "caption", "width", "height") if name in entry
    }
    match entry["kind"]:
        case "picture" | "film":
            mime = "image/png" if entry["kind"] == "picture" else "image/gif"
            frame["content"] = f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"
        case "table":
            frame["content"] = json.loads(path.read_text(encoding="utf-8"))
            frame["images_left_out"] = _leave_out_images(frame["content"]["rows"], budget)
        case "page":
            frame["content"] = path.read_text(encoding="utf-8")
    return frame


def _leave_out_images(rows: list[list[Any]], budget: int) -> int:
    """Take away the images after the first ``budget`` bytes, where the rest of a long table must still be embedded."""
    left_out = 0
    for cell in (cell for row in rows for cell in row if isinstance(cell, dict)):
        budget -= len(cell["image"])
        if budget < 0:
            del cell["image"]
            left_out += 1
    return left_out


def _label(key: str, group: str) -> str:
    return key.removeprefix(f"{group}/")


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested hyperparameters as rows of a two-column table: ``optimizer.lr``, ``0.1``."""
    if isinstance(value, dict) and (value or not name):
        return [row for key, item in value.items() for row in _flat(item, f"{name}.{key}" if name else key)]
    return [(name, value if isinstance(value, str) else json.dumps(value))]


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text("template.html.j2"))
