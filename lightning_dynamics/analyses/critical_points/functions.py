"""Critical points of any module's loss: a pure function that leaves the module bit for bit as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynamics.analyses.critical_points.index import index_at, unknown
from lightning_dynamics.analyses.critical_points.point import CriticalPoint, distance
from lightning_dynamics.analyses.critical_points.search import search
from lightning_dynamics.analyses.critical_points.settings import GradientNorm, MethodName, NewtonMR, Search
from lightning_dynamics.analyses.critical_points.starts import Start, named_starts
from lightning_dynamics.analyses.critical_points.surface import LossSurface, State
from lightning_dynamics.analyses.curvature.checks import check_function, check_parameters
from lightning_dynamics.analyses.curvature.double_precision import as_double, in_double
from lightning_dynamics.analyses.curvature.minibatches import Minibatches
from lightning_dynamics.analyses.curvature.operator import NotFinite
from lightning_dynamics.core.isolation import Mode, isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.objective import LossFn
from lightning_dynamics.core.parameters import select_parameters, unflatten
from lightning_dynamics.core.progress import progress
from lightning_dynamics.core.quiet import logging_disabled


def find(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    *,
    starts: Mapping[str, Start] | Iterable[Start] | None = None,
    method: MethodName | NewtonMR | GradientNorm = "newton_mr",
    tolerance: float = 1e-20,
    flatness_tolerance: float = 0.01,
    zero_tolerance: float = 1e-6,
    dense_up_to: int = 2000,
    merge_within: float | None = None,
    index_of_starts: bool = False,
    parameters: str | Sequence[str] = "*",
    mode: Mode = "eval",
    seed: int = 0,
    keep_graphs: bool | None = None,
    weights: Sequence[float] | None = None,
    description: str | None = "critical points",
) -> list[CriticalPoint]:
    """From every start, search for a point where the gradient g of the mean loss vanishes.

    ½‖g‖² is minimised, by one of two methods of Frye et al. ("Critical point-finding methods reveal gradient-flat
    regions of deep network losses", Neural Computation 33, 2021):

    - ``"newton_mr"``, :class:`NewtonMR`: steps p = −H⁺g by MINRES, with a line search on ‖g‖² (Roosta et al. 2018);
    - ``"gradient_norm"``, :class:`GradientNorm`: descent along −Hg with a line search (Pennington, Bahri, ICML 2017).
      It converges linearly, as slowly as the square of the condition number; it is here to compare with.

    Both end in critical points of any index, saddles among them. Both may also end at a minimum of ½‖g‖² where g is not
    0: there Hg = 0. Each point's ``status`` says which it was. An index can be trusted only where ‖g‖² is very small
    (Frye et al., "Numerically recovering the critical points of a deep linear autoencoder", 2019). Therefore everything
    is computed in float64, on copies of the parameters and of the batches.

    Cost: for each step of Newton-MR up to ``inner_iterations`` Hessian-vector products (fewer if P is smaller, or the
    system is solved earlier) and one gradient or a few more; for each step of gradient descent one product and about
    one gradient; for each point P products for its eigenvalues (320 where P > ``dense_up_to``). A product costs about
    as much as one training pass over the batches where graphs are kept, else two. Memory: two copies of the model,
    256 MiB of vectors at most, P² numbers for all eigenvalues, the graphs.

    Args:
        module: any module; left as it was, also on errors.
        loss_fn: ``(module, batch) -> scalar``, a mean over the batch's examples, or over other terms.
        batches: tensors, or tuples, lists or mappings of tensors; read once and held in memory.
        starts: where to begin: a list, or name to start. A start is a flat vector of the parameters chosen, values by
            parameter's (or buffer's) name, or the path of a Lightning checkpoint. By default where the module is.
        method: ``"newton_mr"`` or ``"gradient_norm"``; or a value, to set how long each search may take:
            ``NewtonMR(max_iterations=100, inner_iterations=200)`` or ``GradientNorm(max_iterations=2000)``.
        tolerance: largest ‖g‖² of a critical point, in units of (loss / parameter)².
        flatness_tolerance: ε: curvature that counts as none at a gradient-flat point, as a share of the largest; see
            ``docs/critical_points.md`` for the two formulas.
        zero_tolerance: eigenvalues count as 0 up to this share of the largest |λ|.
        dense_up_to: P up to which all eigenvalues of the points are computed; beyond, the index is estimated.
        merge_within: points of one status whose distance is at most this share of max(1, ‖θ‖) are one; None merges
            none. Points on a common valley or ridge are different.
        index_of_starts: whether the index is determined at the starts too, at the same cost again.
        parameters: globs: the coordinates, tied ones once, whether they are frozen or not.
        mode: ``"eval"`` or ``"train"``: the flag every submodule has.
        seed: of whatever is random in the module: batch i is run with ``seed + i`` every time.
        keep_graphs: keep the gradient's graph of every batch in memory (True), of none (False), of as many as fit
            into 1 GiB (None).
        weights: terms of each batch's mean: tokens that count, or the sum of its targets' class weights, say; by
            default its examples.
        description: of the progress bar; None shows none.

    Returns:
        One point for each start, in their order; with ``merge_within``, for each that is new. A start at which the
        loss is not finite gives an unfinished point with ``stopped="not finite"``.

    Raises:
        ConfigurationError: arguments that cannot work; a start that is unknown or does not fit; a loss that changes by
            itself, or an operation whose second derivative is missing or wrong.
    """
    how = Search.of(locals())
    check_function(loss_fn, mode)
    if merge_within is not None and not merge_within >= 0:
        raise ConfigurationError(f"`merge_within` must be a number from 0 up, or None; got {merge_within!r}")
    chosen = select_parameters(module, parameters)
    check_parameters(chosen)
    begin = named_starts(starts, module, chosen)
    with isolated(module, mode=mode, seed=seed) as streams, logging_disabled(module), in_double(module):
        held = Minibatches.from_batches(_in_double(batches), weights=weights, seed=seed, streams=streams)
        surface = LossSurface(module, loss_fn, held, select_parameters(module, parameters), keep_graphs)
        surface.check(parameters)
        points = search_all(surface, begin, how, description=description, index_of_starts=index_of_starts)
    return points if merge_within is None else merged(points, merge_within)


def search_all(
    surface: LossSurface,
    starts: Mapping[str, State],
    how: Search,
    *,
    description: str | None,
    index_of_starts: bool = False,
) -> list[CriticalPoint]:
    """One point for each start, behind a progress bar that counts steps of the searches."""
    ticks: Iterator[int] = progress(count(), total=len(starts) * how.method.max_iterations, description=description)
    points = []
    for name, state in starts.items():
        point = _search(surface, name, state, how, lambda: next(ticks), index_of_starts)
        points.append(point)
        for _ in range(how.method.max_iterations - point.iterations):
            next(ticks)
    return points


def merged(points: Sequence[CriticalPoint], within: float) -> list[CriticalPoint]:
    """Of points with the same status that lie together, the one with the smallest ‖g‖²; it knows all their starts."""
    found: list[CriticalPoint] = []
    for point in points:
        for place, earlier in enumerate(found):
            if point.status == earlier.status and distance(point, earlier) <= within:
                better = min(point, earlier, key=lambda one: one.squared_gradient_norm)
                found[place] = replace(better, found_from=earlier.found_from + point.found_from)
                break
        else:
            found.append(point)
    return found


def _search(
    surface: LossSurface, name: str, state: State, how: Search, advanced: Callable[[], Any], index_of_starts: bool
) -> CriticalPoint:
    with torch.no_grad():
        start = surface.begin(state)
        before = surface.products, surface.gradients
        course = search(surface, start, how, advanced)
        products, gradients = surface.products - before[0], surface.gradients - before[1]

        def index(at: Tensor | None = None) -> Any:
            try:
                if at is not None:
                    surface.at(at)
                return index_at(
                    surface,
                    surface.size,
                    dense_up_to=how.dense_up_to,
                    zero=how.zero_tolerance,
                    seed=how.seed,
                    like=start,
                )
            except NotFinite:
                return unknown(surface.size, how.dense_up_to)

        found = index(None if course.stopped != "not finite" else course.point)
        point = course.point.cpu()
        surface.begin(state)
        return CriticalPoint(
            start=name,
            status=course.status,
            stopped=course.stopped,
            loss=course.losses[-1] if math.isfinite(course.squared[-1]) else math.nan,
            squared_gradient_norm=course.squared[-1],
            index=found,
            flatness=course.flatness,
            newton_residual=course.newton_residual,
            iterations=len(course.squared) - 1,
            products=products,
            gradients=gradients,
            losses=torch.tensor(course.losses, dtype=torch.float64),
            squared_gradient_norms=torch.tensor(course.squared, dtype=torch.float64),
            point=point,
            parameters=unflatten(point, surface.coordinates),
            start_index=index(start) if index_of_starts else None,
            found_from=(name,),
        )


def _in_double(batches: Any) -> Any:
    """What is no iterable of batches is left as it is, for ``Minibatches`` to complain about."""
    if isinstance(batches, Tensor | str | Mapping) or not isinstance(batches, Iterable):
        return batches
    return [as_double(batch) for batch in batches]
