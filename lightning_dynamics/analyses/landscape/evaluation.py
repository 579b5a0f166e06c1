"""Slices through the loss of any module: pure functions that leave it as it was, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.landscape.estimator import Direction, cosine, norm
from lightning_dynamics.analyses.landscape.evaluator import BatchNormMode, DropoutMode, Evaluator
from lightning_dynamics.analyses.landscape.movable import Movable
from lightning_dynamics.analyses.landscape.quantities import MetricFn
from lightning_dynamics.analyses.landscape.result import LandscapeResult
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, PredictFn, silenced
from lightning_dynamics.core.parameters import plain_name, select_parameters

Coordinates = Sequence[float] | Tensor


def evaluate_plane(
    module: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    directions: Sequence[Mapping[str, Tensor]],
    xs: Coordinates,
    ys: Coordinates,
    *,
    predict_fn: PredictFn | None = None,
    quantities: Sequence[str | MetricFn] | None = None,
    batchnorm: BatchNormMode = "reestimate",
    dropout: DropoutMode = "off",
    weight_decay: float = 0.0,
    batch_size: int | Literal["auto"] | None = None,
    channels_last: bool = False,
    seed: int = 0,
    description: str | None = None,
) -> LandscapeResult:
    r"""The loss at θ + x d₁ + y d₂ for all x and y: a plane through the module's weights θ (Li et al. 2018, eq. 2).

    Nothing is normalised here: see :func:`~lightning_dynamics.landscape.random_directions` and
    :func:`~lightning_dynamics.landscape.filter_normalize`.

    Cost: X · Y forward passes over the batches (a little over twice that where statistics are re-estimated).
    Memory: the batches, and five copies of the parameters that move.

    Args:
        module: any module, of one device; eval mode inside. It comes back bit-identical, on exceptions too.
        loss_fn: ``(module, batch) -> scalar``, the mean over the batch's examples; None for the ``training_step`` of a
            LightningModule.
        batches: on the module's device; read once and kept. Each counts with its number of examples, so a ragged last
            one counts right.
        directions: two dicts parameter name -> tensor; parameters without one do not move.
        xs: ``(X,)`` coordinates along the first.
        ys: ``(Y,)`` along the second.
        predict_fn: ``(module, batch) -> (logits, targets)``, for the accuracy and other metrics.
        quantities: beside the loss: ``"accuracy"`` or functions ``(logits, targets) -> scalar``; by default the
            accuracy if there is one.
        batchnorm: running statistics measured anew at every point (``"reestimate"``, one more forward pass), as they
            are in the module (``"frozen"``), or those of each minibatch (``"batch"``). No matter without BatchNorm.
        dropout: ``"off"``, or ``"fixed"``: on, with one mask for all points.
        weight_decay: λ of a term λ/2 ‖θ‖² over all parameters, added to the loss.
        batch_size: cut the batches to this size; ``"auto"`` to one that suits the machine's cache; None leaves them.
        channels_last: lay out images and convolutions' weights with the channels innermost.
        seed: of whatever is random in the module: the same noise at every point.
        description: of a progress bar, which appears after three seconds; None for none.

    Returns:
        The values as ``(len(ys), len(xs))`` float64.

    Raises:
        ConfigurationError: no batches, not two directions, coordinates that are empty, a direction that does not fit.
    """
    if len(directions) != 2:
        raise ConfigurationError(f"`directions`: a plane has two, got {len(directions)}")
    x, y = _coordinates(xs, "xs"), _coordinates(ys, "ys")
    with _at_work(
        module,
        batches,
        directions,
        loss_fn=loss_fn,
        predict_fn=predict_fn,
        quantities=quantities,
        batchnorm=batchnorm,
        dropout=dropout,
        weight_decay=weight_decay,
        batch_size=batch_size,
        images_channels_last=channels_last,
        seed=seed,
    ) as (evaluator, movable):
        grid = Grid(movable, [movable.flat(_plain(direction)) for direction in directions], x, y)
        values = evaluator.at(grid.places(range(len(grid))), description=description)
        return _result(evaluator, values.T.reshape(-1, len(y), len(x)), x, y, directions, batchnorm, weight_decay)


def evaluate_line(
    module: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any],
    direction: Mapping[str, Tensor],
    ts: Coordinates,
    *,
    predict_fn: PredictFn | None = None,
    quantities: Sequence[str | MetricFn] | None = None,
    batchnorm: BatchNormMode = "reestimate",
    dropout: DropoutMode = "off",
    weight_decay: float = 0.0,
    batch_size: int | Literal["auto"] | None = None,
    channels_last: bool = False,
    seed: int = 0,
    description: str | None = None,
) -> LandscapeResult:
    r"""The loss at θ + t d for all t: a line through the module's weights θ (Li et al. 2018, eq. 1).

    With ``d = difference(to, origin)`` and the module at ``origin``, the straight line between two networks
    (Goodfellow, Vinyals, Saxe 2015); see :func:`~lightning_dynamics.landscape.barrier`.

    Args:
        module: as for :func:`evaluate_plane`; so the other arguments.
        loss_fn: see there.
        batches: see there.
        direction: a dict parameter name -> tensor.
        ts: ``(X,)`` coordinates.
        predict_fn: see there.
        quantities: see there.
        batchnorm: see there.
        dropout: see there.
        weight_decay: see there.
        batch_size: see there.
        channels_last: see there.
        seed: see there.
        description: see there.

    Returns:
        ``xs`` are ts, ``ys`` is empty, the values are ``(len(ts),)``.

    Raises:
        ConfigurationError: as :func:`evaluate_plane`.
    """
    t = _coordinates(ts, "ts")
    with _at_work(
        module,
        batches,
        [direction],
        loss_fn=loss_fn,
        predict_fn=predict_fn,
        quantities=quantities,
        batchnorm=batchnorm,
        dropout=dropout,
        weight_decay=weight_decay,
        batch_size=batch_size,
        images_channels_last=channels_last,
        seed=seed,
    ) as (evaluator, movable):
        grid = Grid(movable, [movable.flat(_plain(direction))], t)
        values = evaluator.at(grid.places(range(len(grid))), description=description)
        return _result(evaluator, values.T, t, torch.zeros(0), [direction], batchnorm, weight_decay)


class Grid:
    """The points of a plane or a line, numbered row by row.

    Args:
        movable: what moves.
        directions: one or two, flat.
        xs: ``(X,)``.
        ys: ``(Y,)``; None on a line.
        start: flat weights at the origin; by default the centre.
    """

    def __init__(
        self,
        movable: Movable,
        directions: Sequence[list[Tensor]],
        xs: Tensor,
        ys: Tensor | None = None,
        start: list[Tensor] | None = None,
    ) -> None:
        """Nothing moves yet."""
        self._movable, self._directions = movable, directions
        self._xs, self._ys = xs.tolist(), None if ys is None else ys.tolist()
        self._start = movable.centre if start is None else start
        self._row: tuple[float | None, list[Tensor]] = (None, self._start)

    def __len__(self) -> int:
        """How many points."""
        return len(self._xs) * (1 if self._ys is None else len(self._ys))

    def places(self, numbers: Sequence[int]) -> list[Callable[[], None]]:
        """Ways to these points; points of one row share its beginning."""
        return [lambda number=number: self._go(number) for number in numbers]  # type: ignore[misc]

    def _go(self, number: int) -> None:
        row, column = divmod(number, len(self._xs))
        self.go(self._xs[column], None if self._ys is None else self._ys[row])

    def go(self, x: float, y: float | None = None) -> None:
        """Put the weights at θ + y d₂ + x d₁."""
        if y is not None and self._row[0] != y:
            self._row = (y, self._movable.along(self._start, self._directions[1], y) if y else self._start)
        self._movable.move(self._row[1], self._directions[0], x)


@contextmanager
def _at_work(
    module: nn.Module,
    batches: Iterable[Any],
    directions: Sequence[Mapping[str, Tensor]],
    *,
    seed: int,
    **settings: Any,
) -> Iterator[tuple[Evaluator, Movable]]:
    """The module isolated, with what evaluates it and what moves it."""
    everything = select_parameters(module)
    names = {name for direction in directions for name in _plain(direction)}
    if not names or names - everything.keys():
        unknown = ", ".join(sorted(names - everything.keys())) or "nothing"
        raise ConfigurationError(f"`directions` name {unknown}; the module's parameters are {', '.join(everything)}")
    with isolated(module, seed=seed), silenced(module):
        evaluator = Evaluator(module, {"": batches}, seed=seed, **settings)
        yield evaluator, Movable({name: p for name, p in everything.items() if name in names})


def _plain(direction: Mapping[str, Tensor]) -> Direction:
    """By names without what ``torch.compile`` puts into them."""
    return {plain_name(name): tensor for name, tensor in direction.items()}


def _coordinates(values: Coordinates, argument: str) -> Tensor:
    coordinates = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if coordinates.ndim != 1 or not len(coordinates) or not coordinates.isfinite().all():
        raise ConfigurationError(f"`{argument}` must be a sequence of finite numbers, got {values!r}")
    return coordinates


def _result(
    evaluator: Evaluator,
    values: Tensor,
    xs: Tensor,
    ys: Tensor,
    directions: Sequence[Mapping[str, Tensor]],
    batchnorm: str,
    weight_decay: float,
) -> LandscapeResult:
    named = dict(zip(evaluator.names, values, strict=True))
    return LandscapeResult(
        epoch=0,
        step=0,
        num_examples=evaluator.examples(),
        xs=xs,
        ys=ys,
        loss=named.pop("loss"),
        accuracy=named.pop("accuracy", None),
        others=named,
        directions=described(directions) | {"kind": "given"},
        settings={"data": "batches", "batchnorm": batchnorm, "weight_decay": weight_decay},
    )


def described(directions: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Norms of directions, and the cosine between two."""
    norms: list[float] = [norm(direction) for direction in directions]
    both: Sequence[Direction] = [dict(direction) for direction in directions]
    return {"norms": norms} | ({"cosine": cosine(*both)} if len(both) == 2 else {})
