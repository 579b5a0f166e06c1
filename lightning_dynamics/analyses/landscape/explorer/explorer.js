const { surfaces } = data, { scene } = ui;
const FONT = getComputedStyle(document.body).fontFamily, TEXT = "#e8edf7", QUIET = "#9aa7c0", PAGE = "#0a0f1d", BALL = "#ff9d42", PATH = "#ff6f9f";
const GRID = "#202a45", FRAME = "#3d4a6c", LINE = "rgba(12, 26, 62, 0.6)";
const COLOURS = data.colours.map((colour, i) => [i / (data.colours.length - 1), colour]);
const [SURFACE, TRAIL, BALL_DOT] = [0, 5, 6];  // the traces
const STEPS = 40;  // of the descent per second
const VIEWS = {
  corner: { eye: { x: 0.93, y: -1.15, z: 1.02 } }, top: { eye: { x: 0, y: -0.01, z: 1.75 } },
  front: { eye: { x: 0, y: -1.75, z: 0.3 } }, side: { eye: { x: 1.75, y: 0, z: 0.3 } },
};
function view(name) {  // a tall window sees less in width, and a long plane is wider: from farther away
  const { x, y } = aspect(), { eye } = VIEWS[name];
  const far = Math.max(1, 1.2 * scene.clientHeight / (scene.clientWidth || 1)) * Math.sqrt(Math.max(x, y) / 1.05);
  return { up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: name === "top" ? 0 : -0.12 }, eye: { x: far * eye.x, y: far * eye.y, z: far * eye.z } };
}
const START = { index: surfaces.length - 1, quantity: 0, height: 1, lines: true, path: true, marks: true, rate: 0, momentum: 0 };
const chosen = { ...START }, cuts = new Map();  // cuts: percent of the points above the cap, by quantity
let ball = null, going = null, playing = null, owed = 0, before = 0, pressed = null;

function element(name, text = "", parent = null) {
  const made = document.createElement(name);
  made.textContent = text;
  parent?.append(made);
  return made;
}

// ---- quantities, fields, scales -----------------------------------------------------------------------------
const names = [...new Set(surfaces.flatMap((surface) => surface.values.map(([name]) => name)))];
names.sort((a, b) => (b === "loss") - (a === "loss"));
const quantities = names.flatMap((name) => [{ name, log: false, label: name }, ...(/loss$/i.test(name) ? [{ name, log: true, label: `log₁₀ ${name}` }] : [])]);
const quantity = () => quantities[chosen.quantity];
// What the ball descends is the loss whatever is shown, or its logarithm if that is shown.
const descended = () => quantities.findIndex((it) => it.name === "loss" && it.log === (quantity().name === "loss" && quantity().log));
const raw = (surface, name) => surface.values.find(([known]) => known === name)?.[1];

