"""One backward pass for a whole minibatch, against each example by itself; every kind of batch, and every complaint."""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import lightning.pytorch as lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.analyses.vog.attribution import Outcome, attribute, check, predict
from lightning_dynamics.analyses.vog.methods import IntegratedGradients, MethodName, SmoothGrad
from lightning_dynamics.analyses.vog.outputs import Setup
from lightning_dynamics.core.batch_tree import Path, tensors
from lightning_dynamics.core.calls import CallTemplate
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.lightning import ConfigurationError
from lightning_dynamics.core.outputs import Reading
from lightning_dynamics.core.probe import probe_of
from lightning_dynamics.core.task import Task, Way
from lightning_dynamics.core.understanding import understand

N, CLASSES = 6, 3
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


METHODS: tuple[MethodName, ...] = get_args(MethodName)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module: nn.Module, seed: int = 0) -> Any:
    """In float64, evaluation mode, with drawn weights and running statistics."""
    module = module.double().eval()
    for number, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point():
            drawn = random(*tensor.shape, seed=seed + number)
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return module


LOGITS = Reading("multiclass", "logits", classes=CLASSES, class_axis=1)


def known(
    batch: Any, inputs: Path | None = None, targets: Path | None = None, reading: Reading = LOGITS, **words: Any
) -> Task:
    """The task of a module that is called with the inputs, the first tensor; the targets are the second."""
    paths = list(tensors(batch))
    inputs = paths[0] if inputs is None and paths else inputs
    targets = paths[1] if targets is None and len(paths) > 1 else targets
    words = {"targets": targets, "axes": dict.fromkeys(paths, 0), **words}
    if inputs is None:
        return Task("Module", reading=reading, **words)
    way = Way(CallTemplate("", ((inputs, None),), ()))
    return Task("Module", **{"reading": reading, "way": way, "inputs": (inputs,), **words})


def setup(batch: Any, task: Task | None = None, **words: Any) -> Setup:
    return Setup(task=known(batch) if task is None else task, **words)


def taken(
    module: nn.Module,
    batch: Any,
    attribution: MethodName = "gradient",
    *,
    seed: int = 0,
    chosen: Any = None,
    samples: int = 16,
    **words: Any,
) -> Outcome:
    method = {"smoothgrad": SmoothGrad(samples), "integrated_gradients": IntegratedGradients(samples)}.get(attribution)
    with isolated(module):
        return attribute(
            module, batch, setup(batch, attribution=method or "gradient", **words), seed=seed, chosen=chosen
        )


def checked(module: nn.Module, batch: Any, **words: Any) -> Outcome:
    with isolated(module):
        return check(module, batch, setup(batch, **words))


def linear(classes: int = CLASSES) -> Any:
    return filled(nn.Linear(5, classes))


def one_by_one(function: Callable[[Tensor], Tensor], points: Tensor, classes: Tensor) -> Tensor:
    """∂ function(x)[class] / ∂ x, of each example alone."""
    gradients = []
    for point, one in zip(points, classes.tolist(), strict=True):
        leaf = point[None].detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf)[0, one], leaf)
        gradients.append(gradient[0])
    return torch.stack(gradients)


def close(a: Tensor, b: Tensor, rtol: float = 1e-11, atol: float = 1e-13) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, stride=2)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.first(x)))
        return self.out(F.softplus(self.second(x)).mean((2, 3)))


