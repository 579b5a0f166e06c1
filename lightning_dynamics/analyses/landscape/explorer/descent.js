// Gradient descent of a ball on a field, in the coordinates of the plane: v <- momentum v - rate gradient, p <- p + v.

// Settings that suit fields of any size: `rate` crosses the middle slopes of the landscape in a few hundred steps and
// is small enough for nearly all of its curvature; slopes above `clip` are shortened to it (gradient clipping), so that
// a start on a huge wall does not throw the ball out. `below`: only what is lower than this counts.
function suitable(fields, below) {
  const sizes = [], bends = [];
  let span = 0;
  for (const field of fields) {
    const { xs, ys, values, dx, dy } = field, wide = xs.length;
    span = Math.max(span, (xs[wide - 1] - xs[0] + ys[ys.length - 1] - ys[0]) / 2);
    values.forEach((value, k) => {
      if (!(value <= below) || !Number.isFinite(dx[k] + dy[k])) return;
      sizes.push(Math.hypot(dx[k], dy[k]));
      if ((k + 1) % wide) bends.push(Math.abs(dx[k + 1] - dx[k]) / (xs[k % wide + 1] - xs[k % wide]));
      if (k + wide < values.length) bends.push(Math.abs(dy[k + wide] - dy[k]) / (ys[Math.floor(k / wide) + 1] - ys[Math.floor(k / wide)]));
    });
  }
  const middle = quantile(sizes.filter((it) => it > 0), 0.5), bend = quantile(bends.filter((it) => it > 0), 0.9);
  if (!(middle > 0)) return { rate: 1, clip: Infinity };  // a flat landscape
  return { rate: Math.min(span / (100 * middle), bend > 0 ? 0.5 / bend : Infinity), clip: quantile(sizes, 0.98) };
}
function quantile(values, share) {
  const sorted = Float64Array.from(values).filter(Number.isFinite).sort();
  return sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : NaN;
}

const MOST = 3000;  // points of the trail that are kept: of a longer one, every second

class Descent {
  constructor(field, x, y) {
    Object.assign(this, { field, start: [x, y], x, y, vx: 0, vy: 0, steps: 0, still: 0, trail: [[x, y]], state: "rolling" });
  }
  get running() { return this.state === "rolling" || this.state === "rest"; }
  // One step. The states that end a descent: "left" (the grid), "hole" (no finite value there).
  step({ rate, momentum, clip }) {
    const here = this.field.at(this.x, this.y);
    if (!here) { this.state = "hole"; return; }
    const size = Math.hypot(here.dx, here.dy), scale = size > clip ? clip / size : 1;
    this.vx = momentum * this.vx - rate * scale * here.dx;
    this.vy = momentum * this.vy - rate * scale * here.dy;
    const x = this.x + this.vx, y = this.y + this.vy, { xs, ys } = this.field;
    this.steps += 1;
    if (!this.field.inside(x, y)) {  // up to the edge, and no further
      const share = Math.min(reach(this.x, this.vx, xs), reach(this.y, this.vy, ys));
      this.move(clamp(this.x + share * this.vx, xs[0], xs[xs.length - 1]), clamp(this.y + share * this.vy, ys[0], ys[ys.length - 1]));
      this.state = "left";
    } else if (!this.field.at(x, y)) {
      this.state = "hole";
    } else {
      const span = Math.max(xs[xs.length - 1] - xs[0], ys[ys.length - 1] - ys[0]);
      this.still = Math.hypot(this.vx, this.vy) < 1e-6 * span ? this.still + 1 : 0;
      this.state = this.still >= 30 ? "rest" : "rolling";
      this.move(x, y);
    }
  }
  move(x, y) {
    [this.x, this.y] = [x, y];
    if (this.state !== "rest") this.trail.push([x, y]);
    if (this.trail.length > MOST) this.trail = this.trail.filter((_, i) => i % 2 === 0 || i === this.trail.length - 1);
  }
}
function reach(from, by, places) {  // the share of the step that stays within
  const limit = by > 0 ? places[places.length - 1] : places[0];
  return by === 0 ? 1 : clamp((limit - from) / by, 0, 1);
}
