"""Data sets with their meaning shuffled away: labels (nothing is left but to memorise), or the places of pixels."""

from __future__ import annotations

from operator import index as whole
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import INPUT_KEYS
from lightning_dynamics.data.problems.examples import inputs_in, with_inputs
from lightning_dynamics.data.problems.labels import labels_of, with_label

Labels = Literal["permuted", "random"]


class ShuffledLabels(Dataset[Any]):
    r"""A data set whose labels say nothing about its inputs: the memorisation task.

    ``labels="permuted"`` deals the labels that there are out anew, so that every class keeps its size exactly
    ("shuffled labels" of Li et al. 2018, sec. 3); ``"random"`` draws each of them uniformly from the classes (Zhang et
    al. 2017, sec. 2). Either way one fixed choice, made by ``seed``: an index has the same label in every epoch,
    worker and process. By chance some keep their own: about one of ``num_classes``.

    Labels are found where the data set keeps them (``tensors``, ``targets``, ``labels``, a column of that name; also
    behind ``Subset`` and ``ConcatDataset``), if they agree with a few examples looked at. Elsewhere every example is
    read once when this is made, behind a progress bar. Memory: 16 bytes an example.

    Args:
        dataset: map-style; items ``(input, label, …)`` or mappings with a usual key (``label``, ``labels``,
            ``target``, ``targets``, ``y``). Labels are whole numbers from 0 on: int, NumPy's, or a tensor of one
            element; they keep their type, and items all the rest.
        num_classes: None for the largest label + 1.
        seed: of the permutation, or of the draws.
        share: of the examples that take part, 0 to 1; round(share × N) of them, chosen by ``seed``. The rest keep
            their labels.
        labels: ``"permuted"`` or ``"random"``.

    Attributes:
        targets: ``(N,)`` int64: the new labels.
        original_targets: ``(N,)`` int64: the data set's own.
        num_classes: as given, or found.

    Raises:
        ConfigurationError: no map-style data set, an empty one, items without a label, labels that are no whole
            numbers from 0 to ``num_classes`` - 1, ``share`` outside of 0 to 1, unknown ``labels``.

    Example::

        train = ShuffledLabels(MNIST("data", transform=ToTensor()), seed=1)
    """

    def __init__(
        self,
        dataset: Any,
        num_classes: int | None = None,
        seed: int = 0,
        share: float = 1.0,
        labels: Labels = "permuted",
    ) -> None:
        """Choose the labels."""
        size = _check_map_style(dataset)
        if not 0 <= share <= 1:
            raise ConfigurationError(f"`share={share!r}` must lie between 0 and 1")
        if labels not in get_args(Labels):
            raise ConfigurationError(f"`labels={labels!r}`: give one of {', '.join(map(repr, get_args(Labels)))}")
        self.dataset = dataset
        self.original_targets = labels_of(dataset)
        largest = int(self.original_targets.max())
        self.num_classes = largest + 1 if num_classes is None else num_classes
        if self.num_classes <= largest or self.original_targets.min() < 0:
            raise ConfigurationError(
                f"`num_classes={num_classes!r}`: labels must be 0 to num_classes - 1, these are "
                f"{int(self.original_targets.min())} to {largest}"
            )
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(size, generator=generator)[: round(share * size)]
        if labels == "permuted":
            # A random choice in random order is dealt to the same places in rising order: a uniform permutation.
            new = self.original_targets[chosen]
        else:
            new = torch.randint(self.num_classes, (len(chosen),), generator=generator)
        self.targets = self.original_targets.clone()
        self.targets[chosen.sort().values] = new

    def __len__(self) -> int:
        """As many as there were."""
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        """The example with its new label."""
        position = _position(index, len(self))
        item = self.dataset[position]
        return with_label(item, int(self.targets[position]))


