from __future__ import annotations

import copy
import inspect
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lightning_dynamics.nn import AddCoordinates, CoordConv2d, CoordConvTranspose2d
from tests.nn import reference

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": (2, 1), "padding": (1, 2), "bias": False},
    "dilated": {"dilation": (1, 2), "padding": 2},
    "grouped": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "padding": "same"},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "reflect": {"padding": (2, 1), "padding_mode": "reflect"},
    "replicate": {"padding": "same", "padding_mode": "replicate", "groups": 2},
    "circular": {"padding": 1, "padding_mode": "circular", "stride": 2},
    "float64": {"padding": 1, "dtype": torch.float64},
}
TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": 2, "padding": 1, "output_padding": 1},
    "uneven": {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 0), "bias": False},
    "grouped": {"groups": 2, "stride": 2},
    "depthwise": {"groups": 4, "dilation": 2},
    "float64": {"padding": 1, "dtype": torch.float64},
}


def pair(kind: type[nn.Module], radius: bool, options: dict[str, Any]) -> tuple[nn.Module, nn.Module, Tensor]:
    """Ours, torch's own layer over the concatenated channels from the same seed, and an input."""
    ours, plain = {
        "conv": (CoordConv2d, nn.Conv2d),
        "transposed": (CoordConvTranspose2d, nn.ConvTranspose2d),
    }[kind]
    groups = options.get("groups", 1)
    torch.manual_seed(3)
    # torch warns of "same" with an even kernel.
    kernel = (3, 5) if options.get("padding") == "same" else (3, 2)
    layer = ours(4, 8, kernel, radius=radius, **options)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    whole = plain(4 + groups * (2 + radius), 8, kernel, **options)
    assert torch.equal(torch.get_rng_state(), state)
    return layer, whole, torch.randn(3, 4, 6, 7, dtype=options.get("dtype"))


CASES = [("conv", name) for name in CONVOLUTIONS] + [("transposed", name) for name in TRANSPOSED]


@pytest.mark.parametrize("radius", [False, True])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_it_is_the_convolution_over_all_channels_from_the_same_seed(kind: str, case: str, radius: bool) -> None:
    options = (CONVOLUTIONS if kind == "conv" else TRANSPOSED)[case]
    layer, whole, x = pair(kind, radius, options)
    joined = reference.with_coordinates(x, radius, options.get("groups", 1))
    tolerance = {"rtol": 0.0, "atol": 1e-14 if x.dtype == torch.float64 else 2e-6}
    torch.testing.assert_close(layer(x), whole(joined), **tolerance)
    torch.testing.assert_close(layer(x[0]), whole(joined[0]), **tolerance)
    assert (layer.bias is None) == (whole.bias is None)
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("case", ["strided", "uneven", "grouped"])
def test_output_size(case: str) -> None:
    options = TRANSPOSED[case]
    layer, whole, x = pair("transposed", True, options)
    joined = reference.with_coordinates(x, True, options.get("groups", 1))
    plain = whole(joined).shape
    larger = [plain[2], plain[3] - options.get("output_padding", (0, 0))[1] if case == "uneven" else plain[3]]
    for size in (larger, [3, 8, *larger]):
        torch.testing.assert_close(layer(x, output_size=size), whole(joined, output_size=size), rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="requested an output size"):
        layer(x, output_size=[100, 100])


@pytest.mark.parametrize(
    "layer", [CoordConv2d(2, 4, 3, padding=1, groups=2), CoordConvTranspose2d(2, 4, 3, 2, groups=2)]
)
def test_gradients_are_those_of_finite_differences(layer: nn.Module) -> None:
    layer = layer.double()
    names = [name for name, _ in layer.named_parameters()]
    assert sorted(names) == ["bias", "coordinate_weight", "weight"]

    def output(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, *(p.detach().clone().requires_grad_() for p in layer.parameters())))


@pytest.mark.parametrize("kind", [CoordConv2d, CoordConvTranspose2d])
def test_without_weights_for_the_coordinates_it_is_translation_invariant(kind: Any) -> None:
    """With them it is not."""
    layer = kind(1, 2, 3)
    x = torch.zeros(2, 1, 12, 12)
    x[0, 0, 3, 3] = x[1, 0, 5, 7] = 1
    shifted = layer(x)[1].roll((-2, -4), (1, 2)) - layer(x)[0]
    assert shifted[:, 1:6, 1:6].abs().max() > 0.05
    nn.init.zeros_(layer.coordinate_weight)
    shifted = layer(x)[1].roll((-2, -4), (1, 2)) - layer(x)[0]
    assert shifted[:, 1:6, 1:6].abs().max() < 1e-6


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        AddCoordinates(radius=True),
        CoordConv2d(5, 4, 3, padding="same", padding_mode="reflect", groups=1),
        nn.ReLU(),
        CoordConv2d(4, 4, 3, 2, 1, groups=2, radius=True),
        CoordConvTranspose2d(4, 2, 3, 2, 1, 1),
    )


