"""Draw the pictures of the docs from the demo's results: ``make pictures``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_dynamics import (
    CKACallback,
    CKAResult,
    CurvatureResult,
    IntrinsicDimension,
    LandscapeCallback,
    LandscapeResult,
    LossContributionResult,
    VoGResult,
    subspace,
)
from lightning_dynamics.figures.result import Result, closing_panels
from lightning_dynamics.panels import Film, Panel, Picture
from lightning_dynamics.panels.encode import gif, png

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    """Read the latest report under ``demo/`` and write ``docs/images/``."""
    results = max((ROOT / "demo" / "report").glob("version_*"), key=lambda p: p.stat().st_mtime) / "results"
    own = [CKAResult.load(path) for path in sorted(results.glob("cka-step*.npz"))]
    change = [CKAResult.load(path) for path in sorted(results.glob("cka*change*-step*.npz"))]
    path = [LossContributionResult.load(path) for path in sorted(results.glob("loss_contribution-step*.npz"))]
    difficulty = VoGResult.load(max(results.glob("vog-step*.npz")))
    landscapes = [LandscapeResult.load(path) for path in sorted(results.glob("landscape-step*.npz"))]
    curvature = CurvatureResult.load(max(results.glob("curvature-step*.npz")))
    similarity = CKACallback()
    panels = dict(similarity.panels(own[-1]))
    panels |= similarity.film(own)
    panels |= {key.replace("cka/", "cka/change_"): panel for key, panel in similarity.panels(change[-1]).items()}
    panels |= shown("loss_contribution", path)
    panels |= shown("vog", [difficulty])
    panels |= LandscapeCallback().panels(landscapes[-1])
    panels |= LandscapeCallback(explorer=False).film(landscapes)
    panels |= shown("curvature", [curvature])
    # Written by examples/06_intrinsic_dimension.py, where it has run.
    searches = sorted((ROOT / "demo" / "intrinsic_dimension").glob("*.jsonl"), key=lambda path: path.stem)
    panels |= (
        subspace.comparison({path.stem: IntrinsicDimension.from_log(path) for path in searches}) if searches else {}
    )
    cards = "".join(card.read_text() for card in (ROOT / "docs").glob("*.md"))
    for key, panel in panels.items():
        name = key.replace("/", "_")
        if f"images/{name}." not in cards:
            continue
        if isinstance(panel, Picture):
            (IMAGES / f"{name}.png").write_bytes(png(panel.image))
        elif isinstance(panel, Film):
            (IMAGES / f"{name}.gif").write_bytes(gif(Film([small(frame) for frame in panel.frames], fps=2)))


def shown(label: str, results: Sequence[Result]) -> dict[str, Panel]:
    """The panels of the last result, and those of the whole training."""
    last = results[-1]
    panels = dict(last.panels()) | {name: make() for name, make in closing_panels(last, results).items()}
    return {f"{label}/{name}": panel for name, panel in panels.items()}


def small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame 520 pixels wide: films in a repository must be small."""
    height, width, _ = frame.shape
    return np.asarray(Image.fromarray(frame).resize((520, 520 * height // width), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
