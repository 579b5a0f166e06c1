r"""Directions in the space of weights, and what is read off a slice along them.

A direction is a dict parameter name -> tensor. Sources: H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, "Visualizing
the Loss Landscape of Neural Nets", NeurIPS 2018 (filter normalisation, section 4; planes of a trajectory, section 7);
T. Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018 (planes through three
points, figure 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Direction = dict[str, Tensor]
Normalization = Literal["filter", "layer", "none"]

RANDOM_WALK = (6 / math.pi**2, 1.5 / math.pi**2)
"""Share of variance that the first two principal components of a pure random walk explain in high dimension: 6 / π² k⁻²
(Antognini, Sohl-Dickstein, "PCA of high dimensional random walks with comparison to neural network training", 2018)."""


def filter_normalize(
    direction: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    *,
    normalize: Normalization = "filter",
    move_biases: bool = False,
    output_dims: Mapping[str, int | None] | None = None,
    groups: Mapping[str, int] | None = None,
    unmoved: Sequence[str] = (),
) -> Direction:
    r"""Give every filter of a direction the norm of the weights' filter: d ← d / ‖d‖ · ‖θ‖ (Li et al. 2018, section 4).

    A filter is what makes one output: one slice of a weight along its output dimension (a row of a fully connected
    layer, all kernels of one output channel). Weights that are zero do not move.

    Args:
        direction: tensors by parameter name.
        parameters: the weights, with at least these names and shapes.
        normalize: ``"filter"`` (the paper), ``"layer"`` (one norm per tensor), or ``"none"``.
        move_biases: whether parameters of at most one dimension (biases, the scales of normalisation layers) and those
            in ``unmoved`` take part, each as one filter; by default they are zero, as in the paper.
        output_dims: by name, the dimension that counts outputs where it is not the first (transposed convolutions);
            None where none does, and the whole tensor is one filter.
        groups: by name, in how many equal parts the first dimension is, if each part has outputs of its own along
            ``output_dims`` (grouped transposed convolutions).
        unmoved: names of parameters that are biases by their role rather than by their shape.

    Returns:
        A new direction with the same names.

    Raises:
        ValueError: on names or shapes that do not fit, or an unknown ``normalize``.
    """
    if normalize not in ("filter", "layer", "none"):
        raise ValueError(f"normalize must be 'filter', 'layer' or 'none', got {normalize!r}")
    normalized: Direction = {}
    for name, tensor in direction.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            there = tuple(parameters[name].shape) if name in parameters else "no such parameter"
            raise ValueError(f"the direction's {name!r} is {tuple(tensor.shape)}, the parameters': {there}")
        weight = parameters[name].detach()
        is_bias = tensor.ndim <= 1 or name in unmoved
        if is_bias and not move_biases:
            normalized[name] = torch.zeros_like(tensor)
        elif normalize == "none":
            normalized[name] = tensor.clone()
        else:
            output_dim = None if is_bias or normalize == "layer" else (output_dims or {}).get(name, 0)
            parts = 1 if output_dim in (None, 0) else (groups or {}).get(name, 1)
            ratio = _norms_of_filters(weight, output_dim, parts) / _norms_of_filters(tensor, output_dim, parts)
            ratio = ratio.nan_to_num(0.0, 0.0, 0.0).to(tensor)
            normalized[name] = (_in_parts(tensor, parts) * ratio).reshape(tensor.shape)
    return normalized


def random_directions(
    parameters: Mapping[str, Tensor],
    *,
    count: int = 2,
    seed: int = 0,
    normalize: Normalization = "filter",
    move_biases: bool = False,
    output_dims: Mapping[str, int | None] | None = None,
    groups: Mapping[str, int] | None = None,
    unmoved: Sequence[str] = (),
) -> tuple[Direction, ...]:
    """Gaussian directions, normalised by :func:`filter_normalize`: the same on every device and in every process.

    Args:
        parameters: the weights; directions have their names, shapes, dtypes and devices.
        count: how many.
        seed: of the CPU generator that draws them; the k-th direction does not depend on ``count``.
        normalize: ``"filter"``, ``"layer"`` or ``"none"``.
        move_biases: see :func:`filter_normalize`; so the rest.
        output_dims: see there.
        groups: see there.
        unmoved: see there.

    Returns:
        ``count`` directions. In high dimension they are nearly orthogonal: see :func:`cosine`.

    Raises:
        ValueError: nothing would move.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = []
    for _ in range(count):
        drawn = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in parameters.items()}
        direction = filter_normalize(
            drawn,
            parameters,
            normalize=normalize,
            move_biases=move_biases,
            output_dims=output_dims,
            groups=groups,
            unmoved=unmoved,
        )
        if not any(tensor.any() for tensor in direction.values()):
            raise ValueError(
                "a random direction moves nothing: the parameters are biases and scales alone, or zero; "
                "set `move_biases=True`, or `normalize='none'`"
            )
        directions.append(direction)
    return tuple(directions)


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Inner product in float64; a name that one of the two lacks is zero there."""
    pairs = ((a[name].detach().double(), b[name].detach().double()) for name in a if name in b)
    return float(sum((x.to(y.device) * y).sum() for x, y in pairs))


def norm(direction: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all parameters together."""
    return inner(direction, direction) ** 0.5


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Of the angle between two directions; NaN if one is zero."""
    length = norm(a) * norm(b)
    return inner(a, b) / length if length else float("nan")


def scaled(direction: Mapping[str, Tensor], factor: float) -> Direction:
    """A multiple of a direction."""
    return {name: tensor * factor for name, tensor in direction.items()}


def difference(to: Mapping[str, Tensor], origin: Mapping[str, Tensor]) -> Direction:
    """The direction that leads from ``origin`` to ``to``: t = 0 is the one, t = 1 the other."""
    return {name: tensor.detach() - origin[name].detach().to(tensor) for name, tensor in to.items()}


def plane_through(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], c: Mapping[str, Tensor]
) -> tuple[tuple[Direction, Direction], Tensor]:
    """Orthonormal directions of the plane through three points, and where the points lie in it.

    u = (b − a) / ‖b − a‖, v = the part of c − a that is orthogonal to u, at length one (Garipov et al. 2018, figure 1).

    Returns:
        ``(u, v)``, and coordinates ``(3, 2)`` float64 of a (the origin), b (on the first axis) and c.

    Raises:
        ValueError: two of the points are equal, or the three lie on a line.
    """
    along, across = difference(b, a), difference(c, a)
    for names, length in (("first two", norm(along)), ("first and third", norm(across))):
        if not length:
            raise ValueError(f"the {names} points are equal: three different ones make a plane")
    width = norm(along)
    u = scaled(along, 1 / width)
    shift = inner(across, u)
    rest = {name: tensor - shift * u[name] for name, tensor in across.items()}
    height = norm(rest)
    if not height > 1e-6 * norm(across):  # what float32 leaves of a difference
        raise ValueError("the three points lie on one line (two may be equal): they make no plane")
    v = scaled(rest, 1 / height)
    return (u, v), torch.tensor([[0.0, 0.0], [width, 0.0], [shift, height]], dtype=torch.float64)


@dataclass(frozen=True)
class PrincipalPlane:
    """The plane of a trajectory's two main directions.

    Args:
        directions: ``(2, P)`` orthonormal, in the snapshots' dtype.
        explained: ``(2,)`` float64: share of the snapshots' variance along each.
        coordinates: ``(T, 2)`` float64: the snapshots, seen from the last one.
        residual_distance: ``(T,)`` float64: each snapshot's distance from the plane through the last one.
    """

    directions: Tensor
    explained: Tensor
    coordinates: Tensor
    residual_distance: Tensor


def principal_directions(snapshots: Sequence[Tensor] | Tensor) -> PrincipalPlane:
    """The two main directions of a trajectory, by PCA of its snapshots (Li et al. 2018, section 7.2).

    Computed from the ``(T, T)`` Gram matrix of the centred snapshots, in float64. Of the two signs, a direction has the
    one with which training ends on the rising side, so that it does not flip from event to event.

    Args:
        snapshots: ``(T, P)``, or T flat weights ``(P,)``, in time order, the trained ones last.

    Raises:
        ValueError: fewer than three snapshots, or they do not span a plane.
    """
    count = len(snapshots)
    if count < 3:
        raise ValueError(f"a plane needs at least 3 snapshots of the trajectory, there are {count}")
    gram = torch.zeros(count, count, dtype=torch.float64)
    for piece in _pieces(snapshots):
        moved = piece - piece[-1]
        gram += (moved @ moved.T).cpu()
    if not gram.isfinite().all():
        raise ValueError("the trajectory has weights that are not finite: it has no plane")
    centring = torch.eye(count, dtype=torch.float64) - 1 / count
    values, vectors = torch.linalg.eigh(centring @ gram @ centring)
    total = values.clamp_min(0).sum()
    top, scores = values[-2:].flip(0), vectors[:, -2:].flip(1)
    # What float32 snapshots leave of a variance that is none.
    if not (total > 0 and top[1] > 1e-10 * total):
        raise ValueError("the trajectory so far lies on one line, or does not move: it has no plane")
    signs = torch.where(scores[-1] < 0, -1.0, 1.0)
    weights = (centring @ (scores * signs / top.sqrt())).T.to(snapshots[0].device)
    directions = torch.cat(
        [(weights @ (piece - piece[-1])).to(snapshots[0].dtype) for piece in _pieces(snapshots)], dim=1
    )
    coordinates, distance = project(snapshots, snapshots[-1], directions)
    return PrincipalPlane(directions, top / total, coordinates, distance)


def project(
    points: Sequence[Tensor] | Tensor, origin: Tensor, directions: Sequence[Tensor] | Tensor
) -> tuple[Tensor, Tensor]:
    """Where points lie in a plane, and how far off it: by least squares, so the directions need not be orthonormal.

    Args:
        points: ``(T, P)``, or T points ``(P,)``.
        origin: ``(P,)`` a point of the plane.
        directions: ``(2, P)``, or two ``(P,)`` (or any other number of them).

    Returns:
        Coordinates ``(T, 2)`` in units of the directions, and distances ``(T,)``; float64, on the CPU. NaN if anything
        is not finite.
    """
    count, rank = len(points), len(directions)
    products = torch.zeros(count, rank, dtype=torch.float64)
    gram = torch.zeros(rank, rank, dtype=torch.float64)
    squared = torch.zeros(count, dtype=torch.float64)
    rows = (points, [origin], directions)
    for piece, start, along in zip(*map(_pieces, rows), strict=True):
        products += ((piece - start) @ along.T).cpu()
        gram += (along @ along.T).cpu()
    if not (gram.isfinite().all() and products.isfinite().all()):
        return torch.full((count, rank), math.nan).double(), torch.full((count,), math.nan).double()
    coordinates = torch.linalg.lstsq(gram, products.T).solution.T
    # Not ‖moved‖² − ‖shadow‖²: a point in the plane would be at 1e-8, not at 0.
    for piece, start, along in zip(*map(_pieces, rows), strict=True):
        squared += (piece - start - coordinates.to(piece.device) @ along).square().sum(1).cpu()
    return coordinates, squared.sqrt()


def barrier(ts: Tensor, loss: Tensor) -> float:
    """Height of the loss between t = 0 and t = 1 above the straight line that joins the two ends.

    max over t of L(t) − ((1 − t) L(0) + t L(1)) (Frankle, Dziugaite, Roy, Carbin 2020; Entezari et al. 2022, eq. 1);
    0 where there is none; NaN if the loss is NaN anywhere between.

    Args:
        ts: ``(X,)``, 0 and 1 among them.
        loss: ``(X,)``.
    """
    between = (ts >= 0) & (ts <= 1)
    start, end = (loss[(ts == t).nonzero()[0, 0]] for t in (0.0, 1.0))
    t = ts[between]
    return float((loss[between] - ((1 - t) * start + t * end)).max())


def sharpness(xs: Tensor, ys: Tensor, loss: Tensor, radius: float) -> float:
    """The worst loss within a radius of the centre, relative: (max L − L(0, 0)) / (1 + L(0, 0)) (Keskar et al. 2017).

    Over the points of the grid; NaN without one at (0, 0), without another within the radius, or where one is NaN.

    Args:
        xs: ``(X,)``.
        ys: ``(Y,)``; ``(1,)`` of zero for a line.
        loss: ``(Y, X)``.
        radius: in the units of xs and ys.
    """
    distance = (xs[None, :] ** 2 + ys[:, None] ** 2).sqrt()
    near = distance <= radius * (1 + 1e-9)
    centre = loss[distance == 0]
    if not len(centre) or near.sum() < 2:
        return float("nan")
    return float((loss[near].max() - centre[0]) / (1 + centre[0]))


def _in_parts(tensor: Tensor, parts: int) -> Tensor:
    """``(parts, a / parts, b, …)``; as it is with one part."""
    return tensor if parts == 1 else tensor.reshape(parts, -1, *tensor.shape[1:])


def _norms_of_filters(tensor: Tensor, output_dim: int | None, parts: int) -> Tensor:
    """One for every slice along ``output_dim`` in every part; broadcasts with :func:`_in_parts`."""
    kept = () if output_dim is None else (output_dim,) if parts == 1 else (0, output_dim + 1)
    view = _in_parts(tensor, parts)
    return _norm(view, [dim for dim in range(view.ndim) if dim not in kept])


def _norm(tensor: Tensor, over: list[int]) -> Tensor:
    if not over:
        return tensor.detach().double().abs()
    return torch.linalg.vector_norm(tensor.detach(), dim=over, keepdim=True, dtype=torch.float64)


def _pieces(rows: Sequence[Tensor] | Tensor, most: int = 2**18) -> Iterator[Tensor]:
    """``(P,)`` tensors as float64 rows, some columns at a time: copies of whole trajectories would not fit."""
    for start in range(0, rows[0].numel(), most):
        yield torch.stack([row[start : start + most] for row in rows]).double()
