"""Slices as values: short forms, complaints, YAML, and that a new kind is one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from lightning_dynamics import ConfigurationError, LandscapeCallback, landscape
from lightning_dynamics.analyses.landscape.placement import Placement, SliceContext, around
from tests.analyses.landscape.test_callback import fit

# jsonargparse changes the names of what Lightning 2.5 still calls.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

SHORT = {
    "random": landscape.RandomPlane(),
    "random_line": landscape.RandomLine(),
    "pca": landscape.TrajectoryPlane(),
    "trajectory": landscape.TrajectoryPlane(),
    "hessian": landscape.HessianPlane(),
    "gradient": landscape.GradientPlane(),
}
VALUES = [
    landscape.RandomPlane(normalize="layer", move_biases=True, renormalize=False),
    landscape.RandomLine(normalize="none"),
    landscape.TrajectoryPlane(max_snapshots=8, snapshot_every_n_steps=2),
    landscape.Through("initialization", "current"),
    landscape.HessianPlane(parameters="head.*"),
    landscape.GradientPlane(parameters=["head.*", "conv.*"]),
]


@pytest.mark.parametrize("word", SHORT)
def test_words_are_short_forms(word: str) -> None:
    assert LandscapeCallback(word).slice == SHORT[word]


def test_a_list_of_points_is_a_short_form(tmp_path: Path) -> None:
    points = ["initialization", tmp_path / "a.ckpt", "current"]
    same = [landscape.Through(*points), landscape.Through(points=points), LandscapeCallback(points).slice]
    assert same[0] == same[1] == same[2] and same[0].points == ("initialization", str(tmp_path / "a.ckpt"), "current")


def test_slices_tell_callbacks_apart_in_a_checkpoint() -> None:
    keys = {LandscapeCallback(value).state_key for value in (*SHORT, *VALUES)}
    assert len(keys) == len({repr(LandscapeCallback(value).slice) for value in (*SHORT, *VALUES)})
    stored, elsewhere = (landscape.TrajectoryPlane(memory_folder=folder) for folder in (None, "/tmp"))
    assert LandscapeCallback(stored).state_key == LandscapeCallback(elsewhere).state_key


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: landscape.RandomPlane(normalize="filters"), "normalize"),
        (lambda: landscape.RandomLine(normalize="filters"), "normalize"),
        (lambda: landscape.TrajectoryPlane(max_snapshots=3), "max_snapshots"),
        (lambda: landscape.TrajectoryPlane(snapshot_every_n_steps=0), "snapshot_every_n_steps"),
        (lambda: landscape.Through("current"), "points"),
        (lambda: landscape.Through(*"abcd"), "points"),
        (lambda: landscape.Through("current", "current"), "twice"),
        (lambda: landscape.Through(points="current"), "list"),
        (lambda: landscape.Trajectory(max_snapshots=0), "max_snapshots"),
    ],
)
def test_values_that_cannot_work(make: Any, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        make()


def parsed(config: dict[str, Any]) -> tuple[LandscapeCallback, dict[str, Any]]:
    """From YAML, and back to it."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(LandscapeCallback, "callback")
    found = parser.parse_object({"callback": config})
    dumped = yaml.safe_load(parser.dump(found))
    return parser.instantiate_classes(found).callback, dumped["callback"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        *(pytest.param(word, value, id=word) for word, value in SHORT.items()),
        pytest.param(["current", "initialization"], landscape.Through("current", "initialization"), id="points"),
        *(
            pytest.param(
                {
                    "class_path": f"lightning_dynamics.landscape.{type(value).__name__}",
                    "init_args": {
                        name: list(item) if isinstance(item, tuple) else item for name, item in vars(value).items()
                    },
                },
                value,
                id=type(value).__name__,
            )
            for value in VALUES
        ),
    ],
)
def test_yaml_round_trip(config: Any, expected: landscape.Slice) -> None:
    config = {"class_path": "lightning_dynamics.LandscapeCallback", "init_args": {"slice": config, "resolution": 3}}
    for _ in range(2):
        callback, config = parsed(config)
        assert callback.slice == expected and callback.resolution == (3, 3)


def test_a_trajectory_from_yaml() -> None:
    for given, expected in ((True, landscape.Trajectory()), ({"max_snapshots": 8}, landscape.Trajectory(8))):
        callback, dumped = parsed({"class_path": "LandscapeCallback", "init_args": {"trajectory": given}})
        assert callback.trajectory == expected
        assert parsed(dumped)[0].trajectory == expected


def test_the_parameters_of_the_hessian_are_those_that_move(tmp_path: Path) -> None:
    callback, module, _ = fit(tmp_path, slice=landscape.HessianPlane(parameters="net.2.*"), resolution=3)
    result = callback.last_result
    assert result.settings["parameters"] == "net.2.*" and result.settings["batchnorm"] == "frozen"
    weights = sum(float(p.detach().square().sum()) for p in module.net[2].parameters()) ** 0.5
    assert result.directions["norms"] == pytest.approx([weights, weights], rel=1e-5)


class Growing(landscape.Slice):
    """A new kind of slice: all weights grow alike."""

    words = ("growing",)
    is_line = True

    def place(self, at: SliceContext) -> Placement:
        direction = {name: weight.clone() for name, weight in at.weights.items()}
        about = {"kind": "growing", "title": "line of growing weights", "x": "growth"}
        return around(at.weights, [direction], at.span, at.resolution, about)


def test_a_new_kind_of_slice_is_one_class(tmp_path: Path) -> None:
    callback, *_ = fit(tmp_path, slice="growing", resolution=5)
    result = callback.last_result
    assert result.plots == ("line",) and result.scalars()["center"] == result.loss[2]
    assert "line of growing weights" in result.panels()["line"].caption
