/** Bootstrap intervals: the same random sequence and scheme as orca_ray/leaderboard/statistics/intervals.py, in bits. */
import { normalCdf, studentQuantile } from "./distributions.js";
import { mean } from "./table.js";

export const MIN_TASKS = 5;
export const NUM_RESAMPLES = 5000;

/** Word i of the random sequence, 32 bits. @param {number} i */
export function word(i) {
  let z = Math.imul(i + 1, 0x9e3779b9);
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}

/** Random index below n, n < 2²¹. @param {number} i @param {number} n */
export const index = (i, n) => Math.floor((word(i) * n) / 4294967296);

/** How often each resample draws each of `num` tasks, [R][T]. @param {number} num */
export function drawnTasks(num) {
  return Array.from({ length: NUM_RESAMPLES }, (_, r) => {
    const counts = new Float64Array(num);
    for (let k = 0; k < num; k += 1) counts[index(r * num + k, num)] += 1;
    return counts;
  });
}

/** Mean scores over resampled seeds in resample r, [T][M]. @param {import("./table.js").ScoreTable} table @param {number} r */
export function resampledMeans(table, r) {
  const [T, M] = [table.tasks.length, table.methods.length];
  const S = Math.max(0, ...table.scores_TMS.flat().map((scores) => scores.length));
  return table.scores_TMS.map((scores_MS, t) => scores_MS.map((scores, m) => {
    const first = ((r * T + t) * M + m) * S;
    return mean(scores.map((_, j) => scores[index(first + j, scores.length)]));
  }));
}

/** Smallest number of seeds of a cell. @param {import("./table.js").ScoreTable} table */
const fewestSeeds = (table) => Math.min(...table.scores_TMS.flat().map((scores) => scores.length));

/**
 * Mean over tasks of values per task, in each resample, [X][R]; null if no interval is possible.
 * @param {import("./table.js").ScoreTable} table
 * @param {(means_M: number[], t: number) => ArrayLike<number>} perTask values [X] of one task
 */
export function resample(table, perTask) {
  const T = table.tasks.length;
  if (T >= MIN_TASKS) return overTasks(table.means_TM.map(perTask));
  if (!T || fewestSeeds(table) < 2) return null;
  let resampled = null;
  for (let r = 0; r < NUM_RESAMPLES; r += 1) {
    const values_TX = resampledMeans(table, r).map(perTask);
    resampled ??= Array.from(values_TX[0], () => new Float64Array(NUM_RESAMPLES));
    resampled.forEach((values_R, x) => (values_R[r] = mean(values_TX.map((values_X) => values_X[x]))));
  }
  return resampled;
}

/** Mean over resampled tasks, [X][R]. @param {ArrayLike<number>[]} values_TX */
function overTasks(values_TX) {
  const T = values_TX.length;
  const counts_RT = drawnTasks(T);
  return Array.from(values_TX[0], (_, x) => {
    const values_T = Float64Array.from(values_TX, (values_X) => values_X[x]);
    return Float64Array.from(counts_RT, (counts_T) => {
      let total = 0;
      for (let t = 0; t < T; t += 1) total += counts_T[t] * values_T[t];
      return total / T;
    });
  });
}

/** Probability of the lower percentile, for samples of `num` values and an interval of 1 − level. */
export const tail = (num, freedom, level = 0.05) => normalCdf(-studentQuantile(level, freedom) * Math.sqrt(num / (num - 1)));

/** Quantile of sorted values with linear interpolation, as numpy.quantile. */
export function quantile(sorted, q) {
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  const [a, b, t] = [sorted[low], sorted[Math.min(low + 1, sorted.length - 1)], at - low];
  return t >= 0.5 ? b - (b - a) * (1 - t) : a + (b - a) * t;
}

/** Ends of the 95 % intervals of values, [X] each, from those of the resamples, [X][R]. */
export function interval(table, resampled, num) {
  const nothing = new Array(num).fill(NaN);
  if (resampled === null) return { low: nothing, high: nothing };
  const T = table.tasks.length;
  const seeds = fewestSeeds(table);
  const below = T >= MIN_TASKS ? tail(T, T - 1) : tail(seeds, T * (seeds - 1));
  const ends = resampled.map((values_R) => {
    if (values_R.some(Number.isNaN)) return [NaN, NaN];
    const sorted = Float64Array.from(values_R).sort();
    return [quantile(sorted, below), quantile(sorted, 1 - below)];
  });
  return { low: ends.map(([low]) => low), high: ends.map(([, high]) => high) };
}

/** Mean over tasks of values per task, and the ends of its intervals, [X] each. */
export function meanOverTasks(table, perTask, num) {
  const values_TX = table.means_TM.map(perTask);
  const value = Array.from({ length: num }, (_, x) => mean(values_TX.map((values_X) => values_X[x])));
  return { value, ...interval(table, resample(table, perTask), num) };
}