const known = new Map();
function remembered(key, make) {
  if (!known.has(key)) known.set(key, make());
  return known.get(key);
}
function field(index, number) {
  return remembered(`field ${index} ${number}`, () => {
    const surface = surfaces[index], { name, log } = quantities[number], values = raw(surface, name);
    const count = surface.xs.length * surface.ys.length;
    return new Field(surface.xs, surface.ys, Float64Array.from({ length: count }, (_, k) => {
      const value = values?.[k] ?? NaN;
      return !log ? value : value > 0 ? Math.log10(value) : NaN;
    }));
  });
}
// One scale for all moments. A few huge values would flatten all the rest: a loss is cut off where the highest points
// are more than six times as far above the lowest as the median is, but not below where the training went.
function pooled(number) {
  return remembered(`pooled ${number}`, () => {
    const { name, log } = quantities[number], all = surfaces.flatMap((surface) => raw(surface, name) ?? []);
    const finite = all.filter((it) => it !== null), kept = log ? finite.filter((it) => it > 0).map(Math.log10) : finite;
    const sorted = Float64Array.from(kept).sort(), last = sorted.length - 1, at = (share) => sorted[Math.round(share * last)];
    const far = (value) => value - sorted[0] > 6 * (at(0.5) - sorted[0]);
    const cut = !log && /loss$/i.test(name) && last > 0 && far(sorted[last]) ? [0.98, 0.95, 0.9, 0.85, 0.8, 0.75].find((share) => !far(at(share))) ?? 0.7 : 1;
    const went = surfaces.flatMap(({ pathValues }) => pathValues.find(([it]) => it === name)?.[1] ?? []);
    const seen = cut < 1 && went.length ? sorted.findIndex((it) => it >= Math.max(...went)) / last : 0;
    return { sorted, cut: seen < 0 ? 0 : Math.floor(100 * (1 - Math.max(cut, seen)) + 1e-9), nonpositive: finite.length - kept.length };
  });
}
function scale(number) {
  const { sorted, cut } = pooled(number), percent = cuts.get(number) ?? cut;
  if (!sorted.length) return { low: 0, cap: 1, high: 1, percent: 0 };
  const low = sorted[0], high = sorted[sorted.length - 1];
  let cap = percent ? sorted[Math.round((1 - percent / 100) * (sorted.length - 1))] : high;
  if (!(cap > low)) cap = high > low ? sorted.find((it) => it > low) : low + (Math.abs(low) / 2 || 0.5);
  return { low, high, cap, percent };
}
function settings() {
  const number = descended(), { cap } = scale(number);
  const found = remembered(`settings ${number} ${cap}`, () => {
    const few = Math.min(8, surfaces.length);
    return suitable(Array.from({ length: few }, (_, i) => field(Math.floor(i * surfaces.length / few), number)), cap);
  });
  return { rate: found.rate * 10 ** chosen.rate, momentum: chosen.momentum, clip: found.clip };
}
const valueAt = (index, name, x, y) => field(index, quantities.findIndex((it) => it.name === name && !it.log)).at(x, y)?.value ?? null;

