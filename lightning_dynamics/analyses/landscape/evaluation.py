"""Slices through the loss of any module: pure functions that leave it as it was, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.landscape.estimator import Direction, cosine, norm
from lightning_dynamics.analyses.landscape.evaluator import BatchNormMode, DropoutMode, EvaluationSettings, Evaluator
from lightning_dynamics.analyses.landscape.minibatches import counted, of_batches
from lightning_dynamics.analyses.landscape.movable import Movable
from lightning_dynamics.analyses.landscape.quantities import MetricFn
from lightning_dynamics.analyses.landscape.result import LandscapeResult
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn, PredictFn
from lightning_dynamics.core.parameters import plain_name, select_parameters
from lightning_dynamics.core.probe import probe_of
from lightning_dynamics.core.quiet import logging_disabled
from lightning_dynamics.core.task import EXAMPLES
from lightning_dynamics.core.understanding import understand

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
    settings = EvaluationSettings(
        loss_fn, quantities, batchnorm, dropout, weight_decay, batch_size, channels_last, seed
    )
    along = _coordinates(xs, "xs"), _coordinates(ys, "ys")
    return _evaluate(module, batches, directions, *along, settings, predict_fn, description)


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
        module: this and all that is not explained here as for :func:`evaluate_plane`.
        loss_fn: as there.
        batches: as there.
        direction: a dict parameter name -> tensor.
        ts: ``(X,)`` coordinates.
        predict_fn: as there.
        quantities: as there.
        batchnorm: as there.
        dropout: as there.
        weight_decay: as there.
        batch_size: as there.
        channels_last: as there.
        seed: as there.
        description: as there.

    Returns:
        ``xs`` are ts, ``ys`` is empty, the values are ``(len(ts),)``.

    Raises:
        ConfigurationError: as :func:`evaluate_plane`.
    """
    settings = EvaluationSettings(
        loss_fn, quantities, batchnorm, dropout, weight_decay, batch_size, channels_last, seed
    )
    return _evaluate(module, batches, [direction], _coordinates(ts, "ts"), None, settings, predict_fn, description)


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


def _evaluate(
    module: nn.Module,
    batches: Iterable[Any],
    directions: Sequence[Mapping[str, Tensor]],
    xs: Tensor,
    ys: Tensor | None,
    settings: EvaluationSettings,
    predict_fn: PredictFn | None,
    description: str | None,
) -> LandscapeResult:
    """A plane, or a line where there are no ``ys``."""
    everything = select_parameters(module)
    plain: list[Direction] = [{plain_name(name): t for name, t in direction.items()} for direction in directions]
    names = {name for direction in plain for name in direction}
    if not names or names - everything.keys():
        unknown = ", ".join(sorted(names - everything.keys())) or "nothing"
        raise ConfigurationError(f"`directions` name {unknown}; the module's parameters are {', '.join(everything)}")
    held = list(batches)
    task = understand(module, probe_of(counted(held), settings.seed), loss_fn=settings.loss_fn, predict_fn=predict_fn)
    if not task.axes and task.counter is EXAMPLES and len({examples for _, examples in counted(held)}) > 1:
        raise ConfigurationError(
            "`batches`: their sizes differ, and along which axis of their tensors the examples lie is not known, so "
            "they cannot be weighed: give batches of one size"
        )
    settings = replace(settings, loss_fn=task.mean_loss(settings.loss_fn))
    with isolated(module, seed=settings.seed), logging_disabled(module):
        minibatches = of_batches(module, held, task, layout=settings.channels_last)
        evaluator = Evaluator(module, task, {"": minibatches}, settings)
        movable = Movable({name: p for name, p in everything.items() if name in names})
        grid = Grid(movable, [movable.flat(direction) for direction in plain], xs, ys)
        values = evaluator.at(grid.places(range(len(grid))), description=description)
        num_examples = evaluator.examples()
    shape = (len(xs),) if ys is None else (len(ys), len(xs))
    named = {name: column.reshape(shape) for name, column in zip(evaluator.names, values.T, strict=True)}
    return LandscapeResult(
        epoch=0,
        step=0,
        num_examples=num_examples,
        xs=xs,
        ys=torch.zeros(0) if ys is None else ys,
        loss=named.pop("loss"),
        accuracy=named.pop("accuracy", None),
        others=named,
        directions=described(directions) | {"kind": "given"},
        settings={"data": "batches", "batchnorm": settings.batchnorm, "weight_decay": settings.weight_decay},
    )


def _coordinates(values: Coordinates, argument: str) -> Tensor:
    coordinates = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if coordinates.ndim != 1 or not len(coordinates) or not coordinates.isfinite().all():
        raise ConfigurationError(f"`{argument}` must be a sequence of finite numbers, got {values!r}")
    return coordinates


def described(directions: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Norms of directions, and the cosine between two."""
    norms: list[float] = [norm(direction) for direction in directions]
    both: Sequence[Direction] = [dict(direction) for direction in directions]
    return {"norms": norms} | ({"cosine": cosine(*both)} if len(both) == 2 else {})
