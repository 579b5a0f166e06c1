"""What people see of an example: a small picture, or a line of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dynamics.analyses.vog.outputs import Setup
from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.core.batch_tree import at
from lightning_dynamics.core.distributed import Ranks
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.random_state import preserved_random_state

RenderFn = Callable[[Any], "NDArray[np.uint8] | str"]

_LARGEST = 64  # pixels of the longer side
_LONGEST = 200  # bytes of text
EXTREMES = 5
"""How many of the easiest and of the hardest examples of a class are shown."""
MOST_CLASSES = 10


def looks_like_images(inputs: Any) -> bool:
    """Whether a minibatch's inputs are ``(n, 1 or 3, h, w)`` numbers."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3) and min(inputs.shape[2:]) > 1


def render(inputs: Any, numbers: Sequence[int], render_fn: RenderFn | None) -> list[NDArray[np.uint8] | str]:
    """Some examples of a minibatch; an empty list if nobody knows how to show them.

    Raises:
        ConfigurationError: ``render_fn`` returned neither an image nor text.
    """
    if render_fn is not None:
        if inputs is None:
            raise ConfigurationError("`render_fn`: the batch has no inputs with one row per example to give it")
        return [_checked(render_fn(inputs[number])) for number in numbers]
    if not looks_like_images(inputs):
        return []
    # Normalised or not: the range of the whole minibatch becomes black to white.
    pixels = inputs.detach().float()
    low, high = pixels.amin((0, 2, 3), keepdim=True), pixels.amax((0, 2, 3), keepdim=True)
    shown = ((pixels[list(numbers)] - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    images = shown.cpu().movedim(1, -1).expand(-1, -1, -1, 3)
    return [image.contiguous().numpy() for image in images]


def _checked(shown: Any) -> NDArray[np.uint8] | str:
    if isinstance(shown, str):
        return shown
    if not isinstance(shown, np.ndarray) or shown.dtype != np.uint8 or shown.ndim != 3 or shown.shape[2] != 3:
        raise ConfigurationError(
            "`render_fn` must return text, or an image as a NumPy array (h, w, 3) uint8; got "
            f"{type(shown).__name__} {getattr(shown, 'shape', '')} {getattr(shown, 'dtype', '')}".rstrip()
        )
    return shown


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


def shown_inputs(batch: Any, setup: Setup) -> Any:
    """What is shown of a minibatch: its inputs, examples first; None if nobody knows which."""
    task = setup.task
    found = [path for path in task.inputs if isinstance(task.axes.get(path), int)]
    found.sort(key=lambda path: not at(batch, path).is_floating_point())
    if not found:
        return None
    return at(batch, found[0]).movedim(int(str(task.axes[found[0]])), 0)


def renderings(
    result: VoGResult, probe: Probe, render_fn: RenderFn | None, ranks: Ranks, setup: Setup
) -> dict[str, Any]:
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
    wanted = {index: row for row, index in enumerate(indices.tolist())}
    # The first example tells every process what kind of thing is shown, and how large.
    with preserved_random_state(probe.dataset, probe.collate):
        sample = ranks.run_checked(lambda: render(shown_inputs(probe.batch(0).data, setup), [0], render_fn))
        if not sample:
            return {}
        is_text = isinstance(sample[0], str)
        encode = _text_bytes if is_text else _small
        shape = encode(sample[0]).shape

        def work() -> Tensor:
            sheet = torch.zeros(len(rows), *shape, dtype=torch.uint8)
            for number in ranks.shard(range(len(probe.batches))):
                if wanted.keys().isdisjoint(probe.batches[number]):
                    continue
                batch = probe.batch(number)
                found = [row for row, index in enumerate(batch.indices) if index in wanted]
                shown = render(shown_inputs(batch.data, setup), found, render_fn)
                for i, one in zip(found, shown, strict=True):
                    if isinstance(one, str) != is_text:
                        raise ConfigurationError("`render_fn` must return text for all examples, or an image for all")
                    sheet[wanted[batch.indices[i]]] = _fitted(encode(one), shape)
            return sheet

        sheet = ranks.all_reduce(ranks.run_checked(work))
    if is_text:
        return {"indices": indices, "texts": [_text(cell) for cell in sheet]}
    return {"indices": indices, "images": sheet}


def _small(image: Any) -> Tensor:
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


def _text_bytes(text: Any) -> Tensor:
    encoded = text.encode()[:_LONGEST]
    return torch.tensor(list(encoded.ljust(_LONGEST, b"\0")), dtype=torch.uint8)


def _text(cell: Tensor) -> str:
    # A character that was cut through is left out.
    return bytes(cell.tolist()).rstrip(b"\0").decode(errors="ignore")