// ---- drawing ------------------------------------------------------------------------------------------------
function heightAt(x, y) {  // of the drawn surface; null in a hole and outside
  const value = field(chosen.index, chosen.quantity).at(x, y)?.value;
  return value === undefined ? null : clamp(value, ...drawn());
}
const drawn = () => { const { low, cap } = scale(chosen.quantity); return [low, cap]; };
const lift = () => { const [low, cap] = drawn(); return 0.012 * (cap - low); };
function columns(points, more = 0) {  // of points on the surface, for plotly
  const heights = points.map((point) => point && heightAt(...point));
  const kept = (i) => points.map((point, k) => heights[k] === null ? null : point[i]);
  return { x: kept(0), y: kept(1), z: heights.map((it) => it === null ? null : it + (1 + more) * lift()) };
}
function traces() {
  const surface = surfaces[chosen.index], fine = refine(field(chosen.index, chosen.quantity), 120);
  const [low, cap] = drawn(), LEVELS = 14, size = (cap - low) / LEVELS, levels = Array.from({ length: LEVELS - 1 }, (_, i) => low + (i + 1) * size);
  // plotly's own contours are the better ones, but go astray beside holes. Once shown they stay: none means far above.
  const own = chosen.lines && !fine.holes, far = own ? 0 : 1e3 * (cap - low);
  // What is above the cap is cut off by the axis, along a clean edge; it need not rise to the sky.
  const most = FLAT ? cap : cap + 1.5 * (cap - low), shown = { ...fine, z: fine.z.map((row) => row.map((it) => it === null ? null : clamp(it, low, most))) };
  const three = (trace) => ({ hoverinfo: "skip", showlegend: false, ...trace, ...(FLAT ? { z: undefined, type: "scatter" } : { type: "scatter3d" }) });
  const along = surface.path.map((point) => point.includes(null) ? null : point), between = [];
  along.forEach((point, i) => {  // on the surface also between the points
    const last = along[i - 1];
    if (!point) between.push(null);
    else if (!last) between.push(point);
    else for (let k = 1; k <= 12; k++) between.push([0, 1].map((axis) => last[axis] + (point[axis] - last[axis]) * k / 12));
  });
  const some = (list) => list.length ? list : [null], shade = along.map((_, i) => i / Math.max(1, along.length - 1));
  const marks = surface.marks.map(([, x, y]) => [x, y]);
  return [
    FLAT ? { type: "heatmap", ...shown, zsmooth: fine.holes ? false : "fast", zmin: low, zmax: cap, colorscale: COLOURS, showscale: false, hoverinfo: "none" } : {
      // plotly never recovers from a surface without a single point.
      type: "surface", visible: fine.z.some((row) => row.some((it) => it !== null)), ...(fine.holes ? hemmed(shown) : shown), cmin: low, cmax: cap, colorscale: COLOURS, showscale: false, hoverinfo: "skip",
      lightposition: { x: -30000, y: -20000, z: 60000 }, lighting: { ambient: 0.48, diffuse: 0.56, specular: 0.05, roughness: 0.5, fresnel: 0.05 },
      contours: { x: { highlight: false }, y: { highlight: false }, z: { highlight: false, show: true, color: "#1c3a63", width: 1, start: low + size + far, end: cap - size / 2 + far, size } },
    },
    three({ ...(own && !FLAT ? { x: [null], y: [null], z: [null] } : contourLines(fine, levels, lift())), mode: "lines", visible: chosen.lines, connectgaps: false, line: { color: LINE, width: FLAT ? 0.7 : 1.5 } }),
    three({ ...columns(some(between), 1), mode: "lines", visible: chosen.path, connectgaps: false, line: { color: PATH, width: FLAT ? 2 : 4 } }),
    three({ ...columns(some(along), 1), mode: "markers", visible: chosen.path, marker: { size: FLAT ? 7 : 4.5, color: some(shade), cmin: 0, cmax: 1, colorscale: [[0, "#8d2c57"], [0.5, PATH], [1, "#ffe3ee"]], line: { color: "#2a0f1f", width: 1 } } }),
    three({ ...columns(some(marks), 2), mode: "markers", visible: chosen.marks, marker: { size: FLAT ? 9 : 5.5, symbol: "diamond", color: "#ffffff", line: { color: PAGE, width: 1 } } }),
    three({ ...trailColumns(), mode: "lines", connectgaps: false, line: { color: BALL, width: FLAT ? 2 : 5 } }),
    three({ ...ballColumns(), mode: "markers", marker: { size: FLAT ? 12 : 9, color: BALL, line: { color: "#fff6ea", width: 2 } } }),
  ];
}
function trailColumns() {  // a jump is a straight line; over what is cut off, one along the cut: else it went through the walls
  const points = [], cap = drawn()[1];
  (ball ? ball.trail : [null]).forEach((point, i, all) => {
    const last = all[i - 1], cut = last && Math.max(heightAt(...last) ?? cap, heightAt(...point) ?? cap) >= cap;
    for (let k = 1; cut && k < 10; k++) points.push([0, 1].map((axis) => last[axis] + (point[axis] - last[axis]) * k / 10));
    points.push(point);
  });
  return columns(points, 1.5);
}
function ballColumns() {
  if (!ball) return { x: [null], y: [null], z: [null] };
  const [low] = drawn();
  return { x: [ball.x], y: [ball.y], z: [(heightAt(ball.x, ball.y) ?? low) + 3 * lift()] };
}
function labels() {  // of the marks, one above the other where they might meet
  if (!chosen.marks) return [];
  const { x, y, z } = columns(surfaces[chosen.index].marks.map(([, a, b]) => [a, b]), 2);
  const style = { showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: TEXT, ax: 0, bgcolor: "rgba(10, 15, 29, 0.8)", bordercolor: FRAME, borderpad: 3, font: { family: FONT, size: 12, color: TEXT } };
  return surfaces[chosen.index].marks.map(([name], i) => ({ ...style, text: escaped(name), x: x[i], y: y[i], ...(FLAT ? {} : { z: z[i] }), ay: -30 - 26 * (i % 3) })).filter((it) => it.x !== null);
}
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");  // plotly reads some HTML
function bounds() {
  const ends = (key) => [Math.min(...surfaces.map((it) => it[key][0])), Math.max(...surfaces.map((it) => it[key][it[key].length - 1]))];
  const padded = ([low, high]) => [low - 0.03 * (high - low), high + 0.03 * (high - low)];  // no tick label in a corner
  return { x: padded(ends("xs")), y: padded(ends("ys")) };
}
function aspect() {
  const { x, y } = bounds(), ratio = clamp((y[1] - y[0]) / (x[1] - x[0]), 0.4, 2.5), size = Math.sqrt(ratio);
  return { x: 1.05 / size, y: 1.05 * size, z: 0.55 * chosen.height };
}
function layout() {
  const { x, y } = bounds(), [low, cap] = drawn(), span = cap - low;
  const base = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: FONT, color: QUIET, size: 12 }, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false };
  const axis = (text, more) => ({ title: { text: escaped(text), font: { size: 12.5, color: TEXT } }, tickfont: { size: 11, color: QUIET }, gridcolor: GRID, zeroline: false, nticks: 6, linecolor: FRAME, ...more });
  if (FLAT) {
    const map = { fixedrange: true, showgrid: false, ticks: "outside", tickcolor: FRAME };
    return { ...base, margin: { l: 62, r: 10, t: 34, b: 48 }, dragmode: false, hovermode: false, annotations: labels(), xaxis: axis(data.xTitle, { ...map, range: x }), yaxis: axis(data.yTitle, { ...map, range: y }) };
  }
  const walls = { showbackground: false, showspikes: false, showline: true };
  return {
    ...base,
    scene: {
      uirevision: "kept", dragmode: "turntable", hovermode: false, aspectmode: "manual", aspectratio: aspect(), camera: view("corner"), annotations: labels(),
      xaxis: axis(data.xTitle, { ...walls, range: x }), yaxis: axis(data.yTitle, { ...walls, range: y }),
      zaxis: axis(quantity().label, { ...walls, range: [low - 0.02 * span, cap + 0.04 * span], nticks: 5 }),
    },
  };
}
function draw() {
  legend();
  tell();
  drawing = drawing.then(() => Plotly.react(scene, traces(), layout(), { displayModeBar: false, scrollZoom: true, doubleClick: false })).catch(trouble);
  return drawing;
}
const live = (trace) => scene._fullLayout?.scene?._scene?.traces?.[scene._fullData[trace].uid];
function moveBall() {
  const changes = [[TRAIL, trailColumns()], [BALL_DOT, ballColumns()]];
  for (const [trace, places] of changes) Object.assign(scene.data[trace], FLAT ? { x: places.x, y: places.y } : places);
  try {  // plotly would build the surface anew for every step: its drawn traces are changed in place
    for (const [trace, places] of changes) {
      Object.assign(scene._fullData[trace], places);
      live(trace).update(scene._fullData[trace]);
    }
  } catch {
    const keys = FLAT ? ["x", "y"] : ["x", "y", "z"];
    Plotly.restyle(scene, Object.fromEntries(keys.map((key) => [key, changes.map(([, places]) => places[key])])), [TRAIL, BALL_DOT]);
  }
}
function legend() {
  const { low, cap, high, percent } = scale(chosen.quantity);
  ui["legend-name"].textContent = quantity().label;
  ui["legend-low"].textContent = short(low, 3);
  ui["legend-high"].textContent = cap < high ? `≥ ${short(cap, 3)}` : short(cap, 3);
  ui.legend.querySelector("i").style.background = `linear-gradient(to right, ${data.colours.join(", ")})`;
  ui.cap.value = percent;
  ui["cap-said"].textContent = cap < high ? `above ${short(cap, 3)}` : "nothing";
  ui["height-said"].textContent = `× ${short(chosen.height, 3)}`;
  ui.moment.value = chosen.index;
  ui.when.textContent = surfaces[chosen.index].label;
  const { name, log } = quantities[descended()];
  ui.descends.textContent = name === quantity().name && log === quantity().log ? "" : `What is descended is the ${log ? "log loss" : "loss"}, not the ${quantity().label} shown.`;
  const notes = [], surface = surfaces[chosen.index], values = raw(surface, quantity().name), { nonpositive } = pooled(chosen.quantity);
  const holes = values ? values.filter((it) => it === null).length : 0;
  const points = `${surface.xs.length} × ${surface.ys.length} points computed, bicubic between them`;
  notes.push(surfaces.length > 1 ? `${points}; one scale for all ${surfaces.length} moments` : points);
  if (!values) notes.push(`no ${quantity().name} at this moment`);
  if (holes) notes.push(`${holes} of them not finite: holes`);
  if (quantity().log && nonpositive) notes.push(`${nonpositive} value${nonpositive > 1 ? "s" : ""} not above 0, without a logarithm: holes`);
  if (cap < high) notes.push(`the highest ${short(percent)} % (up to ${short(high, 3)}) cut off at ${short(cap, 3)}`);
  const away = surface.path.filter((point) => point.includes(null) || !field(chosen.index, chosen.quantity).inside(...point)).length;
  if (away) notes.push(`${away} of ${surface.path.length} points of the path lie outside`);
  ui.note.textContent = notes.join(" · ");
  const { sorted } = pooled(chosen.quantity);
  scene.setAttribute("aria-label", `${FLAT ? "Map" : "Surface"} of ${quantity().label}, ${surface.label}: from ${short(sorted[0])} to ${short(sorted[sorted.length - 1])}. Arrow keys turn it, plus and minus zoom.`);
}

