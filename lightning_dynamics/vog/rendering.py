"""What people see of an example: a small picture, or a line of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import inputs_in
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.random_state import preserved_random_state
from lightning_dynamics.vog.result import VoGResult

RenderFn = Callable[[Any], "NDArray[np.uint8] | str"]

_LARGEST = 64  # pixels of the longer side
_LONGEST = 200  # bytes of text
EXTREMES = 5
"""How many of the easiest and of the hardest examples of a class are shown."""
MOST_CLASSES = 10


def looks_like_images(inputs: Any) -> bool:
    """Whether a minibatch's inputs are ``(n, 1 or 3, h, w)`` numbers."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3) and min(inputs.shape[2:]) > 1


def render(inputs: Any, number: int, render_fn: RenderFn | None) -> NDArray[np.uint8] | str | None:
    """One example of a minibatch; None if nobody knows how to show it.

    Raises:
        ConfigurationError: ``render_fn`` returned neither an image nor text.
    """
    if render_fn is not None:
        shown = render_fn(inputs[number])
        if isinstance(shown, str):
            return shown
        if not isinstance(shown, np.ndarray) or shown.dtype != np.uint8 or shown.ndim != 3 or shown.shape[2] != 3:
            raise ConfigurationError(
                "`render_fn` must return text, or an image as a NumPy array (h, w, 3) uint8; got "
                f"{type(shown).__name__} {getattr(shown, 'shape', '')} {getattr(shown, 'dtype', '')}".rstrip()
            )
        return shown
    if not looks_like_images(inputs):
        return None
    # Normalised or not: the range of the whole minibatch becomes black to white.
    pixels = inputs.detach().float()
    low, high = pixels.amin((0, 2, 3), keepdim=True), pixels.amax((0, 2, 3), keepdim=True)
    image = ((pixels[number] - low[0]) / (high - low)[0].clamp(min=1e-12) * 255).round()
    return image.to(torch.uint8).cpu().movedim(0, -1).expand(-1, -1, 3).contiguous().numpy()


def extremes(result: VoGResult, window: str) -> dict[int, tuple[Tensor, Tensor]]:
    """Rows of the easiest and the hardest examples of each class by VoG in a window, the most extreme first."""
    scores = result.scores[window]
    chosen = {}
    for one in result.classes.unique()[:MOST_CLASSES].tolist():
        rows = torch.nonzero((result.classes == one) & scores.isfinite())[:, 0]
        rows = rows[scores[rows].argsort(stable=True)]
        count = min(EXTREMES, len(rows) // 2)
        if count:
            chosen[one] = (rows[:count], rows.flip(0)[:count])
    return chosen


def renderings(result: VoGResult, probe: Probe, render_fn: RenderFn | None, ranks: Ranks) -> dict[str, Any]:
    """How the extreme examples of all windows look: ``VoGResult.shown``, the same in every process.

    Each process renders those of its own minibatches.
    """
    rows = sorted(
        {
            row
            for window in result.scores
            for pair in extremes(result, window).values()
            for part in pair
            for row in part.tolist()
        }
    )
    if not rows:
        return {}
    indices = result.indices[rows]
    place = {index: (b, i) for b, batch in enumerate(probe.batches) for i, index in enumerate(batch)}
    own = set(ranks.share(range(len(probe.batches))))
    # The first example tells every process what kind of thing is shown, and how large.
    with preserved_random_state(probe.dataset, probe.collate):
        sample = ranks.together(lambda: _rendered(probe, 0, 0, render_fn))
        if sample is None:
            return {}
        encode = _text_bytes if isinstance(sample, str) else _small
        shape = encode(sample).shape

        def work() -> Tensor:
            sheet = torch.zeros(len(rows), *shape, dtype=torch.uint8)
            for cell, index in zip(sheet, indices.tolist(), strict=True):
                number, i = place[index]
                if number in own:
                    shown = _rendered(probe, number, i, render_fn)
                    if type(shown) is not type(sample):
                        raise ConfigurationError("`render_fn` must return text for all examples, or an image for all")
                    cell.copy_(_fitted(encode(shown), shape))
            return sheet

        sheet = ranks.sum(ranks.together(work))
    if isinstance(sample, str):
        return {"indices": indices, "texts": [_text(cell) for cell in sheet]}
    return {"indices": indices, "images": sheet}


def _rendered(probe: Probe, number: int, i: int, render_fn: RenderFn | None) -> Any:
    return render(inputs_in(probe.batch(number).data), i, render_fn)


def _small(image: NDArray[np.uint8]) -> Tensor:
    from PIL import Image

    height, width = image.shape[:2]
    scale = max(height, width) / _LARGEST
    if scale > 1:
        size = max(1, round(width / scale)), max(1, round(height / scale))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return torch.from_numpy(image.copy())


def _fitted(image: Tensor, shape: Sequence[int]) -> Tensor:
    """In the first one's shape."""
    if image.shape == tuple(shape):
        return image
    from PIL import Image

    resized = Image.fromarray(image.numpy()).resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(resized).copy())


def _text_bytes(text: str) -> Tensor:
    encoded = text.encode()[:_LONGEST]
    return torch.tensor(list(encoded.ljust(_LONGEST, b"\0")), dtype=torch.uint8)


def _text(cell: Tensor) -> str:
    # A character that was cut through is left out.
    return bytes(cell.tolist()).rstrip(b"\0").decode(errors="ignore")
