"""What CKACallback sees of a network: which layers, in which order, and the values they really had."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_dynamics.analyses.cka import CKAResult, cka
from lightning_dynamics.core.lightning import ConfigurationError
from tests.analyses.cka import reference as R
from tests.analyses.cka.trainings import Task, Watched, callback, collected, fit, images, mlp, vectors

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]


def assert_map(watched: Watched, module: nn.Module, tolerance: float = 2e-6, **how: Any) -> CKAResult:
    """The last result equals NumPy's on activations that the test collected itself."""
    result: CKAResult = watched.last_result
    truth = R.cka_map(collected(module, watched.probe_batches, result.layers_x, **how))
    np.testing.assert_allclose(result.matrix.numpy(), truth, atol=tolerance)
    return result


# ---- the map -----------------------------------------------------------------------------------------------


def test_the_map_of_a_trained_network(tmp_path):
    module, watched = Task(mlp()), callback()
    fit(tmp_path, module, vectors(), watched)
    result = assert_map(watched, module)
    assert result.layers_x == result.layers_y == [f"net.{i}" for i in range(5)]
    assert result.num_examples == 40 and (result.epoch, result.step) == (1, 8)
    assert [len(indices) for indices in watched.indices] == [16, 16, 8]
    data = vectors().tensors[0]
    for indices, batch in zip(watched.indices, watched.probe_batches, strict=True):
        assert torch.equal(batch[0], data[list(indices)])
    assert result.matrix[0, 4] < 0.999  # there was something to see


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_kernels_and_the_biased_estimate(tmp_path, kernel, debiased):
    module, watched = Task(mlp()), callback(kernel=kernel, debiased=debiased, components=False)
    fit(tmp_path, module, vectors(), watched, epochs=1)
    result = watched.last_result
    outputs = collected(module, watched.probe_batches, result.layers_x)
    truth = R.cka_map(outputs, kernel=kernel, debiased=debiased)
    np.testing.assert_allclose(result.matrix.numpy(), truth, atol=1e-5 if kernel == "rbf" else 2e-6)
    for missing in (result.first_pc_variance, result.matrix_without_first_pc, result.first_pc_cosine):
        assert missing.isnan().all()


def test_first_components(tmp_path):
    module, watched = Task(mlp()).double(), callback()
    fit(tmp_path, module, vectors(), watched, precision="64-true", epochs=1)
    result = watched.last_result
    outputs = collected(module, watched.probe_batches, result.layers_x)
    spectra = [[R.spectrum(x) for x in batch] for batch in outputs]
    share = [sum(b[i][0] for b in spectra) / sum(b[i].sum() for b in spectra) for i in range(5)]
    np.testing.assert_allclose(result.first_pc_variance.numpy(), share, atol=1e-12)
    truth = R.cka_map([[R.without_first(x) for x in batch] for batch in outputs])
    np.testing.assert_allclose(result.matrix_without_first_pc.numpy(), truth, atol=1e-10)
    scores = [np.stack([R.first_scores(x) for x in batch]) for batch in outputs]
    cosine = sum(s.shape[1] * np.abs(s @ s.T) for s in scores) / 40
    np.testing.assert_allclose(result.first_pc_cosine.numpy(), cosine, atol=1e-9)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true", "16-true"])
def test_precisions(tmp_path, precision):
    module, watched = Task(mlp()), callback()
    fit(tmp_path, module, vectors(), watched, precision=precision, epochs=1)
    exact = precision == "64-true"
    assert (
        watched.probe_batches[0][0].dtype
        == {
            "bf16-mixed": torch.float32,
            "bf16-true": torch.bfloat16,
            "64-true": torch.float64,
            "16-true": torch.float16,
        }[precision]
    )
    result = assert_map(watched, module, tolerance=1e-12 if exact else 2e-6)
    assert result.matrix.dtype == torch.float64


def test_activations_far_from_zero(tmp_path):
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1000

    torch.manual_seed(0)
    module = Task(nn.Sequential(nn.Linear(6, 8), Shift(), nn.Linear(8, 300), Shift(), nn.Tanh()))
    watched = callback(["net.1", "net.3"])
    run = fit(tmp_path, module, vectors(), watched, epochs=1, limit_train_batches=1)
    assert run.global_step == 1
    assert_map(watched, module)


