"""A progress bar for what takes longer than a few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 3.0  # seconds before the bar appears


def progress(items: Iterable[T], *, total: int, description: str | None) -> Iterator[T]:
    """The items, behind a bar that appears after three seconds and disappears at the end; None shows none.

    The bar goes to stderr, on the first line below the bars of Lightning (which are tqdm's too, and know of it).
    """
    if description is None:
        yield from items
        return
    from tqdm.auto import tqdm

    yield from tqdm(items, total=total, desc=description, delay=_PATIENCE, leave=False, dynamic_ncols=True)
