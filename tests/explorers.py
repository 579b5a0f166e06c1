"""What the tests of pages that explore with plotly have in common."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_dynamics.panels import Page
from lightning_dynamics.publishing import LocalReport, publish_panels

if TYPE_CHECKING:
    from tests.chrome import Chrome

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror=hacked=1><b>\"'& 飛行機 \u2028"
SLIDE = "{{ const it = document.getElementById('{0}'); it.value = {1}; it.dispatchEvent(new Event('input')); }}\n"
NO_WEBGL = """HTMLCanvasElement.prototype.getContext = ((old) => function (kind, ...more) {
    return kind.includes("webgl") ? null : old.call(this, kind, ...more);
})(HTMLCanvasElement.prototype.getContext)"""
# plotly's tick labels do that to a small canvas; it is no fault.
_HARMLESS = ("willReadFrequently", "GPU stall due to ReadPixels")


def content(html: str) -> Any:
    """The data that lie in a page."""
    found = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def own(html: str) -> str:
    """The page without plotly's script and the licences and addresses in it."""
    parts = re.split(r"(?=<script>)", html)
    return parts[0] + parts[2]


def tags(html: str) -> int:
    """How many elements there are of the kinds that a hostile text would add."""
    return len(re.findall(r"<(script|img|b)\b", own(html)))


def check_document(html: str, title: str, footer: str) -> None:
    """It is a whole page that loads nothing."""
    assert html.startswith("<!doctype html>") and f"<title>{title}</title>" in html and footer in html
    assert "default-src 'none'" in html and "unsafe-eval" not in own(html) and "connect-src" not in own(html)
    assert html.count("plotly.js v") == 1 and 4e6 < len(html.encode()) < 5.5e6
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|https?://|@import|fetch\(|innerHTML""", own(html))
    ids = re.findall(r'\bid="([^"]+)"', own(html))
    assert len(ids) == len(set(ids))


def visit(chrome: Chrome, html: str, folder: Path, width: int, height: int, **more: Any) -> Path:
    """Open the page and wait for its picture. Small windows are quick: the browser draws without a graphics card."""
    path = folder / "explorer.html"
    path.write_text(html, encoding="utf-8")
    chrome.open(path, width, height, **more)
    frame = "await new Promise(requestAnimationFrame);"
    chrome.run(f"await explorer.ready; {frame} {frame}")
    return path


def quiet(chrome: Chrome) -> list[str]:
    """What the console said that is a fault."""
    return [line for line in chrome.console if not any(word in line for word in _HARMLESS)]


def told_from_a_report(
    chrome: Chrome, html: str, expression: str, folder: Path, page_height: int, width: int, height: int
) -> dict[str, Any]:
    """What the page finds in the frame of a local report, which allows no network and no access to the page around.

    Args:
        chrome: the browser.
        html: the page.
        expression: JavaScript: a promise of an object to tell.
        folder: for the report.
        page_height: of the frame.
        width: of the window.
        height: likewise.
    """
    probe = f"""<script>explorer.ready.then(async () => parent.postMessage(await ({expression}), "*"))
        .catch((error) => parent.postMessage(String(error), "*"))</script></body>"""
    before, _, after = html.rpartition("</body>")
    report = LocalReport(save_dir=str(folder))
    publish_panels(report, {"explorer": Page(before + probe + after, "", page_height)}, "page")
    report.finalize("success")
    assert 'sandbox="allow-scripts allow-downloads"' in report.index.read_text(encoding="utf-8")
    listen = "addEventListener('message', (event) => { if (window === top) window.told = event.data; })"
    chrome.open(report.index, width, height, before=listen)
    chrome.wait("window.told")
    told = chrome.run("return window.told")
    assert isinstance(told, dict), told
    return told