def test_training_mode_sees_dropout_and_batch_statistics(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 5))
    module, still = Task(net), callback("*", mode="train")
    frozen = callback("*", name="eval")
    fit(tmp_path, module, vectors(), still, frozen, epochs=1)
    assert "net.2" in still.last_result.layers_x and "net.2" not in frozen.last_result.layers_x
    assert_map(frozen, module)
    # Dropout is drawn anew at each event from the same seed, so only what lies before it can be compared.
    before = [0, 1]
    outputs = collected(module, still.probe_batches, ["net.0", "net.1"], train=True)
    np.testing.assert_allclose(still.last_result.matrix[before][:, before].numpy(), R.cka_map(outputs), atol=2e-6)


# ---- layers ------------------------------------------------------------------------------------------------


class Backwards(nn.Module):
    """Defined from head to stem, run from stem to head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)
        self.body = nn.Linear(8, 5)
        self.stem = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x).tanh()).tanh())


def test_execution_order(tmp_path):
    module, watched = Task(Backwards()), callback()
    fit(tmp_path, module, vectors(), watched, epochs=1)
    # `net` itself hands on what `head` put out.
    assert assert_map(watched, module).layers_x == ["net.stem", "net.body", "net.head"]


def test_a_container_named_in_full_is_kept(tmp_path):
    module, watched = Task(Backwards()), callback(["net", "net.stem"])
    fit(tmp_path, module, vectors(), watched, epochs=1)
    assert assert_map(watched, module).layers_x == ["net.stem", "net"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("Linear", ["net.0", "net.2", "net.4"]),
        ("net.[13]", ["net.1", "net.3"]),
        (r"re:net\.[0-2]", ["net.0", "net.1", "net.2"]),
        (["net.4", "net.0"], ["net.0", "net.4"]),
    ],
    ids=str,
)
def test_patterns(tmp_path, layers, expected):
    watched = callback(layers)
    fit(tmp_path, Task(mlp()), vectors(), watched, epochs=1)
    assert watched.last_result.layers_x == expected


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.again = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        y = self.again(x)
        y += x
        return self.relu(y)


def test_in_place_operations_after_a_hooked_layer(tmp_path):
    torch.manual_seed(0)
    module, watched = Task(InPlace()), callback()
    fit(tmp_path, module, images(), watched, epochs=1)
    result = assert_map(watched, module)
    assert result.layers_x == ["net.conv", "net.bn", "net.relu", "net.again", "net.relu:2"]
    (first, *_) = collected(module, watched.probe_batches[:1], ["net.bn", "net.relu"])
    assert cka(*first) < 0.99  # an aliased activation would have said 1
    assert result.matrix[1, 2] < 0.99


def test_a_module_called_twice_is_two_layers(tmp_path):
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.cell(x).tanh()
            return x

    torch.manual_seed(0)
    module, watched = Task(Loop()), callback("*.cell")
    fit(tmp_path, module, vectors(), watched, epochs=1)
    assert assert_map(watched, module).layers_x == ["net.cell", "net.cell:2", "net.cell:3"]


class Pair(NamedTuple):
    count: Tensor
    hidden: Tensor


OUTPUTS: dict[str, Any] = {
    "tuple": lambda x: (x, x.sum()),
    "list": lambda x: [None, x],
    "dict": lambda x: {"loss": None, "hidden": x},
    "HF": lambda x: OrderedDict(loss=x.mean(), last_hidden_state=x, hidden_states=(x * 0,)),
    "nested": lambda x: ({"a": [x]}, x * 0),
    "named tuple": lambda x: Pair(x, x * 0),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_that_are_no_tensor(tmp_path, kind):
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Any:
            return OUTPUTS[kind](self.linear(x).tanh())

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()
            self.out = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            return self.out(x)

    def take(output: Any) -> Tensor:
        return (
            output
            if isinstance(output, Tensor)
            else {
                "tuple": lambda: output[0],
                "list": lambda: output[1],
                "dict": lambda: output["hidden"],
                "HF": lambda: output["last_hidden_state"],
                "nested": lambda: output[0]["a"][0],
                "named tuple": lambda: output[0],
            }[kind]()
        )

    torch.manual_seed(0)
    module, watched = Task(Outer()), callback(["net.inner", "net.out"])
    fit(tmp_path, module, vectors(), watched, epochs=1)
    assert assert_map(watched, module, take=take).layers_x == ["net.inner", "net.out"]


class Sequences(nn.Module):
    """Recurrent layers and attention over tokens; ``batch_first`` or not."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first_inside = batch_first
        self.lstm = nn.LSTM(5, 6, batch_first=batch_first)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first_inside else x.transpose(0, 1)
        x, _ = self.lstm(x)
        x, _ = self.attention(x, x, x)
        return x if self.batch_first_inside else x.transpose(0, 1)


