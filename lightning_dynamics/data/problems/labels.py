"""The labels of a data set, without decoding its images where that can be avoided."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import TARGET_KEYS
from lightning_dynamics.core.progress import progress
from lightning_dynamics.core.random_state import preserved_random_state
from lightning_dynamics.data.problems.examples import targets_in

_PARTS = 3  # of the data set; an example at each of their ends must agree with labels found beside them


def labels_of(dataset: Any) -> Tensor:
    """All labels ``(N,)`` int64 of a map-style data set.

    From ``tensors``, ``targets``, ``labels`` or a column, also behind ``Subset`` and ``ConcatDataset``, if four of the
    examples agree, from the first to the last (a ``target_transform`` would make them differ); else from the examples,
    one by one. No random stream moves, whatever the transforms draw.

    Raises:
        ConfigurationError: an example without a label, or a label that is no whole number.
    """
    size = len(dataset)
    with preserved_random_state(dataset):
        kept = _kept_labels(dataset)
        looked_at = {size * part // _PARTS for part in range(_PARTS)} | {size - 1}
        if kept is not None and len(kept) == size:
            if all(int(kept[place]) == label_in(dataset[place], place) for place in sorted(looked_at)):
                return kept
        places = progress(range(size), total=size, description="Reading the labels")
        return torch.tensor([label_in(dataset[place], place) for place in places])


def label_in(item: Any, position: int) -> int:
    """The label of an example.

    Raises:
        ConfigurationError: there is none, or it is no whole number.
    """
    label = targets_in(item)
    if label is None:
        raise ConfigurationError(
            f"example {position} has no label: items must be (input, label) or mappings with one of the keys "
            f"{', '.join(TARGET_KEYS)}; this one is {_kind(item)}"
        )
    number = label
    if hasattr(label, "dtype") and hasattr(label, "reshape"):
        if label.reshape(-1).shape != (1,):
            raise ConfigurationError(f"the label of example {position} is {_kind(label)}, not one class number")
        number = label.reshape(-1)[0].item()
    if not isinstance(number, Integral):
        raise ConfigurationError(f"the label of example {position} is {_kind(label)}, not a whole number")
    return int(number)


def with_label(item: Any, label: int) -> Any:
    """The item with another label, of the same type and shape as its own; the item itself is not changed."""
    like = _like(targets_in(item), label)
    if isinstance(item, Mapping):
        changed = copy.copy(item)
        changed[next(key for key in TARGET_KEYS if key in item)] = like  # type: ignore[index]
        return changed
    items = [item[0], like, *item[2:]]
    # A named tuple takes its items one by one.
    return type(item)(*items) if hasattr(item, "_fields") else type(item)(items)


def _like(old: Any, label: int) -> Any:
    if isinstance(old, Tensor):
        return torch.full_like(old, label)
    if hasattr(old, "dtype"):  # NumPy's arrays and numbers
        return (old * 0 + label).astype(old.dtype)
    return type(old)(label)


def _kept_labels(dataset: Any) -> Tensor | None:
    """Labels that a data set keeps apart from its examples; None where there are none to be had."""
    if isinstance(dataset, Subset):
        inner = _kept_labels(dataset.dataset)
        return None if inner is None else inner[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_kept_labels(part) for part in dataset.datasets]
        return torch.cat([part for part in parts if part is not None]) if all(p is not None for p in parts) else None
    if isinstance(dataset, TensorDataset):
        return _whole(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    columns = getattr(dataset, "column_names", None)  # as Hugging Face's data sets have
    if isinstance(columns, list | tuple):
        key = next((key for key in TARGET_KEYS if key in columns), None)
        return None if key is None else _whole(dataset[key])
    for name in ("targets", "labels"):
        if (found := _whole(getattr(dataset, name, None))) is not None:
            return found
    return None


def _whole(values: Any) -> Tensor | None:
    """As ``(N,)`` int64, if that is what they are."""
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    if found.is_floating_point() or found.is_complex() or found.ndim == 0 or found.numel() != len(found):
        return None
    return found.detach().cpu().reshape(-1).long().clone()


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else f" {value!r:.40}")
