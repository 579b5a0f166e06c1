"""A headless Chromium for the tests that look at pages: opens a file in a window of a chosen size and theme."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Windows narrower than about 500 px do not exist, so the page stands in a frame of the width that is wanted.
# The frame tells us what it saw by a message: from disk, no page may look into another.
_WRAPPER = """<!doctype html><meta charset="utf-8">
<style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<iframe src="{source}" width="{width}" height="{height}"></iframe><pre id="seen" hidden></pre>
<script>addEventListener("message", (event) => {{ document.getElementById("seen").textContent = event.data; }})</script>
"""


@dataclass(frozen=True)
class Visit:
    """What a visit to a page gave: what its driver script reported, and what the console said."""

    seen: Any
    console: list[str]


def find() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def visit(
    page: Path,
    driver: str = "return null",
    *,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    screenshot: Path | None = None,
) -> Visit:
    """Open ``page`` from disk and run ``driver``, the body of an async function, in it.

    Args:
        page: an HTML file.
        driver: JavaScript; what it returns (JSON) comes back as ``seen``, an exception as text in ``console``.
        width: of the page's viewport, pixels; also below a browser's narrowest window.
        height: likewise.
        dark: whether the system prefers a dark theme.
        screenshot: where to save a PNG.
    """
    browser = find()
    assert browser is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        script = f"""<script>addEventListener("load", async () => {{
            const tell = (value) => parent.postMessage(JSON.stringify(value), "*");
            try {{ tell({{ seen: await (async () => {{ {driver} }})() ?? null }}); }}
            catch (error) {{ tell({{ error: String(error) }}); }}
        }})</script></body>"""
        before, _, after = page.read_text(encoding="utf-8").rpartition("</body>")
        Path(folder, "page.html").write_text(before + script + after, encoding="utf-8")
        wrapper = Path(folder, "wrapper.html")
        wrapper.write_text(_WRAPPER.format(source="page.html", width=width, height=height), encoding="utf-8")
        base = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        base += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        base += ["--hide-scrollbars", "--virtual-time-budget=5000", "--enable-logging=stderr", "--v=0"]
        base += [f"--window-size={max(width, 500)},{height}", f"--user-data-dir={folder}/profile"]
        base += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        run = _run([*base, "--dump-dom", wrapper.as_uri()])
        if screenshot is not None:
            _run([*base, f"--screenshot={screenshot}", wrapper.as_uri()])
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="seen" hidden="">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found is not None and found[1], f"the page did not answer: {run.stderr[-2000:]}"
    answer = json.loads(unescape(found[1]))
    return Visit(answer.get("seen"), console + ([answer["error"]] if "error" in answer else []))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
