// A function on a grid, between the grid's points: bicubic patches (Hermite), smooth across their edges, through every
// computed value. The slopes at the points are those of parabolas through three neighbours; where the data jump, they
// are limited (Fritsch-Carlson, Hyman), so that no valley is invented beside a cliff. The picture and the ball use the
// same function, so the ball rolls on what is seen.

// The slopes along one line of the grid: at(i), slope(i, value) read and write point i; NaN where a value is missing.
function slopes(places, at, slope) {
  const count = places.length, rise = new Float64Array(count - 1).fill(NaN);
  for (let i = 0; i + 1 < count; i++) rise[i] = (at(i + 1) - at(i)) / (places[i + 1] - places[i]);
  const bend = (i) => (i < 1 || i > count - 2 ? NaN : (rise[i] - rise[i - 1]) / (places[i + 1] - places[i - 1]));
  for (let i = 0; i < count; i++) {
    const left = i > 0 ? rise[i - 1] : NaN, right = i + 1 < count ? rise[i] : NaN;
    if (!Number.isFinite(left) && !Number.isFinite(right)) { slope(i, Number.isFinite(at(i)) ? 0 : NaN); continue; }
    if (!Number.isFinite(left)) { slope(i, edge(right, rise[i + 1], places[i + 1] - places[i], places[i + 2] - places[i + 1])); continue; }
    if (!Number.isFinite(right)) { slope(i, edge(left, rise[i - 2], places[i] - places[i - 1], places[i - 1] - places[i - 2])); continue; }
    const before = places[i] - places[i - 1], after = places[i + 1] - places[i];
    const parabola = (after * left + before * right) / (before + after);
    const bends = [bend(i - 1), bend(i), bend(i + 1)].filter(Number.isFinite), sizes = bends.map(Math.abs);
    const even = bends.every((it) => it * bends[0] > 0) && Math.max(...sizes) <= 4 * Math.min(...sizes);
    const bound = (left * right > 0 ? 3 : 1.5) * Math.min(Math.abs(left), Math.abs(right));
    slope(i, even ? parabola : clamp(parabola, -bound, bound));
  }
}
function edge(near, far, first, second) {  // at an end of the line, or beside a hole
  if (!Number.isFinite(far)) return near;
  const parabola = near + (near - far) * first / (first + second);
  return parabola * near > 0 ? clamp(parabola, -3 * Math.abs(near), 3 * Math.abs(near)) : 0;
}

class Field {
  constructor(xs, ys, values) {  // values: row by row, NaN for a hole
    const [wide, high] = [xs.length, ys.length], make = () => new Float64Array(values.length).fill(NaN);
    Object.assign(this, { xs, ys, values, dx: make(), dy: make(), dxy: make() });
    const alongX = (from, to) => {
      for (let j = 0; j < high; j++) slopes(xs, (i) => from[j * wide + i], (i, value) => { to[j * wide + i] = value; });
    };
    const alongY = (from, to) => {
      for (let i = 0; i < wide; i++) slopes(ys, (j) => from[j * wide + i], (j, value) => { to[j * wide + i] = value; });
    };
    alongX(values, this.dx);
    alongY(values, this.dy);
    const other = make();
    alongY(this.dx, this.dxy);
    alongX(this.dy, other);
    for (let i = 0; i < other.length; i++) this.dxy[i] = (this.dxy[i] + other[i]) / 2 || 0;
  }
  inside(x, y) {
    const { xs, ys } = this;
    return x >= xs[0] && x <= xs[xs.length - 1] && y >= ys[0] && y <= ys[ys.length - 1];
  }
  // { value, dx, dy } at a point of the plane; null outside the grid and in a hole (a cell with a missing corner).
  at(x, y) {
    if (!this.inside(x, y)) return null;
    const i = cell(this.xs, x), j = cell(this.ys, y), found = this.patch(i, j, x, y);
    if (found) return found;
    // On the edge of a hole the neighbouring cell knows the value.
    const left = x === this.xs[i] && i > 0, below = y === this.ys[j] && j > 0;
    return (left && this.patch(i - 1, j, x, y)) || (below && this.patch(i, j - 1, x, y)) || (left && below && this.patch(i - 1, j - 1, x, y)) || null;
  }
  patch(i, j, x, y) {
    const { xs, ys } = this, wide = xs.length, width = xs[i + 1] - xs[i], height = ys[j + 1] - ys[j];
    const a = hermite((x - xs[i]) / width, width), b = hermite((y - ys[j]) / height, height);
    let value = 0, dx = 0, dy = 0;
    for (let q = 0; q < 2; q++) {
      for (let p = 0; p < 2; p++) {
        const k = (j + q) * wide + i + p, f = this.values[k], fx = this.dx[k], fy = this.dy[k], fxy = this.dxy[k];
        const inX = [a.f[p] * f + a.d[p] * fx, a.f[p] * fy + a.d[p] * fxy];
        value += b.f[q] * inX[0] + b.d[q] * inX[1];
        dy += b.df[q] * inX[0] + b.dd[q] * inX[1];
        dx += b.f[q] * (a.df[p] * f + a.dd[p] * fx) + b.d[q] * (a.df[p] * fy + a.dd[p] * fxy);
      }
    }
    return Number.isFinite(value + dx + dy) ? { value, dx, dy } : null;
  }
}
function cell(places, value) {  // the number of the interval that holds it
  let low = 0, high = places.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (places[middle] <= value) low = middle; else high = middle;
  }
  return low;
}
function hermite(t, width) {  // the four cubics at both ends (values f, slopes d) and their derivatives
  const u = 1 - t;
  return {
    f: [u * u * (1 + 2 * t), t * t * (1 + 2 * u)], d: [width * t * u * u, -width * t * t * u],
    df: [-6 * t * u / width, 6 * t * u / width], dd: [u * (1 - 3 * t), t * (3 * t - 2)],
  };
}

