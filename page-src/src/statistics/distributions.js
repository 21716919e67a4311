/** Distribution functions, as orca_ray/leaderboard/statistics/intervals.py has them. */

/** Complementary error function: a series of positive terms below 2, Lentz's continued fraction above. @param {number} x */
export function erfc(x) {
  if (x < 0) return 2 - erfc(-x);
  if (x > 27) return 0;
  if (x < 2) {
    let term = x;
    let total = x;
    for (let k = 1; term > total * 1e-17; k += 1) total += term *= (2 * x * x) / (2 * k + 1);
    return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
  }
  let fraction = 0;
  for (let k = 200; k > 0; k -= 1) fraction = k / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}

/** Distribution function of the standard normal distribution. @param {number} x */
export const normalCdf = (x) => 0.5 * erfc(-x / Math.SQRT2);

/** z with P(Z > z) = probability, by bisection. @param {number} probability below 0.5 */
export function normalUpper(probability) {
  let [low, high] = [0, 40];
  for (let step = 0; step < 80; step += 1) {
    const middle = (low + high) / 2;
    if (normalCdf(-middle) > probability) low = middle;
    else high = middle;
  }
  return high;
}

/** P(|T| > t) of Student's distribution, t >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4). */
export function studentTail(t, freedom) {
  if (t === Infinity) return 0;
  const angle = Math.atan2(t, Math.sqrt(freedom));
  const cosine = Math.cos(angle) ** 2;
  const odd = freedom % 2;
  let term = odd ? Math.cos(angle) : 1;
  let total = term;
  for (let k = odd ? 3 : 2; k < freedom - 1; k += 2) {
    term *= (cosine * (k - 1)) / k;
    total += term;
  }
  total *= Math.sin(angle);
  if (odd) total = (2 / Math.PI) * (angle + (freedom > 1 ? total : 0));
  return Math.max(1 - total, 0);
}

/** t with P(|T| > t) = level, by bisection. */
export function studentQuantile(level, freedom) {
  let [low, high] = [0, 1];
  while (studentTail(high, freedom) > level) high *= 2;
  for (let step = 0; step < 80; step += 1) {
    const middle = (low + high) / 2;
    if (studentTail(middle, freedom) > level) low = middle;
    else high = middle;
  }
  return high;
}

/** P(X > x) of the chi-square distribution (Abramowitz and Stegun, 26.4.4 and 26.4.5). */
export function chiSquareTail(x, freedom) {
  const half = x / 2;
  if (half <= 0) return 1;
  let shape = freedom % 2 ? 0.5 : 1;
  let tail = freedom % 2 ? erfc(Math.sqrt(half)) : Math.exp(-half);
  // Logarithm of the gamma function of shape + 1, by its recurrence from that of 3/2 or 2.
  let logGamma = freedom % 2 ? Math.log(Math.sqrt(Math.PI) / 2) : 0;
  while (shape < freedom / 2) {
    tail += Math.exp(shape * Math.log(half) - half - logGamma);
    shape += 1;
    logGamma += Math.log(shape);
  }
  return tail;
}

/** q that the range of `num` standard normal variables exceeds with probability `level`. */
export function studentisedRange(level, num) {
  const z = Array.from({ length: 801 }, (_, index) => -8 + 0.02 * index);
  const density = z.map((each) => Math.exp(-(each ** 2) / 2) / Math.sqrt(2 * Math.PI));
  const below = z.map(normalCdf);
  let [low, high] = [0, 20];
  while (high - low > 1e-10) {
    const q = (low + high) / 2;
    const inside = num * 0.02 * z.reduce((sum, each, index) => sum + density[index] * (below[index] - normalCdf(each - q)) ** (num - 1), 0);
    if (1 - inside > level) low = q;
    else high = q;
  }
  return high;
}