// ---- the ball -----------------------------------------------------------------------------------------------
const SAID = {
  rolling: "Rolling. The rate acts while it rolls.",
  rest: "At rest: no slope here. A higher rate may shake it out.",
  left: "Stopped: it left the computed part of the plane.",
  hole: "Stopped: it met a hole, where there is no finite loss.",
  paused: "Paused.",
};
function tell(text = ball ? SAID[going === null && ball.state === "rolling" ? "paused" : ball.state] : "Click the surface, or give a place below.") {
  const set = settings();
  ui["rate-said"].textContent = short(set.rate, 3);
  ui["momentum-said"].textContent = chosen.momentum ? chosen.momentum.toFixed(2) : "off";
  for (const id of ["restart", "clear"]) ui[id].disabled = !ball;
  ui.stop.disabled = ball?.state !== "rolling";
  ui.stop.textContent = ball?.running && going === null && ball.state === "rolling" ? "Go on" : "Stop";
  if (ui.state.textContent !== text) ui.state.textContent = text;
  const here = ball && ball.field.at(ball.x, ball.y), loss = ball && valueAt(chosen.index, "loss", ball.x, ball.y);
  ui.steps.textContent = ball ? short(ball.steps) : "–";
  ui.loss.textContent = short(loss, 5);
  ui.slope.textContent = here ? short(Math.hypot(here.dx, here.dy), 3) : "–";
  ui.place.textContent = ball ? `${short(ball.x, 3)}, ${short(ball.y, 3)}` : "–";
}
function drop(x, y) {
  const made = new Descent(field(chosen.index, descended()), x, y);
  if (!made.field.at(x, y)) { tell(made.field.inside(x, y) ? "There is a hole: no finite loss." : "That is outside the computed part of the plane."); return false; }
  ball = made;
  [ui["from-x"].value, ui["from-y"].value] = [x, y].map((value) => +value.toPrecision(4));
  roll();
  moveBall();
  return true;
}
function roll() {
  owed = 0;
  before = performance.now();
  if (going === null) going = requestAnimationFrame(frame);
  tell();
}
function halt() {
  if (going !== null) cancelAnimationFrame(going);
  going = null;
  tell();
}
function frame(now) {
  going = requestAnimationFrame(frame);
  owed = Math.min(owed + Math.max(0, now - before) * STEPS / 1000, 4);
  before = now;
  if (owed < 1) return;
  for (const set = settings(); owed >= 1 && ball.running; owed -= 1) ball.step(set);
  if (!ball.running || ball.state === "rest") halt();
  moveBall();
  tell();
}
function setSlider(id, value) {
  chosen[id] = value;
  if (+ui[id].value !== value) ui[id].value = value;
  if (ball?.state === "rest") [ball.state, ball.still] = ["rolling", 0];  // it may be shaken out
  if (ball?.state === "rolling" && !paused) roll();
  tell();
}
let paused = false;
function stopOrGo() {
  paused = going !== null;
  if (paused) halt(); else roll();
}
function restart() { if (ball) { paused = false; drop(...ball.start); } }
function clear() { ball = null; halt(); moveBall(); }

