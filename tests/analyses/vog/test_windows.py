"""Named windows of training: what they mean, what is refused, and how long a training will be."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_dynamics import VoGCallback
from lightning_dynamics.analyses.vog.windows import DEFAULT, Place, Plan, Window, parse_windows
from lightning_dynamics.core.lightning import ConfigurationError, training_length
from tests.house.training import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*max_epochs. was not set.*"),
]

# ---- what the user writes ----------------------------------------------------------------------------------


def one(spec: Any) -> Window:
    return parse_windows({"one": spec})["one"]


def test_the_default_is_two_halves() -> None:
    (first, early), (second, late) = parse_windows(None).items()
    assert (first, early.measure, early.limits) == ("early", "share", (0, 0.5))
    assert (second, late.measure, late.limits) == ("late", "share", (0.5, math.inf))


def test_no_windows_are_no_windows() -> None:
    assert parse_windows({}) == {}


@pytest.mark.parametrize("measure", ["share", "epochs", "steps", "accuracy"])
def test_none_is_an_open_end(measure: str) -> None:
    assert one({measure: [None, None]}).limits == (0, math.inf)
    assert one({measure: (None, 0.5)}).limits == (0, 0.5)


def test_windows_stay_in_order() -> None:
    names = ["z", "a", "m"]
    assert list(parse_windows({name: {"epochs": [0, 1]} for name in names})) == names


@pytest.mark.parametrize("measure", ["share", "epochs", "steps", "accuracy"])
def test_a_window_is_a_value_or_a_short_form(measure: str) -> None:
    for ends in ((0.25, 0.75), (None, 0.5), (0.5, None)):
        window = Window(**{measure: ends})
        assert one(window) == one({measure: list(ends)}) == window
        assert (window.measure, window.holds(Place(0, 0))) == (measure, one({measure: ends}).holds(Place(0, 0)))


BAD: dict[str, tuple[Any, str]] = {
    "the name of all events": ({"all": {"epochs": [0, 1]}}, "always there"),
    "a slash": ({"a/b": {"epochs": [0, 1]}}, "without '/'"),
    "an empty name": ({"": {"epochs": [0, 1]}}, "any text"),
    "a number for a name": ({3: {"epochs": [0, 1]}}, "any text"),
    "an unknown measure": ({"one": {"epoch": [0, 1]}}, "share, epochs, steps, accuracy"),
    "two measures": ({"one": {"epochs": [0, 1], "steps": [0, 1]}}, "must be one of"),
    "no measure": ({"one": {}}, "must be one of"),
    "ends without a measure": ({"one": [0, 1]}, "must be one of"),
    "nothing": ({"one": None}, "must be one of"),
    "one end": ({"one": {"epochs": [1]}}, "two ends"),
    "three ends": ({"one": {"epochs": [1, 2, 3]}}, "two ends"),
    "a number for ends": ({"one": {"epochs": 5}}, "two ends"),
    "text for ends": ({"one": {"epochs": "05"}}, "two ends"),
    "text for an end": ({"one": {"epochs": ["0", 5]}}, "larger"),
    "a flag for an end": ({"one": {"epochs": [True, 5]}}, "larger"),
    "NaN for an end": ({"one": {"epochs": [math.nan, 5]}}, "larger"),
    "ends that are alike": ({"one": {"epochs": [1, 1]}}, "larger"),
    "ends the wrong way round": ({"one": {"epochs": [2, 1]}}, "larger"),
    "all before training": ({"one": {"epochs": [-5, -1]}}, "larger"),
    "nothing below no accuracy": ({"one": {"accuracy": [None, 0]}}, "larger"),
    "accuracy in percent": ({"one": {"accuracy": [50, 90]}}, "from 0 to 1"),
    "a share in percent": ({"one": {"share": [50, None]}}, "from 0 to 1"),
    "a value with two measures": ({"one": Window(epochs=(0, 1), steps=(0, 1))}, "must be one of"),
    "a value without a measure": ({"one": Window()}, "must be one of"),
    "a value with its ends the wrong way round": ({"one": Window(epochs=(2, 1))}, "larger"),
    "a value in percent": ({"one": Window(share=(50, None))}, "from 0 to 1"),
    "a value without a name": (Window(epochs=(0, 1)), "windows"),
    "names alone": (["early", "late"], "windows"),
    "one name alone": ("early", "windows"),
}


@pytest.mark.parametrize("case", BAD)
def test_windows_that_mean_nothing(case: str) -> None:
    specs, told = BAD[case]
    with pytest.raises(ConfigurationError, match="`windows") as caught:
        parse_windows(specs)
    assert told in str(caught.value)


def test_windows_say_what_they_are() -> None:
    assert str(one({"share": [0, 0.5]})) == "training from 0 % to before 50 %"
    assert str(one({"accuracy": [0.9, None]})) == "accuracy from 90 %"
    assert str(one({"epochs": [10, None]})) == "epochs from 10"
    assert str(one({"steps": [3, 7]})) == "steps from 3 to before 7"


# ---- which events are inside -------------------------------------------------------------------------------


def test_windows_are_half_open() -> None:
    epochs, steps, accuracy = one({"epochs": [2, 4]}), one({"steps": [2, 4]}), one({"accuracy": [0.5, 0.75]})
    assert [i for i in range(6) if epochs.holds(Place(i, 0))] == [2, 3]
    assert [i for i in range(6) if steps.holds(Place(0, i))] == [2, 3]
    assert [i for i in range(5) if accuracy.holds(Place(0, 0, accuracy=i / 4))] == [2]


def test_what_is_not_known_is_in_no_window() -> None:
    place = Place(3, 30)
    assert not one({"share": [None, None]}).holds(place)
    assert not one({"accuracy": [None, None]}).holds(place)
    assert one({"epochs": [None, None]}).holds(place) and one({"steps": [None, None]}).holds(place)


@pytest.mark.parametrize("events", range(1, 40))
@pytest.mark.parametrize("per_epoch", [1, 7, 100])
def test_the_halves_share_out_all_epochs(events: int, per_epoch: int) -> None:
    """Each event is in one half, the first half comes first, and they are equal up to the middle epoch."""
    early, late = parse_windows(DEFAULT).values()
    places = [Place(n - 1, n * per_epoch, events * per_epoch) for n in range(1, events + 1)]
    inside = [(early.holds(place), late.holds(place)) for place in places]
    firsts = sum(first for first, _ in inside)
    assert inside == [(True, False)] * firsts + [(False, True)] * (events - firsts)
    assert firsts in (events // 2, (events + 1) // 2)


def test_the_halves_share_out_all_steps() -> None:
    early, late = parse_windows(DEFAULT).values()
    for steps in (1, 2, 3, 10, 997):
        places = [Place(0, step, steps) for step in range(steps + 1)]
        assert all(early.holds(place) != late.holds(place) for place in places)
        assert early.holds(places[0]) and (steps == 1 or late.holds(places[-1]))
        # Batches, of which the first half has stepped in the first half.
        assert sum(map(early.holds, places[1:])) == math.ceil(steps / 2)


@pytest.mark.parametrize("parts", [3, 7, 10])
def test_shares_that_meet_leave_no_gap(parts: int) -> None:
    """Whatever the rounding of k/n."""
    ends = [k / parts for k in range(parts)] + [None]
    windows = list(parse_windows({f"{k}": {"share": ends[k : k + 2]} for k in range(parts)}).values())
    for step in range(211):
        assert sum(window.holds(Place(0, step, 210)) for window in windows) == 1
    inside = [sum(window.holds(Place(0, step, 210)) for step in range(1, 211)) for window in windows]
    assert sum(inside) == 210 and max(inside) - min(inside) <= 1


# ---- whether there will be enough --------------------------------------------------------------------------


def plan(
    *, epochs: int | None = 10, steps: int | None = 100, every: int | None = 1, by_step: int | None = None, **more: bool
) -> Plan:
    per_epoch = None if epochs is None or steps is None else steps // epochs if epochs else steps + 1
    return Plan(every, by_step, more.get("at_start", False), more.get("at_end", True), steps, per_epoch)


ENOUGH: dict[str, tuple[Plan, Any]] = {
    "two epochs": (plan(epochs=2), None),
    "one epoch and the start": (plan(epochs=1, at_start=True), None),
    "the start and the end": (plan(every=None, at_start=True), None),
    "steps in one epoch": (plan(epochs=1, by_step=50), None),
    "less than an epoch": (plan(epochs=0, steps=30, by_step=15), None),
    "the defaults with three events": (plan(epochs=3), None),
    "the last two epochs": (plan(), {"w": {"epochs": [8, None]}}),
    "the last fifth": (plan(), {"w": {"share": [0.8, None]}}),
    "the start among the first steps": (plan(at_start=True), {"w": {"steps": [0, 11]}}),
    "accuracy, which nobody knows": (plan(), {"w": {"accuracy": [0.9, None]}}),
    "an iterable data set": (plan(epochs=None, by_step=10), {"w": {"steps": [80, None]}}),
}
TOO_FEW: dict[str, tuple[Plan, Any, str]] = {
    "one epoch": (plan(epochs=1), None, "1 event in 100 steps"),
    "one epoch by default windows": (plan(epochs=1, every=1), DEFAULT, "1 event"),
    "an epoch that ends as training does": (plan(epochs=1, by_step=100), None, "1 event"),
    "the end alone": (plan(every=None), None, "1 event"),
    "the start alone": (plan(every=None, at_start=True, at_end=False), None, "1 event"),
    "epochs beyond training": (plan(every=11), None, "1 event"),
    "epochs beyond training, no end": (plan(every=11, at_end=False), None, "0 event"),
    "steps beyond training": (plan(every=None, by_step=101, at_end=False), None, "0 event"),
    "less than an epoch": (plan(epochs=0, steps=30), None, "1 event in 30 steps"),
    "the last epoch": (plan(), {"w": {"epochs": [9, None]}}, "hold 1 of 10 events"),
    "beyond the last epoch": (plan(), {"w": {"epochs": [10, None]}}, "hold 0 of 10"),
    "the last tenth": (plan(), {"w": {"share": [0.9, None]}}, "hold 1 of 10"),
    "between two events": (plan(), {"w": {"steps": [11, 20]}}, "hold 0 of 10"),
    "the second of two windows": (plan(), {"v": {"epochs": [0, 5]}, "w": {"steps": [99, None]}}, "windows['w']"),
}


@pytest.mark.parametrize("case", ENOUGH)
def test_enough_events(case: str) -> None:
    planned, windows = ENOUGH[case]
    told = planned.check(parse_windows(windows), windows is not None)
    assert (told == "") == (windows is not None)  # of so few, the halves have one each


def test_enough_events_for_the_halves_need_no_word() -> None:
    for planned in (plan(epochs=4), plan(epochs=2, at_start=True, by_step=25), plan(epochs=1000, steps=1000)):
        assert planned.check(parse_windows(None), False) == ""
    assert plan(epochs=1, at_start=True).check(parse_windows({}), False) == ""


FEW: dict[str, tuple[Plan, str, dict[str, int]]] = {
    "two epochs": (plan(epochs=2), "every_n_train_steps=10", {"early": 1, "late": 1}),
    "three epochs": (plan(epochs=3, steps=90), "every_n_train_steps=9", {"early": 1}),
    "every tenth of twenty": (plan(epochs=20, every=10), "every_n_epochs=5", {"early": 1, "late": 1}),
    "every eighth of twenty": (plan(epochs=20, every=8, at_end=False), "every_n_epochs=4", {"early": 1, "late": 1}),
    "steps": (plan(every=None, by_step=40, at_end=False), "every_n_train_steps=10", {"early": 1, "late": 1}),
    "nothing but steps": (
        plan(every=None, by_step=49, at_end=False),
        "every_n_train_steps=10",
        {"early": 1, "late": 1},
    ),
}


@pytest.mark.parametrize("case", FEW)
def test_of_halves_with_too_few_events_it_is_said_with_what_helps(case: str) -> None:
    planned, value, inside = FEW[case]
    windows = parse_windows(None)
    told = planned.check(windows, False)
    places = list(planned._places())
    held = {name: sum(map(window.holds, places)) for name, window in windows.items()}
    assert {name: count for name, count in held.items() if count < 2} == inside
    assert told.startswith(f"of {len(places)} events, the window ") and f"`{value}`" in told and "windows={}" in told
    for name, window in windows.items():
        assert (f"{name!r} ({window}) will hold {inside.get(name)}" in told) == (name in inside)
    argument, _, number = value.partition("=")
    assert replace(planned, **{argument: int(number)}).check(windows, False) == "", "what is advised does not help"


def test_where_no_schedule_helps_a_wider_window_is_advised() -> None:
    planned = plan()
    with pytest.raises(ConfigurationError, match="train longer") as caught:
        planned.check(parse_windows({"w": {"epochs": [10, None]}}), True)
    assert "`windows={'w': {'steps': [90, None]}}`" in str(caught.value)
    assert planned.check(parse_windows({"w": {"steps": [90, None]}}), True) == ""


@pytest.mark.parametrize("case", TOO_FEW)
def test_too_few_events(case: str) -> None:
    planned, windows, told = TOO_FEW[case]
    with pytest.raises(ConfigurationError) as caught:
        planned.check(parse_windows(windows), windows is not None)
    assert told in str(caught.value)


def test_default_windows_are_never_too_narrow() -> None:
    with pytest.raises(ConfigurationError, match="early"):
        plan(epochs=2).check(parse_windows(DEFAULT), True)
    assert "early" in plan(epochs=2).check(parse_windows(DEFAULT), False)


def test_a_share_of_nobody_knows_what() -> None:
    unknown = plan(epochs=None, steps=None)
    told = unknown.check(parse_windows(None), False)
    assert "'early' and 'late' are shares" in told and "max_epochs" in told and "windows={'late'" in told
    assert unknown.check(parse_windows({"w": {"epochs": [5, None]}}), True) == ""
    with pytest.raises(ConfigurationError, match="max_epochs.*epochs or steps"):
        unknown.check(parse_windows({"v": {"steps": [0, 5]}, "w": {"share": [0.5, None]}}), True)


@pytest.mark.parametrize(
    "planned",
    [plan(epochs=10**6, steps=10**9), plan(steps=10**12, by_step=1), plan(epochs=10**9, steps=10**9, by_step=7)],
    ids=["epochs", "steps", "both"],
)
def test_long_trainings_are_quick_to_check(planned: Plan) -> None:
    start = time.perf_counter()
    planned.check(parse_windows(None), True)
    assert time.perf_counter() - start < 0.5


# ---- the real Trainer --------------------------------------------------------------------------------------


class Task(lightning.LightningModule):
    """Two classes of three numbers; stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Looks(Callback):
    """What is known when training begins, and when epochs really end."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, int]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.length = training_length(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.ends.append((trainer.current_epoch, trainer.global_step))
        trainer.should_stop = len(self.ends) == 3


def examples(count: int = 10) -> TensorDataset:
    return TensorDataset(torch.randn(count, 3), torch.arange(count) % 2)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.ones(3), 1)] * 10)


LENGTHS: dict[str, tuple[dict[str, Any], tuple[int | None, int | None]]] = {
    "epochs": ({"max_epochs": 3}, (15, 5)),
    "accumulated": ({"max_epochs": 3, "accumulate_grad_batches": 2}, (9, 3)),
    "some batches": ({"max_epochs": 3, "limit_train_batches": 2}, (6, 2)),
    "a share of the batches": ({"max_epochs": 3, "limit_train_batches": 0.4}, (6, 2)),
    "steps": ({"max_epochs": -1, "max_steps": 10}, (10, 5)),
    "steps, and epochs that would be more": ({"max_epochs": 9, "max_steps": 10}, (10, 5)),
    "steps, and epochs that are fewer": ({"max_epochs": 1, "max_steps": 10}, (5, 5)),
    "less than an epoch": ({"max_epochs": -1, "max_steps": 3}, (3, 5)),
    "accumulated steps": ({"max_epochs": -1, "max_steps": 6, "accumulate_grad_batches": 2}, (6, 3)),
    "without an end": ({"max_epochs": -1}, (None, None)),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_the_length_of_a_training(case: str, tmp_path: Path) -> None:
    options, length = LENGTHS[case]
    looks = Looks()
    trainer(tmp_path, [looks], **options).fit(Task(), DataLoader(examples(), 2))
    assert looks.length == length
    if length[0] and length[1]:
        assert looks.ends[-1] == (-(-length[0] // length[1]) - 1, length[0]), "training did something else"


@pytest.mark.parametrize("options, length", [({"max_epochs": 2}, (None, None)), ({"max_steps": 4}, (4, None))])
def test_the_length_of_a_stream(options: Any, length: Any, tmp_path: Path) -> None:
    looks = Looks()
    trainer(tmp_path, [looks], **options).fit(Task(), DataLoader(Stream(), 2))
    assert looks.length == length


def fit(folder: Path, watched: VoGCallback, **options: Any) -> VoGCallback:
    trainer(folder, [watched], **options).fit(Task(), DataLoader(examples(), 2))
    return watched


def test_a_rehearsal_is_not_refused(tmp_path: Path) -> None:
    watched = VoGCallback(windows={"late": {"epochs": [10, None]}}, on_error="raise")
    fit(tmp_path, watched, fast_dev_run=True, logger=True)
    assert watched.last_result.windows["all"]["events"] == 1


def test_one_epoch_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="1 event in 5 steps.*at_start"):
        fit(tmp_path, VoGCallback(on_error="raise"), max_epochs=1)


def test_a_share_of_a_training_without_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="length is not known"):
        fit(tmp_path, VoGCallback(windows={"w": {"share": [0.1, None]}}, on_error="raise"), max_epochs=-1)


def test_a_training_without_end_has_no_halves(tmp_path: Path) -> None:
    watched, looks = VoGCallback(on_error="raise"), Looks()
    with pytest.warns(UserWarning, match="^VoGCallback: the windows 'early' and 'late' are shares"):
        trainer(tmp_path, [watched, looks], max_epochs=-1).fit(Task(), DataLoader(examples(), 2))
    events = {window: told["events"] for window, told in watched.last_result.windows.items()}
    assert events == {"all": 3, "early": 0, "late": 0}
    assert watched.last_result.scores["all"].isfinite().all() and watched.last_result.scores["late"].isnan().all()


@pytest.mark.parametrize("steps, events", [(7, [5, 7]), (9, [5, 9])])
def test_steps_that_cut_an_epoch(steps: int, events: list[int], tmp_path: Path) -> None:
    """Two events are enough, and the last epoch, though short, is one."""
    watched = fit(tmp_path, VoGCallback(windows={}, on_error="raise"), max_epochs=-1, max_steps=steps)
    assert [result.step for result in watched.results] == events


def test_a_window_of_one_event_has_no_score(tmp_path: Path) -> None:
    """Before training it is said; after it, nothing of the window looks like a score."""
    with pytest.warns(
        UserWarning, match=r"^VoGCallback: of 3 events, the window 'early' .* will hold 1, .*steps="
    ) as all_:
        watched = fit(tmp_path, VoGCallback(on_error="raise"), max_epochs=3)
    assert sum("window" in str(one.message) for one in all_) == 1
    result = watched.last_result
    assert {name: told["events"] for name, told in result.windows.items()} == {"all": 3, "early": 1, "late": 2}
    assert result.scores["early"].isnan().all() and result.class_normalized["early"].isnan().all()
    for name in ("variability", "loss_spread"):
        assert result.dynamics["early"][name].isnan().all(), "0, as if the example had never changed"
        assert (result.dynamics["late"][name] > 0).all()
    assert result.dynamics["early"]["el2n"].isfinite().all()
    assert "mean/all" in result.scalars() and not any("early" in name for name in result.scalars())
    assert not any("early" in name for name in result.plots)


def test_a_window_of_an_epoch_that_is_cut(tmp_path: Path) -> None:
    watched = VoGCallback(windows={"late": {"epochs": [1, None]}}, on_error="raise")
    fit(tmp_path, watched, max_epochs=-1, max_steps=13)
    assert watched.last_result.windows["late"] == {"events": 2, "first_step": 10, "last_step": 13}


PLANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "epochs": ({}, {"max_epochs": 4}),
    "every other epoch, and one more at the end": ({"every_n_epochs": 2}, {"max_epochs": 5}),
    "steps": ({"every_n_train_steps": 3, "every_n_epochs": None}, {"max_epochs": 4}),
    "both, and the start": ({"every_n_train_steps": 2, "at_start": True}, {"max_epochs": 3}),
    "accumulated": ({"every_n_train_steps": 2}, {"max_epochs": 4, "accumulate_grad_batches": 2}),
    "no end": ({"at_end": False, "every_n_epochs": 2}, {"max_epochs": 5}),
}


@pytest.mark.parametrize("case", PLANS)
def test_what_is_planned_takes_place(case: str, tmp_path: Path) -> None:
    arguments, options = PLANS[case]
    watched, looks = VoGCallback(**arguments, windows={}, on_error="raise"), Looks()
    looks.on_train_epoch_end = lambda *_: None  # type: ignore[method-assign]
    trainer(tmp_path, [watched, looks], **options).fit(Task(), DataLoader(examples(), 2))
    planned = [
        (place.epoch, place.step)
        for place in Plan(
            watched.every_n_epochs, watched.every_n_train_steps, watched.at_start, watched.at_end, *looks.length
        )._places()
    ]
    assert planned == [(result.epoch, result.step) for result in watched.results]