class ShuffledPixels(Dataset[Any]):
    """A data set of images whose pixels all moved by one fixed permutation: what is near says nothing any more.

    The same for every image (Zhang et al. 2017, sec. 2, "shuffled pixels"; Li et al. 2018, sec. 3): it depends on
    ``seed`` and the images' size alone, so that training and test sets of one seed fit together. It moves places: the
    channels of a pixel stay together (the papers leave that open; a fully connected network sees no difference).

    Args:
        dataset: map-style; items ``(image, …)``, mappings with a usual key (``image``, ``x``, ``pixel_values``, …) or
            the image itself: tensors or arrays ``(…, H, W)`` or ``(P,)``, all of one size. Type and dtype are kept.
        seed: of the permutation.
        channels_last: images are ``(H, W, C)``.

    Attributes:
        permutation: ``(P,)`` int64: the new image at place p is the old one at ``permutation[p]``; rows first.

    Raises:
        ConfigurationError: no map-style data set, an empty one, inputs that are no tensors or arrays, or look like
            ``(H, W, C)`` without ``channels_last``; on reading an item, an image of another size.

    Example::

        train, test = (ShuffledPixels(split, seed=1) for split in (train, test))
    """

    def __init__(self, dataset: Any, seed: int = 0, channels_last: bool = False) -> None:
        """Look at the first image, and draw the permutation for its size."""
        _check_map_style(dataset)
        self.dataset = dataset
        self.channels_last = channels_last
        shape = tuple(_image_in(dataset[0], 0).shape)
        if channels_last and len(shape) < 3:
            raise ConfigurationError(f"`channels_last=True` needs images (H, W, C), these are {shape}")
        if not channels_last and len(shape) == 3 and shape[2] in _COLOURS and shape[0] not in _COLOURS:
            raise ConfigurationError(f"images {shape} look like (H, W, C): pass `channels_last=True`")
        if not shape or 0 in shape:
            raise ConfigurationError(f"ShuffledPixels needs images (…, H, W) or (P,), these are {shape}")
        self._size = self._places(shape)
        count = int(torch.tensor(self._size).prod())
        self.permutation = torch.randperm(count, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        """As many as there were."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """The example with its pixels moved."""
        position = _position(index, len(self))
        item = self.dataset[position]
        image = _image_in(item, position)
        if self._places(tuple(image.shape)) != self._size:
            expected = " × ".join(map(str, self._size))
            raise ConfigurationError(
                f"image {position} is {tuple(image.shape)}, the first one had {expected} places: "
                "bring all images to one size first"
            )
        return with_inputs(item, self._moved(image))

    def _places(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[-3:-1] if self.channels_last else shape[-2:]

    def _moved(self, image: Any) -> Any:
        shape = tuple(image.shape)
        channels = shape[-1:] if self.channels_last else ()
        before = shape[: len(shape) - len(self._size) - len(channels)]
        flat = image.reshape(*before, len(self.permutation), *channels)
        order = self.permutation if isinstance(image, Tensor) else self.permutation.numpy()
        moved = flat[(..., order, slice(None))] if channels else flat[..., order]
        return moved.reshape(shape)


_COLOURS = (1, 3, 4)  # numbers of channels that an image has


def _image_in(item: Any, position: int) -> Any:
    image = inputs_in(item)
    if not isinstance(image, Tensor | np.ndarray):
        raise ConfigurationError(
            f"the input of example {position} is of type {type(image).__name__}, no tensor or array: turn images into "
            f"tensors first (`transform=ToTensor()`), and use (image, …) or one of the keys {', '.join(INPUT_KEYS)}"
        )
    return image


def _check_map_style(dataset: Any) -> int:
    """The number of examples."""
    if isinstance(dataset, DataLoader):
        raise ConfigurationError("`dataset` is a DataLoader: give its data set, `loader.dataset`")
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ConfigurationError(
            f"`dataset` must be map-style, with `__getitem__` and `__len__`; {type(dataset).__name__} is not: "
            "a fixed choice needs examples that can be numbered"
        )
    if len(dataset) == 0:
        raise ConfigurationError("`dataset` is empty")
    return len(dataset)


def _position(index: int, size: int) -> int:
    position = whole(index)
    if not -size <= position < size:
        raise IndexError(f"index {position} is out of range for {size} examples")
    return position % size
