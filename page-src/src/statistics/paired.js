/** Ratios of scores that are paired by task, as orca_ray/leaderboard/statistics/paired.py computes them. */
import { drawnTasks, MIN_TASKS, quantile, tail } from "./resampling.js";
import { mean } from "./table.js";

/** @typedef {{value: number, low: number, high: number}} Ratio a ratio with its 95 % interval; below 1 is better */

/** Half of a task's smallest positive score: means below it are raised to it. @param {number[][]} scores_MS */
export function scoreFloor(scores_MS) {
  const lowest = Math.min(...scores_MS.flat().filter((score) => score > 0));
  return Number.isFinite(lowest) ? lowest / 2 : 1;
}

/** Sum of squares of a task's log scores over seeds, and its degrees of freedom, of each method. @param {number[][]} scores_MS */
function seedSquares(scores_MS) {
  const floor = scoreFloor(scores_MS);
  return scores_MS.map((scores) => {
    const logs = scores.map((score) => Math.log(Math.max(score, floor)));
    const centre = mean(logs);
    return { squares: logs.reduce((sum, log) => sum + (log - centre) ** 2, 0), freedom: Math.max(logs.length - 1, 0) };
  });
}

/** Deviation over seeds, pooled over methods, and its degrees of freedom. @param {{squares: number, freedom: number}[]} each */
function pooled(each) {
  const [squares, freedom] = ["squares", "freedom"].map((name) => each.reduce((sum, one) => sum + one[name], 0));
  return { deviation: freedom ? Math.sqrt(squares / freedom) : NaN, freedom };
}

/** The ratio with the logarithm `log` and two standard errors on either side. @returns {Ratio} */
export const ratioWithin = (log, error) => ({ value: Math.exp(log), low: Math.exp(log - 2 * error), high: Math.exp(log + 2 * error) });

/** Draws by number of tasks, which all comparisons share. @type {Map<number, Float64Array[]>} */
const draws = new Map();

/** @param {number} num */
export function cachedDraws(num) {
  if (!draws.has(num)) draws.set(num, drawnTasks(num));
  return draws.get(num);
}

/** Means of values over resampled tasks. @param {number[]} values @returns {Float64Array} */
export function resampledMean(values) {
  return Float64Array.from(cachedDraws(values.length), (counts) => {
    let total = 0;
    for (let t = 0; t < values.length; t += 1) total += counts[t] * values[t];
    return total / values.length;
  });
}

/** Geometric mean over tasks of ratios given by their logarithms. @returns {Ratio} */
export function ratioOverTasks(logs, errors, bootstrap) {
  const num = logs.length;
  const centre = mean(logs);
  if (!bootstrap || num < MIN_TASKS) {
    const error = num && !bootstrap ? Math.sqrt(errors.reduce((sum, each) => sum + each ** 2, 0)) / num : NaN;
    return ratioWithin(centre, error);
  }
  const below = tail(num, num - 1);
  const sorted = resampledMean(logs).sort();
  return { value: Math.exp(centre), low: Math.exp(quantile(sorted, below)), high: Math.exp(quantile(sorted, 1 - below)) };
}

/** Logarithms of a board's mean scores, for ratios of its methods. */
export class Logs {
  /** @param {import("./table.js").ScoreTable} table */
  constructor(table) {
    const floors = table.scores_TMS.map(scoreFloor);
    this.squares_TM = table.scores_TMS.map(seedSquares);
    const noise = this.squares_TM.map(pooled);
    this.table = table;
    this.means_TM = table.means_TM.map((means_M, t) => means_M.map((value) => Math.log(Math.max(value, floors[t]))));
    this.errors_TM = table.scores_TMS.map((scores_MS, t) => scores_MS.map((scores) => noise[t].deviation / Math.sqrt(Math.max(scores.length, 1))));
    this.freedom_T = noise.map(({ freedom }) => freedom);
  }

  /** Tasks on which both have a score, with the logarithm of the ratio and its standard error. */
  paired(method, reference) {
    const [m, r] = [method, reference].map((name) => this.table.methods.indexOf(name));
    return this.table.tasks.map((task, t) => ({
      task, t, log: this.means_TM[t][m] - this.means_TM[t][r], error: Math.sqrt(this.errors_TM[t][m] ** 2 + this.errors_TM[t][r] ** 2), ownError: this.ownError(t, [m, r]),
    })).filter(({ log }) => Number.isFinite(log));
  }

  /** Standard error of a log ratio from the two methods' own spread over seeds, whatever the other methods are. */
  ownError(t, both) {
    const { deviation } = pooled(both.map((m) => this.squares_TM[t][m]));
    return deviation * Math.sqrt(both.reduce((sum, m) => sum + 1 / this.table.scores_TMS[t][m].length, 0));
  }

  /** The comparison of two methods: over all tasks, and on each. */
  compare(method, reference) {
    const pairs = this.paired(method, reference);
    const [logs, errors] = [pairs.map(({ log }) => log), pairs.map(({ error }) => error)];
    return {
      method, reference, ratio: ratioOverTasks(logs, errors, pairs.length >= MIN_TASKS), pairs: pairs.length,
      tasks: Object.fromEntries(pairs.map(({ task, log, error }) => [task, ratioWithin(log, error)])),
    };
  }
}
