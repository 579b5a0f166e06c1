const { runs, limit, powers: [M, N] } = data;
const product = new Product(data.powers, data.branches), STEPS = runs[0].paths[0].length / 2 - 1;
const CLASSES = [...data.branches.keys(), SADDLE, WAY, GONE];
const named = (end) => data.ends[CLASSES.indexOf(end)];
const START = { run: 0, step: STEPS, rate: runs[0].rate, momentum: runs[0].momentum, arrows: true, trails: true, solutions: true, root: false };
const chosen = { ...START }, added = [];
const [SECONDS, CAP, GRID] = [10, 2, 61];  // of playing through; of the height shown, in L; points of the surface
const MOVING = { map: 4, surface: 3 };  // the first of the traces that change with the step
let shown = [], playing = null;

const dark = matchMedia("(prefers-color-scheme: dark)");
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const colour = (end) => ink(end >= 0 ? ["first", "second", "third", "fourth"][end] : { [SADDLE]: "saddle", [WAY]: "way", [GONE]: "gone" }[end]);
const short = (value, digits = 4) => value === 0 ? "0" : !Number.isFinite(value) ? (Number.isNaN(value) ? "–" : "∞") : Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(+value.toPrecision(digits)) : value.toExponential(Math.max(0, digits - 2));

// ---- the descents -------------------------------------------------------------------------------------------
const asRun = () => chosen.rate === runs[chosen.run].rate && chosen.momentum === runs[chosen.run].momentum;
function run() {  // what was run, or, with other settings, what this page runs itself
  const { starts, paths } = runs[chosen.run], own = (start) => product.descend(start, chosen.rate, chosen.momentum, STEPS);
  shown = [
    ...starts.map((start, i) => summary(product, asRun() ? paths[i] : own(start), start)),
    ...added.map((start) => summary(product, own(start), start)),
  ];
  for (const it of shown) it.points = thinned(it.path, limit / 250);
}
const height = (a, b) => chosen.root ? Math.sqrt(product.loss(a, b)) : product.loss(a, b);
const ceiling = () => chosen.root ? Math.sqrt(CAP) : CAP;
const inside = (a, b) => Math.abs(a) <= limit && Math.abs(b) <= limit;

function trail(it, step) {  // as far as a step
  const points = it.points.filter(([at]) => at <= step).map(([, a, b]) => [a, b]);
  const here = head(it, step);
  return here ? [...points, here] : points;
}
function head(it, step) {
  const [a, b] = [it.path[2 * step], it.path[2 * step + 1]];
  return a === null ? null : [a, b];
}
function columns(points, three) {
  // Outside of the surface, and above it, plotly would draw in the air; far outside of the map, numbers too large for it.
  const near = three ? (a, b) => inside(a, b) && height(a, b) <= ceiling() : (a, b) => Math.hypot(a, b) < 20 * limit;
  const kept = points.map((it) => it && near(...it) ? it : null);
  const made = { x: kept.map((it) => it && it[0]), y: kept.map((it) => it && it[1]) };
  return three ? { ...made, z: kept.map((it) => it && height(...it) + 0.012 * ceiling()) } : made;
}
function moving(three) {  // coordinates of the traces that change with the step
  const lines = CLASSES.map((end) => columns(chosen.trails ? shown.filter((it) => it.end === end).flatMap((it) => [...trail(it, chosen.step), null]) : [], three));
  const heads = CLASSES.map((end) => columns(shown.filter((it) => it.end === end).map((it) => head(it, chosen.step)), three));
  return [...lines, ...heads].map((it) => it.x.length ? it : { x: [null], y: [null], ...(three ? { z: [null] } : {}) });
}

