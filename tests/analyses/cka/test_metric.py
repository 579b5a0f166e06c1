"""MinibatchCKA as a torchmetrics Metric: sums first, ratio last."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from lightning_dynamics.analyses.cka import MinibatchCKA, cka
from tests.analyses.cka import reference as R


def minibatches(*sizes: int, layers: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    """Representations of different widths, alike in part, on minibatches of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for n in sizes:
        x = torch.randn(n, 6, generator=generator)
        found.append([x])
        for layer in range(1, layers):
            x = (x @ torch.randn(x.shape[1], 4 + 3 * layer, generator=generator)).tanh()
            x = x + 0.3 * torch.randn(x.shape, generator=generator)
            found[-1].append(x)
        found[-1] = [x.to(dtype) for x in found[-1]]
    return found


def filled(batches: list[list[Tensor]], **options: Any) -> MinibatchCKA:
    metric = MinibatchCKA(len(batches[0]), **options)
    for xs in batches:
        metric.update(xs)
    return metric


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_sums_then_ratio_with_ragged_minibatches(kernel, debiased):
    batches = minibatches(24, 24, 5)
    metric = filled(batches, kernel=kernel, debiased=debiased)
    value = metric.compute()
    assert value.dtype == torch.float64 and value.shape == (3, 3)
    truth = R.cka_map(batches, kernel=kernel, debiased=debiased)
    np.testing.assert_allclose(value.numpy(), truth, atol=5e-6 if kernel == "rbf" else 2e-6)
    mean_of_ratios = np.mean([R.cka_map([xs], kernel=kernel, debiased=debiased) for xs in batches], axis=0)
    assert np.abs(mean_of_ratios - truth).max() > 1e-3  # the two are not the same thing


def test_weights_of_a_ragged_minibatch_by_hand():
    (xa, ya), (xb, yb) = batches = minibatches(16, 5, layers=2, dtype=torch.float64)
    hsic = [
        [R.hsic1(R.linear(a), R.linear(b)) for a, b in pairs]
        for pairs in (
            ((xa, ya), (xa, xa), (ya, ya)),
            ((xb, yb), (xb, xb), (yb, yb)),
        )
    ]
    xy, xx, yy = (16 * 13 * big + 5 * 2 * small for big, small in zip(*hsic, strict=True))
    assert filled(batches).compute()[0, 1].item() == pytest.approx(xy / (xx * yy) ** 0.5, abs=1e-12)


def test_one_minibatch_is_the_pure_function():
    (xs,) = minibatches(20)
    value = filled([xs]).compute()
    for i, x in enumerate(xs):
        for j, y in enumerate(xs):
            assert value[i, j].item() == pytest.approx(cka(x, y).item(), abs=1e-14)


def test_two_networks_make_a_rectangle():
    xs, ys = minibatches(20, 12, layers=2), minibatches(20, 12, layers=4, seed=1)
    metric = MinibatchCKA(2, 4)
    for x, y in zip(xs, ys, strict=True):
        metric.update(x, y)
    value = metric.compute()
    assert value.shape == (2, 4)
    np.testing.assert_allclose(value.numpy(), R.cka_map(xs, ys), atol=2e-6)


def test_layers_of_different_dtypes():
    (xs,) = minibatches(20)
    mixed = [xs[0].double(), xs[1].half(), xs[2].bfloat16()]
    value = filled([mixed]).compute()
    np.testing.assert_allclose(value.numpy(), R.cka_map([mixed]), atol=2e-6)


def test_complex128_is_not_rounded_to_float32():
    x = torch.randn(12, 5, 2, dtype=torch.float64) + 1e9
    xs = [torch.view_as_complex(x), torch.view_as_complex(x.roll(1, 1))]
    np.testing.assert_allclose(filled([xs]).compute().numpy(), R.cka_map([xs]), atol=1e-9)


def test_a_constant_layer_is_nan_in_its_row_and_column_only():
    batches = minibatches(20, 9, layers=4)
    for xs in batches:
        xs[2] = torch.full_like(xs[2], 0.1)
    missing = filled(batches).compute().isnan()
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[2] = expected[:, 2] = True
    assert torch.equal(missing, expected)


def test_a_layer_that_is_constant_in_one_minibatch_still_counts():
    batches = minibatches(20, 9)
    batches[1][2] = torch.zeros_like(batches[1][2])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(filled(batches).compute().numpy(), R.cka_map(batches), atol=2e-6)