// The field on a finer, even grid for drawing. Where the field's own is even, its intervals are cut into equal parts, so
// that the computed points stay. (An uneven one plotly would blow up to 840 lines: seconds.)
function refine(field, least) {
  const holes = field.values.some((value) => !Number.isFinite(value));
  const finer = (places) => {
    const count = places.length - 1, low = places[0], wide = places[count] - low;
    const even = places.every((place, i) => Math.abs(place - low - wide * i / count) < 1e-3 * wide / count);
    const each = Math.max(holes ? 4 : 1, Math.ceil(least / count)), parts = even ? count * (each + (count * each) % 2) : 1.5 * least;
    return Array.from({ length: parts + 1 }, (_, i) => i === parts ? places[count] : low + wide * i / parts);
  };
  const x = finer(field.xs), y = finer(field.ys);
  return { x, y, z: y.map((b) => x.map((a) => field.at(a, b)?.value ?? null)), holes };
}
// plotly knows no normals beside a missing point: the edges of holes would be dark. So the first points within a
// hole are laid on its edge: a hem without area.
function hemmed({ x, y, z }) {
  const made = { x: z.map(() => [...x]), y: z.map((row, j) => row.map(() => y[j])), z: z.map((row) => [...row]) };
  const around = [[-1, 0], [1, 0], [0, -1], [0, 1], [-1, -1], [1, -1], [-1, 1], [1, 1]];
  z.forEach((row, j) => row.forEach((value, i) => {
    const [p, q] = value === null ? around.find(([a, b]) => typeof z[j + b]?.[i + a] === "number") ?? [0, 0] : [0, 0];
    if (p || q) [made.x[j][i], made.y[j][i], made.z[j][i]] = [x[i + p], y[j + q], z[j + q][i + p]];
  }));
  return made;
}

// Lines of equal height (marching squares), in pieces with gaps. plotly's own go astray beside holes.
function contourLines({ x, y, z }, levels, lift) {
  const lines = { x: [null], y: [null], z: [null] };
  const put = (point, height) => { lines.x.push(point && point[0]); lines.y.push(point && point[1]); lines.z.push(point && height); };
  for (let j = 0; j + 1 < y.length; j++) {
    for (let i = 0; i + 1 < x.length; i++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]], heights = corners.map(([p, q]) => z[q][p]);
      if (heights.includes(null)) continue;
      const low = Math.min(...heights), high = Math.max(...heights);
      for (const level of levels) {
        if (level <= low || level > high) continue;
        const cuts = [];
        for (let k = 0; k < 4; k++) {
          const [one, other] = [heights[k], heights[(k + 1) % 4]], [p, q] = corners[k], [r, s] = corners[(k + 1) % 4];
          if ((one < level) === (other < level)) continue;
          const share = (level - one) / (other - one);
          cuts.push([x[p] + share * (x[r] - x[p]), y[q] + share * (y[s] - y[q])]);
        }
        for (let k = 0; k + 1 < cuts.length; k += 2) {
          put(cuts[k], level + lift);
          put(cuts[k + 1], level + lift);
          put(null);
        }
      }
    }
  }
  return lines;
}
