"""A few examples for experiments, whole and in parts, and along which axes they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_dynamics.core.batch_tree import LIST, Axis, Path, at, example_axes, rows, tensors, walk
from lightning_dynamics.core.collating import sizes_to_compare
from lightning_dynamics.core.probe import Probe

FEW, MANY = 8, 64
"""Examples that experiments run on, and those that are read to choose them from."""


class Sample:
    """A few of a probe's examples.

    Args:
        probe: whose first minibatch they are from.
    """

    def __init__(self, probe: Probe) -> None:
        """Choose them, and find their axes."""
        self.probe = probe
        self.notes: list[str] = []
        self.is_by_length = False
        """Whether the axes are told by their length alone."""
        self.collated, self.size = probe.few(MANY)
        self.axes, self.unplaced, self.places = self._axes()
        self.whole = self.batch_of(range(len(self.places)))

    def __len__(self) -> int:
        """How many examples."""
        return len(self.places)

    def _axes(self) -> tuple[dict[Path, Axis], list[Path], list[int]]:
        """Axes of the examples, tensors without one, and the examples to experiment on."""
        if self.collated is None:
            return self._recorded_axes()
        count = min(self.size, FEW)
        sizes = sizes_to_compare(count)
        batches = [(self.collated(range(size)), size) for size in sizes]
        axes, unplaced = example_axes(batches)
        if self.size == 1:
            self.notes.append("there is one example alone, so nothing tells which axis is that of the examples")
        return axes, unplaced, self._varied(axes, count)

    def _varied(self, axes: Mapping[Path, Axis], count: int) -> list[int]:
        """Examples among which every item varies, as far as any do, and every class is there."""
        chosen = list(range(count))
        if self.size <= count or self.collated is None:
            return chosen
        everything = self.collated(range(self.size))
        for path, axis in axes.items():
            node = at(everything, path)
            if not isinstance(node, Tensor) or axis is LIST or node.ndim != 1:
                continue
            values = [value for value in node.tolist() if value == value]
            distinct = list(dict.fromkeys(values))
            limit = 64 if not node.is_floating_point() else 2
            if len(distinct) <= limit:
                present = {values[place] for place in chosen if place < len(values)}
                chosen += [values.index(value) for value in distinct if value not in present]
        return list(dict.fromkeys(chosen))

    def _recorded_axes(self) -> tuple[dict[Path, Axis], list[Path], list[int]]:
        """Of recorded minibatches: known, or by two sizes; with one size by length, until :meth:`distrust`."""
        recorded = [(batch, len(own)) for batch, own in zip(self.probe.recorded or (), self.probe.batches, strict=True)]
        by_size = {size: (batch, size) for batch, size in reversed(recorded)}
        batch, size = recorded[0]
        shapes = {path: tuple(tensor.shape) for path, tensor in tensors(batch).items()}
        axes: dict[Path, Axis] = {}
        unplaced: list[Path] = []
        if self.probe.stacked:
            axes = {path: 0 for path, shape in shapes.items() if shape[:1] == (size,)}
            unplaced = [path for path in shapes if path not in axes]
        elif len(by_size) > 1:
            axes, unplaced = example_axes(list(by_size.values()))
        else:
            self.is_by_length = True
            for path, shape in shapes.items():
                fitting = [axis for axis, length in enumerate(shape) if length == size]
                if len(fitting) == 1:
                    axes[path] = fitting[0]
                else:
                    unplaced.append(path)
            for path, node in walk(batch):  # names and the like, one for each example
                if isinstance(node, list) and len(node) == size and not tensors(node):
                    axes[path] = LIST
        return axes, unplaced, list(range(min(len(self.probe.batches[0]), FEW)))

    def batch_of(self, numbers: Sequence[int]) -> Any:
        """Some of the examples, as a new minibatch."""
        places = [self.places[number] for number in numbers]
        if self.collated is not None:
            return self.collated(places)
        batch = self.probe.batch(0).data
        return batch if self.unplaced else rows(batch, self.axes, places)

    def distrust(self) -> None:
        """Let go of axes that are not those of the examples."""
        self.notes.append(
            "along which axis the examples of the recorded minibatches lie is not known, since they all are of one "
            "size: give a DataLoader with the default `collate_fn`, or a map-style Dataset, as `data`"
        )
        self.unplaced, self.axes = list(tensors(self.probe.batch(0).data)), {}
        self.whole = self.batch_of(range(len(self)))

    def split(self, numbers: Sequence[int]) -> Any:
        """Some of the examples out of the whole minibatch: cut from it where every tensor has its axis."""
        if not self.unplaced and self.axes and all(self._is_cut(path) for path, _ in walk(self.whole)):
            return rows(self.whole, self.axes, numbers)
        return None if self.collated is None else self.batch_of(numbers)

    def _is_cut(self, path: Path) -> bool:
        """Whether a node lies in one that is cut, or holds some, or is a plain value."""
        node = at(self.whole, path)
        under = any(path[: len(own)] == own or own[: len(path)] == path for own in self.axes)
        return under or isinstance(node, str | int | float | bool | type(None))