class Text(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(20, 8)
        self.body: nn.Module = {
            "lstm": lambda: nn.LSTM(8, 8, batch_first=True, bidirectional=True),
            "gru": lambda: nn.GRU(8, 16, num_layers=2, dropout=0.5, batch_first=True),
            "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        }[kind]()
        self.out = nn.Linear(8 if kind == "transformer" else 16, CLASSES)

    def after(self, embedded: Tensor) -> Tensor:
        x = self.body(embedded)
        return self.out((x[0] if isinstance(x, tuple) else x).mean(1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.after(self.embedding(tokens))


IMAGES = random(N, 3, 7, 7, seed=1)
TOKENS = torch.randint(20, (N, 9), generator=torch.Generator().manual_seed(2))
X = random(N, 5, seed=3)


# ---- the gradient ------------------------------------------------------------------------------------------


def test_of_a_linear_model_it_is_the_labels_row_of_the_weights() -> None:
    module = linear()
    found = taken(module, (X, LABELS))
    assert torch.equal(found.gradient, module.weight[LABELS])
    assert torch.equal(found.labels, LABELS)
    close(found.logits, X @ module.weight.T + module.bias)
    assert not any(tensor.requires_grad for tensor in vars(found).values())


def test_it_is_of_the_logit_and_not_of_its_probability() -> None:
    """A saturated softmax would give zero."""
    module = linear()
    module.bias.data[0] = 1e4
    assert torch.equal(taken(module, (X, LABELS)).gradient, module.weight[LABELS])


def test_a_minibatch_of_images_is_its_examples_one_by_one() -> None:
    module = filled(Convolutions())
    close(taken(module, (IMAGES, LABELS)).gradient, one_by_one(module, IMAGES, LABELS))


def test_batch_norm_keeps_to_its_running_statistics_in_a_module_that_trains() -> None:
    module = filled(Convolutions())
    expected = taken(module, (IMAGES, LABELS)).gradient
    assert torch.equal(taken(module.train(), (IMAGES, LABELS)).gradient, expected)
    assert module.norm.training


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
@pytest.mark.parametrize("name", ["embedding", "Embedding", "embed*", "re:emb.*"])
def test_a_minibatch_of_text_is_its_examples_one_by_one(kind: str, name: str) -> None:
    module = filled(Text(kind))
    found = taken(module, (TOKENS, LABELS), with_respect_to=name).gradient
    close(found, one_by_one(module.after, module.embedding(TOKENS), LABELS))


@pytest.mark.parametrize("name", ["first", "norm", "second"])
def test_a_layer_within_is_its_examples_one_by_one(name: str) -> None:
    module = filled(Convolutions())
    inner = {
        "first": lambda x: module.out(F.softplus(module.second(torch.tanh(module.norm(x)))).mean((2, 3))),
        "norm": lambda x: module.out(F.softplus(module.second(torch.tanh(x))).mean((2, 3))),
        "second": lambda x: module.out(F.softplus(x).mean((2, 3))),
    }[name]
    points = {"first": module.first(IMAGES), "norm": module.norm(module.first(IMAGES))}
    points["second"] = module.second(torch.tanh(points["norm"]))
    close(taken(module, (IMAGES, LABELS), with_respect_to=name).gradient, one_by_one(inner, points[name], LABELS))


def test_layers_inside_a_transformer_run_though_there_is_a_faster_way_in_evaluation_mode() -> None:
    module = filled(Text("transformer"))
    for name in ("body.linear1", "body.norm2", "body.self_attn.out_proj", "body"):
        words = {"target": "prediction", "with_respect_to": name}
        if name == "body.self_attn.out_proj":  # never called as a module
            with pytest.raises(ConfigurationError, match=f"`with_respect_to='{name}'` did not run"):
                taken(module, TOKENS, **words)
        else:
            assert taken(module, TOKENS, **words).gradient.abs().amax((1, 2)).gt(0).all()


@pytest.mark.parametrize("name", ["input", "second"])
@pytest.mark.parametrize("attribution", METHODS)
def test_channels_last_changes_nothing(name: str, attribution: Any) -> None:
    module = filled(Convolutions())
    words = {"with_respect_to": name, "samples": 3}
    expected = taken(module, (IMAGES, LABELS), attribution, **words).gradient
    close(taken(module, (IMAGES, LABELS), attribution, channels_last=True, **words).gradient, expected)


def test_channels_last_is_how_the_images_lie() -> None:
    layouts: list[bool] = []

    def predict_fn(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        layouts.append(batch[0].is_contiguous(memory_format=torch.channels_last))
        return module(batch[0]), batch[1]

    for wanted in (False, True):
        taken(filled(Convolutions()), (IMAGES, LABELS), channels_last=wanted, predict_fn=predict_fn)
    assert layouts == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attribution", METHODS)
def test_narrow_modules_have_gradients_and_sums_of_them_are_wide(dtype: torch.dtype, attribution: Any) -> None:
    module = nn.Linear(5, CLASSES).to(dtype)
    x = X.to(dtype)
    found = taken(module, (x, LABELS), attribution, samples=4)
    weights = module.weight[LABELS]
    assert found.gradient.dtype == (dtype if attribution == "gradient" else torch.float32)
    expected = weights * x if attribution == "integrated_gradients" else weights
    close(found.gradient.float(), expected.float(), rtol=1e-2, atol=1e-3)


def test_an_example_may_be_one_number() -> None:
    class Scalars(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, None])

    module = filled(Scalars(1, CLASSES))
    for attribution in METHODS:
        found = taken(module, (X[:, 0], LABELS), attribution, samples=2).gradient
        weights = module.weight[LABELS, 0]
        close(found, weights * X[:, 0] if attribution == "integrated_gradients" else weights)


# ---- of which number ---------------------------------------------------------------------------------------


def test_target_label_and_prediction_and_chosen_classes() -> None:
    module = linear()
    predictions = (X @ module.weight.T + module.bias).argmax(1)
    chosen = (predictions + 1) % CLASSES
    assert (predictions != LABELS).any()
    assert torch.equal(taken(module, (X, LABELS), target="prediction").gradient, module.weight[predictions])
    found = taken(module, (X, LABELS), target="final_prediction", chosen=chosen)
    assert torch.equal(found.gradient, module.weight[chosen]) and torch.equal(found.labels, LABELS)


def test_predictions_need_no_labels() -> None:
    found = taken(linear(), X, target="prediction")
    assert found.labels is None and found.logits is not None
    assert torch.equal(found.gradient, linear().weight[found.logits.argmax(1)])


def test_check_takes_the_prediction_of_now_for_the_final_one() -> None:
    module = linear()
    assert torch.equal(
        checked(module, (X, LABELS), target="final_prediction").gradient, taken(module, X, target="prediction").gradient
    )


@pytest.mark.parametrize(
    "labels", [LABELS, LABELS.double(), LABELS[:, None], LABELS.to(torch.int32), LABELS[:, None].float()]
)
def test_labels_are_whole_numbers_of_any_type(labels: Tensor) -> None:
    found = taken(linear(), (X, labels))
    assert found.labels is not None and found.labels.dtype == torch.int64 and torch.equal(found.labels, LABELS)


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("labels", [LABELS % 2, (LABELS % 2).float(), (LABELS % 2)[:, None].double(), LABELS % 2 == 1])
def test_a_single_logit_is_that_of_two_classes(squeezed: bool, labels: Tensor) -> None:
    """z for class 1, −z for class 0; logits are 0 and z."""
    module = linear(1)
    words: dict[str, Any] = {"predict_fn": lambda m, b: (m(b[0])[:, 0], b[1])} if squeezed else {}
    z = X @ module.weight[0] + module.bias
    found = taken(module, (X, labels), **words)
    assert found.logits is not None and found.logits.shape == (N, 2)
    close(found.logits, torch.stack([0 * z, z], 1))
    assert torch.equal(found.labels, LABELS % 2)
    assert torch.equal(found.gradient, module.weight * (2 * (LABELS % 2) - 1)[:, None])
    predicted = taken(module, (X, labels), target="prediction", **words).gradient
    assert torch.equal(predicted, module.weight * z.sign()[:, None])


def test_target_may_be_a_function_of_output_and_targets() -> None:
    module, y = linear(), random(N, CLASSES, seed=9)
    found = taken(module, (X, y), target=lambda output, targets: ((output - targets) ** 2).sum(1))
    close(found.gradient, 2 * (X @ module.weight.T + module.bias - y) @ module.weight)
    assert found.logits is None and found.labels is None


@pytest.mark.parametrize("attribution", METHODS)
def test_a_function_of_labelled_examples_knows_their_labels(attribution: Any) -> None:
    found = taken(linear(), (X, LABELS), attribution, samples=2, target=lambda output, targets: output.sum(1))
    assert torch.equal(found.labels, LABELS) and found.logits is None


def test_an_autoencoder_is_differentiated_by_what_goes_in_alone() -> None:
    """Not by the target, though it is the same tensor."""
    module = filled(nn.Linear(5, 5))
    found = taken(module, (X, X), target=lambda output, targets: ((output - targets) ** 2).sum(1)).gradient
    close(found, 2 * (X @ module.weight.T + module.bias - X) @ module.weight)


# ---- SmoothGrad and integrated gradients -------------------------------------------------------------------


def recorded(points: list[Tensor]) -> Callable[[Any, Any], tuple[Tensor, Tensor]]:
    """Where gradients are taken."""

    def predict_fn(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            points.append(batch[0].detach().clone())
        return module(batch[0]), batch[1]

    return predict_fn


def test_smoothgrad_is_the_mean_over_the_points_it_went_to() -> None:
    module, points = filled(Convolutions()), []
    found = taken(module, (IMAGES, LABELS), "smoothgrad", samples=5, predict_fn=recorded(points))
    assert len(points) == 5
    close(found.gradient, sum(one_by_one(module, point, LABELS) for point in points) / 5)  # type: ignore[arg-type]
    close(found.logits, module(IMAGES))


def test_smoothgrads_noise_goes_by_each_examples_range() -> None:
    x = random(3, 2, 40) * torch.tensor([1e-3, 1.0, 50.0])[:, None, None] + 7
    points: list[Tensor] = []
    module = filled(nn.Sequential(nn.Flatten(), nn.Linear(80, CLASSES)))
    taken(module, (x, LABELS[:3]), "smoothgrad", samples=200, predict_fn=recorded(points))
    noise = torch.stack(points) - x
    deviation = 0.15 * (x.amax((1, 2)) - x.amin((1, 2)))
    close(noise.std((0, 2, 3)), deviation, rtol=0.03)
    assert (noise.mean((0, 2, 3)).abs() < 0.03 * deviation).all()
    assert len({float(one[1, 0, 0]) for one in noise}) == 200


@pytest.mark.parametrize("name", ["input", "embedding"])
def test_smoothgrads_noise_goes_by_its_seed_alone(name: str) -> None:
    module, batch = (
        (filled(Convolutions()), (IMAGES, LABELS)) if name == "input" else (filled(Text("gru")), (TOKENS, LABELS))
    )
    words = {"with_respect_to": name, "samples": 3}
    first = taken(module, batch, "smoothgrad", seed=5, **words).gradient
    torch.manual_seed(77)
    assert torch.equal(taken(module, batch, "smoothgrad", seed=5, **words).gradient, first)
    assert not torch.allclose(taken(module, batch, "smoothgrad", seed=6, **words).gradient, first)


def test_integrated_gradients_are_the_midpoint_sum() -> None:
    module = filled(Convolutions())
    found = taken(module, (IMAGES, LABELS), "integrated_gradients", samples=4)
    slopes = [one_by_one(module, IMAGES * share, LABELS) for share in (1 / 8, 3 / 8, 5 / 8, 7 / 8)]
    close(found.gradient, IMAGES * torch.stack(slopes).mean(0))
    close(found.logits, module(IMAGES))


@pytest.mark.parametrize("target", ["label", "prediction"])
def test_integrated_gradients_of_a_linear_model_are_complete(target: Any) -> None:
    """Their sum is logit(x) − logit(0), of one class: that of the example, whatever is predicted on the way from 0."""
    module = linear()
    module.bias.data[0] += 2
    found = taken(module, (X, LABELS), "integrated_gradients", samples=8, target=target)
    classes = LABELS if target == "label" else module(X).argmax(1)
    on_the_way = torch.stack([module(X * share).argmax(1) for share in (0.1, 0.5)])
    assert (on_the_way != module(X).argmax(1)).any()
    close(found.gradient.sum(1), (module(X) - module.bias)[torch.arange(N), classes])


def test_integrated_gradients_become_complete_with_more_samples() -> None:
    module = filled(Convolutions())
    rows = torch.arange(N)
    rise = (module(IMAGES) - module(0 * IMAGES))[rows, LABELS].detach()
    errors = []
    for samples in (4, 16, 64):
        found = taken(module, (IMAGES, LABELS), "integrated_gradients", samples=samples).gradient
        errors.append(float((found.sum((1, 2, 3)) - rise).abs().max() / rise.abs().max()))
    assert errors[2] < 1e-3 and errors[2] < errors[1] / 8 < errors[0] / 32


def test_integrated_gradients_of_a_layer_start_from_its_zero() -> None:
    module = filled(Text("lstm"))
    found = taken(module, (TOKENS, LABELS), "integrated_gradients", samples=60, with_respect_to="embedding").gradient
    embedded = module.embedding(TOKENS)
    rise = (module.after(embedded) - module.after(0 * embedded))[torch.arange(N), LABELS]
    close(found.sum((1, 2)), rise.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("attribution", ["smoothgrad", "integrated_gradients"])
def test_the_prediction_is_that_of_the_example_and_not_of_the_points_around_it(attribution: Any) -> None:
    module = filled(Convolutions())
    module.out.bias.data[0] += 1
    classes = module(IMAGES).argmax(1)
    found = taken(module, (IMAGES, LABELS), attribution, samples=6, target="prediction", seed=3).gradient
    expected = taken(module, (IMAGES, classes), attribution, samples=6, seed=3).gradient
    assert torch.equal(found, expected)


# ---- what comes in and stays as it is ----------------------------------------------------------------------


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


class HuggingFace(nn.Module):
    """Its keywords, its loss from labels, and an ordered dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> OrderedDict[str, Tensor]:
        hidden = torch.tanh(self.body(pixel_values))
        logits = self.head(hidden)
        loss = {} if labels is None else {"loss": F.cross_entropy(logits, labels)}
        return OrderedDict({**loss, "logits": logits, "hidden_states": hidden})


@dataclass
class Record:
    number: int
    label: Tensor
    image: Tensor


class Steps(lightning.LightningModule):
    """Its loss is the cross-entropy of what the network makes of one item beside another."""

    def __init__(self, net: nn.Module, items: Callable[[Any], tuple[Any, Tensor]]) -> None:
        super().__init__()
        self.net, self.items = net, items

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, labels = self.items(batch)
        return F.cross_entropy(self.net(x), labels)


LENGTHS = torch.tensor([2, 1, 0, 2, 2, 1])


@pytest.mark.parametrize(
    ("batch", "items"),
    [
        ((X, LABELS), lambda b: (b[0], b[1])),
        ([X, LABELS], lambda b: (b[0], b[1])),
        ((LABELS, X), lambda b: (b[1], b[0])),
        ((X, LABELS, ["a name"] * N), lambda b: (b[0], b[1])),
        ((X, LENGTHS, LABELS), lambda b: (b[0], b[2])),
        ((X, (LENGTHS, {"deep": LABELS})), lambda b: (b[0], b[1][1]["deep"])),
        (Pair(X, LABELS), lambda b: (b.image, b.label)),
        (Record(3, LABELS, X), lambda b: (b.image, b.label)),
        ({"image": X, "label": LABELS}, lambda b: (b["image"], b["label"])),
        ({"idx": torch.arange(N), "x": X, "y": LABELS}, lambda b: (b["x"], b["y"])),
        ({"label": LENGTHS, "z": X, "answer": LABELS}, lambda b: (b["z"], b["answer"])),
        (OrderedDict(features=X, targets=LABELS), lambda b: (b["features"], b["targets"])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_batches(batch: Any, items: Any) -> None:
    """Names and places mean nothing; what the loss does with the items does."""
    net = filled(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES)))
    module = Steps(net, items)
    task = understand(module, probe_of([(batch, N)], seed=0))
    for name in ("input", "1"):
        expected = taken(net, (X, LABELS), with_respect_to=name)
        found = taken(module, batch, task=task, with_respect_to=name if name == "input" else f"net.{name}")
        assert torch.equal(found.gradient, expected.gradient) and torch.equal(found.labels, LABELS)


@pytest.mark.parametrize("name", ["input", "body"])
def test_batches_and_outputs_as_of_hugging_face(name: str) -> None:
    class Tuned(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = filled(HuggingFace())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(**batch)["loss"]

    tuned, batch = Tuned(), {"pixel_values": X, "labels": LABELS}
    task = understand(tuned, probe_of([(batch, N)], seed=0))
    found = taken(tuned, batch, task=task, with_respect_to=name if name == "input" else f"net.{name}")
    module = tuned.net
    close(found.logits, module(X)["logits"])
    inner = (lambda x: module(x)["logits"]) if name == "input" else (lambda h: module.head(torch.tanh(h)))
    close(found.gradient, one_by_one(inner, X if name == "input" else module.body(X), LABELS))


class InPlace(nn.Module):
    """Works in place on its inputs and on their mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(5, 4)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x.mul_(2).add_(1)
        mask.mul_(0.5)
        return self.out(self.embedding(x).tanh_() * mask)


def popping(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Labels from 1, taken out of the batch and counted from 0 in place."""
    labels = batch.pop("labels")
    labels -= 1
    return module(batch["inputs"], batch["mask"]), labels


def flat(batch: Any) -> list[Tensor]:
    return [batch[name] for name in ("inputs", "mask", "labels")]


@pytest.mark.parametrize("name", ["input", "embedding"])
@pytest.mark.parametrize("how", [*METHODS, "check", "predict"])
def test_the_batch_is_handed_back_as_it_was(name: str, how: Any) -> None:
    """And every one of several runs begins from it."""
    module = filled(InPlace())
    batch = {"inputs": X.clone(), "mask": random(N, 4, seed=8), "labels": LABELS + 1}
    before = copy.deepcopy(batch)
    words = {"with_respect_to": name, "predict_fn": popping}
    if how == "predict":
        with isolated(module):
            logits, labels = predict(module, batch, setup(batch, **words))
    else:
        found = checked(module, batch, **words) if how == "check" else taken(module, batch, how, samples=3, **words)
        logits, labels = found.logits, found.labels
        inner = lambda h, mask: module.out(torch.tanh(h) * mask * 0.5)  # noqa: E731
        outer = lambda x, mask: inner(module.embedding(2 * x + 1), mask)  # noqa: E731
        point = X if name == "input" else module.embedding(2 * X + 1).detach()
        function = outer if name == "input" else inner
        if how in ("gradient", "check", "integrated_gradients"):
            shares = (1 / 6, 3 / 6, 5 / 6) if how == "integrated_gradients" else (1,)
            slopes = [
                torch.cat(
                    [
                        one_by_one(lambda x, i=i: function(x, before["mask"][i]), share * point[[i]], LABELS[[i]])
                        for i in range(N)
                    ]
                )
                for share in shares
            ]
            expected = torch.stack(slopes).mean(0) * (point if how == "integrated_gradients" else 1)
            close(found.gradient, expected)
    close(logits, module(before["inputs"].clone(), before["mask"].clone()))
    assert torch.equal(labels, LABELS)
    assert list(batch) == list(before) and all(map(torch.equal, flat(batch), flat(before)))
    assert not any(tensor.requires_grad for tensor in flat(batch))


@pytest.mark.parametrize("name", ["input", "first"])
def test_parameters_keep_their_gradients_and_flags(name: str) -> None:
    module = filled(Convolutions())
    module.second.weight.requires_grad_(False)
    module.out.weight.grad = random(*module.out.weight.shape)
    before = {n: (p.requires_grad, p.grad, p.detach().clone()) for n, p in module.named_parameters()}
    seen: list[bool] = []

    def predict_fn(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        seen.extend(p.requires_grad for p in module.parameters())
        return module(batch[0]), batch[1]

    for attribution in METHODS:
        taken(module, (IMAGES, LABELS), attribution, samples=2, with_respect_to=name, predict_fn=recorded([]))
    taken(module, (IMAGES, LABELS), with_respect_to=name, predict_fn=predict_fn)
    assert seen and not any(seen), "gradients of weights are not computed"
    for n, p in module.named_parameters():
        flag, grad, value = before[n]
        assert p.requires_grad is flag and p.grad is grad and torch.equal(p, value)
    assert not any(module._forward_hooks for module in module.modules())


def test_the_layer_has_no_hook_left_after_a_failure() -> None:
    module = filled(Text("gru"))

    def failing(module: Any, batch: Any) -> Any:
        module(batch[0])
        raise KeyError("mine")

    with isolated(module):
        with pytest.raises(KeyError, match="mine"):
            words = {"with_respect_to": "embedding", "predict_fn": failing}
            attribute(module, (TOKENS, LABELS), setup((TOKENS, LABELS), **words), seed=0)
        assert not module.embedding._forward_hooks
        assert torch.backends.cudnn.enabled


@pytest.mark.parametrize(("kind", "enabled"), [("lstm", False), ("gru", False), ("transformer", True)])
def test_recurrent_layers_do_not_run_by_cudnn_which_has_no_gradient_in_evaluation_mode(
    kind: str, enabled: bool
) -> None:
    seen: list[bool] = []

    def predict_fn(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
        seen.append(torch.backends.cudnn.enabled)
        return module(batch[0]), batch[1]

    taken(filled(Text(kind)), (TOKENS, LABELS), with_respect_to="embedding", predict_fn=predict_fn)
    assert seen == [enabled] and torch.backends.cudnn.enabled


# ---- complaints --------------------------------------------------------------------------------------------


class Detached(nn.Module):
    def __init__(self, how: str = "detach") -> None:
        super().__init__()
        self.how = how
        self.below = nn.Linear(5, 4)
        self.above = nn.Linear(4, CLASSES)
        self.unused = nn.Linear(4, 4)
        self.bystander = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "detach":
            x = self.below(x).detach()
        elif self.how == "no_grad":
            with torch.no_grad():
                x = self.below(x)
        elif self.how == "inference_mode":
            with torch.inference_mode():
                x = self.below(x)
            x = x.clone()
        elif self.how == "numpy":
            x = torch.from_numpy(self.below(x).detach().numpy())
        else:
            x = self.below(x)
        self.bystander(x)
        return self.above(self.bystander(x))


def refused(text: str) -> Any:
    return pytest.raises(ConfigurationError, match=text)


def test_whole_numbers_go_in_and_the_embeddings_are_named() -> None:
    module = filled(Text("gru"))
    module.second = nn.Embedding(3, 3)
    with refused(r"inputs are int64, .*as `with_respect_to='embedding'` \(there are embedding, second\)"):
        taken(module, (TOKENS, LABELS))
    with refused(r"inputs are uint8, which have no gradient: make them floating point"):
        taken(linear(), (X.byte(), LABELS))


@pytest.mark.parametrize(
    ("batch", "there"),
    [
        (([X[0], X[1]], LABELS), "item 0.item 0, item 0.item 1, item 1"),
        (("text", LABELS), "item 1"),
        ({"other": X, "label": LABELS}, "'other', 'label'"),
        ((), "no tensor"),
    ],
)
def test_no_tensor_goes_in(batch: Any, there: str) -> None:
    text = rf"no input tensor in a batch that is a {type(batch).__name__} \(with {there}\): name the layer .*`with_resp"
    with refused(text):
        taken(linear(), batch, task=Task("Linear"), predict_fn=lambda m, b: (m(X), LABELS))


def test_two_tensors_go_in() -> None:
    task = replace(known((X, LABELS, X)), inputs=((0,), (2,)))
    with refused(
        r"several inputs \(item 0, item 2\), and gradients are taken by one: name the layer .*`with_respect_to="
    ):
        taken(linear(), (X, LABELS, X), task=task)
    task = replace(known((X, LABELS, TOKENS)), inputs=((0,), (2,)))  # whole numbers have no gradient
    assert torch.equal(taken(linear(), (X, LABELS, TOKENS), task=task).gradient, linear().weight[LABELS])


def test_an_input_that_is_not_made_of_examples() -> None:
    task = replace(known((X, LABELS)), axes={(1,): 0})
    with refused("item 0 of the batch has no axis along which the examples lie.*name the layer .*`with_respect_to="):
        taken(linear(), (X, LABELS), task=task)


@pytest.mark.parametrize("how", ["detach", "no_grad", "inference_mode", "numpy"])
@pytest.mark.parametrize("attribution", METHODS)
def test_no_way_for_the_gradient_to_come(how: str, attribution: Any) -> None:
    module = filled(Detached(how))
    for name in ("input", "below"):
        with refused(rf"does not depend differentiably on `with_respect_to='{name}'`.*Name a layer above"):
            taken(module, (X, LABELS), attribution, with_respect_to=name)
    assert taken(module, (X, LABELS), attribution, with_respect_to="above").gradient.shape == (N, CLASSES)


def test_the_output_depends_on_something_else_that_has_a_gradient() -> None:
    leaf = torch.ones(N, CLASSES, requires_grad=True)
    with refused("does not depend differentiably on `with_respect_to='input'`"):
        taken(linear(), (X, LABELS), predict_fn=lambda m, b: (leaf * 2, b[1]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unused", "`with_respect_to='unused'` did not run in the forward pass: name a layer that does"),
        (
            "bystander",
            "`with_respect_to='bystander'` runs more than once in a forward pass: name a layer that runs once",
        ),
        ("Linear", "`with_respect_to='Linear'` matches several layers, and must name one: below, above, unused"),
        ("no*", "`with_respect_to='no*'` matches no layer of Detached; there are: below, above, unused, bystander"),
        ("re:(", r"`with_respect_to='re:('` is not a regular expression"),
    ],
)
def test_the_layer_does_not_do(name: str, text: str) -> None:
    with refused(re.escape(text)):
        taken(filled(Detached("none")), (X, LABELS), with_respect_to=name)


def test_the_layer_puts_out_no_tensor_of_numbers() -> None:
    with refused("`with_respect_to='body'` puts out no floating point tensor: name another layer"):
        taken(filled(Text("lstm")), (TOKENS, LABELS), with_respect_to="body")


def test_the_layer_has_the_batch_in_another_place() -> None:
    class TimeFirst(Text):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.after(self.embedding(tokens.T).transpose(0, 1))

    with refused("6 outputs for 9 examples along the first dimension of `with_respect_to='embedding'`: .* batch dim"):
        taken(filled(TimeFirst("gru")), (TOKENS, LABELS), with_respect_to="embedding")


@pytest.mark.parametrize(("bad", "number"), [(CLASSES, "3"), (7, "7"), (-1, "-1"), (-100, "-100")])
@pytest.mark.parametrize("target", ["label", "prediction", "final_prediction"])
def test_labels_out_of_range(bad: int, number: str, target: Any) -> None:
    labels = LABELS.clone()
    labels[4] = bad
    for run in (taken, checked):
        with refused(rf"label {number} is out of range: there are logits of 3 classes, 0 to 2; .*`data`.*`predict_fn`"):
            run(linear(), (X, labels), target=target)


def test_labels_of_a_single_logit_are_0_and_1() -> None:
    with refused("label 2 is out of range: there are logits of 2 classes, 0 to 1"):
        taken(linear(1), (X, LABELS))


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (lambda z: z[:, :, None, None].expand(-1, -1, 4, 4), r"\(6, 3, 4, 4\) float64"),
        (lambda z: z.sum(), r"\(\) float64"),
        (lambda z: z.argmax(1), r"\(6,\) int64"),
        (lambda z: "words", "no tensor"),
        (lambda z: [], "no tensor"),
    ],
)
@pytest.mark.parametrize("target", ["label", "prediction"])
def test_outputs_that_are_no_logits_of_classes(output: Any, found: str, target: Any) -> None:
    text = rf"`target='{target}'` needs logits \(N, classes\), and the output is {found}: pass `predict_fn"
    for run in (taken, checked):
        with refused(text):
            run(linear(), (X, LABELS), target=target, predict_fn=lambda m, b: (output(m(b[0])), b[1]))


@pytest.mark.parametrize(
    "targets", [torch.rand(N, CLASSES), torch.rand(N), LABELS + 0.5, LABELS + math.nan, LABELS * 1j]
)
def test_targets_that_are_no_labels(targets: Tensor) -> None:
    kind = str(targets.dtype).removeprefix("torch.")
    shape = re.escape(str(tuple(targets.shape)))
    with refused(rf"targets are {shape} {kind}, and class labels are whole numbers \(N,\): pass `predict_fn`.*`target"):
        taken(linear(), (X, targets))


@pytest.mark.parametrize(
    ("batch", "used"),
    [(X, "the batch"), ((X,), "item 0"), ({"x": X}, "'x'"), ((X, None), "item 0"), ((X, ["cat"] * N), "item 0")],
)
def test_no_labels(batch: Any, used: str) -> None:
    text = f"`target='label'`, but the loss of Module depends on {used} alone, so there are no labels: "
    with refused(text + "use `target='prediction'`, or pass `predict_fn=lambda"):
        taken(linear(), batch)


def test_no_labels_are_known_where_there_is_no_loss() -> None:
    task = replace(known((X, LABELS), reading=Reading()), targets=None, loss_known=False)
    for notes, why in (
        ((), "it has no loss"),
        (("`training_step` failed: KeyError: 'x'",), "`training_step` failed.*'x'"),
    ):
        with refused(rf"the loss of Module could not be computed on these examples \({why}\).*pass `predict_fn=lambda"):
            taken(linear(), (X, LABELS), task=replace(task, notes=notes))
    with refused("found no way to the outputs of Module.*several calls; give `predict_fn=lambda"):
        taken(linear(), (X, LABELS), task=replace(task, way=None, loss_known=True))


def test_predict_fn_gives_no_labels() -> None:
    with refused("`target='label'`, but `predict_fn` returns no targets: use `target='prediction'`"):
        taken(linear(), (X, LABELS), predict_fn=lambda m, b: (m(b[0]), None))


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        (
            Reading("multiclass", "probabilities", CLASSES, 1),
            "outputs of Module are probabilities.*logit before them: pass",
        ),
        (
            Reading("multiclass", "log_probabilities", CLASSES, 1),
            "outputs of Module are log-probabilities.*before them",
        ),
        (
            Reading("regression", "values"),
            "needs logits of classes and one label .*read Module as: regression.*`predict_fn=",
        ),
        (
            Reading("tokens", "logits", CLASSES, 2),
            r"another \(read Module as: 3-class classification of tokens.*`predict_fn=",
        ),
        (Reading("multilabel", "logits"), "read Module as: several yes-or-no labels.*a function `target=lambda output"),
    ],
)
@pytest.mark.parametrize("target", ["label", "prediction"])
def test_outputs_that_are_known_to_be_no_logits_of_classes(reading: Reading, text: str, target: Any) -> None:
    with refused(text):
        taken(linear(), (X, LABELS), task=known((X, LABELS), reading=reading), target=target)


@pytest.mark.parametrize("form", ["softmax", "log_softmax"])
@pytest.mark.parametrize("of", ["predict_fn", "a module without a loss"])
def test_outputs_that_nobody_knows_and_that_are_no_logits_by_their_values(form: str, of: str) -> None:
    name = {"softmax": "probabilities", "log_softmax": "log-probabilities"}[form]
    last = nn.Softmax(1) if form == "softmax" else nn.LogSoftmax(1)
    module = nn.Sequential(linear(), last)
    words: dict[str, Any] = {"task": known((X,), reading=Reading(), loss_known=False)}
    if of == "predict_fn":
        words = {"predict_fn": lambda m, b: (m(b[0]), b[1])}
    with refused(f"the outputs are {name}, and the gradient is that of the logit before them: pass `predict_fn=lambda"):
        checked(module, (X, LABELS), target="prediction", **words)
    assert checked(module[0], (X, LABELS), target="prediction", **words).logits is not None


def test_one_number_of_unknown_meaning_is_no_logit() -> None:
    with refused(
        "outputs of Module are one number per example, and nothing tells that it is a logit: pass `predict_fn="
    ):
        taken(linear(1), (X,), task=known((X,), reading=Reading()), target="prediction")


ONE_HOT = F.one_hot(LABELS, CLASSES)


@pytest.mark.parametrize("targets", [ONE_HOT, ONE_HOT.double(), ONE_HOT * 0.9 + 0.1 / CLASSES])
@pytest.mark.parametrize("attribution", METHODS)
def test_one_hot_targets_are_their_labels(targets: Tensor, attribution: Any) -> None:
    """Smoothed ones too."""
    task = known((X, targets), reading=replace(LOGITS, soft=True))
    found = taken(linear(), (X, targets), attribution, samples=2, task=task)
    assert torch.equal(found.labels, LABELS)
    assert torch.equal(found.gradient, taken(linear(), (X, LABELS), attribution, samples=2).gradient)


def test_targets_that_are_two_classes_alike_are_no_label() -> None:
    mixed = 0.5 * (ONE_HOT + ONE_HOT.roll(1, 0))
    with refused("two classes of the same, largest share.*`predict_fn="):
        taken(linear(), (X, mixed), task=known((X, mixed), reading=replace(LOGITS, soft=True)))


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda z, y: z, r"\(6, 3\)"),
        (lambda z, y: z.sum(), r"\(\)"),
        (lambda z, y: z.sum(1, keepdim=True), r"\(6, 1\)"),
        (lambda z, y: z.sum(1).tolist(), "list"),
        (lambda z, y: None, "NoneType"),
    ],
)
def test_a_function_that_returns_something_else(function: Any, found: str) -> None:
    with refused(rf"`target\(output, targets\)` must return one number per example, \(N,\); got {found}$"):
        taken(linear(), (X, LABELS), target=function)


def test_a_function_that_returns_too_few_numbers() -> None:
    with refused("5 outputs for 6 examples along the first dimension of `with_respect_to='input'`"):
        taken(linear(), (X, LABELS), target=lambda z, y: z[1:, 0])


def test_a_function_without_a_gradient() -> None:
    with refused("does not depend differentiably on `with_respect_to='input'`"):
        taken(linear(), (X, LABELS), target=lambda z, y: z.argmax(1))


# ---- examples that influence each other --------------------------------------------------------------------


class Attention(nn.Module):
    """Along the batch, for want of `batch_first`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x, need_weights=False)[0])


def without_statistics() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, CLASSES)))


@pytest.mark.parametrize("name", ["input", "0"])
def test_batch_statistics_are_refused_and_the_layer_is_named(name: str) -> None:
    fix = r"1 has no running statistics \(`track_running_stats=True`\); or set `batch_size=1`"
    with refused(f"examples of a minibatch influence each other.*: {fix}"):
        checked(without_statistics(), (X, LABELS), with_respect_to=name)


@pytest.mark.parametrize("target", ["label", "prediction", "final_prediction", lambda z, y: z[:, 0]])
def test_attention_across_the_batch_is_refused(target: Any) -> None:
    with refused(
        "examples of a minibatch influence each other.*: use no batch statistics there; or set `batch_size=1`"
    ):
        checked(filled(Attention()), (X, LABELS), target=target)


def test_one_example_influences_no_other() -> None:
    assert checked(filled(Attention()), (X[:1], LABELS[:1])).gradient.shape == (1, 5)


@pytest.mark.parametrize("attribution", METHODS)
def test_check_finds_nothing_wrong_with_independent_examples(attribution: Any) -> None:
    """And gives the plain gradients, whatever will be taken later."""
    module = filled(Convolutions())
    found = checked(module, (IMAGES, LABELS), attribution=attribution)
    assert torch.equal(found.gradient, taken(module, (IMAGES, LABELS)).gradient)
    for kind in ("lstm", "gru", "transformer"):
        checked(filled(Text(kind)), (TOKENS, LABELS), with_respect_to="embedding", attribution=attribution)


def test_an_example_that_overflows_is_not_taken_for_influence() -> None:
    x = X.clone()
    x[2] = math.inf
    assert checked(filled(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES))), (x, LABELS)) is not None
