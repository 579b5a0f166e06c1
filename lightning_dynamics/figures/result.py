"""A result: a frozen dataclass of tensors and plain values that can be stored, and that shows itself.

What a result class looks like is said beside it, by functions that are registered for the class::

    @pictures.register
    def _(result: CKAResult) -> Pictures: ...
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import singledispatch
from os import PathLike
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, final

import numpy as np
import torch
from torch import Tensor

from lightning_dynamics.panels import Panel, Panels, Picture, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Self = TypeVar("Self", bound="Result")
Pictures: TypeAlias = Mapping[str, Callable[[], Picture]]
"""Name to a function that draws; the main picture comes first."""


@singledispatch
def pictures(result: Result) -> Pictures:
    """The pictures of a result; register a function for each result class."""
    return {}


@singledispatch
def tables(result: Result) -> Mapping[str, Table]:
    """The tables of a result; register a function for each result class that has some."""
    return {}


@singledispatch
def closing_panels(last: Result, results: Sequence[Any]) -> Mapping[str, Callable[[], Panel]]:
    """What can be shown only when training has ended, by name: films, pages, downloads.

    Args:
        last: the latest result; a function is registered for its class.
        results: those kept over training, the latest last.
    """
    return {}


@dataclass(frozen=True, eq=False)
class Result(ABC):
    """Base of every result.

    Fields are tensors, plain values (str, int, float, bool, None), and lists or str-keyed dicts of those.
    Subclasses give each tensor's shape in their docstring, and implement :meth:`scalars`.
    """

    @abstractmethod
    def scalars(self) -> dict[str, float]:
        """The numbers that sum it up, by name; what is not defined is left out."""

    @property
    @final
    def plots(self) -> tuple[str, ...]:
        """Names of the pictures that it has, the main one first."""
        return tuple(pictures(self))

    @final
    def plot(self, name: str | None = None, ax: Axes | None = None) -> Figure:
        """Draw one of its pictures.

        Args:
            name: one of :attr:`plots`; None for the main one.
            ax: axes to draw into; None makes a figure of the picture's own size.

        Raises:
            ValueError: there is no such picture.
        """
        drawn = pictures(self)
        if not drawn:
            raise ValueError(f"this {type(self).__name__} has nothing to draw yet")
        if name is not None and name not in drawn:
            raise ValueError(f"there is no picture {name!r}; there are: {', '.join(drawn)}")
        return _framed(drawn[next(iter(drawn)) if name is None else name]().image, ax)

    @final
    def panels(self) -> Panels:
        """Its pictures and tables, for a logger."""
        return {name: draw() for name, draw in pictures(self).items()} | dict(tables(self))

    def to_state(self) -> dict[str, Any]:
        """Fields by name; loads with ``torch.load(weights_only=True)``, so it may go into a checkpoint."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls: type[Self], state: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_state`."""
        return cls(**state)

    def save(self, path: str | PathLike[str]) -> None:
        """Write an ``.npz`` file: one array per tensor, everything else as JSON under ``__plain__``.

        A tensor that is a field has the field's name, those inside a list or dict ``field.0``, ``field.1``, ….
        """
        arrays: dict[str, np.ndarray] = {}
        plain = {name: _split(value, name, arrays) for name, value in self.to_state().items()}
        arrays["__plain__"] = np.array(json.dumps(plain))
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls: type[Self], path: str | PathLike[str]) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls.from_state(_join(json.loads(str(arrays["__plain__"])), arrays))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _framed(image: np.ndarray, ax: Axes | None) -> Figure:
    """A picture in axes without ticks, or as a figure of its own, pixel for pixel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if ax is None:
        dpi, (height, width) = 100, image.shape[:2]
        figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
        FigureCanvasAgg(figure)
        # A notebook shows figures by itself only where pyplot has been imported.
        figure._repr_png_ = MethodType(_png, figure)  # type: ignore[attr-defined]
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.imshow(image, interpolation="antialiased")
    ax.set_axis_off()
    return cast("Figure", ax.figure)


_TENSOR = "__tensor__"
_NOT_IN_NUMPY = {torch.bfloat16: torch.int16}  # stored as the bits they are


def _split(value: Any, field: str, arrays: dict[str, np.ndarray], nested: bool = False) -> Any:
    """Move the tensors of a nested value into ``arrays``, leaving their names behind."""
    if isinstance(value, Tensor):
        # Keys may hold anything, so they do not become names.
        name = f"{field}.{len(arrays)}" if nested else field
        stored = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if stored.dtype in _NOT_IN_NUMPY:
            arrays[name] = stored.view(_NOT_IN_NUMPY[stored.dtype]).numpy()
            return {_TENSOR: name, "dtype": str(stored.dtype).removeprefix("torch.")}
        arrays[name] = stored.numpy()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if _TENSOR in value:
            raise ValueError(f"{field!r} has the key {_TENSOR!r}, which stands for a tensor in the file")
        return {key: _split(item, field, arrays, nested=True) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, field, arrays, nested=True) for item in value]
    return value


def _join(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            tensor = torch.from_numpy(arrays[value[_TENSOR]])
            return tensor.view(getattr(torch, value["dtype"])) if "dtype" in value else tensor
        return {key: _join(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, arrays) for item in value]
    return value