// ---- what the reader chooses --------------------------------------------------------------------------------
function show(changes) {
  Object.assign(chosen, changes);
  for (const id of ["quantity", "height"]) ui[id].value = chosen[id];
  for (const id of ["lines", "path", "marks"]) ui[id].checked = chosen[id];
  ui["path-choice"].hidden = !surfaces[chosen.index].path.length;
  ui["marks-choice"].hidden = !surfaces[chosen.index].marks.length;
  if (ball) ball.field = field(chosen.index, descended());
  ui.tip.hidden = true;
  return draw();
}
function play(on) {
  clearInterval(playing);
  playing = null;
  if (on) {
    if (chosen.index === surfaces.length - 1) show({ index: 0 });
    playing = setInterval(() => {
      show({ index: Math.min(chosen.index + 1, surfaces.length - 1) });
      if (chosen.index === surfaces.length - 1) play(false);
    }, 900);
  }
  showPlaying(on);
}
const camera = () => scene._fullLayout?.scene?._scene?.getCamera() ?? scene.layout.scene.camera;
let flying = 0;
function fly(to) {  // the camera, in a third of a second
  if (FLAT) return drawing;
  const from = camera(), start = performance.now(), flight = ++flying, parts = ["eye", "center"];
  const mixed = (share) => ({
    up: to.up, ...Object.fromEntries(parts.map((part) => [part, Object.fromEntries(["x", "y", "z"].map((axis) => [axis, from[part][axis] + share * (to[part][axis] - from[part][axis])]))])),
  });
  return new Promise((done) => {
    const next = (now) => {
      const share = calm.matches ? 1 : clamp((now - start) / 330, 0, 1);
      if (flight === flying) Plotly.relayout(scene, { "scene.camera": mixed(share * share * (3 - 2 * share)) });
      if (share < 1 && flight === flying) requestAnimationFrame(next); else done();
    };
    next(calm.matches ? start : performance.now());
  });
}
function turned(angle, rise, zoom = 1) {
  const { eye, center, up } = camera(), away = ["x", "y", "z"].map((axis) => eye[axis] - center[axis]), size = Math.hypot(...away) * zoom;
  const around = Math.atan2(away[1], away[0]) + angle, above = clamp(Math.asin(away[2] / Math.hypot(...away)) + rise, -1.5, 1.565);
  const flat = size * Math.cos(above);
  return { up, center, eye: { x: center.x + flat * Math.cos(around), y: center.y + flat * Math.sin(around), z: center.z + size * Math.sin(above) } };
}
async function png({ width = 1600, height = 1000 } = {}) {
  await drawing;
  const made = layout(), title = { text: escaped([data.title, surfaces[chosen.index].label].filter(Boolean).join(" · ")), x: 0.02, xanchor: "left", y: 0.965, yanchor: "top", font: { size: 20, color: TEXT } };
  const bar = { showscale: true, colorbar: { title: { text: escaped(quantity().label) }, thickness: 12, len: 0.6, outlinewidth: 0, tickcolor: FRAME, x: 0.94 } };
  Object.assign(made, { title, paper_bgcolor: PAGE, margin: FLAT ? { l: 80, r: 120, t: 60, b: 60 } : { l: 0, r: 0, t: 50, b: 0 } });
  if (!FLAT) Object.assign(made.scene, { camera: camera(), domain: { x: [0, 0.95], y: [0, 1] } });
  const svg = await Plotly.toImage({ data: traces().map((trace, i) => i === SURFACE ? { ...trace, ...bar } : trace), layout: made, config: { plotGlPixelRatio: 2 } }, { format: "svg", width, height });
  const image = new Image(), canvas = Object.assign(element("canvas"), { width, height });
  image.src = svg;  // plotly's own way to a PNG is through a blob, which a page around this one may forbid
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return canvas.toDataURL("image/png");
}
async function save() {
  ui.save.disabled = true;
  try {
    const link = element("a");
    link.href = await png();
    link.download = `${`${data.title} ${surfaces[chosen.index].label}`.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80) || "landscape"}.png`;
    link.click();
  } catch (error) { trouble(error); }
  ui.save.disabled = false;
}
function reset() {
  cuts.clear();
  paused = false;
  clear();
  play(false);
  for (const id of ["rate", "momentum"]) ui[id].value = START[id];
  return Promise.all([show({ ...START }), fly(view("corner"))]);
}