// ---- drawing ------------------------------------------------------------------------------------------------
const places = Array.from({ length: GRID }, (_, i) => -limit + 2 * limit * i / (GRID - 1));
function movingTraces(three) {
  const type = three ? "scatter3d" : "scatter", base = { type, hoverinfo: "skip", showlegend: false, connectgaps: false };
  const coordinates = moving(three);
  return [
    ...CLASSES.map((end, i) => ({ ...base, ...coordinates[i], mode: "lines", line: { color: colour(end), width: three ? 3 : 1.4 } })),
    ...CLASSES.map((end, i) => ({ ...base, ...coordinates[CLASSES.length + i], mode: "markers", marker: { color: colour(end), size: three ? 3.5 : 6, line: { width: three ? 0 : 1, color: ink("page") } } })),
  ];
}
function curves(three) {  // the solutions, and, for two weights, the line that flows to the saddle
  const base = { type: three ? "scatter3d" : "scatter", mode: "lines", hoverinfo: "skip", showlegend: false };
  const valley = data.solutions.flatMap(([xs, ys]) => [...xs.map((x, i) => [x, ys[i]]), null]), ridge = places.map((it) => [it, -it]);
  return [
    { ...base, ...columns(valley, three), visible: chosen.solutions, connectgaps: false, line: { color: ink("solution"), width: three ? 6 : 3 } },
    { ...base, ...columns(M === 1 && N === 1 ? ridge : [null], three), visible: chosen.solutions, connectgaps: false, line: { color: ink("saddle"), width: three ? 3 : 1.5, dash: "dash" } },
  ];
}
function arrows() {  // downhill; lengths by the cube root of the slope, or the corners would hide all the rest
  const count = 17, cell = 2 * limit / count, at = Array.from({ length: count }, (_, i) => -limit + (i + 0.5) * cell), x = [], y = [];
  const steepest = Math.hypot(...product.gradient(limit, -limit));
  for (const a of at) for (const b of at) {
    const [down, across] = product.gradient(a, b), size = Math.hypot(down, across);
    if (size < 1e-9) continue;
    const length = 0.95 * cell * Math.cbrt(size / steepest), [u, v] = [-down / size * length, -across / size * length];
    const [tipX, tipY] = [a + u / 2, b + v / 2], back = 0.35;
    x.push(a - u / 2, tipX, null, tipX - back * (u + 0.6 * v), tipX, tipX - back * (u - 0.6 * v), null);
    y.push(b - v / 2, tipY, null, tipY - back * (v - 0.6 * u), tipY, tipY - back * (v + 0.6 * u), null);
  }
  return { type: "scatter", mode: "lines", x, y, visible: chosen.arrows, hoverinfo: "skip", showlegend: false, line: { color: ink("field"), width: 1 } };
}
const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");  // plotly reads some HTML
function words(it) {
  const solved = it.solved === null ? "" : `<br>solved after ${it.solved} steps`;
  const other = it.end !== it.flow && it.end !== WAY ? `<br><b>gradient flow ends elsewhere: ${escaped(named(it.flow))}</b>` : "";
  const [a, b] = it.start.map((value) => short(value));
  return `start (${a}, ${b})<br>a² − b² = ${short(it.kept)}, changed by ${short(it.drift, 2)}<br>final loss ${short(it.loss, 3)}<br>${escaped(named(it.end))}${solved}${other}`;
}
function starts() {
  return {
    type: "scatter", mode: "markers", x: shown.map((it) => it.start[0]), y: shown.map((it) => it.start[1]), text: shown.map(words), hovertemplate: "%{text}<extra></extra>", showlegend: false,
    marker: { size: 8, color: "rgba(127,127,127,0.12)", line: { width: 1.3, color: shown.map((it) => colour(it.end)) } },
  };
}
function base() {
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink("quiet"), size: 12 }, showlegend: false, margin: { l: 0, r: 0, t: 0, b: 0 } };
}
function drawMap() {
  const axis = (text) => ({ title: { text, font: { size: 14, color: ink("text") }, standoff: 6 }, range: [-limit, limit], fixedrange: true, showgrid: false, zeroline: false, ticks: "outside", linecolor: ink("line"), mirror: true, tickcolor: ink("line") });
  const size = 0.5, errors = places.map((b) => places.map((a) => Math.abs(product.error(a, b))));
  const contours = { type: "contour", x: places, y: places, z: errors, showscale: false, hoverinfo: "skip", contours: { coloring: "none", start: size, end: 8, size }, line: { color: ink("contour"), width: 1 } };
  const saddle = { type: "scatter", mode: "markers", x: [0], y: [0], hovertemplate: `critical point at 0<br>L = ½<extra></extra>`, showlegend: false, marker: { symbol: "x", size: 9, color: ink("saddle") } };
  const layout = { ...base(), margin: { l: 50, r: 12, t: 12, b: 42 }, dragmode: false, hovermode: "closest", hoverdistance: 12, hoverlabel: { bgcolor: ink("raised"), bordercolor: ink("line"), font: { color: ink("text") }, align: "left" }, xaxis: axis("a"), yaxis: { ...axis("b"), scaleanchor: "x", constrain: "domain" } };
  layout.xaxis.constrain = "domain";
  return Plotly.react(ui.map, [contours, arrows(), ...curves(false), ...movingTraces(false), saddle, starts()], layout, { displayModeBar: false });
}
function drawSurface() {
  if (FLAT) return null;
  const axis = (text, more) => ({ title: { text, font: { size: 13, color: ink("text") } }, showbackground: false, gridcolor: ink("line"), zeroline: false, showspikes: false, tickfont: { size: 10 }, nticks: 5, ...more });
  const z = places.map((b) => places.map((a) => Math.min(height(a, b), 2 * ceiling())));
  const surface = {
    type: "surface", x: places, y: places, z, cmin: 0, cmax: ceiling(), showscale: false, hoverinfo: "skip", colorscale: [[0, ink("low")], [1, ink("high")]], opacity: 0.92,
    lighting: { ambient: 0.7, diffuse: 0.4, specular: 0.04, roughness: 0.8 }, contours: { x: { highlight: false }, y: { highlight: false }, z: { highlight: false, show: true, color: ink("contour"), width: 1, start: ceiling() / 12, end: ceiling(), size: ceiling() / 12 } },
  };
  const layout = {
    ...base(), scene: {
      uirevision: "kept", dragmode: "turntable", hovermode: false, aspectmode: "manual", aspectratio: { x: 1, y: 1, z: 0.5 }, camera: { eye: { x: 0.8, y: 0.62, z: 1.35 }, center: { x: 0, y: 0, z: -0.12 } },
      xaxis: axis("a", { range: [-limit, limit] }), yaxis: axis("b", { range: [-limit, limit] }), zaxis: axis(chosen.root ? "√L" : "L", { range: [0, 1.03 * ceiling()] }),
    },
  };
  return Plotly.react(ui.surface, [surface, ...curves(true), ...movingTraces(true)], layout, { displayModeBar: false, scrollZoom: true });
}
function draw() {
  run();
  tell();
  drawing = drawing.then(drawMap).then(drawSurface).catch(trouble);
  return drawing;
}
function move() {  // to the chosen step: what stands still is left alone
  tell();
  const change = (id) => {
    const made = moving(id === "surface");
    return Plotly.restyle(ui[id], Object.fromEntries(Object.keys(made[0]).map((key) => [key, made.map((it) => it[key])])), made.map((_, i) => MOVING[id] + i));
  };
  drawing = drawing.then(() => change("map")).then(() => FLAT ? null : change("surface")).catch(trouble);
  return drawing;
}
function tell() {
  ui["rate-said"].textContent = short(chosen.rate, 3);
  ui["momentum-said"].textContent = chosen.momentum ? chosen.momentum.toFixed(2) : "off";
  ui.rate.value = Math.log10(chosen.rate);
  ui.momentum.value = chosen.momentum;
  ui.step.value = chosen.step;
  ui["step-said"].textContent = `step ${chosen.step} of ${STEPS}`;
  ui.source.textContent = asRun() ? "Shown: the descents as they were run." : "Shown: the same starts, run anew by this page.";
  ui.reset.disabled = asRun();
  ui.clear.disabled = !added.length;
  [...ui.runs.children].forEach((it, i) => it.setAttribute("aria-pressed", i === chosen.run));
  for (const id of ["arrows", "trails", "solutions", "root"]) ui[id].checked = chosen[id];
  ui.ends.replaceChildren(...CLASSES.map((end) => [end, shown.filter((it) => it.end === end).length]).filter(([, count]) => count).map(([end, count]) => {
    const row = document.createElement("tr"), name = row.insertCell(), dot = document.createElement("i");
    dot.style.background = colour(end);
    name.append(dot, named(end));
    row.insertCell().textContent = count;
    return row;
  }));
  const finished = shown.filter((it) => it.end !== GONE), astray = finished.filter((it) => it.end !== WAY && it.end !== it.flow).length;
  const drift = Math.max(0, ...finished.map((it) => Math.abs(it.drift)));
  ui.drift.textContent = `After ${STEPS} steps a² − b² has changed by ${short(drift, 2)} at most` + (astray ? `; ${astray} ended where gradient flow does not.` : "; all that ended did so where gradient flow does.");
  ui.note.textContent = `Contours: |${power("a", M)}${power("b", N)} − 1| in steps of ½. Green: solutions.` + (M === 1 && N === 1 ? " Dashed: a + b = 0, which flows to the saddle." : "") + ` Heights are cut off at L = ${CAP}, arrows shortened to the cube root.`;
}
const power = (letter, times) => letter + (times === 1 ? "" : times < 10 ? "⁰¹²³⁴⁵⁶⁷⁸⁹"[times] : `^${times}`);