INPUTS = [torch.randn(2, 2, 6, 8), torch.randn(3, 2, 9, 5)]


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")
def test_script() -> None:
    net = model()
    scripted = torch.jit.script(net)
    saved = io.BytesIO()
    torch.jit.save(scripted, saved)
    saved.seek(0)
    loaded = torch.jit.load(saved)
    for x in INPUTS:
        assert torch.equal(scripted(x), net(x)) and torch.equal(loaded(x), net(x))
    with pytest.raises(Exception, match="floating point"):
        scripted(torch.zeros(1, 2, 4, 4, dtype=torch.int64))


def test_export_for_any_size() -> None:
    net = model()
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4), 3: torch.export.Dim("width", min=4)}
    program = torch.export.export(net, (INPUTS[0],), dynamic_shapes=(sizes,))
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    loaded = torch.export.load(saved).module()
    for x in INPUTS:
        torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=1e-6)


def test_compile_in_one_graph() -> None:
    net = model()
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for x in INPUTS:
        torch.testing.assert_close(compiled(x), net(x), rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(INPUTS[0]), net(INPUTS[0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", [CoordConv2d, CoordConvTranspose2d])
@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_neighbours_stay_apart_in_half_precision(kind: Any, how: str) -> None:
    """1,025 pixels are 0.002 apart; bfloat16 has steps of 0.004 below 1."""
    layer = kind(1, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.coordinate_weight.copy_(torch.tensor([512.0, 0.0]).view(layer.coordinate_weight.shape))
    x = torch.zeros(1, 1, 1, 1025)
    if how == "bfloat16":
        out = layer.bfloat16()(x.bfloat16())
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(x)
            assert layer(x.requires_grad_()).dtype == torch.bfloat16
    assert out.dtype == torch.bfloat16
    exact = torch.arange(-512, 513).bfloat16()  # rounded once, at the end
    assert torch.equal(out.flatten(), exact)


def test_half_precision_state_follows_the_module() -> None:
    layer = CoordConv2d(2, 3, 3).half()
    assert layer.coordinate_weight.dtype == torch.float16
    out = layer.to(torch.bfloat16)(torch.randn(1, 2, 5, 5).bfloat16())
    assert out.dtype == torch.bfloat16


def test_meta_device() -> None:
    layer = CoordConv2d(3, 4, 3, device="meta")
    assert layer(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 4, 6, 6)
    layer.to_empty(device="cpu").reset_parameters()
    assert layer(torch.zeros(1, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("kind", [CoordConv2d, CoordConvTranspose2d])
def test_state_copies_and_pickles(kind: Any) -> None:
    layer = kind(2, 3, 3, radius=True)
    x = torch.randn(2, 2, 5, 6)
    assert list(layer.state_dict()) == ["weight", "bias", "coordinate_weight"]
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    again = kind(2, 3, 3, radius=True)
    again.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), torch.load(saved, weights_only=False), again):
        assert torch.equal(other(x), layer(x)) and other.radius


def test_many_at_once() -> None:
    """An ensemble by ``vmap`` over weights, and over examples without a batch."""
    nets = [CoordConv2d(2, 3, 3, padding=1, radius=True) for _ in range(4)]
    parameters, buffers = stack_module_state(nets)
    x = torch.randn(2, 2, 5, 6)
    together = vmap(lambda p, b: functional_call(nets[0], (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([net(x) for net in nets]), rtol=0, atol=1e-6)
    torch.testing.assert_close(vmap(nets[0])(x), nets[0](x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "plain"), [(CoordConv2d, nn.Conv2d), (CoordConvTranspose2d, nn.ConvTranspose2d)])
def test_the_arguments_are_torchs_and_radius_is_by_keyword(kind: Any, plain: Any) -> None:
    ours, theirs = (list(inspect.signature(layer).parameters.values()) for layer in (kind, plain))
    assert [(p.name, p.default, p.kind) for p in ours[:-1]] == [(p.name, p.default, p.kind) for p in theirs]
    assert (ours[-1].name, ours[-1].default, ours[-1].kind) == ("radius", False, inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize("kind", [CoordConv2d, CoordConvTranspose2d])
def test_bad_arguments_are_torchs_errors(kind: Any) -> None:
    with pytest.raises(ValueError, match="divisible by groups"):
        kind(3, 4, 3, groups=2)


def test_print_says_radius() -> None:
    assert (
        repr(CoordConv2d(2, 3, 3, radius=True)) == "CoordConv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), radius=True)"
    )
    assert "output_padding=(1, 1), radius=False" in repr(CoordConvTranspose2d(2, 3, 3, 2, 1, 1))