def tokens(n: int = 40, length: int = 7) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(n, length, 5, generator=generator), torch.arange(n) % 3)


# With 16 tokens and minibatches of 16 the shape alone does not tell examples from tokens.
@pytest.mark.parametrize("length", [7, 16])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_and_attention(tmp_path, batch_first, length):
    torch.manual_seed(0)
    module = Task(Sequences(batch_first))
    watched = callback(["net.lstm", "net.attention"])
    fit(tmp_path, module, tokens(length=length), watched, epochs=1)

    def take(output: Any) -> Tensor:
        return output[0] if batch_first else output[0].transpose(0, 1)

    assert assert_map(watched, module, take=take).layers_x == ["net.lstm", "net.attention"]


def test_transformer_layers_do_run(tmp_path):
    """In eval mode torch may take a fused path that calls no submodule."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(5, 1, 8, batch_first=True)
    module = Task(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    watched = callback(["net.layers.*.linear1", "net.layers.*.norm2"])
    fit(tmp_path, module, tokens(), watched, epochs=1)
    assert_map(watched, module)


@pytest.mark.parametrize(
    ("reduction", "reduce"),
    [
        ("flatten", lambda x: x),
        ("mean", lambda x: x.mean(1)),
        ("cls", lambda x: x[:, 0]),
        ("last", lambda x: x[:, -1]),
        ("tests.analyses.cka.test_capture.largest", lambda x: x.amax(1)),
    ],
    ids=["flatten", "mean", "cls", "last", "named"],
)
def test_reductions_of_tokens(tmp_path, reduction, reduce):
    torch.manual_seed(0)
    module = Task(Sequences(batch_first=False))
    watched = callback(["net.lstm", "net.attention"], reduction=reduction)
    fit(tmp_path, module, tokens(), watched, epochs=1)
    assert_map(watched, module, take=lambda output: reduce(output[0].transpose(0, 1)))


def largest(x: Tensor) -> Tensor:
    return x.amax(1)


def test_mean_over_space(tmp_path):
    torch.manual_seed(0)
    module, watched = Task(InPlace()), callback(reduction="mean")
    fit(tmp_path, module, images(), watched, epochs=1)
    assert_map(watched, module, take=lambda output: output.mean((2, 3)))


class Unruly(nn.Module):
    """A layer that never runs, one without examples, one that is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.spare = nn.Linear(6, 8)
        self.constant = nn.Linear(8, 4)
        self.summary = nn.Flatten(0)
        self.last = nn.Linear(8, 2)
        nn.init.zeros_(self.constant.weight)
        nn.init.constant_(self.constant.bias, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.constant(x)
        self.summary(x)
        return self.last(x)


def test_layers_left_out_are_told_once(tmp_path):
    module, watched = Task(Unruly()), callback()
    with pytest.warns(UserWarning, match="left out") as caught:
        fit(tmp_path, module, vectors(), watched, epochs=3)
    (told,) = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert "net.spare (never run" in told and "net.summary" in told
    assert watched.last_result.layers_x == ["net.first", "net.constant", "net.last"]


def test_a_constant_layer_is_nan_in_its_row_and_column_only(tmp_path):
    module, watched = Task(Unruly()), callback(["net.first", "net.constant", "net.last"])
    fit(tmp_path, module, vectors(), watched, epochs=1)
    result = watched.last_result
    missing = torch.zeros(3, 3, dtype=torch.bool)
    missing[1] = missing[:, 1] = True
    for matrix in (result.matrix, result.matrix_without_first_pc, result.first_pc_cosine):
        assert torch.equal(matrix.isnan(), missing)
    assert result.first_pc_variance.isnan().tolist() == [False, True, False]


def test_a_layer_of_one_feature_has_nothing_beyond_its_first_component(tmp_path):
    torch.manual_seed(0)
    module = Task(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 1), nn.Tanh()))
    watched = callback()
    fit(tmp_path, module, vectors(), watched, epochs=1)
    result = watched.last_result
    assert result.first_pc_variance[1:].numpy() == pytest.approx(1, abs=1e-6)
    assert result.matrix.isfinite().all()
    assert result.matrix_without_first_pc.isfinite().tolist() == [[True, False, False]] + 2 * [[False] * 3]