// ---- the pointer --------------------------------------------------------------------------------------------
const box = () => scene.getBoundingClientRect();
function pick(clientX, clientY) {  // the point of the plane under a pixel; null beside the surface
  const { left, top, width, height } = box();
  if (FLAT) {
    const { xaxis, yaxis } = scene._fullLayout, x = xaxis.p2d(clientX - left - xaxis._offset), y = yaxis.p2d(clientY - top - yaxis._offset);
    return field(chosen.index, chosen.quantity).inside(x, y) ? [x, y] : null;
  }
  const { xs, ys } = surfaces[chosen.index], [low, cap] = drawn(), pad = 0.02 * (cap - low);
  const ends = [[xs[0], xs[xs.length - 1]], [ys[0], ys[ys.length - 1]], [low - pad, cap + pad]];
  const ray = new Camera(scene._fullLayout.scene._scene), pixel = [(clientX - left) / width, (clientY - top) / height], seen = field(chosen.index, chosen.quantity);
  // First what is drawn; behind nothing, what is cut off, at the height of the cut.
  return ray.meet(pixel, (x, y) => seen.at(x, y)?.value > cap ? null : heightAt(x, y), ends) ?? ray.meet(pixel, heightAt, ends);
}
function project(x, y, raise = 0) {  // the reverse, on the surface
  const { left, top, width, height } = box(), z = heightAt(x, y);
  if (z === null) return null;
  if (FLAT) {
    const { xaxis, yaxis } = scene._fullLayout;
    return [left + xaxis._offset + xaxis.d2p(x), top + yaxis._offset + yaxis.d2p(y)];
  }
  const place = new Camera(scene._fullLayout.scene._scene).project([x, y, z + raise * lift()]);
  return place && [left + place[0] * width, top + place[1] * height];
}
function nearest(clientX, clientY, places, reach) {  // the number of the point under the pointer that the surface does not hide
  let best = -1, least = reach;
  const { xs, ys } = surfaces[chosen.index];
  places.forEach(([x, y], i) => {
    const place = x === null || y === null ? null : project(x, y, 1.5), distance = place ? Math.hypot(place[0] - clientX, place[1] - clientY) : Infinity;
    if (distance > least) return;
    const front = pick(...place);
    if (front && Math.max(Math.abs(front[0] - x) / (xs[xs.length - 1] - xs[0]), Math.abs(front[1] - y) / (ys[ys.length - 1] - ys[0])) > 0.08) return;
    [best, least] = [i, distance];
  });
  return best;
}
function read(clientX, clientY) {  // caption and rows of the tip
  const surface = surfaces[chosen.index], values = (x, y) => names.map((name) => [name, valueAt(chosen.index, name, x, y)]);
  const mark = chosen.marks ? nearest(clientX, clientY, surface.marks.map(([, x, y]) => [x, y]), 9) : -1;
  if (mark >= 0) {
    const [name, x, y] = surface.marks[mark];
    return { caption: name, rows: [...values(x, y), [data.xTitle, x, true], [data.yTitle, y]] };
  }
  const step = chosen.path ? nearest(clientX, clientY, surface.path, 9) : -1;
  if (step >= 0) {
    const [x, y] = surface.path[step], at = ([name, list]) => [name, list[step]];
    const slice = names.map((name) => surface.pathValues.find(([it]) => it === name)).filter(Boolean).map(at).map(([name, value]) => [`${name} of the slice`, value]);
    const notes = surface.pathNotes.map(at), shown = slice.length ? slice : values(x, y);
    return { caption: `Training path, point ${step + 1} of ${surface.path.length}`, rows: [...notes, ...shown.map((row, i) => i ? row : [...row, notes.length > 0]), [data.xTitle, x, true], [data.yTitle, y]] };
  }
  const point = pick(clientX, clientY);
  return point && heightAt(...point) !== null ? { caption: "", rows: [...values(...point), [data.xTitle, point[0], true], [data.yTitle, point[1]]] } : null;
}
function hover(event) {
  const found = event && !pressed && scene._fullLayout ? read(event.clientX, event.clientY) : null;
  ui.tip.hidden = !found;
  if (!found) return;
  const table = element("table");
  if (found.caption) element("caption", found.caption, table);
  for (const [name, value, rule] of found.rows) {
    const row = element("tr", "", table);
    if (rule) row.className = "rule";
    element("th", name, row).scope = "row";
    element("td", short(value), row);
  }
  ui.tip.replaceChildren(table);
  const { width, height } = ui.tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
  const left = event.clientX + 18 + width < wide ? event.clientX + 18 : Math.max(8, event.clientX - 18 - width);
  ui.tip.style.left = `${left + scrollX}px`;
  ui.tip.style.top = `${Math.max(8, Math.min(event.clientY + 14, innerHeight - height - 8)) + scrollY}px`;
}
let asked = null;  // at most one look per frame
scene.addEventListener("pointermove", (event) => {
  if (pressed && Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) > 4) pressed.dragged = true;
  if (!asked) requestAnimationFrame(() => { hover(asked); asked = null; });
  asked = event;
});
scene.addEventListener("pointerleave", () => { asked = null; hover(null); });
scene.addEventListener("pointerdown", (event) => {
  pressed = { clientX: event.clientX, clientY: event.clientY, dragged: event.button !== 0 };
  hover(null);
}, true);
addEventListener("pointerup", (event) => {
  const click = pressed && !pressed.dragged && scene.contains(event.target);
  pressed = null;
  const point = click ? pick(event.clientX, event.clientY) : null;
  if (point) { paused = false; drop(...point); }
}, true);
addEventListener("pointercancel", () => { pressed = null; }, true);

