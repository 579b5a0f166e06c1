"""The folder: append-only lines, the media beside them. What is written later for a key and step counts."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_dynamics.panels import Download, Film, Page, Panel, Picture, Scalar, Table
from lightning_dynamics.panels.encode import gif, png
from lightning_dynamics.publishing.dispatch import Event


def add_event(folder: Path, event: Event) -> None:
    """Write the event's media and raw result, then its line: a line never names a file that is not there."""
    panels = {key: _put(folder, key, event.step, panel) for key, panel in event.panels.items()}
    line: dict[str, Any] = {"group": event.group, "epoch": event.epoch, "step": event.step, "panels": panels}
    if event.result is not None:
        line["result"] = f"results/{safe(event.group)}-step{event.step:08d}.npz"
        _replace(folder / line["result"], event.result.save)
    _append(folder / "events.jsonl", line)


def add_metrics(folder: Path, metrics: Mapping[str, Any], step: int) -> None:
    """Append one line of numbers."""
    values = {str(key): number for key, value in metrics.items() if (number := _number(value)) is not None}
    _append(folder / "metrics.jsonl", {"step": step, "values": values})


def update_run(folder: Path, **news: Any) -> None:
    """Merge what is known of the run as a whole into ``run.json``."""
    run = read_run(folder)
    for key, value in news.items():
        run[key] = run.get(key, {}) | value if isinstance(value, dict) else value
    replace_file(folder / "run.json", json.dumps(_plain(run), indent=2).encode())


def read_run(folder: Path) -> dict[str, Any]:
    """What is known of the run as a whole: ``hyperparameters``, ``status``."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of an append-only file; one that a crash cut short is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def safe(name: str) -> str:
    """A file name for any name. Distinct names stay distinct, also where file names ignore case."""
    if re.fullmatch(r"[a-z0-9_]{1,60}", name):
        return name
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:60]
    # Plain names hold no "-", so a name with a digest cannot meet one without.
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file so that a reader, or a crash, sees the old one or the new one."""
    _replace(path, lambda temporary: temporary.write_bytes(content))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a crash cut the last line short; do not lose this one with it
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")


def _put(folder: Path, key: str, step: int, panel: Panel) -> dict[str, Any]:
    """Store one panel; the entry for it in the event's line."""
    if isinstance(panel, Scalar):
        return {"kind": "scalar", "value": float(panel.value)}
    if isinstance(panel, Download):
        return _put_files(folder, key, panel)
    kind, suffix, content = _encode(panel)
    file = f"media/{safe(key)}-step{step:08d}.{suffix}"
    replace_file(folder / file, content)
    entry: dict[str, Any] = {"kind": kind, "file": file, "bytes": len(content), "caption": panel.caption}
    if isinstance(panel, Page):
        entry["height"] = panel.height
    if isinstance(panel, Picture | Film):
        image = panel.image if isinstance(panel, Picture) else panel.frames[0]
        entry["height"], entry["width"] = image.shape[:2]
    return entry


def _put_files(folder: Path, key: str, download: Download) -> dict[str, Any]:
    """Store the files under their own names, in place of the earlier ones of this key: they may be large."""
    readable = ".".join(safe(part) for part in key.split("/"))  # no part holds a ".", so distinct stays distinct
    place = Path("files", readable if len(readable) <= 100 else safe(key))
    (folder / place).mkdir(parents=True, exist_ok=True)
    for path in (folder / place).iterdir():
        if path.is_file() and path.name not in download.files:
            path.unlink()
    for name, content in download.files.items():
        replace_file(folder / place / name, content)
    names = [(place / name).as_posix() for name in download.files]
    total = sum(len(content) for content in download.files.values())
    return {"kind": "download", "files": names, "bytes": total, "caption": download.caption}


def _encode(panel: Picture | Film | Table | Page) -> tuple[str, str, bytes]:
    """Kind, file suffix and content."""
    match panel:
        case Picture():
            return "picture", "png", png(panel.image)
        case Film():
            return "film", "gif", gif(panel)
        case Table():
            return "table", "json", json.dumps(_plain({"columns": panel.columns, "rows": panel.rows})).encode()
        case Page():
            return "page", "html", panel.html.encode()


def _plain(value: Any) -> Any:
    """As JSON can say it: NaN and infinity as null, a picture with its PNG inside, what it does not know as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if abs(value) < float("inf") else None
        case Picture(image=image, caption=caption):
            content = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
            return {"image": content, "width": image.shape[1], "height": image.shape[0], "caption": caption}
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    number = _number(value)
    return str(value) if number is None else _plain(number)


def _number(value: Any) -> float | int | None:
    if isinstance(value, str | bytes):
        return None
    if hasattr(value, "item"):  # a tensor or a NumPy scalar
        try:
            value = value.item()
        except (RuntimeError, ValueError):  # it holds more than one
            return None
    return value if isinstance(value, int | float) else None