def test_a_layer_that_explodes_leaves_the_others_alone(tmp_path):
    class Explode(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bang, self.b = nn.Linear(6, 5), Explode(), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            self.bang(x)
            return self.b(x)

    module, watched = Task(Net()), callback()
    fit(tmp_path, module, vectors(), watched, epochs=1)
    result = watched.last_result
    kept = [0, 2]
    for matrix in (result.matrix, result.matrix_without_first_pc, result.first_pc_cosine):
        assert matrix[1].isnan().all() and matrix[:, 1].isnan().all()
        assert matrix[kept][:, kept].isfinite().all()


HOSTILE = ["conv[1]", "re:x", "*", "Linear", "a b/c", "<b>", "é:2", "!?"]


def test_hostile_layer_names(tmp_path):
    torch.manual_seed(0)
    net = nn.ModuleDict({name: nn.Linear(6, 6) for name in HOSTILE})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = net

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts.values():
                x = part(x.tanh())
            return x

    module, watched = Task(Net()), callback()
    fit(tmp_path, module, vectors(), watched, epochs=1)
    result = watched.last_result
    assert result.layers_x == [f"net.parts.{name}" for name in HOSTILE]
    names = [f"net.parts.{name}" for name in HOSTILE]
    hooked = {name: m for name, m in module.named_modules() if name in names}
    seen: list[list[Tensor]] = []
    for batch in watched.probe_batches:
        seen.append([])
        handles = [m.register_forward_hook(lambda _, __, o, s=seen: s[-1].append(o.clone())) for m in hooked.values()]
        with torch.no_grad():
            module(batch[0])
        for handle in handles:
            handle.remove()
    np.testing.assert_allclose(result.matrix.numpy(), R.cka_map(seen), atol=2e-6)


# What dynamo looks at while it traces is its own affair.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf.*")
def test_compiled_submodules(tmp_path):
    torch.manual_seed(0)
    module, watched = Task(mlp()), callback()
    module.net[2] = torch.compile(module.net[2], backend="eager")
    module.net[3] = torch.compile(module.net[3], backend="eager")
    fit(tmp_path, module, vectors(), watched, epochs=2)
    result = watched.last_result
    assert result.layers_x == [f"net.{i}" for i in range(5)]
    plain = Task(mlp())
    plain.load_state_dict({name.replace("_orig_mod.", ""): value for name, value in module.state_dict().items()})
    assert_map(watched, plain)


def test_frozen_backbone_under_inference_mode(tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                x = self.backbone(x)
            return self.head(x.clone())

    module, watched = Task(Net()), callback()
    fit(tmp_path, module, vectors(), watched, epochs=1)
    assert assert_map(watched, module).layers_x == ["net.backbone", "net.head"]


# ---- ways to run the network -------------------------------------------------------------------------------


class OnlyTraining(lightning.LightningModule):
    """No forward: everything happens in ``training_step``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.b(self.a(batch[0]).tanh()), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_without_forward(tmp_path):
    module, watched = OnlyTraining(), callback()
    fit(tmp_path, module, vectors(), watched, epochs=1)
    result = assert_map(watched, module, run=lambda m, batch: m.b(m.a(batch[0]).tanh()))
    assert result.layers_x == ["a", "b"]


class Records(Dataset[dict[str, Tensor]]):
    def __init__(self, key: str) -> None:
        self.values, self.key = vectors().tensors[0], key

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"labels": torch.tensor(0), self.key: self.values[index]}


@pytest.mark.parametrize("key", ["pixel_values", "x"])
def test_batches_that_are_mappings(tmp_path, key):
    class Net(Task):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[key]).square().mean()

    module, watched = Net(mlp()), callback()
    fit(tmp_path, module, Records(key), watched, epochs=1)
    assert_map(watched, module, run=lambda m, batch: m(batch[key]))


def half(module: Any, batch: Any) -> Any:
    return module(batch[0] / 2), batch[1]


@pytest.mark.parametrize("predict_fn", [half, "tests.analyses.cka.test_capture.half"], ids=["function", "name"])
def test_predict_fn(tmp_path, predict_fn):
    module, watched = Task(mlp()), callback(predict_fn=predict_fn)
    fit(tmp_path, module, vectors(), watched, epochs=1)
    assert_map(watched, module, run=half)


@pytest.mark.parametrize("data", ["val", "dataset", "loader"])
def test_other_data(tmp_path, data):
    class Validated(Task):
        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    other = vectors(seed=7)
    sources = {"val": "val", "dataset": other, "loader": DataLoader(other, batch_size=5, shuffle=True)}
    module, watched = Validated(mlp()), callback(data=sources[data])
    loader = DataLoader(vectors(), batch_size=16)
    torch.manual_seed(0)
    from tests.analyses.cka.trainings import trainer

    trainer(tmp_path, watched, epochs=1).fit(module, loader, DataLoader(other, batch_size=16))
    assert_map(watched, module)
    chosen = [index for indices in watched.indices for index in indices]
    assert torch.equal(torch.cat([batch[0] for batch in watched.probe_batches]), other.tensors[0][chosen])


# ---- complaints, before the first training step ------------------------------------------------------------


class NeverTrains(Task):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("training began")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": "encoder.*"}, "`layers='encoder.*'` matches no layer.*net.0"),
        ({"layers": ["net.0", "nothing"]}, "`layers='nothing'` matches no layer"),
        ({"layers": "re:net.(0"}, "`layers='re:net.(0'` is not a regular expression"),
        ({"layers": []}, "`layers` is empty"),
        ({"num_examples": 34}, "last one of 2.*`num_examples=32`.*`batch_size`"),
        ({"compare_to": nn.Sequential(nn.Linear(6, 2)), "layers": "net.*"}, "`reference_layers='net.*'` matches no"),
    ],
    ids=str,
)
def test_complaints_before_training(tmp_path, options, text):
    with pytest.raises(ConfigurationError, match="Watched.*: .*" + _literal(text)):
        fit(tmp_path, NeverTrains(mlp()), vectors(), callback(**{"on_error": "raise"} | options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 3}, "`batch_size=3` is too few.*4 or more"),
        ({"num_examples": 3}, "`num_examples=3` is too few.*4 or more"),
        ({"kernel": "cubic"}, "`kernel` must be 'linear' or 'rbf', got 'cubic'"),
        ({"bandwidth": 0.0}, "`bandwidth` must be positive"),
        ({"bandwidth": float("nan")}, "`bandwidth` must be positive"),
        ({"reduction": "meen"}, "`reduction='meen'`.*'flatten', 'mean', 'cls', 'last'"),
        ({"reduction": "torch.no_such"}, "`reduction='torch.no_such'`"),
        ({"compare_to": "nowhere.ckpt"}, "`compare_to='nowhere.ckpt'` is no file.*'initialization'"),
        ({"compare_to": []}, "`compare_to` must be.*list of at least one.*[]"),
        ({"compare_to": None}, "`compare_to`"),
        ({"compare_to": 3}, "`compare_to`"),
        ({"reference_layers": "net.*"}, "`reference_layers`.*`compare_to`"),
    ],
    ids=str,
)
def test_complaints_at_construction(options, text):
    with pytest.raises(ConfigurationError, match=_literal(text)):
        callback(**options)


def _literal(text: str) -> str:
    return ".*".join(map(re.escape, text.split(".*")))


def test_only_layers_that_never_run(tmp_path):
    with pytest.raises(ConfigurationError, match=r"`layers='net.spare'`: none of these layers runs"):
        fit(tmp_path, NeverTrains(Unruly()), vectors(), callback("net.spare"))


def test_a_failing_analysis_warns_once_and_training_goes_on(tmp_path):
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("no such reduction after all")

    module, watched = Task(mlp()), callback(reduction=fails, on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(tmp_path, module, vectors(), watched, epochs=3)
    told = [str(w.message) for w in caught if "no such reduction after all" in str(w.message)]
    assert len(told) == 1 and run.current_epoch == 3
    assert watched.last_result is None
