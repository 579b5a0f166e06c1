"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [canvas, plot, ring, tip, note] = ["canvas", "plot", "ring", "tip", "note"].map((id) => document.getElementById(id));
const FONT = getComputedStyle(document.body).fontFamily, INK = "#23272d", QUIET = "#626a75", GRID = "#eceeef", FRAME = "#b9bec5", FAINT = "#dcdfe3";
const count = data.columns[0].values.length, images = new Map(data.images.map(([row, ...image]) => [row, image]));
const chosen = { x: data.x, y: data.y, colour: data.colour, group: null };  // columns by number; group: what is filtered for
const px = new Float32Array(count), py = new Float32Array(count);  // where each row is drawn
let drawn = [], faint = [];  // rows in the order of drawing: those of the chosen group, and the others
let ranges, shades;
let near = -1, pinned = -1;  // rows

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const column = (role) => data.columns[chosen[role]];
const whole = (value) => value.toLocaleString("en");
const minus = (text) => text.replaceAll("-", "−");
function short(value) {  // four digits; whole numbers (an index) in full
  if (Number.isSafeInteger(value)) return minus(String(value));
  const size = Math.abs(value);
  return minus(size < 1e-3 || size >= 1e6 ? value.toExponential(3).replace(/\.?0+e\+?/, "e") : String(+value.toPrecision(4)));
}
function element(name, text = "", parent = null) {
  const made = document.createElement(name);
  made.textContent = text;
  parent?.append(made);
  return made;
}

// ---- what is drawn ------------------------------------------------------------------------------------------
// Scattered by the golden ratio, so that in sorted data no class lies on top; those with a picture last.
const scattered = Array.from({ length: count }, (_, row) => row);
const place = (row) => (images.has(row) ? 1 : 0) + (row * 0.6180339887498949) % 1;
scattered.sort((a, b) => place(a) - place(b));
// Where only some rows have a picture, a ring tells which.
const ringed = images.size > 0 && images.size < count ? (row) => images.has(row) : () => false;

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  return low <= high ? [low, high] : [0, 1];
}
function colourRange(values) {  // without a few outliers, where these would leave one colour for all the others
  const [low, high] = range(values), sorted = Float64Array.from(values).sort();
  const inner = [0.01, 0.99].map((share) => sorted[Math.round(share * (sorted.length - 1))]);
  return inner[1] > inner[0] && inner[1] - inner[0] < (high - low) / 3 ? [...inner, low < inner[0], high > inner[1]] : [low, high, false, false];
}
function widened([low, high]) {
  const pad = high > low ? 0.04 * (high - low) : 0.5 * Math.abs(low) || 0.5;
  return [low - pad, high + pad];
}
function select() {
  const roles = ["x", "y", "colour"], values = roles.map((role) => column(role).values);
  const rows = scattered.filter((row) => values.every((it) => it[row] !== null));
  const inGroup = chosen.group === null ? () => true : (row) => data.columns[data.group].values[row] === chosen.group.value;
  drawn = rows.filter(inGroup);
  faint = chosen.group === null ? [] : rows.filter((row) => !inGroup(row));
  const known = values.map((it) => rows.map((row) => it[row]));  // the ranges do not depend on the group
  ranges = { x: widened(range(known[0])), y: widened(range(known[1])), colour: colourRange(known[2]) };
  const [low, high] = ranges.colour, last = data.colours.length - 1;
  shades = values[2].map((value) => data.colours[high > low ? Math.round(clamp((value - low) / (high - low), 0, 1) * last) : 0]);
  if (!drawn.includes(pinned)) pinned = -1;

  const parts = [count < data.total ? `${whole(count)} of ${whole(data.total)} examples shown` : count === 1 ? "1 example" : `${whole(count)} examples`];
  if (chosen.group !== null) parts.push(`${data.columns[data.group].name} ${text(chosen.group.value)}: ${whole(drawn.length)}, the others grey`);
  if (rows.length < count) {
    const lacking = new Set(roles.filter((_, i) => values[i].includes(null)).map((role) => column(role).name));
    parts.push(`${whole(count - rows.length)} of them left out: no value for ${[...lacking].join(" or ")}`);
  }
  if (ringed(images.keys().next().value)) parts.push("ringed: with a picture");
  note.textContent = `${parts.join(" · ")} · click a point to keep its details open`;
  canvas.setAttribute("aria-label", `Scatter plot of ${whole(drawn.length)} examples: ${column("y").name} against ${column("x").name}, coloured by ${column("colour").name}. Arrow keys go from point to point.`);
}