// ---- what the reader chooses --------------------------------------------------------------------------------
function show(changes) {
  Object.assign(chosen, changes);
  return draw();
}
function choose(index) { return show({ run: index, rate: runs[index].rate, momentum: runs[index].momentum }); }
function goTo(step) {
  chosen.step = Math.max(0, Math.min(STEPS, Math.round(step)));
  return move();
}
function add(a, b) {
  if (!Number.isFinite(a) || !Number.isFinite(b)) return null;
  added.push([a, b]);
  [ui["from-a"].value, ui["from-b"].value] = [a, b].map((it) => +it.toPrecision(4));
  return show({});
}
function play(on) {
  playing = on ? { from: chosen.step === STEPS ? 0 : chosen.step, since: performance.now() } : null;
  showPlaying(on);
  if (on) requestAnimationFrame(frame);
}
async function frame(now) {
  if (!playing) return;
  const step = playing.from + Math.max(0, now - playing.since) / 1000 * STEPS / SECONDS;
  await goTo(calm.matches ? STEPS : step);
  if (chosen.step === STEPS) play(false);
  else requestAnimationFrame(frame);
}
runs.forEach(({ name }, i) => {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: name });
  button.addEventListener("click", () => choose(i));
  ui.runs.append(button);
});
ui.step.max = STEPS;
ui.step.addEventListener("input", () => { play(false); goTo(+ui.step.value); });
ui.play.addEventListener("click", () => play(!playing));
ui.rate.addEventListener("input", () => show({ rate: 10 ** +ui.rate.value }));
ui.momentum.addEventListener("input", () => show({ momentum: +ui.momentum.value }));
ui.reset.addEventListener("click", () => choose(chosen.run));
ui.add.addEventListener("click", () => add(ui["from-a"].valueAsNumber, ui["from-b"].valueAsNumber));
ui.clear.addEventListener("click", () => { added.length = 0; draw(); });
ui.panel.addEventListener("submit", (event) => event.preventDefault());
for (const id of ["arrows", "trails", "solutions", "root"]) ui[id].addEventListener("change", () => show({ [id]: ui[id].checked }));
let pressed = null;  // plotly lays a sheet over the page while a button is down, so that no click arrives
ui.map.addEventListener("pointerdown", (event) => { pressed = event.button === 0 ? [event.clientX, event.clientY] : null; }, true);
addEventListener("pointerup", (event) => {
  const from = pressed;
  pressed = null;
  if (!from || Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 5) return;
  const { xaxis, yaxis } = ui.map._fullLayout, { left, top: above } = ui.map.getBoundingClientRect();
  const a = xaxis.p2d(event.clientX - left - xaxis._offset), b = yaxis.p2d(event.clientY - above - yaxis._offset);
  if (inside(a, b)) add(a, b);
}, true);
dark.addEventListener("change", draw);
if (FLAT) {
  warn("This browser shows no WebGL, so there is the map alone.");
  ui.surface.parentElement.hidden = true;
}
const ready = draw().then(() => {
  const watch = new ResizeObserver(() => drawing.then(() => { for (const id of FLAT ? ["map"] : ["map", "surface"]) if (ui[id].clientWidth) Plotly.Plots.resize(ui[id]); }));
  watch.observe(ui.map);
});
// For tests, and for readers who like the console.
window.explorer = {
  ready, show, choose, goTo, add, play, product,
  state: () => ({ ...chosen, flat: FLAT, asRun: asRun(), added: added.length, playing: playing !== null, ends: shown.map((it) => it.end), flows: shown.map((it) => it.flow), paths: shown.map((it) => it.path) }),
};
