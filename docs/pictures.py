"""Draw the pictures of the docs from the demo's results: ``make pictures``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from lightning_dynamics import (
    CKAResult,
    CurvatureResult,
    IntrinsicDimension,
    LandscapeResult,
    LossContributionResult,
    VoGResult,
    compare_intrinsic_dimensions,
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
    panels = shown("cka", own)
    panels |= {key.replace("cka/", "cka/change_"): panel for key, panel in shown("cka", change).items()}
    panels |= shown("loss_contribution", path)
    # The report stores a result only where it shows one; the film that it made has a frame for every few steps.
    panels["loss_contribution/film"] = stored_film(max((results.parent / "media").glob("loss_contribution-film*.gif")))
    panels |= shown("vog", [difficulty])
    panels |= shown("landscape", landscapes)
    panels |= shown("curvature", [curvature])
    # Written by examples/06_intrinsic_dimension.py, where it has run.
    searches = sorted((ROOT / "demo" / "intrinsic_dimension").glob("*.jsonl"), key=lambda path: path.stem)
    if searches:
        found = {path.stem: IntrinsicDimension.from_log(path) for path in searches}
        panels |= shown("subspace", [compare_intrinsic_dimensions(found)])
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


def stored_film(path: Path, most: int = 12) -> Film:
    """A film of the report, at most ``most`` of its frames: the first, the last, and an even choice between."""
    with Image.open(path) as stored:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(stored)]
    count = min(most, len(frames))
    return Film([frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)])


def small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame 520 pixels wide: films in a repository must be small."""
    height, width, _ = frame.shape
    return np.asarray(Image.fromarray(frame).resize((520, 520 * height // width), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
