"use strict";
const data = (figure) => JSON.parse(figure.querySelector("script").textContent);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const short = (value) => {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2).replace(/\.?0+e/, "e") : String(+value.toPrecision(4));
};
function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// ---- theme ------------------------------------------------------------------------------------------------
const root = document.documentElement;
const remembered = (value) => {  // a page opened from disk may be refused storage
  try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; }
};
const setTheme = (theme) => { if (theme === "light" || theme === "dark") root.dataset.theme = theme; };
setTheme(remembered());
document.getElementById("theme").addEventListener("click", () => {
  const now = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
  remembered(root.dataset.theme);
});

// ---- charts -----------------------------------------------------------------------------------------------
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((nice) => nice * power >= rough) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}
function drawChart(figure) {
  const points = data(figure), svg = figure.querySelector("svg"), output = figure.querySelector("output");
  const left = 46, right = 290, top = 10, bottom = 152, latest = output.textContent;
  const shape = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    svg.append(made);
    return made;
  };
  const range = (values, whenFlat) => {
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    return low < high ? [low, high] : [low - whenFlat(low), high + whenFlat(high)];
  };
  const [x0, x1] = range(points.map((p) => p[0]), () => 1);
  const [y0, y1] = range(points.map((p) => p[1]), (y) => Math.abs(y) * 0.1 || 1);
  const pad = (y1 - y0) * 0.06, low = y0 - pad, high = y1 + pad;
  const x = (step) => left + (step - x0) / (x1 - x0) * (right - left);
  const y = (value) => bottom - (value - low) / (high - low) * (bottom - top);
  for (const value of ticks(low, high, 4)) {
    shape("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) });
    shape("text", { x: left - 6, y: y(value) + 3.5, "text-anchor": "end" }, short(+value.toPrecision(12)));
  }
  for (const step of ticks(x0, x1, 5).filter(Number.isInteger))
    shape("text", { x: x(step), y: bottom + 14, "text-anchor": "middle" }, short(step));
  if (points.length > 1) shape("polyline", { class: "curve", points: points.map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`).join(" ") });
  const here = shape("line", { class: "here", y1: top, y2: bottom, visibility: "hidden" });
  const line = shape("line", { class: "hover", y1: top, y2: bottom, visibility: "hidden" });
  const dot = shape("circle", { class: "dot", r: 3.5 });
  let at = points.length - 1;
  const point = (index, hovered) => {
    at = clamp(index, 0, points.length - 1);
    const [step, value] = points[at];
    for (const [key, number] of [["cx", x(step)], ["cy", y(value)]]) dot.setAttribute(key, number);
    for (const key of ["x1", "x2"]) line.setAttribute(key, x(step));
    line.setAttribute("visibility", hovered ? "visible" : "hidden");
    output.textContent = hovered ? `step ${step}: ${short(value)}` : latest;
  };
  point(at, false);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), step = x0 + ((event.clientX - box.left) / box.width * 300 - left) / (right - left) * (x1 - x0);
    point(nearest(points.map((p) => p[0]), step), true);
  });
  for (const gone of ["pointerleave", "blur"]) svg.addEventListener(gone, () => point(points.length - 1, false));
  svg.addEventListener("keydown", (event) => {
    const moved = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: points.length - 1 }[event.key];
    if (moved !== undefined) { event.preventDefault(); point(moved, true); }
  });
  figure.mark = (step) => {  // where this section's sliders stand
    here.setAttribute("visibility", step > x0 && step < x1 ? "visible" : "hidden");
    for (const key of ["x1", "x2"]) here.setAttribute(key, x(step));
  };
}
function nearest(sorted, step) {
  let best = 0;
  for (let i = 1; i < sorted.length; i++) if (Math.abs(sorted[i] - step) < Math.abs(sorted[best] - step)) best = i;
  return best;
}

// ---- tables -----------------------------------------------------------------------------------------------
function thumbnail({ image, width, height, caption }) {
  if (!image) return element("span", { class: "absent", title: "left out to keep this page small; it is in the folder" }, "(image)");
  const fit = Math.min(64 / height, 160 / width), scale = fit >= 1 ? Math.floor(fit) : fit;  // whole pixels stay crisp
  const [w, h] = [width, height].map((size) => Math.max(1, Math.round(size * scale)));
  return element("img", { class: fit >= 1 ? "pixels" : "", src: image, alt: caption || "image", title: caption, width: w, height: h });
}
function tableView(panel) {
  const table = panel.querySelector(".view table"), filter = panel.querySelector("[type=search]");
  const all = panel.querySelector(".all"), note = panel.querySelector(".rows");
  let columns = [], rows = [], sort = null, limit = 200;
  const plain = (cell) => cell !== null && typeof cell === "object" ? cell.caption : cell;  // what stands for a picture
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);  // empty cells last, both ways
    const order = typeof a !== "string" && typeof b !== "string" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return sort.down ? -order : order;
  };
  const draw = () => {
    const wanted = filter.value.trim().toLowerCase();
    const found = rows.filter((row) => row.some((cell) => String(plain(cell) ?? "").toLowerCase().includes(wanted)));
    const place = sort ? columns.indexOf(sort.column) : -1;
    if (place >= 0) found.sort((a, b) => compare(plain(a[place]), plain(b[place])));
    const numeric = columns.map((_, i) => rows.some((row) => typeof row[i] === "number") && rows.every((row) => row[i] === null || typeof row[i] === "number"));
    const head = element("tr");
    columns.forEach((column, i) => {
      const down = place === i && sort.down;
      const cell = element("th", { scope: "col", "aria-sort": place !== i ? "none" : down ? "descending" : "ascending" });
      if (numeric[i]) cell.className = "number";
      const button = element("button", { type: "button" }, column);
      button.addEventListener("click", () => {
        sort = { column, down: place === i && !down };
        draw();
        table.tHead.rows[0].cells[i].firstChild.focus({ preventScroll: true });
      });
      cell.append(button);
      head.append(cell);
    });
    table.tHead.replaceChildren(head);
    const shown = found.slice(0, limit).map((row) => {
      const line = element("tr");
      row.forEach((cell, i) => {
        const isPicture = cell !== null && typeof cell === "object";
        const place = element("td", numeric[i] ? { class: "number" } : {}, typeof cell === "number" ? short(cell) : isPicture ? "" : String(cell ?? ""));
        if (isPicture) place.append(thumbnail(cell));
        line.append(place);
      });
      return line;
    });
    table.tBodies[0].replaceChildren(...shown);
    const total = rows.length === 1 ? "1 row" : `${rows.length} rows`;
    note.textContent = shown.length === rows.length ? total : found.length === rows.length ? `first ${shown.length} of ${total}` : `${shown.length} of ${found.length} matching, ${total} in all`;
    all.hidden = shown.length === found.length;
  };
  filter.addEventListener("input", draw);
  all.addEventListener("click", () => { limit = Infinity; draw(); });
  return (content) => { ({ columns, rows } = content); draw(); };
}

// ---- panels: one view each, and a slider over its steps -----------------------------------------------------
function pictureView(panel) {
  const image = panel.querySelector("img"), last = image.src;
  return (content, frame) => {
    image.src = content ?? last;
    [image.width, image.height] = [frame.width, frame.height];
    if (frame.caption) image.alt = frame.caption;
  };
}
function pageView(panel) {
  const frame = panel.querySelector("iframe");
  let near = false, wanted = "";
  const watch = new IntersectionObserver((seen) => {  // a document may be heavy: it starts when scrolled near
    if (!seen.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    near = true;
    frame.srcdoc = wanted;
  }, { rootMargin: "400px" });
  watch.observe(frame);
  return (content, { height }) => {
    frame.height = height;
    wanted = content;
    if (near) frame.srcdoc = content;
  };
}
function drawPanel(panel, section) {
  const frames = data(panel), steps = frames.map((frame) => frame.step), slider = panel.querySelector(".steps input");
  const view = { picture: pictureView, film: pictureView, page: pageView, table: tableView }[panel.dataset.kind](panel);
  let at = frames.length - 1;
  const show = (index) => {
    at = clamp(index, 0, frames.length - 1);
    const frame = frames[at], label = `epoch ${frame.epoch}, step ${frame.step}`;
    panel.querySelector(".when").textContent = label;
    panel.querySelector("figcaption").textContent = frame.caption;
    view(frame.content, frame);
    if (!slider) return;
    slider.value = at;
    slider.setAttribute("aria-valuetext", label);
    panel.querySelector(".previous").disabled = at === 0;
    panel.querySelector(".next").disabled = at === frames.length - 1;
  };
  const move = (index) => {
    show(index);
    const linked = section.querySelector(".link")?.checked;
    for (const other of section.panels) if (linked && other !== panel) other.follow(steps[at]);
    for (const chart of section.querySelectorAll(".chart")) chart.mark(steps[at]);
  };
  panel.follow = (step) => { const next = nearest(steps, step); if (next !== at) show(next); };
  slider?.addEventListener("input", () => move(+slider.value));
  panel.querySelector(".previous")?.addEventListener("click", () => move(at - 1));
  panel.querySelector(".next")?.addEventListener("click", () => move(at + 1));
  show(at);
}
for (const section of document.querySelectorAll("section")) {
  section.panels = [...section.querySelectorAll(".panel")];
  section.panels.forEach((panel) => drawPanel(panel, section));
  section.querySelectorAll(".chart").forEach((chart) => drawChart(chart));
}
