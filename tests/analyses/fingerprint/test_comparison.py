"""Planted differences are found at their step, under their name, with what they mean."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_dynamics import ConfigurationError
from lightning_dynamics.analyses.fingerprint import Divergence, FingerprintCallback, compare_fingerprints, spread_panels
from lightning_dynamics.analyses.fingerprint.journal import file_in
from lightning_dynamics.panels import Picture
from tests.analyses.fingerprint.runs import fit, records
from tests.house.models import Convnet, NoisyImages, loaders

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class At(lightning.Callback):
    """Does something before or after one step; placed behind the fingerprint."""

    def __init__(self, step: int, work: Callable[[Any, Any], Any], hook: str = "end") -> None:
        self.step, self.work, self.hook = step, work, hook

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.hook == "start" and trainer.global_step == self.step - 1:
            self.work(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.hook == "end" and trainer.global_step == self.step:
            self.work(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self.hook == "gradient" and trainer.global_step == self.step - 1:
            self.work(trainer, pl_module)


def nudge(tensor: torch.Tensor) -> None:
    """The smallest change there is."""
    tensor.detach().view(-1)[:1].view(torch.int32).add_(1)


PLANTS: dict[str, tuple[At, tuple[str, int, str], str]] = {
    "a random number of torch": (At(3, lambda t, m: torch.rand(())), ("rng", 4, "torch"), "drew numbers from torch"),
    "of NumPy": (At(3, lambda t, m: np.random.rand()), ("rng", 4, "numpy"), "from numpy"),
    "of Python": (At(3, lambda t, m: random.random()), ("rng", 4, "python"), "from python"),
    "a parameter": (At(3, lambda t, m: nudge(m.conv2.weight)), ("parameters", 3, "conv2.weight"), "something else"),
    "a buffer": (At(3, lambda t, m: nudge(m.norm.running_var)), ("buffers", 3, "norm.running_var"), "statistics"),
    "a gradient": (At(3, lambda t, m: nudge(m.head.bias.grad), "gradient"), ("gradients", 3, "head.bias"), "backward"),
    "the learning rate": (
        At(3, lambda t, m: t.optimizers[0].param_groups[0].update(lr=0.2)),
        ("settings", 4, "optimizer[0].group[0].lr"),
        "schedule",
    ),
    "momentum": (
        At(3, lambda t, m: nudge(t.optimizers[0].state[m.conv.bias]["momentum_buffer"])),
        ("optimizer", 3, "optimizer[0].conv.bias.momentum_buffer"),
        "remembers",
    ),
    "the module's own generator": (At(3, lambda t, m: m.noise.manual_seed(9), "start"), ("loss", 3, "loss"), "forward"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that every other is compared with."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, gradients=True, optimizer_state=True)
    return folder


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_difference_is_found(plant: str, whole: Path, tmp_path: Path) -> None:
    at, expected, word = PLANTS[plant]
    fit(tmp_path, more=[at], gradients=True, optimizer_state=True)
    for pair in ((whole, tmp_path), (tmp_path, whole)):
        found = compare_fingerprints(*pair)
        assert found is not None
        assert (found.kind, found.step, found.name) == expected
        assert word in str(found).partition("Usually:")[2].partition("\n")[0]
    assert found.onsets[0].equal_until == (3 if expected[1] == 4 or expected[0] not in ("loss", "gradients") else 2)


def test_another_seed_differs_from_the_start(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, seed=1, gradients=True, optimizer_state=True)
    found = compare_fingerprints(whole, tmp_path)
    assert found is not None and (found.kind, found.step, found.name) == ("parameters", 0, "conv.weight")
    assert str(found).startswith("Before the first step: parameter conv.weight and ")
    assert "before the module is made" in str(found) and "still equal" not in str(found)
    assert {onset.kind for onset in found.onsets} >= {"rng", "batch", "loss", "gradients"}


def test_without_gradients_the_advice_asks_for_them(tmp_path: Path) -> None:
    fit(tmp_path / "a")
    fit(tmp_path / "b", more=[At(3, lambda t, m: m.head.bias.grad.add_(1), "gradient")])
    found = compare_fingerprints(tmp_path / "a", tmp_path / "b")
    assert found is not None and (found.kind, found.step, found.name) == ("parameters", 3, "head.bias")
    assert "`gradients=True` tells which" in str(found)


class Images(Dataset[Any]):
    """Without randomness; ``change`` is planted."""

    def __init__(self, change: Callable[[int, torch.Tensor], Any] = lambda i, x: x) -> None:
        self.images = torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        self.change = change

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        return self.change(index, self.images[index]), index % 3


def brighter(index: int, image: torch.Tensor) -> torch.Tensor:
    return image + 1e-6 if index == 20 else image


DATA: dict[str, tuple[Callable[[], Any], int, str]] = {
    "augmentation": (lambda: DataLoader(Images(brighter), 8), 3, "changed in another way"),
    "order": (lambda: DataLoader(Images(), 8, sampler=[*range(16), *range(23, 15, -1), *range(24, 32)]), 3, "order"),
    "examples": (lambda: DataLoader(Images(), 8, sampler=[*range(16), *range(25, 32), 16, *range(16, 24)]), 3, "other"),
    "batch size": (lambda: DataLoader(Images(), 16), 1, "8 and 16 examples"),
}


@pytest.mark.parametrize("case", DATA)
def test_how_a_batch_differs_is_told(case: str, tmp_path: Path) -> None:
    loader, step, word = DATA[case]
    fit(tmp_path / "a", data={"train_dataloaders": DataLoader(Images(), 8)})
    fit(tmp_path / "b", data={"train_dataloaders": loader()})
    found = compare_fingerprints(tmp_path / "a", tmp_path / "b")
    assert found is not None and (found.kind, found.step, found.name) == ("batch", step, "batch[0]")
    assert word in str(found)
    assert found.onsets[0].same_examples == (case == "order")


def test_schedules_that_differ(tmp_path: Path) -> None:
    # More than a nudge: rounding forgets that within a step or two.
    plant = At(3, lambda t, m: m.conv2.weight.detach().add_(1e-3))
    fit(tmp_path / "a", every_n_train_steps=2)
    fit(tmp_path / "b", every_n_train_steps=1)
    fit(tmp_path / "c", every_n_train_steps=1, more=[plant])
    fit(tmp_path / "d", every_n_train_steps=5)
    fit(tmp_path / "e", every_n_train_steps=5, more=[plant])
    assert compare_fingerprints(tmp_path / "a", tmp_path / "b") is None
    found = compare_fingerprints(tmp_path / "a", tmp_path / "c")
    assert found is not None and (found.kind, found.step, found.onsets[0].equal_until) == ("parameters", 3, 2)
    assert "Step 2 is the last before it" in str(found) and "still equal" not in str(found)
    found = compare_fingerprints(tmp_path / "d", tmp_path / "e")
    assert found is not None and (found.kind, found.step, found.onsets[0].equal_until) == ("parameters", 4, None)
    assert "nothing earlier" in str(found)


def test_one_stops_earlier(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, max_steps=5, max_epochs=-1, gradients=True, optimizer_state=True)
    found = compare_fingerprints(whole, tmp_path)
    assert found is not None
    assert (found.kind, found.step, found.lengths, found.onsets) == ("length", 5, (8, 5), ())
    assert str(found).startswith("Equal up to step 5, the last that both have; b ends there")


def test_a_last_line_that_was_cut_off(whole: Path, tmp_path: Path) -> None:
    lines = file_in(whole, 0).read_text().splitlines(keepends=True)
    file_in(tmp_path, 0).write_text("".join(lines[:6]) + lines[6][:100])
    found = compare_fingerprints(whole, tmp_path)
    assert found is not None and (found.kind, found.step) == ("length", 5)
    assert "b's last line is cut off" in str(found)


def test_fingerprints_of_different_options(whole: Path, tmp_path: Path) -> None:
    """What only one of them has is not compared."""
    fit(tmp_path)
    assert compare_fingerprints(whole, tmp_path) is None


class Other(Convnet):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = torch.nn.Conv2d(4, 4, 1)
        self.extra = torch.nn.Parameter(torch.zeros(1))


def test_different_models(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, Other)
    found = compare_fingerprints(whole, tmp_path)
    assert found is not None and (found.kind, found.step, found.name) == ("model", 0, "conv2.weight")
    assert "conv2.weight (float32[4, 4, 3, 3] in a, float32[4, 4, 1, 1] in b)" in str(found)
    assert "extra (not there in a, float32[1] in b)" in str(found)


def test_what_else_differs_is_noted(tmp_path: Path) -> None:
    fit(tmp_path / "a")
    fit(tmp_path / "b", precision="bf16-mixed")
    found = compare_fingerprints(tmp_path / "a", tmp_path / "b")
    assert found is not None and found.kind == "loss"
    assert "precision (32-true in a, bf16-mixed in b)" in str(found)
    assert found.onsets[0].loss[0] != found.onsets[0].loss[1] and f"Loss: {found.onsets[0].loss[0]} in a" in str(found)


def test_ignored_kinds_are_not_mentioned(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, more=[PLANTS["of NumPy"][0]], gradients=True, optimizer_state=True)
    found = compare_fingerprints(whole, tmp_path, ignore=["rng"])
    assert found is not None and found.kind == "batch" and "random states" not in str(found)


def test_files_folders_and_callbacks(whole: Path, tmp_path: Path) -> None:
    callback = fit(tmp_path)
    for fingerprint in (tmp_path, str(tmp_path), file_in(tmp_path, 0), callback):
        assert compare_fingerprints(fingerprint, whole) is None


def test_what_cannot_be_compared_is_told(whole: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "fingerprint-rank0.jsonl"
    lines = file_in(whole, 0).read_text().splitlines(keepends=True)
    damaged.write_text("".join([*lines[:2], lines[2][:50] + "\n", *lines[3:]]))
    (tmp_path / "other").write_text("{}")
    fit(tmp_path / "rare", every_n_train_steps=3, max_steps=2, max_epochs=-1)
    fit(tmp_path / "rarer", every_n_train_steps=5, max_steps=6, max_epochs=-1)
    for other, word in (
        (tmp_path / "nothing", "no fingerprint"),
        (tmp_path / "other", "no fingerprint"),
        (tmp_path, "damaged"),
        (FingerprintCallback(), "no training"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            compare_fingerprints(whole, other)
    with pytest.raises(ConfigurationError, match="every_n_train_steps"):
        compare_fingerprints(tmp_path / "rare", tmp_path / "rarer")
    with pytest.raises(ConfigurationError, match="ignore"):
        compare_fingerprints(whole, whole, ignore=["noise"])


def test_other_numbers_of_processes(whole: Path, tmp_path: Path) -> None:
    for rank in (0, 1):
        file_in(tmp_path, rank).write_bytes(file_in(whole, 0).read_bytes())
    found = compare_fingerprints(whole, tmp_path)
    assert found is not None and found.kind == "processes" and "2 processes" in str(found)


# ---- the picture ------------------------------------------------------------------------------------------


def test_how_it_spreads_is_drawn(whole: Path, tmp_path: Path) -> None:
    assert spread_panels(whole, whole) == {}
    fit(tmp_path, more=[PLANTS["a parameter"][0]], gradients=True, optimizer_state=True)
    panel = spread_panels(whole, tmp_path, before=2, after=3)["fingerprint/spread"]
    assert isinstance(panel, Picture) and "conv2.weight, after step 3" in panel.caption
    with pytest.raises(ConfigurationError, match="after"):
        spread_panels(whole, tmp_path, after=0)


def test_what_is_drawn_is_what_differs(whole: Path, tmp_path: Path) -> None:
    # More than a nudge, which rounding may forget: then all gradients differ, also those of the last step.
    plant = At(3, lambda t, m: m.conv2.weight.detach().add_(1e-3))
    fit(tmp_path, more=[plant], gradients=True, optimizer_state=True)
    for before, after, steps in ((2, 3, range(2, 7)), (0, 1, [4]), (50, 50, range(1, 10))):
        found = compare_fingerprints(whole, tmp_path, before=before, after=after)
        assert found is not None and found.spread_steps.tolist() == list(steps)
        assert "gradient: conv.weight" in found.spread_names
        pairs = [(a, b) for a, b in zip(records(whole), records(tmp_path), strict=True) if a.n in steps]
        drawn, equal = dict(zip(found.spread_names, found.spread, strict=True)), set[str]()
        for kind in ("parameters", "buffers", "optimizer", "rng", "settings", "batch", "loss", "gradients"):
            prefix = {"rng": "random state: ", "gradients": "gradient: "}.get(kind, "")
            # The last record is the state after the last step: it has no batch, loss or gradients.
            for name in {name: None for a, _ in pairs for name in a.sections.get(kind, {})}:
                both = [(a.sections.get(kind, {}).get(name), b.sections.get(kind, {}).get(name)) for a, b in pairs]
                differs = [one != other for one, other in both]
                if any(differs):
                    assert drawn.pop(prefix + name).tolist() == differs, name
                else:
                    equal.add(prefix + name)
        assert not drawn and found.spread_equal == len(equal)


def test_what_is_ignored_is_not_drawn(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, more=[PLANTS["of NumPy"][0]], gradients=True, optimizer_state=True)
    with_random, without = (compare_fingerprints(whole, tmp_path, ignore=ignore) for ignore in ((), ("rng",)))
    assert with_random is not None and "random state: numpy" in with_random.spread_names
    assert without is not None and "random state: numpy" not in without.spread_names


def test_a_divergence_is_a_result(whole: Path, tmp_path: Path) -> None:
    """It draws itself, and does so from a file."""
    fit(tmp_path / "run", more=[PLANTS["a parameter"][0]], gradients=True, optimizer_state=True)
    found = compare_fingerprints(whole, tmp_path / "run")
    assert found is not None and found.plots == ("spread",)
    assert found.scalars() == {"step": 3.0, "kinds": float(len(found.onsets))}
    (panel,) = spread_panels(whole, tmp_path / "run").values()
    found.save(tmp_path / "found.npz")
    loaded = Divergence.load(tmp_path / "found.npz")
    assert str(loaded) == str(found) and loaded.onsets == found.onsets
    for one in (found, loaded):
        drawn = one.panels()["spread"]
        assert isinstance(drawn, Picture) and (drawn.image == panel.image).all() and drawn.caption == panel.caption


def test_what_cannot_be_drawn_has_no_picture(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path / "short", max_steps=5, max_epochs=-1, gradients=True, optimizer_state=True)
    fit(tmp_path / "other", Other)
    shorter, other = (compare_fingerprints(whole, tmp_path / name) for name in ("short", "other"))
    assert shorter is not None and shorter.plots == () and shorter.scalars() == {"step": 5.0, "kinds": 0.0}
    assert other is not None and other.plots == () and other.scalars() == {}


def test_data_of_the_house_are_random(tmp_path: Path) -> None:
    """The comparison sees the house's augmentation, with streams of every kind: a second seed changes all batches."""
    fit(tmp_path / "a", data=loaders(), max_epochs=1)
    noisy = NoisyImages()
    noisy.own = np.random.default_rng(12)
    fit(tmp_path / "b", data={"train_dataloaders": DataLoader(noisy, 8, shuffle=True)}, max_epochs=1)
    found = compare_fingerprints(tmp_path / "a", tmp_path / "b", ignore=["rng"])
    assert found is not None and found.kind == "batch" and found.step == 1
