"""Draw the pictures of the docs from the demo's results: ``make pictures``."""

from __future__ import annotations

from pathlib import Path

from lightning_dynamics import CKACallback, CKAResult
from lightning_dynamics.panels import Film, Picture
from lightning_dynamics.panels.encode import gif, png

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """Read the latest report under ``demo/`` and write ``docs/images/``."""
    results = max((ROOT / "demo" / "report").glob("version_*"), key=lambda p: p.stat().st_mtime) / "results"
    own = [CKAResult.load(path) for path in sorted(results.glob("cka-step*.npz"))]
    change = [CKAResult.load(path) for path in sorted(results.glob("cka*change*-step*.npz"))]
    callback = CKACallback()
    panels = dict(callback.panels(own[-1]))
    panels |= callback.film(own)
    panels |= {key.replace("cka/", "cka/change_"): panel for key, panel in callback.panels(change[-1]).items()}
    for key, panel in panels.items():
        name = key.replace("/", "_")
        if isinstance(panel, Picture):
            (IMAGES / f"{name}.png").write_bytes(png(panel.image))
        elif isinstance(panel, Film):
            (IMAGES / f"{name}.gif").write_bytes(gif(panel))


if __name__ == "__main__":
    main()
