"""The explorer: what its page holds and refuses, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lightning_dynamics.analyses.landscape.explorer import EXPLORER_HEIGHT, Surface, explorer_page
from lightning_dynamics.analyses.landscape.explorer.page import _COLOURS
from lightning_dynamics.figures.pages.document import script_inside
from tests import explorers
from tests.explorers import HOSTILE, NO_WEBGL, SLIDE, content, own, quiet, tags

XS, YS = np.linspace(-2.0, 2.0, 17), np.linspace(-1.0, 1.5, 13)


def bowl(height: float = 1.0, **more) -> Surface:
    """A quadratic with its minimum 0.25 at (0.5, 0.25), and an accuracy that falls with the loss."""
    x, y = np.meshgrid(XS, YS)
    loss = 0.25 + height * ((x - 0.5) ** 2 + 2 * (y - 0.25) ** 2)
    path = np.array([[-1.5, -0.8], [-0.6, -0.2], [0.1, 0.2], [0.5, 0.25]])
    settings = {
        "values": {"loss": loss, "accuracy": np.exp(-loss)},
        "path": path,
        "path_values": {"loss": [5.0, 2.0, 0.5, 0.25]},
        "path_notes": {"step": np.arange(4), "distance from the plane": [1.0, np.nan, 0.5, 0.0]},
        "marks": [("trained network", 0.5, 0.25)],
    }
    return Surface(f"height {height}", XS, YS, **{**settings, **more})


def page(surfaces=None, **more) -> str:
    words = {"title": "A landscape", "footer": "a footer", "x_title": "one way", "y_title": "another"}
    return explorer_page([bowl()] if surfaces is None else surfaces, **{**words, **more})


def test_content():
    loss = np.arange(6.0).reshape(2, 3) / 3
    loss[0, 1], loss[1, 2] = np.nan, np.inf
    surface = Surface("now", [0, 1, 3], np.array([0.1, 0.2], np.float32), {"loss": loss, "__proto__": loss > 1})
    html = page([surface, bowl()])
    first, second = content(html)["surfaces"]
    assert (
        first["label"] == "now"
        and first["xs"] == [0.0, 1.0, 3.0]
        and first["ys"] == [float(np.float32(0.1)), float(np.float32(0.2))]
    )
    assert first["values"] == [["loss", [0.0, None, 0.6666667, 1.0, 1.333333, None]], ["__proto__", [0, 0, 0, 0, 1, 1]]]
    assert first["path"] == [] and first["marks"] == []
    assert second["path"][0] == [-1.5, -0.8] and second["pathValues"] == [["loss", [5.0, 2.0, 0.5, 0.25]]]
    assert second["pathNotes"] == [["step", [0, 1, 2, 3]], ["distance from the plane", [1.0, None, 0.5, 0.0]]]
    assert second["marks"] == [["trained network", 0.5, 0.25]]
    assert html == page([surface, bowl()])


def test_document():
    html = page()
    explorers.check_document(html, "A landscape", "a footer")
    assert "descends this two-dimensional slice, not the network's loss" in own(html)


def test_nothing_from_outside_becomes_markup():
    values = {"loss": np.ones((13, 17)), HOSTILE: np.ones((13, 17))}
    surface = bowl(values=values, path_notes={HOSTILE: np.zeros(4)}, marks=[(HOSTILE, 0, 0)])
    words = dict.fromkeys(("title", "footer", "x_title", "y_title"), HOSTILE)
    html = page([replace(surface, label=HOSTILE)], **words)
    assert tags(html) == tags(page())
    assert content(html)["surfaces"][0]["marks"][0][0] == content(html)["title"] == HOSTILE


def test_a_library_cannot_end_its_element():
    assert script_inside('"</script>" "<SCRIPT" "<!--" a</b/') == r'"\x3c/script>" "\x3cSCRIPT" "\x3c!--" a</b/'


def test_the_colours_get_lighter_evenly():
    linear = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in _COLOURS]) ** 2.2
    light = np.cbrt(linear @ [0.2126, 0.7152, 0.0722])
    steps = np.diff(light)
    assert steps.min() > 0.2 * steps.mean() and steps.max() < 2 * steps.mean()


@pytest.mark.parametrize(
    ("surfaces", "text"),
    [
        ([], "at least one surface"),
        ([bowl(values={"accuracy": np.ones((13, 17))})], r"surface 'height 1.0': .* 'loss', got \['accuracy'\]"),
        ([bowl(values={"loss": np.ones((17, 13))})], r"values\['loss'\] must have shape \(13, 17\) .*got \(17, 13\)"),
        ([bowl(), replace(bowl(), xs=[1.0])], r"xs must be a list of at least 2 numbers, got shape \(1,\)"),
        ([replace(bowl(), ys=[[1.0, 2.0]])], r"ys must be a list of at least 2 numbers, got shape \(1, 2\)"),
        ([replace(bowl(), xs=XS[::-1])], "xs must be finite and rise"),
        ([replace(bowl(), ys=[0.0, 1.0, 1.0])], "ys must be finite and rise"),
        ([replace(bowl(), ys=[0.0, np.nan])], "ys must be finite and rise"),
        ([bowl(path=np.ones((4, 3)))], r"path must be \(T, 2\), got \(4, 3\)"),
        ([bowl(path_values={"loss": [1.0]})], r"path_values\['loss'\] must have shape \(4,\)"),
        ([bowl(path_values={"other": np.ones(4)})], r"path_values has \['other'\], which values has not"),
        ([bowl(path_notes={"step": np.ones(5)})], r"path_notes\['step'\] must have shape \(4,\)"),
        ([bowl(path=None)], r"path_values\['loss'\] must have shape \(0,\)"),
        ([bowl(marks=[("a", 0.0, np.nan)])], "the mark 'a' must stand at finite numbers"),
    ],
)  # fmt: skip
def test_bad_input(surfaces, text):
    with pytest.raises(ValueError, match=text):
        page(surfaces)


def visit(chrome, html, folder, width=400, height=400, **more):
    return explorers.visit(chrome, html, folder, width, height, **more)


def until(chrome, condition):
    chrome.wait(f"(({{ ball, running, ...it }}) => {condition})(explorer.state())", 60)
    return chrome.run("return explorer.state()")


def test_interpolation_and_descent(chrome, tmp_path):
    """Against numpy: values and slopes between the points, holes, and each step of the ball, without a picture."""
    x, y = np.meshgrid(XS, YS)
    cliff = np.where(x > 0.6, 1000.0, 1.0)
    holes = np.where((x > 1.2) & (y > 0.8), np.nan, x)
    html = page([bowl(values={"loss": bowl().values["loss"], "cliff": cliff, "holes": holes, "product": x * y})])
    visit(chrome, html, tmp_path, before=NO_WEBGL)
    points = np.random.default_rng(0).uniform([-2, -1], [2, 1.5], (200, 2))
    seen = chrome.run(f"""
        const number = (name) => quantities.findIndex((it) => it.label === name), points = {points.tolist()};
        const all = (name) => points.map(([x, y]) => field(0, number(name)).at(x, y));
        const ball = new Descent(field(0, 0), -1.5, 1.2), places = [];
        for (let i = 0; i < 5; i++) {{ ball.step({{ rate: 0.1, momentum: 0.5, clip: Infinity }}); places.push([ball.x, ball.y]); }}
        const fine = refine(field(0, number("holes")), 40), lost = new Descent(field(0, 0), 0, 0);
        lost.step({{ rate: 100, momentum: 0, clip: Infinity }});
        return {{ bowl: all("loss"), cliff: all("cliff"), product: all("product"), holes: all("holes"), places,
                 nodes: field(0, 0).ys.map((y) => field(0, 0).xs.map((x) => field(0, 0).at(x, y).value)),
                 outside: field(0, 0).at(2.1, 0), fine: [fine.z.flat().filter((it) => it === null).length, fine.x.length],
                 lost: [lost.state, lost.x, lost.y], even: suitable([field(0, number("cliff"))], 0.5) }};
    """)  # fmt: skip  # noqa: E501
    px, py = points.T
    found = {name: np.array([list(it.values()) for it in seen[name]]).T for name in ("bowl", "cliff", "product")}
    assert np.allclose(
        found["bowl"], [0.25 + (px - 0.5) ** 2 + 2 * (py - 0.25) ** 2, 2 * px - 1, 4 * py - 1], atol=1e-5
    )
    assert np.allclose(found["product"], [px * py, py, px], atol=1e-5)
    assert np.allclose(seen["nodes"], bowl().values["loss"], atol=1e-6)
    assert found["cliff"][0].min() >= 1 - 1e-9 and found["cliff"][0].max() <= 1000 + 1e-9  # no invented valley
    for point, value in zip(points, seen["holes"], strict=True):
        assert (value is None) == (point[0] > 1.0 and point[1] > YS[YS <= 0.8].max())
    assert seen["outside"] is None and seen["fine"][0] > 100 and seen["fine"][1] >= 40
    place, speed = np.array([-1.5, 1.2]), np.zeros(2)
    for expected in seen["places"]:
        speed = 0.5 * speed - 0.1 * np.array([2 * (place[0] - 0.5), 4 * (place[1] - 0.25)])
        place = place + speed
        assert np.allclose(place, expected, atol=1e-5)
    assert seen["lost"][0] == "left" and seen["lost"][1:] == pytest.approx([1.5, 1.5], abs=1e-4)  # on the edge
    assert seen["even"] == {"rate": 1, "clip": None}  # flat: nothing to scale by


def test_a_click_lets_the_ball_roll_and_the_rate_acts(chrome, tmp_path):
    """With a real mouse on the real picture."""
    path = visit(chrome, page(), tmp_path)
    assert chrome.run("return explorer.state().ball") is None
    x, y = chrome.run("return explorer.project(-1.0, 1.0)")
    back = chrome.run(f"return explorer.pick({x}, {y})")
    assert back == pytest.approx([-1.0, 1.0], abs=1e-3)
    chrome.mouse("Moved", x, y)
    chrome.wait("!document.getElementById('tip').hidden")
    tip = dict(
        chrome.run(
            "return [...document.querySelectorAll('#tip tr')].map((row) => [...row.cells].map((it) => it.textContent))"
        )
    )  # noqa: E501
    assert float(tip["loss"]) == pytest.approx(0.25 + 1.5**2 + 2 * 0.75**2, rel=0.03) and "accuracy" in tip
    # Turning is no click.
    chrome.mouse("Pressed", x, y, button="left", clickCount=1)
    chrome.mouse("Moved", x + 30, y, button="left", buttons=1)
    chrome.mouse("Released", x + 30, y, button="left", clickCount=1)
    assert chrome.run("return explorer.state().ball") is None

    chrome.run("await explorer.fly('corner')")
    x, y = chrome.run("return explorer.project(-1.0, 1.0)")
    chrome.click(x, y)
    first = until(chrome, "ball && ball.steps >= 2")
    later = until(chrome, f"ball.steps >= {first['ball']['steps'] + 8}")
    assert first["ball"]["loss"] > later["ball"]["loss"] and later["said"].startswith("Rolling")
    assert first["ball"]["loss"] < 0.25 + 1.5**2 + 2 * 0.75**2

    # Slower, while it rolls: shorter steps. By the slider itself.
    chrome.run(SLIDE.format("rate", -2))
    slow = chrome.run("return explorer.state()")
    assert slow["running"] and slow["rateValue"] == pytest.approx(later["rateValue"] / 100)
    still = until(chrome, f"ball.steps >= {slow['ball']['steps'] + 5}")
    steps = still["ball"]["steps"] - slow["ball"]["steps"]
    assert 0 < slow["ball"]["loss"] - still["ball"]["loss"] < steps * 0.002
    # Faster again, to the bottom; then so fast that it is thrown out: a stop, which the page tells.
    chrome.run(SLIDE.format("rate", 1.2))
    bottom = until(chrome, "ball.state === 'rest'")
    assert bottom["ball"]["loss"] == pytest.approx(0.25, abs=1e-4) and "higher rate" in bottom["said"]
    assert not bottom["running"]
    chrome.run(SLIDE.format("rate", 2.6))
    out = until(chrome, "ball.state === 'left'")
    assert not out["running"] and "left the computed part" in out["said"]
    assert quiet(chrome) == []
    assert [url for url in chrome.requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]


def test_momentum_restart_stop_and_holes(chrome, tmp_path):
    values = {**bowl().values}
    values["loss"] = np.where((np.abs(np.meshgrid(XS, YS)[0] - 0.5) < 0.1), np.nan, values["loss"])
    visit(chrome, page([bowl(), bowl(values=values)]), tmp_path, before=NO_WEBGL)  # a map is drawn faster
    chrome.run(
        "await explorer.show({ index: 0 }); explorer.set('momentum', 0.9); explorer.set('rate', 0.3);"
        "explorer.drop(-1.5, 0.25)"
    )
    past = until(chrome, "ball.x > 0.7")  # carried beyond the minimum
    assert past["momentum"] == 0.9 and past["ball"]["trail"] > 3
    chrome.run("document.getElementById('stop').click()")
    stopped = chrome.run("return explorer.state()")
    time.sleep(0.3)
    assert chrome.run("return explorer.state()") == stopped and not stopped["running"] and stopped["said"] == "Paused."
    chrome.run("document.getElementById('stop').click()")
    until(chrome, f"ball.steps > {stopped['ball']['steps']}")
    # Asked in the same breath: the ball rolls on while a slow machine comes back with the question.
    again = chrome.run(
        "explorer.set('momentum', 0); document.getElementById('restart').click(); return explorer.state().ball"
    )
    assert again["steps"] <= 1 and again["y"] == pytest.approx(0.25)
    chrome.run("document.getElementById('clear').click()")
    assert chrome.run("return explorer.state().ball") is None

    chrome.run("await explorer.show({ index: 1 })")
    assert "13 of them not finite: holes" in chrome.run("return document.getElementById('note').textContent")
    assert chrome.run("return [explorer.drop(0.5, 0), explorer.drop(9, 0), explorer.state().ball]") == [
        False,
        False,
        None,
    ]
    chrome.run("""
        explorer.set("rate", 1);
        document.getElementById("from-x").value = -1.5;
        document.getElementById("from-y").value = 0.25;
        document.getElementById("drop").click();
    """)
    fallen = until(chrome, "ball.state === 'hole'")
    assert "hole" in fallen["said"] and 0 < fallen["ball"]["x"] <= 0.25
    assert quiet(chrome) == []


def test_moments_quantities_and_the_picture(chrome, tmp_path):
    surfaces = [bowl(1.0), bowl(4.0), bowl(2.0, values={"loss": bowl(2.0).values["loss"].copy()})]
    surfaces[2].values["loss"][3:5, 4:7] = np.nan
    visit(chrome, page(surfaces, title=HOSTILE, x_title=HOSTILE), tmp_path)
    assert chrome.run("return [window.hacked, document.querySelector('h1').textContent]") == [None, HOSTILE]
    colours = "return [scene._fullData[0].cmin, scene._fullData[0].cmax, ...scene._fullLayout.scene.zaxis.range, Math.max(...scene.data[0].z.flat().filter((it) => it !== null))]"  # noqa: E501
    seen = []
    for index in range(3):
        chrome.run(SLIDE.format("moment", index) + "await drawing")
        seen.append([chrome.run("return document.getElementById('when').textContent"), *chrome.run(colours)])
    assert [it[0] for it in seen] == ["height 1.0", "height 4.0", "height 2.0"]
    assert seen[0][1:5] == seen[1][1:5] == seen[2][1:5] and len({it[5] for it in seen}) == 3
    assert chrome.run("return explorer.quantities") == ["loss", "log₁₀ loss", "accuracy"]
    note = "return [explorer.state().descends, document.getElementById('descends').textContent, document.getElementById('note').textContent]"  # noqa: E501
    chrome.run("await explorer.show({ quantity: 1 })")
    assert chrome.run(note)[:2] == ["log₁₀ loss", ""]
    chrome.run("await explorer.show({ quantity: 2 })")
    descends, said, missing = chrome.run(note)
    assert descends == "loss" and "not the accuracy shown" in said and "no accuracy at this moment" in missing
    chrome.run("await explorer.show({ quantity: 0 })")
    before = chrome.run("return explorer.state().scale")
    chrome.run("await explorer.cut(20)")
    after = chrome.run("return explorer.state().scale")
    assert after[0] == before[0] and after[1] < before[1]
    assert "20 % (up to" in chrome.run(note)[2]

    image = chrome.run("return await explorer.png({ width: 480, height: 300 })")
    picture = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(image.removeprefix("data:image/png;base64,")))).convert("RGB")
    )
    assert picture.shape == (300, 480, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500  # a shaded surface, not a blank
    chrome.run("await explorer.reset()")
    assert chrome.run("return explorer.state().scale") == before
    # The same surface is what one sees on the screen.
    shot = tmp_path / "shot.png"
    chrome.screenshot(shot)
    assert len(np.unique(np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3), axis=0)) > 1000
    assert quiet(chrome) == []


def test_without_webgl_on_a_phone(chrome, tmp_path, width=390):
    """A map in place of the surface, and all else."""
    visit(chrome, page([bowl(1.0), bowl(2.0)]), tmp_path, width=width, height=EXPLORER_HEIGHT, before=NO_WEBGL)
    assert chrome.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert "no WebGL" in chrome.run(
        "const it = document.getElementById('trouble'); return it.hidden ? '' : it.textContent"
    )
    x, y = chrome.run("return explorer.project(-1, 1)")
    chrome.click(x, y)
    state = until(chrome, "ball && ball.steps > 4")
    assert state["flat"] and state["ball"]["loss"] < 0.25 + 2 * (1.5**2 + 2 * 0.75**2)
    chrome.run("explorer.clear()")
    x, y = chrome.run("return explorer.project(-0.6, -0.2)")
    chrome.mouse("Moved", x, y)
    chrome.wait("document.getElementById('tip').textContent.includes('point 2 of 4')")
    told = chrome.run("return document.getElementById('tip').textContent")
    assert "loss of the slice2" in told and "step1" in told and "distance from the plane–" in told
    assert quiet(chrome) == []


def test_works_inside_a_local_report(chrome, tmp_path):
    """The report's frame lets the script run, shows the surface and lets the picture be saved."""
    probe = """(async () => {
        explorer.drop(-1, 1);
        while (explorer.state().ball.steps < 3) await new Promise(requestAnimationFrame);
        const image = await explorer.png({ width: 200, height: 150 });
        return { ...explorer.state(), height: innerHeight, image: image.slice(0, 22) };
    })()"""
    told = explorers.told_from_a_report(chrome, page(), probe, tmp_path, EXPLORER_HEIGHT, 500, EXPLORER_HEIGHT)
    assert not told["flat"] and told["ball"]["steps"] >= 3 and told["image"] == "data:image/png;base64,"
    assert told["height"] == pytest.approx(EXPLORER_HEIGHT, abs=2)
    assert quiet(chrome) == []