def test_complaints():
    (xs,) = minibatches(10)
    with pytest.raises(ValueError, match="`xs` must hold 3 tensors.*got 2"):
        MinibatchCKA(3).update(xs[:2])
    with pytest.raises(ValueError, match="`ys` must hold 2 tensors.*got 3"):
        MinibatchCKA(3, 2).update(xs, xs)
    for metric, arguments in ((MinibatchCKA(3, 3), (xs,)), (MinibatchCKA(3), (xs, xs))):
        with pytest.raises(ValueError, match="`ys` exactly when"):
            metric.update(*arguments)
    with pytest.raises(ValueError, match="same number of examples"):
        MinibatchCKA(3).update([xs[0], xs[1], xs[2][:-1]])
    with pytest.raises(ValueError, match="same number of examples"):
        MinibatchCKA(3, 3).update(xs, [x[:-1] for x in xs])
    with pytest.raises(ValueError, match="at least 4"):
        MinibatchCKA(3).update([x[:3] for x in xs])


def test_a_refused_update_leaves_the_sums_alone():
    batches = minibatches(10)
    metric = filled(batches)
    before = metric.compute()
    metric._computed = None
    with pytest.raises(ValueError, match="same number"):
        metric.update([batches[0][0], batches[0][1][:5], batches[0][2]])
    assert torch.equal(metric.compute(), before)


def test_reset_pickle_and_deepcopy():
    batches = minibatches(12, 9)
    metric = filled(batches)
    value = metric.compute()
    for copy in (pickle.loads(pickle.dumps(metric)), deepcopy(metric)):
        assert torch.equal(copy.compute(), value)
        copy.reset()
        for xs in batches:
            copy.update(xs)
        assert torch.equal(copy.compute(), value)
    metric.reset()
    assert not metric.xy.any() and not metric.xx.any() and not metric.yy.any()


def test_state_dict_when_persistent():
    metric = filled(minibatches(12, 9))
    metric.persistent(True)
    other = MinibatchCKA(3)
    other.persistent(True)
    other.load_state_dict(metric.state_dict())
    other.update(extra := minibatches(7, seed=5)[0])
    metric.update(extra)
    assert torch.equal(other.compute(), metric.compute())


CONVERSIONS = {
    "half()": lambda m: m.half(),
    "bfloat16()": lambda m: m.bfloat16(),
    "double()": lambda m: m.double(),
    "to(dtype)": lambda m: m.to(torch.bfloat16),
    "to(device, dtype)": lambda m: m.to("cpu", torch.float16),
    "set_dtype": lambda m: m.set_dtype(torch.float16),
    "in a module": lambda m: nn.ModuleDict({"cka": m}).to(torch.bfloat16),
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_sums_stay_in_float64(conversion):
    batches = minibatches(12, 9)
    expected = filled(batches).compute()
    metric = filled(batches[:1])
    CONVERSIONS[conversion](metric)
    metric.update(batches[1])
    assert metric.xy.dtype == metric.xx.dtype == metric.yy.dtype == torch.float64
    assert torch.equal(metric.compute(), expected)
    metric.reset()
    assert metric.xy.dtype == torch.float64


def test_it_moves_to_a_device():
    assert MinibatchCKA(3).to("meta").xy.device.type == "meta"


def test_forward_returns_the_batch_and_keeps_the_sum():
    batches = minibatches(12, 9)
    metric = MinibatchCKA(3)
    for xs in batches:
        assert torch.equal(metric(xs), filled([xs]).compute())
    np.testing.assert_allclose(metric.compute().numpy(), filled(batches).compute().numpy(), atol=1e-15)


def test_activations_that_require_grad_leave_no_graph():
    (xs,) = minibatches(10)
    metric = filled([[x.requires_grad_() for x in xs]])
    assert not metric.xy.requires_grad and not metric.compute().requires_grad


def _synced(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    try:
        metric = filled(minibatches(12, 9, 20, 6, 15)[rank::2])
        torch.save(metric.compute(), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    mp.start_processes(_synced, (str(tmp_path / "meet"), str(tmp_path)), nprocs=2, start_method="fork")
    values = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.equal(*values)
    # The Gram matrices are float32: another number of threads may round them differently.
    np.testing.assert_allclose(values[0].numpy(), filled(minibatches(12, 9, 20, 6, 15)).compute().numpy(), atol=1e-6)


@pytest.mark.parametrize("layers_x, layers_y", [(1, None), (1, 1), (1, 2), (2, 1)])
def test_the_shape_is_that_of_the_layers_also_of_one(layers_x: int, layers_y: int | None) -> None:
    (xs,), (ys,) = minibatches(24, layers=2), minibatches(24, layers=2, seed=1)
    arguments = (xs[:layers_x],) if layers_y is None else (xs[:layers_x], ys[:layers_y])
    shape = (layers_x, layers_x if layers_y is None else layers_y)
    expected = cka(xs[0], (xs if layers_y is None else ys)[0])
    metric = MinibatchCKA(layers_x, layers_y)
    step = metric(*arguments)
    again, copied = metric.compute(), pickle.loads(pickle.dumps(metric)).compute()
    for found in (step, again, metric.compute(), copied, deepcopy(metric).compute()):
        assert found.shape == shape
        assert float(found[0, 0]) == pytest.approx(float(expected), abs=1e-9)
