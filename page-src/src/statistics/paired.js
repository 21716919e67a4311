/** Ratios of scores that are paired by task, as orca_ray/leaderboard/statistics/paired.py computes them. */
import { drawnTasks, MIN_TASKS, quantile, tail } from "./resampling.js";
import { mean } from "./table.js";

/** @typedef {{value: number, low: number, high: number}} Ratio a ratio with its 95 % interval; below 1 is better */

/** Half of a task's smallest positive score: means below it are raised to it. @param {number[][]} scores_MS */
export function scoreFloor(scores_MS) {
  const lowest = Math.min(...scores_MS.flat().filter((score) => score > 0));
  return Number.isFinite(lowest) ? lowest / 2 : 1;
}

/** Deviation of a task's log scores over seeds, pooled over methods, and its degrees of freedom. */
export function seedNoise(scores_MS) {
  const floor = scoreFloor(scores_MS);
  let squares = 0;
  let freedom = 0;
  for (const scores of scores_MS) {
    const logs = scores.map((score) => Math.log(Math.max(score, floor)));
    const centre = mean(logs);
    for (const log of logs) squares += (log - centre) ** 2;
    freedom += Math.max(logs.length - 1, 0);
  }
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
    const noise = table.scores_TMS.map(seedNoise);
    this.table = table;
    this.means_TM = table.means_TM.map((means_M, t) => means_M.map((value) => Math.log(Math.max(value, floors[t]))));
    this.errors_TM = table.scores_TMS.map((scores_MS, t) => scores_MS.map((scores) => noise[t].deviation / Math.sqrt(Math.max(scores.length, 1))));
    this.freedom_T = noise.map(({ freedom }) => freedom);
  }

  /** Tasks on which both have a score, with the logarithm of the ratio and its standard error. */
  paired(method, reference) {
    const [m, r] = [method, reference].map((name) => this.table.methods.indexOf(name));
    return this.table.tasks.map((task, t) => ({
      task, t, log: this.means_TM[t][m] - this.means_TM[t][r], error: Math.sqrt(this.errors_TM[t][m] ** 2 + this.errors_TM[t][r] ** 2),
    })).filter(({ log }) => Number.isFinite(log));
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
