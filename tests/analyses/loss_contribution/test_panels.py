"""What a LossContributionResult looks like, as values: keys, pictures, rows, numbers, arrays that are drawn."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_dynamics.analyses.loss_contribution import pictures as drawing
from lightning_dynamics.analyses.loss_contribution.curves import curves, layer_rates, overall_flip_rate
from lightning_dynamics.analyses.loss_contribution.figures import values
from lightning_dynamics.analyses.loss_contribution.film import bar_limits, intervals
from lightning_dynamics.analyses.loss_contribution.mosaic import mosaic, plan
from lightning_dynamics.analyses.loss_contribution.pictures import probability
from lightning_dynamics.analyses.loss_contribution.result import LossContributionResult
from lightning_dynamics.analyses.loss_contribution.wording import groups, percent, rows
from lightning_dynamics.figures.names import without_common_prefix
from lightning_dynamics.figures.result import closing_panels, tables
from lightning_dynamics.panels import Film, Panels, Picture, Table

NETWORK = {
    "net.conv1": {"weight": (16, 3, 3, 3), "bias": (16,)},
    "net.conv2": {"weight": (32, 16, 3, 3), "bias": (32,)},
    "net.norm": {"weight": (32,), "bias": (32,)},
    "net.head": {"weight": (10, 128), "bias": (10,)},
}
HOSTILE = ["<script>alert(1)</script>", "$x^2$ \\frac", 'a"b\nc\td', "%s {0}", "é漢字🙂", "x" * 300, "", "__tensor__"]
ALWAYS = ["cumulative", "histogram", "hurting_steps", "layers", "layers_over_time", "parameters", "shares", "synchrony"]


def result(
    events: int = 60,
    *,
    network: dict[str, dict[str, tuple[int, ...]]] | None = None,
    per_parameter: bool = True,
    classes: int = 0,
    contrast: bool = False,
    buffers: bool = False,
    row: int = 1,
    seed: int = 0,
    **changes: Any,
) -> LossContributionResult:
    """A result that fits together: heavy-tailed contributions of every element, added up in every way.

    Most is learned early, all elements oscillate, and some events are good for all layers. The last row has half the
    events of the others if ``row`` is above 1.
    """
    network = NETWORK if network is None else network
    generator = np.random.default_rng(seed)
    shapes = {f"{layer}.{name}": shape for layer, own in network.items() for name, shape in own.items()}
    layers = {layer: [f"{layer}.{name}" for name in own] for layer, own in network.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    elements = sum(sizes.values())
    speed = 5 * np.exp(-np.arange(events) / (0.15 * events + 1)) + 0.1
    common = generator.normal(size=events)
    noise = generator.standard_t(3, size=(events, elements))
    size = generator.lognormal(sigma=1.5, size=elements)
    each = speed[:, None] * size * (0.6 * noise * (-1.0) ** np.arange(events)[:, None] + 0.25 * common[:, None] - 0.25)
    each *= 0.1 / elements / 10
    each[:, generator.random(elements) < 0.05] = 0  # dead
    parts = dict(zip(shapes, np.split(each, np.cumsum(list(sizes.values()))[:-1], axis=1), strict=True))
    residuals = 1e-5 * generator.normal(size=events) * speed
    moved = 1e-3 * generator.normal(size=events) * buffers
    per_step = np.stack([part.sum(1) for part in parts.values()], 1)
    change = per_step.sum(1) + residuals + moved
    losses = 2.3 + np.cumsum(change)
    starts = np.arange(0, events, row)
    rows = torch.tensor([len(part) for part in np.split(np.arange(events), starts[1:])]) if events else torch.zeros(0)
    last = np.append(starts[1:], events)[: len(starts)].astype(int) - 1
    edges = np.concatenate([[1e-15], 10.0 ** np.arange(-12, 1.01, 0.25)])
    signs = np.sign(each)
    totals = {name: float(part.sum()) for name, part in parts.items()}
    sums = {name: torch.tensor(part.sum(0)).reshape(shapes[name]) for name, part in parts.items()}
    hurting = np.histogram((each > 0).mean(0), bins=20, range=(0, 1))[0] if events else np.zeros(20)
    share = generator.dirichlet(np.ones(max(1, classes)), size=events) if events else np.zeros((0, max(1, classes)))

    def added(values: np.ndarray) -> Tensor:
        return torch.tensor(np.add.reduceat(values, starts) if events else values)

    def mean(part: np.ndarray) -> float:
        return float(part.mean()) if part.size else math.nan

    def top(part: np.ndarray) -> float:
        part = np.sort(np.abs(part))
        return float(part[-max(1, len(part) // 100) :].sum() / part.sum()) if len(part) else math.nan

    per_layer = {layer: sum(totals[name] for name in names) for layer, names in layers.items()}
    layer_step = np.stack([sum(parts[name].sum(1) for name in names) for names in layers.values()], 1)
    made: dict[str, Any] = {
        "epoch": 3,
        "step": events,
        "num_examples": 256,
        "totals": totals,
        "per_layer": per_layer,
        "layers": layers,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "channels": {},
        "parameter_totals": sums if per_parameter else {},
        "initial_step": 0,
        "initial_loss": 2.3,
        "steps": torch.tensor(last + 1),
        "losses": torch.tensor(losses[last]),
        "per_step": added(per_step),
        "residuals": added(residuals),
        "buffers": added(moved),
        "helping_share": added((each < 0).mean(1)) / rows,
        "hurting_share": added((each > 0).mean(1)) / rows,
        "events": rows.long(),
        "total_residual": float(residuals.sum()),
        "total_buffers": float(moved.sum()),
        "absolute_residual": float(np.abs(residuals).sum()),
        "absolute_change": float(np.abs(change).sum()),
        "unresolved": 0,
        "undefined_events": 0,
        "undefined_steps": [],
        "tensor_helping": {name: mean(part < 0) for name, part in parts.items()},
        "tensor_hurting": {name: mean(part > 0) for name, part in parts.items()},
        "flip_rate": {name: mean(np.diff(np.sign(part), axis=0).astype(int) ** 2 > 1) for name, part in parts.items()},
        "magnitude_edges": torch.tensor(edges),
        "helping_counts": torch.tensor(np.histogram(-each[each < 0], edges)[0]),
        "hurting_counts": torch.tensor(np.histogram(each[each > 0], edges)[0]),
        "zero_count": int((signs == 0).sum()),
        "kurtosis": float(((each - each.mean()) ** 4).mean() / each.var() ** 2) if events else math.nan,
        "top_helping": top(each[each < 0]),
        "top_hurting": top(each[each > 0]),
        "hurting_steps": torch.tensor(hurting).long() if per_parameter else torch.zeros(0, dtype=torch.int64),
        "mosaic": {n: mosaic(sums[n], cells) for n, cells in plan(shapes).items()} if per_parameter else {},
        "data": "train",
        "rule": "simpson",
    }
    if classes:
        per_class = share * per_step.sum(1, keepdims=True)
        made["per_class"] = {str(c): float(per_class[:, c].sum()) for c in range(classes)}
        made["per_class_step"] = added(per_class)
        made["per_class_layer"] = torch.tensor(share.T @ layer_step)
    if contrast:
        other = per_step * generator.normal(0.8, 0.1, size=per_step.shape[1])
        after = 2.31 + np.cumsum(other.sum(1) + 2 * residuals)
        made["contrast"] = {
            "data": "val",
            "num_examples": 128,
            "initial_loss": 2.31,
            "totals": dict(zip(totals, other.sum(0).tolist(), strict=True)),
            "per_layer": {k: sum(float(other[:, list(totals).index(n)].sum()) for n in v) for k, v in layers.items()},
            "losses": torch.tensor(after[last]),
            "residuals": added(2 * residuals),
            "per_step": added(other),
        }
    return LossContributionResult(**made | changes)


def pictures(shown: Panels) -> dict[str, Picture]:
    return {key: panel for key, panel in shown.items() if isinstance(panel, Picture)}


def keys(made: LossContributionResult) -> set[str]:
    """Names of pictures and tables; nothing is drawn for that."""
    return {*made.plots, *tables(made)}


def film(results: list[LossContributionResult]) -> Panels:
    """What is shown when training has ended."""
    return {name: make() for name, make in closing_panels(results[-1], results).items()}


def assert_pictures(shown: Panels) -> None:
    for key, panel in pictures(shown).items():
        assert panel.image.dtype == np.uint8 and panel.image.ndim == 3 and panel.image.shape[2] == 3, key
        assert panel.image.std() > 0, key  # not one blank sheet
        assert max(panel.image.shape) < 10_000, key


@lru_cache
def everything() -> tuple[LossContributionResult, Panels]:
    made = result(classes=3, contrast=True, every_n_train_steps=5, batchnorm="attributed")
    return made, made.panels()


@lru_cache
def with_mishaps() -> tuple[LossContributionResult, Panels]:
    """No options, and some events that went wrong."""
    made = result(unresolved=3, undefined_events=2, undefined_steps=[7, 31])
    return made, made.panels()


@lru_cache
def hostile() -> tuple[LossContributionResult, Panels]:
    """Every tensor full of NaN and infinities, every number NaN."""
    plain = result(20, classes=3, contrast=True)
    changes: dict[str, Any] = {}
    for field in fields(plain):
        value = getattr(plain, field.name)
        if isinstance(value, Tensor) and value.is_floating_point() and field.name != "magnitude_edges":
            spoiled = torch.full_like(value, math.nan)
            spoiled.view(-1)[::3], spoiled.view(-1)[1::5] = math.inf, -math.inf
            changes[field.name] = spoiled
        elif isinstance(value, float):
            changes[field.name] = math.nan
        elif isinstance(value, dict) and value and all(isinstance(item, float) for item in value.values()):
            changes[field.name] = dict.fromkeys(value, math.nan)
        elif isinstance(value, dict) and value and all(isinstance(item, Tensor) for item in value.values()):
            changes[field.name] = {key: torch.full_like(item, math.nan) for key, item in value.items()}
    other = dict(plain.contrast)
    other |= {"initial_loss": math.inf, "losses": torch.full((20,), math.nan)}
    other["per_layer"] = dict.fromkeys(other["per_layer"], -math.inf)
    made = replace(plain, **changes, contrast=other)
    return made, made.panels()


# ---- keys --------------------------------------------------------------------------------------------------


def test_what_is_always_shown():
    made, shown = with_mishaps()
    assert set(shown) == keys(made) == keys(result()) == {*ALWAYS, "values"} and made.plots[0] == "cumulative"
    assert set(pictures(shown)) == set(made.plots) and isinstance(shown["values"], Table)
    assert_pictures(shown)


def test_what_options_add():
    made, shown = everything()
    assert set(shown) == keys(made)
    assert keys(made) - {*ALWAYS, "values"} == {"difference", "classes", "classes_by_layer", "class_synchrony"}
    assert_pictures(shown)


def test_without_elements():
    made = result(per_parameter=False, classes=3, contrast=True)
    assert not {"parameters", "hurting_steps"} & keys(made)
    shown = made.panels()
    assert_pictures(shown)
    table = shown["values"]
    assert isinstance(table, Table) and all(row[2] and row[5] is not None for row in table.rows)


def test_synchrony_needs_events():
    assert "synchrony" not in keys(result(7))
    assert "synchrony" in keys(result(8))


def test_before_the_first_step_there_is_nothing_to_show():
    untrained = result(0, contrast=True, classes=2, step=0, epoch=0)
    assert untrained.panels() == {} and film([untrained]) == {}
    assert untrained.scalars() == {"loss": 2.3, "contrast/val/loss": 2.31}


@pytest.mark.parametrize("events", [1, 2, 9])
def test_few_events(events):
    assert_pictures(result(events, classes=2, contrast=True, buffers=True).panels())
    assert all(map(math.isfinite, result(events).scalars().values()))


def test_names_are_known_without_drawing(monkeypatch: pytest.MonkeyPatch):
    made = result(12, classes=3, contrast=True)
    for chart in ("bars", "heat_map", "mosaic_frame", "raster", "time_map", "time_series", "synchrony"):
        monkeypatch.setattr(drawing, chart, None)
    assert len(made.plots) == len(ALWAYS) + 4 and list(closing_panels(made, course_of_results(2))) == ["film"]
    with pytest.raises(TypeError):
        made.plot()


def test_one_layer_and_a_hundred():
    for count in (1, 100):
        network = {f"encoder.layer.{i}.attention.output": {"weight": (4, 4)} for i in range(count)}
        assert_pictures(result(12, network=network, classes=2, contrast=True).panels())


# ---- what is said ------------------------------------------------------------------------------------------


def test_everything_says_what_it_shows():
    made, shown = everything()
    facts = ["epoch 3", "step 60", "256 examples of train", "simpson, every 5 steps", "batch norm: attributed"]
    for key, panel in shown.items():
        for fact in [*facts, f"residual so far {percent(made.relative_residual)} of the loss change"]:
            assert fact in panel.caption, (key, panel.caption)  # type: ignore[union-attr]
        assert "missed" not in panel.caption and "not finite" not in panel.caption  # type: ignore[union-attr]


def test_rows_of_many_events_are_said():
    assert rows(result(20)) == "" and rows(result(0)) == ""
    assert rows(result(20, row=8)) == "; 8 events added up in each row"


def test_what_is_not_defined_is_not_said():
    shown = pictures(hostile()[1])
    assert not any("nan" in panel.caption or "not defined of" in panel.caption for panel in shown.values())
    assert all("residual not defined" in panel.caption for panel in shown.values())


def test_what_went_wrong_is_said():
    for panel in with_mishaps()[1].values():
        assert "3 events missed the tolerance" in panel.caption  # type: ignore[union-attr]
        assert "2 events with a loss or gradient that is not finite" in panel.caption and "at step 31" in panel.caption  # type: ignore[union-attr]


def test_the_second_probe_is_named():
    shown = pictures(everything()[1])
    for key in ("layers", "difference"):
        assert "128 examples of val" in shown[key].caption


def test_the_footer_holds_the_caption_of_the_histogram():
    made, shown = everything()
    text = pictures(shown)["histogram"].caption
    assert f"kurtosis {made.kurtosis:,.0f} (normal: 3)" in text and percent(made.top_helping) in text
    assert percent(made.top_hurting) in text and percent(overall_flip_rate(made)) in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *[(0.0, "0.000 %"), (3.2e-5, "0.003 %"), (1e-9, "below 0.001 %"), (0.0123, "1.2 %"), (0.5, "50.0 %")],
        *[(1.0, "100 %"), (12.0, "1200 %"), (math.nan, "not defined")],
    ],
)
def test_percentages(share, text):
    assert percent(share) == text


def test_few_layers_stand_for_themselves():
    assert groups(["a.x", "a.y", "b"]) == {"a.x": [0], "a.y": [1], "b": [2]}


def test_many_layers_stand_in_groups():
    names = ["stem", *(f"layer{i}.{j}.conv{k}" for i in range(3) for j in range(4) for k in range(2)), "fc"]
    assert {name: len(group) for name, group in groups(names).items()} == {
        **{"stem": 1, "layer0": 8, "layer1": 8, "layer2": 8, "fc": 1}
    }
    assert list(groups(names, most=14))[:3] == ["stem", "layer0.0", "layer0.1"], "as finely as possible"
    flat = groups([str(i) for i in range(30)])
    assert len(flat) == 12 and list(flat)[0] == "0 – 1"
    back = groups(["a.1", "b.1", "a.2", "b.2"] * 1 + [f"c.{i}" for i in range(20)])
    assert len(back) <= 12, "groups are neighbours"
    for found in (flat, back, groups(names)):
        places = [place for group in found.values() for place in group]
        assert places == list(range(len(places)))


def test_probabilities():
    assert probability(0.0312) == "p = 0.031" and probability(1 / 1001) == "p ≤ 0.001"


def test_without_common_prefix():
    assert without_common_prefix(["net.a", "net.b.c"]) == ["a", "b.c"]
    assert without_common_prefix(["net.a"]) == ["net.a"] and without_common_prefix(["a", "a.b"]) == ["a", "a.b"]
    assert without_common_prefix(["", "a"]) == ["(module)", "a"] and without_common_prefix([]) == []


# ---- the arrays that are drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize("row", [1, 8])
def test_lines_begin_at_zero_and_add_up(row):
    made = result(60, row=row, buffers=True, initial_step=-1)
    drawn = curves(made)
    assert drawn.steps[0] == -1 and drawn.steps[-1] == 60 and len(drawn.steps) == 1 + len(made.steps)
    assert drawn.layers.shape == (4, len(drawn.steps)) and (drawn.layers[:, 0] == 0).all()
    assert drawn.layers[:, -1] == pytest.approx(list(made.per_layer.values()))
    assert drawn.total == pytest.approx(drawn.layers.sum(0))
    residuals = np.concatenate([[0], made.residuals.cumsum(0).numpy()])
    assert drawn.loss_change == pytest.approx(drawn.total + drawn.buffers + residuals)
    assert drawn.loss_change[-1] == pytest.approx(made.loss - made.initial_loss)
    assert drawn.buffers[-1] == pytest.approx(made.total_buffers)


def test_rows_of_many_events_compare_with_rows_of_one():
    made = result(60, row=8)
    assert made.events.tolist() == [8] * 7 + [4]
    rates = layer_rates(made)
    assert (rates * made.events[:, None]).sum(0).tolist() == pytest.approx(list(made.per_layer.values()))


def test_the_flip_rate_is_weighted_by_elements():
    made = result()
    sizes = {name: math.prod(shape) for name, shape in made.shapes.items()}
    expected = sum(sizes[n] * rate for n, rate in made.flip_rate.items()) / sum(sizes.values())
    assert overall_flip_rate(made) == pytest.approx(expected)
    assert math.isnan(overall_flip_rate(replace(made, flip_rate={})))


# ---- the table and the numbers -----------------------------------------------------------------------------


def test_the_table_holds_the_parameters():
    made = result()
    table = values(made)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == list(made.totals)
    row = rows["net.conv2.weight"]
    assert row["layer"] == "net.conv2" and row["shape"] == "32 × 16 × 3 × 3"
    assert row["total"] == made.totals["net.conv2.weight"] and type(row["total"]) is float
    assert row["mean per element"] == pytest.approx(made.totals["net.conv2.weight"] / (32 * 16 * 9))
    assert row["helping"] == made.tensor_helping["net.conv2.weight"]
    assert row["flip rate"] == made.flip_rate["net.conv2.weight"]
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)  # type: ignore[misc]


def test_the_numbers():
    made = result(buffers=True, contrast=True, classes=2)
    numbers = made.scalars()
    assert numbers["loss"] == made.losses[-1] and numbers["total"] == pytest.approx(sum(made.totals.values()))
    assert numbers["residual"] == made.residuals[-1]
    assert numbers["relative_residual"] == made.relative_residual
    assert numbers["mean_relative_residual"] == pytest.approx(made.absolute_residual / made.absolute_change)
    assert numbers["helping_share"] == made.helping_share[-1] and numbers["hurting_share"] == made.hurting_share[-1]
    assert numbers["buffers"] == made.total_buffers
    assert {k: numbers[f"layer/{k}"] for k in made.per_layer} == made.per_layer
    assert {k: numbers[f"class/{k}"] for k in made.per_class} == made.per_class
    other = made.contrast
    change = other["losses"][-1].item() - other["initial_loss"]
    assert numbers["contrast/val/loss"] == other["losses"][-1]
    assert numbers["contrast/val/total"] == pytest.approx(sum(other["totals"].values()))
    expected = abs(change - sum(other["totals"].values())) / abs(change)
    assert numbers["contrast/val/relative_residual"] == pytest.approx(expected)
    assert not {"unresolved", "undefined_events"} & set(numbers)
    assert all(type(value) is float for value in numbers.values())


def test_what_went_wrong_is_counted():
    numbers = result(unresolved=3, undefined_events=2).scalars()
    assert numbers["unresolved"] == 3 and numbers["undefined_events"] == 2
    assert result(rule="adaptive").scalars()["unresolved"] == 0
    assert "buffers" not in result().scalars()


# ---- what is not finite, names that are not nice -----------------------------------------------------------


def test_nothing_but_nan_and_infinities():
    made, shown = hostile()
    assert {*ALWAYS, "classes", "classes_by_layer", "difference"} <= set(shown)
    assert_pictures(shown)
    assert all(map(math.isfinite, made.scalars().values()))
    table = shown["values"]
    assert isinstance(table, Table) and all(row[3] is None for row in table.rows)
    assert all(len(panel.frames) > 1 for panel in film([made, replace(made, step=30)]).values())  # type: ignore[union-attr]


def test_nothing_but_zeros():
    network = {"a": {"w": (3,)}, "b": {"w": (2, 2)}}
    made = result(10, network=network)
    zeros = {
        field.name: torch.zeros_like(getattr(made, field.name))
        for field in fields(made)
        if field.name in ("per_step", "residuals", "helping_share", "hurting_share", "helping_counts", "hurting_counts")
    }
    made = replace(
        made,
        **zeros,
        totals=dict.fromkeys(made.totals, 0.0),
        per_layer=dict.fromkeys(made.per_layer, 0.0),
        mosaic={name: torch.zeros_like(tile) for name, tile in made.mosaic.items()},
        losses=torch.full_like(made.losses, 2.3),
        absolute_residual=0.0,
        absolute_change=0.0,
        total_residual=0.0,
    )
    shown = made.panels()
    assert_pictures(shown)
    assert "the loss has not changed" in pictures(shown)["layers"].caption
    assert "relative_residual" not in made.scalars()
    assert_pictures(film([made, replace(made, step=20)]))


def test_hostile_names():
    network = {name: {"weight": (3, 2), name: (2,)} for name in HOSTILE}
    made = result(12, network=network, classes=3, contrast=True, data="<b>data</b> $", epoch=10**9, step=10**12)
    made = replace(made, per_class=dict(zip(HOSTILE, made.per_class.values(), strict=False)))
    shown = made.panels()
    assert_pictures(shown)
    table = shown["values"]
    assert isinstance(table, Table) and {row[1] for row in table.rows} == set(HOSTILE)


# ---- the film ----------------------------------------------------------------------------------------------


def course_of_results(count: int, **options: Any) -> list[LossContributionResult]:
    """Results as the callback keeps them: all but the last condensed."""
    kept = [result(12 * (i + 1), epoch=i, step=12 * (i + 1), **options) for i in range(count)]
    return [made.condensed() for made in kept[:-1]] + kept[-1:]


def test_the_film_has_a_frame_per_interval_of_one_size():
    results = course_of_results(4)
    shown = film(results)
    assert list(shown) == ["film"]
    panel = shown["film"]
    assert isinstance(panel, Film) and len(panel.frames) == 4
    assert len({frame.shape for frame in panel.frames}) == 1
    assert all((one != two).any() for one, two in zip(panel.frames[:-1], panel.frames[1:], strict=True))
    assert "step 0 to 48" in panel.caption and "256 examples of train" in panel.caption


def test_intervals_add_up_to_the_last_result():
    results = course_of_results(3)
    found = intervals(results)
    assert [(one.start, one.stop) for one in found] == [(0, 12), (12, 24), (24, 36)]
    assert sum(one.layers for one in found) == pytest.approx(list(results[-1].per_layer.values()))
    for number, tile in enumerate(results[-1].mosaic.values()):
        np.testing.assert_allclose(sum(one.tiles[number] for one in found), tile.double().numpy(), atol=1e-6)


def test_the_untrained_model_is_no_frame():
    untrained = replace(result(0), step=0)
    results = course_of_results(2)
    assert [one.stop for one in intervals([untrained, *results])] == [12, 24]


def test_no_film_without_elements():
    assert film(course_of_results(3, per_parameter=False)) == {}


def test_parameters_without_elements_have_no_tile():
    network = {"net.a": {"weight": (3, 2), "none": (0, 3)}}
    results = course_of_results(2, network=network)
    assert results[-1].mosaic["net.a.none"].numel() == 0
    assert_pictures(results[-1].panels())
    assert [len(one.tiles) for one in intervals(results)] == [1, 1] and "film" in film(results)


def test_results_that_do_not_fit_the_last_are_left_out():
    other = result(6, network={"net.other": {"weight": (5, 5)}}, step=6)
    results = course_of_results(2)
    assert [one.stop for one in intervals([other, *results])] == [12, 24]
    finer = replace(results[0], mosaic={name: tile[:1] for name, tile in results[0].mosaic.items()})
    assert len(intervals([finer, results[1]])) == 1 and film([finer, results[1]]) == {}


def test_one_result_is_no_film():
    assert intervals([]) == [] and film([result()]) == {}


def test_bars_have_room():
    assert bar_limits(np.array([-2.0, -1.0])) == pytest.approx((-2.1, 0))
    assert bar_limits(np.array([3.0, math.nan, -1.0])) == pytest.approx((-1.2, 3.2))
    assert bar_limits(np.zeros(2)) == (-1, 1) and bar_limits(np.zeros(0)) == (-1, 1)