// ---- drawing ------------------------------------------------------------------------------------------------
function ticks([low, high], most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((nice) => nice * power >= rough * (1 - 1e-9)) ?? 10);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), long = step < 1e-4 || Math.max(Math.abs(low), Math.abs(high)) >= 1e6;
  const label = (value) => value === 0 ? "0" : minus(long ? (+value.toPrecision(12)).toExponential().replace("e+", "e") : value.toFixed(decimals));
  const first = Math.ceil(low / step - 1e-9), found = [];
  for (let i = first; i * step <= high + 1e-9 * step && found.length < 50; i++) {
    found.push({ value: i * step, label: label(i * step) });
  }
  return found;
}
function draw() {
  const width = plot.clientWidth, height = plot.clientHeight, ratio = window.devicePixelRatio || 1;
  if (!width || !height) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const write = (text, x, y, { align = "left", base = "middle", size = 12, colour = QUIET, weight = 400 } = {}) => {
    pen.font = `${weight} ${size}px ${FONT}`;
    [pen.textAlign, pen.textBaseline, pen.fillStyle] = [align, base, colour];
    pen.fillText(text, x, y);
    return pen.measureText(text).width;
  };
  const fitted = (text, room) => {
    pen.font = `600 13px ${FONT}`;
    if (pen.measureText(text).width <= room) return text;
    const letters = [...text];
    while (letters.length && pen.measureText(`${letters.join("")}…`).width > room) letters.pop();
    return `${letters.join("")}…`;
  };
  const line = (x0, y0, x1, y1, colour) => {
    pen.strokeStyle = colour;
    pen.beginPath(); pen.moveTo(x0, y0); pen.lineTo(x1, y1); pen.stroke();
  };
  const crisp = (value) => Math.round(value * ratio) / ratio + 0.5 / ratio;

  const top = 42, bottom = height - 46, right = width - 8;
  const marksY = ticks(ranges.y, clamp(Math.floor((bottom - top) / 55), 2, 10));
  pen.font = `12px ${FONT}`;
  const left = Math.ceil(32 + Math.max(0, ...marksY.map((mark) => pen.measureText(mark.label).width)));
  const marksX = ticks(ranges.x, clamp(Math.floor((right - left) / 85), 2, 12));
  const scale = ([low, high], from, to) => (value) => from + (value - low) / (high - low) * (to - from);
  const toX = scale(ranges.x, left, right), toY = scale(ranges.y, bottom, top);
  pen.lineWidth = 1 / ratio;
  for (const { value, label } of marksX) {
    const x = crisp(toX(value));
    line(x, top, x, bottom, GRID);
    line(x, bottom, x, bottom + 4, FRAME);
    const half = pen.measureText(label).width / 2;
    write(label, Math.min(x, width - half), bottom + 15, { align: "center" });
  }
  for (const { value, label } of marksY) {
    const y = crisp(toY(value));
    line(left, y, right, y, GRID);
    line(left - 4, y, left, y, FRAME);
    write(label, left - 8, y, { align: "right" });
  }
  line(crisp(left), top, crisp(left), bottom, FRAME);
  line(left, crisp(bottom), right, crisp(bottom), FRAME);
  const title = { align: "center", size: 13, weight: 600, colour: INK };
  write(fitted(column("x").name, right - left), (left + right) / 2, bottom + 36, title);
  pen.save();
  pen.translate(10, (top + bottom) / 2);
  pen.rotate(-Math.PI / 2);
  write(fitted(column("y").name, bottom - top), 0, 0, title);
  pen.restore();
  if (drawn.length + faint.length) legend(pen, write, fitted, left, right);

  const radius = clamp(0.2 * Math.sqrt((right - left) * (bottom - top) / Math.max(1, drawn.length)), 2, 5);
  const dot = (row, size) => { pen.beginPath(); pen.arc(px[row], py[row], size, 0, 2 * Math.PI); };
  const xs = column("x").values, ys = column("y").values;
  for (const row of [...faint, ...drawn]) { px[row] = toX(xs[row]); py[row] = toY(ys[row]); }
  pen.fillStyle = FAINT;
  for (const row of faint) { dot(row, Math.min(radius, 3)); pen.fill(); }
  pen.lineWidth = 0.5;
  pen.strokeStyle = "#fff";
  for (const row of drawn) {
    if (ringed(row)) for (const [more, colour] of [[2.5, INK], [1.25, "#fff"]]) { pen.fillStyle = colour; dot(row, radius + more); pen.fill(); }
    pen.fillStyle = shades[row];
    dot(row, radius);
    pen.fill();
    pen.stroke();
  }
  if (!drawn.length) write("no example has values for all of these", (left + right) / 2, (top + bottom) / 2, { align: "center", size: 14 });
  mark();
}
function legend(pen, write, fitted, left, right) {
  const [low, high, below, above] = ranges.colour;
  const digit = high > low ? 10 ** (3 - Math.floor(Math.log10(high - low))) : 0;  // not 5.512e−5 at one end and 2 at the other
  const end = (value) => short(digit > 0 && Number.isFinite(digit) ? +(Math.round(value * digit) / digit).toPrecision(12) : value);
  const ends = [`${below ? "≤ " : ""}${end(low)}`, `${above ? "≥ " : ""}${end(high)}`];
  pen.font = `12px ${FONT}`;
  const [one, other] = ends.map((text) => pen.measureText(text).width), room = right - left;
  const name = fitted(column("colour").name, room - one - other - 80);
  let x = left + write(name, left, 16, { size: 13, weight: 600, colour: INK }) + 12;
  x += write(ends[0], x, 16) + 7;
  const width = clamp(right - x - other - 7, 30, 180), fill = pen.createLinearGradient(x, 0, x + width, 0);
  data.colours.forEach((colour, i) => fill.addColorStop(i / (data.colours.length - 1), colour));
  pen.fillStyle = high > low ? fill : data.colours[0];
  pen.fillRect(x, 10, width, 12);
  if (high > low) write(ends[1], x + width + 7, 16);
}