// ---- beginning ----------------------------------------------------------------------------------------------
quantities.forEach(({ label }, i) => ui.quantity.append(new Option(label, i)));
ui.quantity.addEventListener("change", () => show({ quantity: +ui.quantity.value }));
ui.height.addEventListener("input", () => {
  chosen.height = +ui.height.value;
  legend();
  if (!FLAT) Plotly.relayout(scene, { "scene.aspectratio": aspect() });
});
ui.cap.addEventListener("input", () => { cuts.set(chosen.quantity, +ui.cap.value); show({}); });
for (const id of ["lines", "path", "marks"]) ui[id].addEventListener("change", () => show({ [id]: ui[id].checked }));
for (const id of ["rate", "momentum"]) ui[id].addEventListener("input", () => setSlider(id, +ui[id].value));
ui.moment.addEventListener("input", () => { play(false); show({ index: +ui.moment.value }); });
ui.play.addEventListener("click", () => play(playing === null));
ui.restart.addEventListener("click", restart);
ui.stop.addEventListener("click", stopOrGo);
ui.clear.addEventListener("click", clear);
ui.save.addEventListener("click", save);
ui.reset.addEventListener("click", reset);
ui.drop.addEventListener("click", () => { paused = false; drop(ui["from-x"].valueAsNumber, ui["from-y"].valueAsNumber); });
ui.panel.addEventListener("submit", (event) => { event.preventDefault(); ui.drop.click(); });
for (const button of ui.views.querySelectorAll("[data-view]")) button.addEventListener("click", () => fly(view(button.dataset.view)));
for (const button of ui.views.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => fly(turned(0, 0, +button.dataset.zoom)));
scene.addEventListener("keydown", (event) => {
  const turn = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.12], ArrowDown: [0, -0.12], "+": [0, 0, 0.85], "=": [0, 0, 0.85], "-": [0, 0, 1.18] }[event.key];
  if (!turn || FLAT) return;
  event.preventDefault();
  Plotly.relayout(scene, { "scene.camera": turned(...turn) });
});
addEventListener("keydown", (event) => { if (event.key === "Escape") hover(null); });
[ui["from-x"].value, ui["from-y"].value] = ["xs", "ys"].map((key) => { const places = surfaces[chosen.index][key]; return +(0.85 * places[0] + 0.15 * places[places.length - 1]).toPrecision(3); });
ui.time.hidden = surfaces.length < 2;
ui.moment.max = surfaces.length - 1;
if (FLAT) {
  warn("This browser shows no WebGL, so here is a map in place of the surface. All else works.");
  ui.views.hidden = ui.height.disabled = true;
  ui.help.textContent = "Point to read, click to let a ball roll down.";
}
const ready = show({}).then(() => new ResizeObserver(() => { if (scene.clientWidth && scene.clientHeight) drawing.then(() => Plotly.Plots.resize(scene)); }).observe(scene));
// For tests, and for readers who like the console: what the controls do, and what they see.
window.explorer = {
  ready, drop, restart, clear, pick, project, png, stopOrGo, show, reset, fly: (name) => fly(view(name)), set: setSlider, quantities: quantities.map((it) => it.label),
  cut: (percent) => { cuts.set(chosen.quantity, percent); return show({}); },
  state: () => ({
    ...chosen, flat: FLAT, quantity: quantity().label, descends: quantities[descended()].label, label: surfaces[chosen.index].label, scale: drawn(), running: going !== null,
    rateValue: settings().rate, said: ui.state.textContent,
    ball: ball && { x: ball.x, y: ball.y, steps: ball.steps, state: ball.state, loss: valueAt(chosen.index, "loss", ball.x, ball.y), trail: ball.trail.length },
  }),
};
