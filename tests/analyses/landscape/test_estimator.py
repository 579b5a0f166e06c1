"""Directions and what is read off a slice, against closed forms and loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_dynamics.analyses.landscape import (
    barrier,
    cosine,
    difference,
    filter_normalize,
    plane_through,
    principal_directions,
    random_directions,
    sharpness,
)
from lightning_dynamics.analyses.landscape.estimator import (
    RANDOM_WALK,
    inner,
    norm,
    project,
)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


def test_every_filter_has_the_norm_of_the_weights_filter(network: nn.Module) -> None:
    parameters = weights(network)
    drawn = {name: torch.randn_like(p) for name, p in parameters.items()}
    normalized = filter_normalize(drawn, parameters)
    for name in ("0.weight", "3.weight"):
        for mine, weight, raw in zip(normalized[name], parameters[name], drawn[name], strict=True):
            assert np.linalg.norm(mine.detach().double().numpy()) == pytest.approx(
                float(weight.double().norm()), rel=1e-6
            )
            assert torch.allclose(mine / mine.norm(), raw / raw.norm(), atol=1e-6)
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        assert not normalized[name].any()


def test_biases_move_when_asked_each_as_one_filter(network: nn.Module) -> None:
    parameters = weights(network)
    drawn = {name: torch.randn_like(p) for name, p in parameters.items()}
    moved = filter_normalize(drawn, parameters, move_biases=True)
    assert float(moved["3.bias"].norm()) == pytest.approx(float(parameters["3.bias"].norm()), rel=1e-5)
    # one factor for the whole vector, not a sign per element
    ratio = moved["3.bias"] / drawn["3.bias"]
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-5)


def test_by_layer_and_not_at_all(network: nn.Module) -> None:
    parameters = weights(network)
    drawn = {name: torch.randn_like(p) for name, p in parameters.items()}
    layer = filter_normalize(drawn, parameters, normalize="layer")
    assert float(layer["0.weight"].norm()) == pytest.approx(float(parameters["0.weight"].norm()), rel=1e-5)
    assert not torch.allclose(layer["0.weight"][0].norm(), parameters["0.weight"][0].norm(), rtol=1e-3)
    assert torch.equal(filter_normalize(drawn, parameters, normalize="none")["0.weight"], drawn["0.weight"])


def test_weights_that_are_zero_do_not_move() -> None:
    parameters = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]])}
    moved = filter_normalize({"w": torch.tensor([[1.0, 0.0], [1.0, 2.0]])}, parameters)["w"]
    assert moved.tolist() == [[5.0, 0.0], [0.0, 0.0]]
    assert filter_normalize({"w": torch.zeros(2, 2)}, parameters)["w"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_outputs_along_another_dimension_and_in_groups() -> None:
    torch.manual_seed(0)
    weight, drawn = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    second = filter_normalize({"w": drawn}, {"w": weight}, output_dims={"w": 1})["w"]
    torch.testing.assert_close(second.norm(dim=(0, 2)), weight.norm(dim=(0, 2)))
    grouped = filter_normalize({"w": drawn}, {"w": weight}, output_dims={"w": 1}, groups={"w": 2})["w"]
    for part in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(grouped[part].norm(dim=(0, 2)), weight[part].norm(dim=(0, 2)))
        factors = grouped[part] / drawn[part]
        torch.testing.assert_close(factors, factors[:1, :, :1].expand_as(factors))
    whole = filter_normalize({"w": drawn}, {"w": weight}, output_dims={"w": None})["w"]
    torch.testing.assert_close(whole, drawn * weight.norm() / drawn.norm())
    strided = filter_normalize({"w": drawn.mT.contiguous().mT}, {"w": weight}, output_dims={"w": 1}, groups={"w": 2})
    torch.testing.assert_close(strided["w"], grouped)


def test_random_directions_are_nearly_orthogonal_gaussian_and_seeded() -> None:
    parameters = {"w": torch.ones(200, 300)}
    a, b = random_directions(parameters, seed=3, normalize="none")
    assert abs(cosine(a, b)) < 4 / math.sqrt(60_000)  # not 0.75, as of uniform draws
    assert abs(float(a["w"].mean())) < 0.02 and float(a["w"].std()) == pytest.approx(1, abs=0.02)
    again = random_directions(parameters, seed=3, normalize="none", count=1)
    assert torch.equal(again[0]["w"], a["w"])
    assert not torch.equal(random_directions(parameters, seed=4, count=1)[0]["w"], a["w"])
    double = random_directions({"w": torch.ones(200, 300, dtype=torch.float64)}, seed=3, normalize="none")
    assert torch.equal(double[0]["w"].float(), a["w"])


def test_a_direction_that_moves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="move_biases"):
        random_directions({"bias": torch.ones(3)})
    with pytest.raises(ValueError, match="normalize"):
        random_directions({"w": torch.ones(3, 3)}, normalize="filters")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'v'"):
        filter_normalize({"v": torch.ones(3, 3)}, {"w": torch.ones(3, 3)})


def test_plane_through_three_points() -> None:
    torch.manual_seed(1)
    a, b, c = (
        {"w": torch.randn(4, 5, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)} for _ in range(3)
    )
    (u, v), places = plane_through(a, b, c)
    assert norm(u) == pytest.approx(1) and norm(v) == pytest.approx(1) and inner(u, v) == pytest.approx(0, abs=1e-12)
    for point, (x, y) in zip((a, b, c), places.tolist(), strict=True):
        for name in a:
            assert torch.allclose(a[name] + x * u[name] + y * v[name], point[name], atol=1e-12)
    assert places[0].tolist() == [0, 0] and places[1, 1] == 0


def test_points_that_make_no_plane() -> None:
    a, b = {"w": torch.ones(3)}, {"w": torch.tensor([2.0, 1.0, 1.0])}
    with pytest.raises(ValueError, match="equal"):
        plane_through(a, dict(a), b)
    with pytest.raises(ValueError, match="equal"):
        plane_through(a, b, dict(a))
    for c in (b, {"w": torch.tensor([4.0, 1.0, 1.0])}):
        with pytest.raises(ValueError, match="one line"):
            plane_through(a, b, c)


def test_pca_of_an_exact_plane() -> None:
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(50, 2, generator=generator, dtype=torch.float64))
    places = torch.randn(9, 2, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    found = principal_directions(places @ axes.T + 3)
    assert float(found.explained.sum()) == pytest.approx(1, abs=1e-12)
    assert found.residual_distance.max() < 1e-12
    assert torch.allclose(found.directions @ found.directions.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    # distances within the plane are the true ones, seen from the last snapshot
    assert torch.allclose(found.coordinates.norm(dim=1), (places - places[-1]).norm(dim=1), atol=1e-10)
    assert found.coordinates[-1].tolist() == pytest.approx([0, 0], abs=1e-12)


def test_pca_against_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(1)
    snapshots = torch.randn(7, 400_000, generator=generator).cumsum(0)  # more columns than one piece
    found = principal_directions(snapshots)
    centred = snapshots.double() - snapshots.double().mean(0)
    _, sizes, right = torch.linalg.svd(centred, full_matrices=False)
    assert torch.allclose(found.explained, (sizes**2 / (sizes**2).sum())[:2], rtol=1e-6)
    for mine, theirs in zip(found.directions.double(), right[:2], strict=True):
        assert abs(float(mine @ theirs)) == pytest.approx(1, abs=1e-6)
    moved = snapshots.double() - snapshots[-1].double()
    along = found.directions.double()
    assert torch.allclose(found.coordinates, moved @ along.T, atol=1e-2, rtol=1e-4)
    rest = moved - (moved @ along.T) @ along
    assert torch.allclose(found.residual_distance, rest.norm(dim=1), rtol=1e-5, atol=1e-5)


def test_a_random_walk_explains_what_theory_says() -> None:
    walk = torch.randn(200, 20_000, generator=torch.Generator().manual_seed(2)).cumsum(0)
    explained = principal_directions(walk).explained
    assert explained.tolist() == pytest.approx(list(RANDOM_WALK), abs=0.02)
    assert RANDOM_WALK == pytest.approx((0.608, 0.152), abs=1e-3)


def test_a_trajectory_without_a_plane() -> None:
    line = torch.arange(5.0)[:, None] * torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    for snapshots, word in ((line, "one line"), (torch.ones(4, 10), "does not move"), (line[:2], "at least 3")):
        with pytest.raises(ValueError, match=word):
            principal_directions(snapshots)


def test_what_is_not_finite() -> None:
    torch.manual_seed(0)
    snapshots = torch.randn(5, 10)
    snapshots[2, 3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        principal_directions(snapshots)
    coordinates, distance = project(snapshots, torch.zeros(10), torch.randn(2, 10))
    assert coordinates.isnan().all() and distance.isnan().all()


def test_projection_on_directions_that_are_not_orthonormal() -> None:
    torch.manual_seed(3)
    axes = torch.randn(2, 40, dtype=torch.float64)
    origin, places = torch.randn(40, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    off = torch.randn(6, 40, dtype=torch.float64)
    off -= (off @ torch.linalg.pinv(axes)) @ axes
    coordinates, distance = project(origin + places @ axes + off, origin, axes)
    assert torch.allclose(coordinates, places, atol=1e-10) and torch.allclose(distance, off.norm(dim=1))


def test_barrier() -> None:
    ts = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    assert barrier(ts, torch.tensor([9.0, 1.0, 5.0, 2.0, 9.0], dtype=torch.float64)) == 3.5
    assert barrier(ts, torch.tensor([9.0, 1.0, 1.2, 2.0, 9.0], dtype=torch.float64)) == 0
    assert math.isnan(barrier(ts, torch.tensor([0.0, 1.0, math.nan, 2.0, 0.0], dtype=torch.float64)))


def test_sharpness_of_a_quadratic() -> None:
    xs = torch.linspace(-1, 1, 21, dtype=torch.float64)
    xs[10] = 0
    ys = torch.linspace(-1, 1, 11, dtype=torch.float64)
    ys[5] = 0
    loss = 2 + 3 * xs[None, :] ** 2 + ys[:, None] ** 2
    assert sharpness(xs, ys, loss, 0.5) == pytest.approx(3 * 0.25 / 3)
    assert math.isnan(sharpness(xs + 0.01, ys, loss, 0.5)) and math.isnan(sharpness(xs, ys, loss, 0.01))


def test_difference_leads_from_one_to_the_other() -> None:
    a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([4.0, 0.0])}
    assert difference(b, a)["w"].tolist() == [3.0, -2.0]
