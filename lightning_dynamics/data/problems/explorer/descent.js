// Gradient descent on L = ½ (a^m b^n − 1)², as torch.optim.SGD runs it: v <- momentum v + gradient, w <- w - rate v.

const SADDLE = -1, WAY = -2, GONE = -3, SOLVED = 1e-6, LEVEL = 1e-4, FAR = 1e6;  // as in plane.py

class Product {
  constructor([m, n], branches) { Object.assign(this, { m, n, branches }); }
  error(a, b) { return a ** this.m * b ** this.n - 1; }
  loss(a, b) { return this.error(a, b) ** 2 / 2; }
  gradient(a, b) {  // for one weight of each kind
    const { m, n } = this, error = this.error(a, b);
    return [error * a ** (m - 1) * b ** n, error * a ** m * b ** (n - 1)];
  }
  end(a, b) {
    if (!(Math.abs(a) <= FAR && Math.abs(b) <= FAR)) return GONE;
    if (this.loss(a, b) < SOLVED) return this.branch(Math.sign(a), Math.sign(b));
    return Math.hypot(...this.gradient(a, b)) < LEVEL ? SADDLE : WAY;
  }
  branch(s, t) { return this.branches.findIndex(([first, second]) => first === s && second === t); }
  // Where gradient flow goes, exactly: the smallest weight changes its sign if it is alone and the product negative.
  flowEnd(a, b) {
    const { m, n } = this, sign = Math.sign(a) ** m * Math.sign(b) ** n, first = Math.abs(a), second = Math.abs(b);
    if (sign > 0) return this.branch(Math.sign(a), Math.sign(b));
    if (first < second && m === 1) return this.branch(Math.sign(b) ** n, Math.sign(b));
    if (second < first && n === 1) return this.branch(Math.sign(a), Math.sign(a) ** m);
    return SADDLE;
  }
  descend([a, b], rate, momentum, steps) {  // [a0, b0, a1, b1, ...]; null once it is gone
    const path = [a, b];
    let v = 0, w = 0;
    for (let step = 0; step < steps; step++) {
      const [down, across] = this.gradient(a, b);
      [v, w] = [momentum * v + down, momentum * w + across];
      [a, b] = [a - rate * v, b - rate * w];
      if (Number.isFinite(a) && Number.isFinite(b)) path.push(a, b);
      else path.push(null, null);
    }
    return path;
  }
}

// What a reader wants to know of one path.
function summary(product, path, start) {
  const count = path.length / 2;
  let last = count - 1, solved = null;
  for (let i = 0; i < count && solved === null; i++) if (path[2 * i] !== null && product.loss(path[2 * i], path[2 * i + 1]) < SOLVED) solved = i;
  const whole = path[2 * last] !== null;
  while (path[2 * last] === null) last -= 1;
  const [a, b] = [path[2 * last], path[2 * last + 1]];
  return {
    start, path, solved, end: whole ? product.end(a, b) : GONE, flow: product.flowEnd(...start), loss: whole ? product.loss(a, b) : Infinity,
    kept: start[0] ** 2 - start[1] ** 2, drift: whole ? a ** 2 - b ** 2 - (start[0] ** 2 - start[1] ** 2) : NaN,
  };
}

// The points of a path that a picture needs: those that differ from the one before by more than `least`.
function thinned(path, least) {
  const kept = [];
  let x = Infinity, y = Infinity;
  for (let i = 0; i < path.length / 2 && path[2 * i] !== null; i++) {
    if (Math.abs(path[2 * i] - x) < least && Math.abs(path[2 * i + 1] - y) < least) continue;
    [x, y] = [path[2 * i], path[2 * i + 1]];
    kept.push([i, x, y]);
  }
  return kept;
}
