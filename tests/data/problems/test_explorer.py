"""The explorer of descents: what its page holds and refuses, and how it behaves in a real browser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_dynamics.data.problems import DeepLinear
from lightning_dynamics.data.problems.explorer import DESCENTS_HEIGHT, Descents, descents_page
from lightning_dynamics.data.problems.plane import AT_SADDLE, GONE, Plane
from tests import explorers
from tests.explorers import HOSTILE, NO_WEBGL, SLIDE, content, quiet, tags

STARTS = [[1.5, 1.2], [-1.5, 0.25], [0.9, -0.9], [0.0, -0.5], [-0.3, 2.0], [2.5, 2.4]]


def descended(starts=STARTS, rate=0.1, momentum=0.0, steps=120, powers=(1, 1)):
    """By ``torch.optim.SGD`` itself, one start at a time."""
    problem, plane = DeepLinear.multiply_by_one(depth=sum(powers)).double(), Plane(powers)
    paths = []
    for start in plane.weights(starts):
        problem.move_to(start)
        optimizer = torch.optim.SGD(problem.parameters(), lr=rate, momentum=momentum)
        path = [problem.theta]
        for _ in range(steps):
            optimizer.zero_grad()
            problem.loss(problem.dataset.tensors).backward()
            optimizer.step()
            path.append(problem.theta)
        paths.append(torch.stack(path)[:, [0, -1]].numpy())
    return np.stack(paths)


def page(runs=None, **more):
    runs = [Descents("grid", descended(), 0.1)] if runs is None else runs
    return descents_page(runs, **{"title": "Descents", "footer": "a footer", **more})


def test_content():
    paths = descended(steps=3)
    paths[1, 2:] = np.nan
    found = content(page([Descents("a run", paths, 0.1, 0.5)]))
    (run,) = found["runs"]
    assert run["starts"] == STARTS and run["rate"] == 0.1 and run["momentum"] == 0.5 and run["name"] == "a run"
    assert run["paths"][1][4:] == [None] * 4
    assert np.allclose(np.array(run["paths"][0]).reshape(4, 2), paths[0], rtol=1e-5)
    assert found["powers"] == [1, 1] and found["branches"] == [[1, 1], [-1, -1]] and len(found["ends"]) == 5
    xs, ys = found["solutions"][1]
    assert np.allclose(np.multiply(xs, ys), 1, atol=1e-5) and max(xs) < 0
    assert page([Descents("a run", paths, 0.1, 0.5)]) == page([Descents("a run", paths, 0.1, 0.5)])


def test_document():
    explorers.check_document(page(), "Descents", "a footer")


def test_nothing_from_outside_becomes_markup():
    html = page([Descents(HOSTILE, descended(steps=2), 0.1)], title=HOSTILE, footer=HOSTILE)
    assert tags(html) == tags(page())
    assert content(html)["runs"][0]["name"] == content(html)["title"] == HOSTILE


@pytest.mark.parametrize(
    ("runs", "more", "text"),
    [
        ([], {}, "at least one run"),
        ([Descents("it", np.zeros((3, 2)), 0.1)], {}, r"run 'it': paths must be \(N, T \+ 1, 2\).*got \(3, 2\)"),
        ([Descents("it", np.zeros((3, 1, 2)), 0.1)], {}, "T at least 1"),
        ([Descents("it", np.full((1, 3, 2), np.nan), 0.1)], {}, "every start must be finite"),
        ([Descents("it", np.zeros((1, 3, 2)), 0.0)], {}, "rate must be above 0"),
        ([Descents("it", np.zeros((1, 3, 2)), 0.1, 1.0)], {}, "momentum from 0 to below 1"),
        ([Descents(str(n), np.zeros((1, n, 2)), 0.1) for n in (3, 4)], {}, "the same number of steps"),
        ([Descents("it", np.zeros((1, 3, 2)), 0.1)], {"limit": 1.0}, "limit must be above 1"),
    ],
    ids=range(8),
)
def test_bad_input(runs, more, text):
    with pytest.raises(ValueError, match=text):
        page(runs, **more)


def visit(chrome, html, folder, **more):
    return explorers.visit(chrome, html, folder, 660, 600, **more)


@pytest.mark.parametrize(("powers", "momentum"), [((1, 1), 0.5), ((2, 1), 0.0)], ids=["momentum", "three weights"])
def test_the_page_runs_what_torch_runs(chrome, tmp_path, powers, momentum):
    """Its own descents are those of ``torch.optim.SGD``, and its words about ends and flows are ours."""
    plane, problem = Plane(powers), DeepLinear.multiply_by_one(depth=sum(powers))
    html = page([Descents("grid", descended(powers=powers, steps=30), 0.1)], plane=plane)
    visit(chrome, html, tmp_path, before=NO_WEBGL)
    assert chrome.run("return explorer.state().asRun && explorer.state().flat")
    rate = 0.35
    chrome.run(f"await explorer.show({{ rate: {rate}, momentum: {momentum} }})")
    state = chrome.run("return explorer.state()")
    assert not state["asRun"]
    expected = descended(powers=powers, rate=rate, momentum=momentum, steps=30)
    found = np.array(state["paths"], dtype=float).reshape(expected.shape)
    near = np.isfinite(expected).all((1, 2)) & (np.abs(expected).max((1, 2)) < 100)  # what flies off magnifies rounding
    assert near.sum() >= 4 and np.allclose(found[near], expected[near], rtol=1e-9, atol=1e-9)
    assert state["ends"] == plane.ends(expected[:, -1]).tolist()
    weights = torch.from_numpy(plane.weights(STARTS))
    assert state["flows"] == plane.ends(problem.flow_limit(weights)[:, [0, -1]].numpy()).tolist()
    assert quiet(chrome) == []


def test_ends_of_every_start(chrome, tmp_path):
    visit(chrome, page(), tmp_path, before=NO_WEBGL)
    assert chrome.run("return explorer.state().ends") == [0, 1, AT_SADDLE, 1, 0, 0]
    rows = "return [...document.querySelectorAll('#ends tr')].map((row) => [...row.cells].map((it) => it.textContent))"
    assert chrome.run(rows) == [["solution, a > 0, b > 0", "3"], ["solution, a < 0, b < 0", "2"], ["at a saddle", "1"]]
    told = "return document.getElementById('drift').textContent"
    assert "all that ended did so where gradient flow does" in chrome.run(told)
    chrome.run(SLIDE.format("rate", 0.3) + "await drawing")  # a rate of 2
    ends = chrome.run("return explorer.state().ends")
    assert ends == Plane().ends(descended(rate=10**0.3)[:, -1]).tolist() and GONE in ends
    chrome.run("document.getElementById('reset').click(); await drawing")
    assert chrome.run("return explorer.state().asRun")
    words = chrome.run("return words(shown[2])")
    assert "a² − b² = 0" in words and "final loss 0.5" in words and "at a saddle" in words
    assert quiet(chrome) == []


def test_a_click_starts_a_descent_and_time_moves(chrome, tmp_path):
    """With a real mouse on the real pictures, surface included."""
    path = visit(
        chrome, page([Descents(HOSTILE, descended(), 0.1), Descents("b", descended(STARTS[:2]), 0.1)]), tmp_path
    )
    assert not chrome.run("return explorer.state().flat")
    place = """const it = document.getElementById("map"), box = it.getBoundingClientRect(), axes = it._fullLayout;
        const at = ({ _offset, d2p }, value) => _offset + d2p(value);
        return [box.left + at(axes.xaxis, -1), box.top + at(axes.yaxis, 0.5)];"""
    chrome.click(*chrome.run(place))
    chrome.wait("explorer.state().added === 1")
    chrome.run("await drawing")
    state = chrome.run("return explorer.state()")
    start, end = np.array(state["paths"][-1][:2]), np.array(state["paths"][-1][-2:])
    assert start == pytest.approx([-1.0, 0.5], abs=0.02) and state["ends"][-1] == 1 and end.prod() == pytest.approx(1)
    assert len(state["ends"]) == 7 and state["asRun"]

    heads = (
        "return ['map', 'surface'].map((id) => document.getElementById(id)._fullData[MOVING[id] + CLASSES.length].x)"
    )
    chrome.run(SLIDE.format("step", 3) + "await drawing")
    on_map, on_surface = chrome.run(heads)
    expected = [descended()[i, 3, 0] for i in (0, 4, 5)]  # those that end on the first branch
    assert on_map == pytest.approx(expected, rel=1e-5)
    assert [it for it in on_surface if it is not None] == pytest.approx(expected, rel=1e-5)
    chrome.run("await explorer.goTo(118); document.getElementById('play').click()")
    chrome.wait("!explorer.state().playing && explorer.state().step === 120")

    chrome.run("document.getElementById('clear').click(); await explorer.choose(1)")
    assert chrome.run("return [explorer.state().ends.length, explorer.state().added]") == [2, 0]
    chrome.run("for (const id of ['root', 'trails', 'arrows', 'solutions']) document.getElementById(id).click()")
    chrome.run("await drawing")
    state = chrome.run("return explorer.state()")
    assert state["root"] and not (state["trails"] or state["arrows"] or state["solutions"])
    assert chrome.run("return [window.hacked, document.querySelector('#runs button').textContent]") == [None, HOSTILE]
    assert quiet(chrome) == []
    assert [url for url in chrome.requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def test_in_a_report(chrome, tmp_path):
    probe = """explorer.add(1, 0.5).then(() => {
        const sizes = { height: innerHeight, width: innerWidth, whole: document.body.scrollHeight };
        return { ...explorer.state(), ...sizes };
    })"""
    told = explorers.told_from_a_report(chrome, page(), probe, tmp_path, DESCENTS_HEIGHT, 1100, 900)
    assert told["added"] == 1 and told["ends"][-1] == 0 and not told["flat"]
    assert told["height"] == pytest.approx(DESCENTS_HEIGHT, abs=2)
    assert told["whole"] <= told["height"], told["width"]  # nothing to scroll
    assert quiet(chrome) == []
