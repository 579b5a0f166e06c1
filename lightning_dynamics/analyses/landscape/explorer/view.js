// Numbers as texts, and what the mouse points at: plotly tells only of the nearest vertex, after a frame, and takes the
// press of a button for a click, so that every turn would drop a ball. So the ray through the pixel is followed here.

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const minus = (text) => text.replaceAll("-", "−");
function short(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isSafeInteger(value) && Math.abs(value) < 1e7) return minus(String(value));
  const size = Math.abs(value);
  return minus(size < 1e-3 || size >= 1e6 ? value.toExponential(digits - 2).replace(/\.?0+e/, "e").replace("e+", "e") : String(+value.toPrecision(digits)));
}

// Matrices are plotly's: 16 numbers, column by column.
function product(a, b) {
  const made = new Float64Array(16);
  for (let column = 0; column < 4; column++) {
    for (let row = 0; row < 4; row++) {
      for (let k = 0; k < 4; k++) made[4 * column + row] += a[4 * k + row] * b[4 * column + k];
    }
  }
  return made;
}
function applied(matrix, [x, y, z]) {
  const [a, b, c, w] = [0, 1, 2, 3].map((row) => matrix[row] * x + matrix[4 + row] * y + matrix[8 + row] * z + matrix[12 + row]);
  return [a / w, b / w, c / w, w];
}
function inverse(matrix) {  // Gauss-Jordan; null if there is none
  const rows = [0, 1, 2, 3].map((row) => [0, 1, 2, 3, 4, 5, 6, 7].map((column) => column < 4 ? matrix[4 * column + row] : +(column - 4 === row)));
  for (let k = 0; k < 4; k++) {
    const best = rows.slice(k).reduce((found, row) => Math.abs(row[k]) > Math.abs(found[k]) ? row : found);
    if (!best[k]) return null;
    rows[rows.indexOf(best)] = rows[k];
    rows[k] = best.map((value) => value / best[k]);
    for (let row = 0; row < 4; row++) if (row !== k) rows[row] = rows[row].map((value, i) => value - rows[row][k] * rows[k][i]);
  }
  const made = new Float64Array(16);
  for (let row = 0; row < 4; row++) for (let column = 0; column < 4; column++) made[4 * column + row] = rows[row][4 + column];
  return made;
}

class Camera {
  constructor(scene) {  // plotly's scene
    const { projection, view, model } = scene.glplot.cameraParams;
    this.scale = scene.dataScale;
    this.matrix = product(product(projection, view), model);
    this.back = inverse(this.matrix);
  }
  // Where a point of the plot is on the screen: both in [0, 1], from the top left corner.
  project(point) {
    const [x, y, , w] = applied(this.matrix, point.map((value, i) => value * this.scale[i]));
    return w > 0 ? [0.5 + 0.5 * x, 0.5 - 0.5 * y] : null;
  }
  // The first place where the ray through a pixel meets the surface z = height(x, y) (null: a hole) in the box.
  meet([u, v], height, [[x0, x1], [y0, y1], [z0, z1]]) {
    if (!this.back) return null;
    const [near, far] = [-1, 1].map((depth) => applied(this.back, [2 * u - 1, 1 - 2 * v, depth]).slice(0, 3).map((value, i) => value / this.scale[i]));
    let from = 0, to = 1;
    [[x0, x1], [y0, y1], [z0, z1]].forEach(([low, high], i) => {
      const along = far[i] - near[i];
      if (along === 0) { if (near[i] < low || near[i] > high) to = -1; return; }
      const cuts = [(low - near[i]) / along, (high - near[i]) / along];
      from = Math.max(from, Math.min(...cuts));
      to = Math.min(to, Math.max(...cuts));
    });
    if (!(from < to)) return null;
    const point = (t) => near.map((value, i) => value + t * (far[i] - value));
    const above = (t) => {
      const [x, y, z] = point(t), surface = height(clamp(x, x0, x1), clamp(y, y0, y1));
      return surface === null ? null : z - surface;
    };
    const STEPS = 400;
    let before = null, last = from;
    for (let k = 0; k <= STEPS; k++) {
      const t = from + (to - from) * k / STEPS, now = above(t);
      if (before !== null && now !== null && (now <= 0) !== (before <= 0)) {
        let [low, high] = [last, t];
        for (let i = 0; i < 30; i++) {
          const middle = (low + high) / 2, value = above(middle);
          if (value !== null && (value <= 0) === (before <= 0)) low = middle; else high = middle;
        }
        const [x, y] = point(high);
        return [clamp(x, x0, x1), clamp(y, y0, y1)];
      }
      [before, last] = [now, t];
    }
    return null;
  }
}
