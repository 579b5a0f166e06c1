"""Every callback of the suite, to be held to the house rules. A new analysis adds one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lightning_dynamics import (
    AnalysisCallback,
    CKACallback,
    CriticalPointsCallback,
    CurvatureCallback,
    LandscapeCallback,
    LossContributionCallback,
    VoGCallback,
    landscape,
    loss_contribution,
    vog,
)
from lightning_dynamics.analyses.critical_points import GradientNorm, NewtonMR, Trajectory


@dataclass(frozen=True)
class Case:
    """A callback under the house rules.

    Args:
        make: the callback, set up to be quick on the house's models, with these overrides.
        keys: log keys that every event must show, without the label; globs.
        bad: arguments that must raise ConfigurationError, and the word its text must contain; at construction
            or before training starts.
        yaml: arguments for a LightningCLI file.
        fewest_events: that it takes before there is anything to draw.
    """

    make: Callable[..., AnalysisCallback]
    keys: tuple[str, ...]
    bad: tuple[tuple[dict[str, Any], str], ...]
    yaml: dict[str, Any] = field(default_factory=dict)
    fewest_events: int = 1


def _cka(**overrides: Any) -> CKACallback:
    return CKACallback(**{"num_examples": 24, "batch_size": 8, "on_error": "raise"} | overrides)


def _cka_to_initialization(**overrides: Any) -> CKACallback:
    return _cka(**{"compare_to": "initialization", "every_n_train_steps": 2} | overrides)


def _loss_contribution(**overrides: Any) -> LossContributionCallback:
    overrides.pop("at_start", None)  # the path always begins there
    settings = {"num_examples": 24, "batch_size": 8, "every_n_train_steps": 4, "on_error": "raise"}
    return LossContributionCallback(**settings | {"loss_fn": "tests.house.models.cross_entropy"} | overrides)


def _loss_contribution_by_class(**overrides: Any) -> LossContributionCallback:
    return _loss_contribution(
        **{"per_class": True, "batchnorm": "attributed", "rule": "adaptive", "second_data": "train"} | overrides
    )


def _vog(**overrides: Any) -> VoGCallback:
    settings = {"num_examples": 24, "batch_size": 8, "at_start": True, "on_error": "raise"}
    return VoGCallback(**settings | overrides)


def _vog_without_labels(**overrides: Any) -> VoGCallback:
    return _vog(
        **{
            "target": "prediction",
            "attribution": vog.SmoothGrad(samples=2),
            "with_respect_to": "conv",
            "windows": {"first": vog.Window(epochs=(0, 1)), "good": {"accuracy": [0.2, None]}},
            "every_n_train_steps": 2,
            "memory_limit": 0,
        }
        | overrides
    )


def _landscape(**overrides: Any) -> LandscapeCallback:
    settings = {"num_examples": 24, "batch_size": 8, "resolution": [3, 2], "every_n_epochs": 1, "on_error": "raise"}
    return LandscapeCallback(**settings | {"loss_fn": "tests.house.models.cross_entropy"} | overrides)


def _landscape_with_trajectory(**overrides: Any) -> LandscapeCallback:
    # One snapshot, when training begins: the number of others depends on that of the processes.
    settings = {"trajectory": landscape.Trajectory(snapshot_every_n_steps=100), "second_data": "train"}
    settings |= {"slice": landscape.RandomPlane(renormalize=False), "dropout": "fixed", "explorer": False}
    return _landscape(**settings | {"batch_size": None} | overrides)


def _landscape_along_a_line(**overrides: Any) -> LandscapeCallback:
    return _landscape(**{"slice": "random_line", "resolution": 4, "batchnorm": "batch"} | overrides)


def _landscape_of_the_hessian(**overrides: Any) -> LandscapeCallback:
    settings = {
        "slice": landscape.HessianPlane(parameters="head.*"),
        "curvature_resolution": 2,
        "span": 0.1,
        "explorer": False,
    }
    return _landscape(**settings | overrides)


def _curvature(**overrides: Any) -> CurvatureCallback:
    settings: dict[str, Any] = {"num_examples": 24, "batch_size": 8, "on_error": "raise"}
    settings |= {"k": 2, "max_iterations": 8, "trace_samples": 2, "density_samples": 2, "density_iterations": 4}
    return CurvatureCallback(**settings | {"loss_fn": "tests.house.models.cross_entropy"} | overrides)


def _critical_points(**overrides: Any) -> CriticalPointsCallback:
    # One snapshot, when training begins: the number of others depends on that of the processes.
    settings: dict[str, Any] = {"num_examples": 24, "batch_size": 8, "on_error": "raise"}
    settings |= {"parameters": ["conv.bias", "head.bias"]}  # all eigenvalues of few: estimated ones take 320 products
    settings |= {"method": NewtonMR(2, inner_iterations=4), "every_n_epochs": 1}
    settings |= {"trajectory": Trajectory(snapshot_every_n_steps=100)}
    return CriticalPointsCallback(**settings | {"loss_fn": "tests.house.models.cross_entropy"} | overrides)


def _critical_points_of_the_head(**overrides: Any) -> CriticalPointsCallback:
    return _critical_points(
        **{"parameters": "head.bias", "index_of_starts": True, "method": GradientNorm(2, inner_iterations=4)}
        | overrides
    )


def _value(path: str, **arguments: Any) -> dict[str, Any]:
    """A value of ours, as a LightningCLI file has it."""
    return {"class_path": f"lightning_dynamics.{path}", "init_args": arguments}


_ANYWHERE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"data": "tests"}, "data"),
    ({"num_examples": 0}, "num_examples"),
    ({"batch_size": 0}, "batch_size"),
    ({"every_n_epochs": 0}, "every_n_epochs"),
    ({"every_n_train_steps": -1}, "every_n_train_steps"),
    ({"on_error": "ignore"}, "on_error"),
)
"""Complaints that every analysis owes its users."""

CASES = {
    "cka": Case(
        make=_cka,
        keys=("similarity", "without_first_pc", "first_pc", "first_pc_cosine", "values", "mean_off_diagonal"),
        bad=_ANYWHERE
        + (
            ({"every_n_epochs": None, "at_end": False}, "every_n_epochs"),
            ({"mode": "evaluation"}, "mode"),
            ({"layers": "no_such_layer*"}, "layers"),
            ({"layers": "re:("}, "layers"),
            ({"layers": []}, "layers"),
            ({"batch_size": 3}, "batch_size"),
            ({"num_examples": 9}, "num_examples"),
            ({"compare_to": "no_such.ckpt"}, "compare_to"),
            ({"compare_to": []}, "compare_to"),
            ({"kernel": "poly"}, "kernel"),
            ({"bandwidth": 0.0}, "bandwidth"),
            ({"reduction": "median"}, "reduction"),
            ({"predict_fn": "nowhere.nothing"}, "predict_fn"),
        ),
        yaml={"layers": ["conv*", "Linear"], "kernel": "rbf", "reduction": "mean", "every_n_train_steps": 3},
    ),
    "cka to initialization": Case(
        make=_cka_to_initialization,
        keys=("similarity", "values", "similarity_to/initialization"),
        bad=_ANYWHERE,
        yaml={"compare_to": "previous", "num_examples": 16},
    ),
    "loss contribution": Case(
        make=_loss_contribution,
        keys=(
            "cumulative",
            "layers_over_time",
            "shares",
            "histogram",
            "hurting_steps",
            "layers",
            "parameters",
            "values",
            "loss",
            "residual",
            "relative_residual",
            "helping_share",
            "layer/conv",
        ),
        bad=_ANYWHERE
        + (
            ({"rule": "euler"}, "rule"),
            ({"rule": loss_contribution.Adaptive(tolerance=0.0)}, "tolerance"),
            ({"rule": loss_contribution.Adaptive(max_splits=3)}, "max_splits"),
            ({"batchnorm": "none"}, "batchnorm"),
            ({"loss_fn": "nowhere.nothing"}, "loss_fn"),
            ({"loss_fn": "tests.house.models.detached_loss"}, "loss_fn"),
            ({"second_data": "val", "data": "tests"}, "data"),
            ({"per_class": True, "loss_fn": "tests.house.models.doubled_loss"}, "example_loss_fn"),
        ),
        yaml={"rule": "trapezoid", "batchnorm": "frozen", "every_n_train_steps": 2, "loss_fn": None},
    ),
    "loss contribution by class": Case(
        make=_loss_contribution_by_class,
        keys=("cumulative", "classes", "classes_by_layer", "difference", "values", "class/0"),
        bad=_ANYWHERE,
        yaml={
            "batchnorm": "attributed",
            "every_n_train_steps": None,
            "per_parameter": False,
            "rule": {"class_path": "lightning_dynamics.loss_contribution.Adaptive", "init_args": {"max_splits": 4}},
        },
    ),
    "vog": Case(
        make=_vog,
        keys=(
            "examples/all",
            "error_by_percentile",
            "histogram",
            "classes",
            "data_map",
            "values",
            "accuracy",
            "mean/all",
            "error_of_easiest/all",
            "error_of_hardest/all",
            "never_learned",
        ),
        bad=_ANYWHERE
        + (
            ({"target": "truth"}, "target"),
            ({"target": "final_prediction"}, "score_checkpoints"),
            ({"target": "operator.is_"}, "target"),
            ({"variant": "std"}, "variant"),
            ({"channel": "max"}, "channel"),
            ({"ddof": 2}, "ddof"),
            ({"attribution": "lrp"}, "attribution"),
            ({"attribution": vog.SmoothGrad(samples=0)}, "samples"),
            ({"attribution": vog.IntegratedGradients(samples=0)}, "samples"),
            ({"attribution": vog.SmoothGrad(noise=-1.0)}, "noise"),
            ({"with_respect_to": "no_such_layer"}, "with_respect_to"),
            ({"with_respect_to": "*"}, "with_respect_to"),
            ({"with_respect_to": "act"}, "with_respect_to"),
            ({"with_respect_to": "accuracy"}, "with_respect_to"),
            ({"windows": {"all": {"epochs": [0, 1]}}}, "windows"),
            ({"windows": {"late": {"epoch": [0, 1]}}}, "windows"),
            ({"windows": {"late": {"epochs": [1, 1]}}}, "windows"),
            ({"windows": {"late": vog.Window(epochs=(1, 1))}}, "windows"),
            ({"windows": {"late": {"epochs": [1, None]}}}, "windows"),
            ({"windows": {"late": {"steps": [100, None]}}}, "windows"),
            ({"at_start": False, "every_n_epochs": None}, "every_n_train_steps"),
            ({"predict_fn": "nowhere.nothing"}, "predict_fn"),
            ({"render_fn": "builtins.len"}, "render_fn"),
        ),
        yaml={
            "every_n_train_steps": 1,
            "windows": {"late": {"steps": [2, None]}},
            "class_names": ["a", "b", "c"],
            "attribution": "integrated_gradients",
        },
        fewest_events=2,
    ),
    "vog without labels": Case(
        make=_vog_without_labels,
        keys=("histogram", "classes", "values", "mean/all"),
        bad=_ANYWHERE,
        yaml={
            "every_n_train_steps": 1,
            "target": "prediction",
            "attribution": {"class_path": "lightning_dynamics.vog.SmoothGrad", "init_args": {"samples": 2}},
            "windows": {"late": {"class_path": "lightning_dynamics.vog.Window", "init_args": {"steps": [2, None]}}},
        },
        fewest_events=2,
    ),
    "landscape": Case(
        make=_landscape,
        keys=("contour", "surface", "values"),
        bad=_ANYWHERE
        + (
            ({"slice": "diagonal"}, "slice"),
            ({"slice": 3}, "slice"),
            ({"slice": ["current"]}, "points"),
            ({"slice": ["current", "current"]}, "points"),
            ({"slice": ["current", "no_such.ckpt"]}, "points"),
            ({"slice": "pca", "at_start": True}, "at_start"),
            ({"slice": "random_line", "curvature_resolution": 3}, "curvature_resolution"),
            ({"slice": ["current", "initialization"], "curvature_resolution": 3}, "curvature_resolution"),
            ({"resolution": 1}, "resolution"),
            ({"resolution": [3, 1]}, "resolution"),
            ({"resolution": "fine"}, "resolution"),
            ({"span": 0.0}, "span"),
            ({"span": float("nan")}, "span"),
            ({"radius": -1.0}, "radius"),
            ({"weight_decay": -0.1}, "weight_decay"),
            ({"batchnorm": "off"}, "batchnorm"),
            ({"dropout": "on"}, "dropout"),
            ({"parameters": "generator.*"}, "parameters"),
            ({"parameters": "*.bias"}, "move_biases"),
            ({"quantities": ["nowhere.nothing"]}, "quantities"),
            ({"quantities": ["builtins.len"]}, "quantities"),
            ({"loss_fn": "nowhere.nothing"}, "loss_fn"),
            ({"predict_fn": "nowhere.nothing"}, "predict_fn"),
        ),
        yaml={"resolution": 3, "slice": "random", "parameters": ["conv.*", "head.*"], "trajectory": True},
    ),
    "landscape with a trajectory": Case(
        make=_landscape_with_trajectory,
        keys=("contour", "surface", "trajectory", "values"),
        bad=_ANYWHERE,
        yaml={"slice": _value("landscape.TrajectoryPlane", max_snapshots=8), "resolution": [2, 3], "every_n_epochs": 2},
    ),
    "landscape along a line": Case(
        make=_landscape_along_a_line,
        keys=("line", "values"),
        bad=_ANYWHERE,
        yaml={"slice": ["current", "initialization"], "quantities": ["accuracy"]},
    ),
    "landscape of the hessian": Case(
        make=_landscape_of_the_hessian,
        keys=("contour", "surface", "non_convexity", "values"),
        bad=_ANYWHERE,
        yaml={"slice": "gradient", "resolution": 3, "span": 0.1},
    ),
    "curvature": Case(
        make=_curvature,
        keys=(
            "spectrum",
            "eigenvalues",
            "values",
            "loss",
            "largest",
            "largest_2",
            "smallest",
            "non_convexity",
            "trace",
            "trace_standard_error",
            "gradient_norm",
            "flatness",
            "relative_flatness",
            "gradient_outside",
            "converged",
        ),
        bad=_ANYWHERE
        + (
            ({"mode": "evaluation"}, "mode"),
            ({"k": 0}, "k"),
            ({"k": 1000, "max_iterations": 1000}, "k=1000"),
            ({"max_iterations": 1}, "max_iterations"),
            ({"tolerance": 1.0}, "tolerance"),
            ({"trace_samples": -1}, "trace_samples"),
            ({"density_samples": -1}, "density_samples"),
            ({"density_iterations": 0}, "density_iterations"),
            ({"parameters": "no_such_layer.*"}, "parameters"),
            ({"parameters": []}, "parameters"),
            ({"loss_fn": "nowhere.nothing"}, "loss_fn"),
            ({"loss_fn": "tests.house.models.detached_loss"}, "loss_fn"),
        ),
        yaml={"parameters": ["head.*"], "max_iterations": 6, "trace_samples": 0, "every_n_train_steps": 2},
    ),
    "critical points": Case(
        make=_critical_points,
        keys=(
            "index_against_loss",
            "convergence",
            "values",
            "critical",
            "gradient_flat",
            "unfinished",
            "lowest_gradient",
        ),
        bad=_ANYWHERE
        + (
            ({"mode": "evaluation"}, "mode"),
            ({"method": "newton"}, "method"),
            ({"tolerance": 0.0}, "tolerance"),
            ({"flatness_tolerance": 0.0}, "flatness_tolerance"),
            ({"zero_tolerance": 1.0}, "zero_tolerance"),
            ({"dense_up_to": -1}, "dense_up_to"),
            ({"checkpoints": "no_such.ckpt"}, "checkpoints"),
            ({"checkpoints": ["no_such.ckpt"]}, "checkpoints"),
            ({"checkpoints": ["twice.ckpt", "twice.ckpt"]}, "checkpoints"),
            ({"trajectory": 8}, "trajectory"),
            ({"parameters": "no_such_layer.*"}, "parameters"),
            ({"parameters": []}, "parameters"),
            ({"loss_fn": "nowhere.nothing"}, "loss_fn"),
            ({"loss_fn": "tests.house.models.detached_loss"}, "loss_fn"),
        ),
        yaml={
            "parameters": ["head.bias"],
            "tolerance": 1e-12,
            "method": _value("critical_points.NewtonMR", max_iterations=3),
            "trajectory": _value("critical_points.Trajectory", max_snapshots=4, snapshot_every_n_steps=2),
        },
    ),
    "critical points of the head": Case(
        make=_critical_points_of_the_head,
        keys=("index_against_loss", "convergence", "values", "unfinished"),
        bad=_ANYWHERE,
        yaml={
            "method": _value("critical_points.GradientNorm", max_iterations=2),
            "trajectory": False,
            "parameters": "head.*",
        },
    ),
}