// ---- one point ----------------------------------------------------------------------------------------------
const text = (value) => value === null ? "–" : typeof value === "number" ? short(value) : value;
function nearest(x, y, reach) {
  let best = -1, least = reach * reach;
  for (const row of drawn) {
    const distance = (px[row] - x) ** 2 + (py[row] - y) ** 2;
    if (distance <= least) { best = row; least = distance; }  // of several in one place the topmost
  }
  return best;
}
function mark() {  // rings and explains the pinned point, or else the one that is pointed at
  const row = pinned >= 0 ? pinned : near;
  ring.hidden = tip.hidden = row < 0;
  if (row < 0) return;
  for (const it of [ring, tip]) it.classList.toggle("pinned", pinned >= 0);
  ring.style.left = `${px[row]}px`;
  ring.style.top = `${py[row]}px`;
  tip.replaceChildren();
  const image = images.get(row);
  if (image) {
    const [width, height, content] = image, longest = Math.max(width, height);
    const times = longest < 128 ? Math.floor(128 / longest) : 160 / Math.max(160, longest);
    const shown = element("img", "", tip);
    Object.assign(shown, { src: `data:image/png;base64,${content}`, alt: "the example's picture", width: Math.round(width * times), height: Math.round(height * times) });
  }
  const side = element("div", "", tip), table = element("table", "", side);
  data.columns.forEach(({ name, values }, i) => {
    const line = element("tr", "", table), value = values[row];
    element("th", name, line).scope = "row";
    const cell = element("td", "", line);
    if (typeof value === "number") cell.className = "number";
    if (i === chosen.colour) element("i", "", cell).style.background = shades[row];
    cell.append(text(value));
  });
  const others = drawn.filter((it) => Math.hypot(px[it] - px[row], py[it] - py[row]) < 0.5).length - 1;
  if (others) element("p", `${whole(others)} more in this place`, side);
  const box = plot.getBoundingClientRect(), [x, y] = [box.left + px[row], box.top + py[row]];
  const { offsetWidth: width, offsetHeight: height } = tip, gap = 16, edge = 8;
  // Beside the point; where no side has room, below or above it.
  let left = x + gap, top = y - height / 2;
  if (left + width > innerWidth - edge) left = x - gap - width;
  if (left < edge) {
    left = x - width / 2;
    top = y + gap + height > innerHeight - edge && y - gap - height > edge ? y - gap - height : y + gap;
  }
  if (height < box.height) top = clamp(top, box.top, box.bottom - height);  // over the plot, not over the texts around it
  tip.style.left = `${clamp(left, edge, Math.max(edge, innerWidth - width - edge)) + scrollX}px`;
  tip.style.top = `${clamp(top, edge, Math.max(edge, innerHeight - height - edge)) + scrollY}px`;
}
function point(row) {
  canvas.classList.toggle("over", row >= 0);
  if (row === near) return;
  near = row;
  if (pinned < 0) mark();
}
function under(event, reach) {
  const box = canvas.getBoundingClientRect();
  return nearest(event.clientX - box.left, event.clientY - box.top, reach);
}
canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") point(under(event, 12)); });
canvas.addEventListener("pointerleave", () => point(-1));
document.addEventListener("click", (event) => {
  if (tip.contains(event.target) || event.target.closest("form")) return;
  const row = event.target === canvas ? under(event, event.pointerType === "mouse" ? 12 : 24) : -1;
  [pinned, near] = [row, row];
  mark();
});
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step === undefined || !drawn.length) return;
  event.preventDefault();
  const sorted = [...drawn].sort((a, b) => px[a] - px[b] || py[a] - py[b]), at = sorted.indexOf(pinned);
  pinned = sorted[at < 0 ? (step > 0 ? 0 : sorted.length - 1) : clamp(at + step, 0, sorted.length - 1)];
  mark();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { pinned = near = -1; mark(); }
});

// ---- what the reader chooses --------------------------------------------------------------------------------
function redraw() { near = -1; select(); draw(); }
for (const role of ["x", "y", "colour"]) {
  const menu = document.getElementById(role);
  for (const index of data.axes) menu.append(new Option(data.columns[index].name, index, false, index === chosen[role]));
  menu.addEventListener("change", () => { chosen[role] = +menu.value; redraw(); });
}
if (data.group !== null) {
  const { name, values } = data.columns[data.group], menu = document.getElementById("group");
  const compare = (a, b) => (a === null) - (b === null) || (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const kinds = [...new Set(values)].sort(compare);
  document.querySelector("#filter span").textContent = name;
  document.getElementById("filter").hidden = false;
  menu.append(new Option("all", -1), ...kinds.map((value, i) => new Option(text(value), i)));
  menu.addEventListener("change", () => { chosen.group = menu.value < 0 ? null : { value: kinds[menu.value] }; redraw(); });
}
select();
new ResizeObserver(draw).observe(plot);
// A window moved to a screen of other pixels is not resized.
const watch = () => matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener("change", () => { draw(); watch(); }, { once: true });
watch();
