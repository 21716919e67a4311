/**
 * Statistics of the chosen tasks and methods, as orca_ray/leaderboard/statistics defines them. Python computes those of
 * the whole board; of a subset, an interval over tasks is Student's instead of a bootstrap (docs/decisions/0023-page.md).
 * Axes: T tasks, M methods, S seeds.
 */

import { deviation, max, min, sum } from "d3-array";

/** Number of tasks from which on an interval is one over tasks. */
export const MIN_TASKS = 5;
/** Number of methods up to which pairs are compared: their number grows with its square. */
export const MAX_COMPARED = 40;
const LEVEL = 0.05;

/** @typedef {{value: number, low: number, high: number}} Estimate a value with its 95 % interval, NaN where undefined */

/** Mean; NaN of none. @param {number[]} values */
export const mean = (values) => sum(values) / values.length;

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

/** t with P(|T| > t) = 5 %, by bisection. @param {number} freedom */
export function studentQuantile(freedom) {
  let [low, high] = [0, 13];
  for (let step = 0; step < 60; step += 1) {
    const middle = (low + high) / 2;
    if (studentTail(middle, freedom) > LEVEL) low = middle;
    else high = middle;
  }
  return high;
}

/** P-values adjusted by Holm's step-down method; NaN stays, and does not count as a test. @param {number[]} p */
function holm(p) {
  const order = p.map((_, index) => index).filter((index) => !Number.isNaN(p[index])).sort((a, b) => p[a] - p[b]);
  const adjusted = p.map(() => NaN);
  let highest = 0;
  order.forEach((index, place) => {
    highest = Math.max(highest, p[index] * (order.length - place));
    adjusted[index] = Math.min(highest, 1);
  });
  return adjusted;
}

/** Scores of tasks and methods as arrays. */
export class ScoreTable {
  /** @param {string[]} tasks @param {string[]} methods @param {number[][][]} scores_TMS by task, method and seed */
  constructor(tasks, methods, scores_TMS) {
    Object.assign(this, { tasks, methods, scores_TMS });
    this.means_TM = scores_TMS.map((scores_MS) => scores_MS.map(mean));
    /** Places of the tasks on which every method has a score. */
    this.common = [...tasks.keys()].filter((t) => this.means_TM[t].every(Number.isFinite));
    const noises_T = scores_TMS.map(noise);
    this.freedom_T = noises_T.map(({ freedom }) => freedom);
    /** Logarithms of means. A mean of zero has no ratio: it is raised to half of the task's smallest positive score. */
    this.logs_TM = this.means_TM.map((means_M, t) => means_M.map((each) => Math.log(Math.max(each, noises_T[t].floor))));
    /** Standard errors of the logarithms, from the noise over seeds. */
    this.errors_TM = scores_TMS.map((scores_MS, t) => scores_MS.map(({ length }) => noises_T[t].deviation / Math.sqrt(length)));
  }

  /** Tasks on which two methods have a score, with the logarithm of the ratio and its error. @param {number} m @param {number} o */
  paired(m, o) {
    return this.tasks.map((task, t) => ({ task, t, log: this.logs_TM[t][m] - this.logs_TM[t][o], error: Math.hypot(this.errors_TM[t][m], this.errors_TM[t][o]) }))
      .filter(({ log }) => Number.isFinite(log));
  }

  /** {method: what `compute` returns for its place}. @param {(m: number) => object} compute */
  byMethod(compute) {
    return Object.fromEntries(this.methods.map((method, m) => [method, compute(m)]));
  }
}

/** A task's deviation of log scores over seeds, pooled over methods, and its degrees of freedom. @param {number[][]} scores_MS */
function noise(scores_MS) {
  const floor = (min(scores_MS.flat().filter((score) => score > 0)) ?? 2) / 2;
  const repeated = scores_MS.filter((scores) => scores.length > 1).map((scores) => scores.map((score) => Math.log(Math.max(score, floor))));
  const freedom = sum(repeated.map((logs) => logs.length - 1));
  const squares = sum(repeated.map((logs) => (logs.length - 1) * deviation(logs) ** 2));
  return { floor, freedom, deviation: freedom ? Math.sqrt(squares / freedom) : NaN };
}

/** Ranks from 1; equal scores get the average of their ranks. @param {number[]} means_M */
const ranks = (means_M) => means_M.map((one) => 0.5 + sum(means_M.map((other) => (other < one ? 1 : other === one ? 0.5 : 0))));

/** 1 for the best method, 1/k for each of k that tie, 0 for the others. @param {number[]} means_M */
function sharedWins(means_M) {
  const lowest = min(means_M);
  const num = means_M.filter((each) => each === lowest).length;
  return means_M.map((each) => (each === lowest ? 1 / num : 0));
}

/** Mean over the common tasks of values [M] of each, `times` as large, within bounds. @returns {Record<string, Estimate>} */
function meanOverTasks(table, perTask, [least, most], times = 1) {
  const values_TM = table.common.map((t) => perTask(table.means_TM[t]));
  const num = values_TM.length;
  return table.byMethod((m) => {
    const values = values_TM.map((values_M) => times * values_M[m]);
    const half = num >= MIN_TASKS ? (studentQuantile(num - 1) * deviation(values)) / Math.sqrt(num) : NaN;
    return { value: mean(values), low: Math.max(mean(values) - half, least), high: Math.min(mean(values) + half, most) };
  });
}

/** The ratio with the logarithm `log`, and the interval of `half` on either side. @returns {Estimate} */
const ratio = (log, half) => ({ value: Math.exp(log), low: Math.exp(log - half), high: Math.exp(log + half) });

/**
 * Geometric mean over tasks of ratios given by their logarithms, and the p-value of Student's test of it.
 * Of fewer than five tasks, the error is that of the noise over seeds: it holds for these tasks only.
 * @param {{log: number, error: number}[]} pairs @param {number} [freedom] degrees of freedom of the errors
 */
function ratioOverTasks(pairs, freedom = NaN) {
  const num = pairs.length;
  const overTasks = num >= MIN_TASKS;
  const centre = mean(pairs.map(({ log }) => log));
  const error = overTasks ? deviation(pairs.map(({ log }) => log)) / Math.sqrt(num) : Math.hypot(...pairs.map((each) => each.error)) / num;
  const size = Math.abs(centre);
  const t = error > 1e-12 ? size / error : Infinity;  // below 1e-12 are rounding errors
  const p = Number.isNaN(error) ? NaN : size < 1e-12 ? 1 : studentTail(t, overTasks ? num - 1 : freedom);
  return { ...ratio(centre, (overTasks ? studentQuantile(num - 1) : 2) * error), p, num_tasks: num };
}

/** Score relative to the method with the highest mean rank. @param {Record<string, Estimate>} meanRanks */
function improvement(table, meanRanks) {
  const values = Object.values(meanRanks).map(({ value }) => value);
  const worst = values.indexOf(max(values));
  const pairs = (m) => table.paired(m, worst).filter(({ t }) => table.common.includes(t));
  return table.byMethod((m) => ({ ...ratioOverTasks(table.common.length ? pairs(m) : []), baseline: table.methods[worst] }));
}

/** Whether the scores separate two methods: {method: {other: {…}}}. @param {object[]} stored what Python has of each pair */
function verdicts(table, stored) {
  const pairs = table.methods.flatMap((_, i) => table.methods.slice(i + 1).map((__, k) => [i, i + 1 + k]));
  const tests = pairs.map(([i, j]) => {
    const paired = table.paired(i, j);
    return ratioOverTasks(paired, sum(paired.map(({ t }) => table.freedom_T[t])));
  });
  const adjusted = holm(tests.map(({ p }) => p));
  const found = table.byMethod(() => ({}));
  pairs.forEach(([i, j], index) => {
    const [one, other] = [table.methods[i], table.methods[j]];
    const test = { ...tests[index], adjusted_p: adjusted[index], separable: adjusted[index] <= LEVEL, ...stored?.[index] };
    found[one][other] = test;
    found[other][one] = { ...test, value: 1 / test.value, low: 1 / test.high, high: 1 / test.low };
  });
  return found;
}

/** Answers to the questions that the subset allows, with the ratio on each task. @param {Estimate[]} stored what Python has of each */
function answers(table, { questions, gains }, stored) {
  const onTasks = (subject) => [...Map.groupBy(gains.filter(({ method }) => !subject || method === subject), ({ task }) => task)]
    .map(([task, own]) => ({ task, log: mean(own.map(({ log }) => log)), error: NaN }));
  return questions.map((question, index) => {
    const [m, o] = [question.method, question.reference].map((each) => table.methods.indexOf(each));
    const pairs = question.name === "searching" ? onTasks(question.subject) : m < 0 || o < 0 ? [] : table.paired(m, o);
    const tasks = Object.fromEntries(pairs.map(({ task, log, error }) => [task, ratio(log, 2 * error)]));
    return { ...question, tasks, pairs: pairs.length, ratio: { ...ratioOverTasks(pairs), ...stored?.[index] } };
  }).filter(({ pairs }) => pairs);
}

/** Share of the common tasks within a factor x of the best score, where it changes: {method: [{x, value}]}. @param {ScoreTable} table */
export function profiles(table) {
  const ratios_TM = table.common.map((t) => table.logs_TM[t].map((log) => Math.exp(log - min(table.logs_TM[t]))));
  return table.byMethod((m) => {
    const own = ratios_TM.map((ratios_M) => ratios_M[m]);
    const share = (x) => own.filter((each) => each <= x * (1 + 1e-12)).length / own.length;
    return [...new Set([1, ...own])].sort((a, b) => a - b).map((x) => ({ x, value: share(x) }));
  });
}

const SAME_COST = 0.05;
const cheaper = (one, other) => one.cost < (1 - SAME_COST) * other.cost;

/** Whether costs are called equal. @param {{cost: number}} one @param {{cost: number}} other */
export const sameCost = (one, other) => !cheaper(one, other) && !cheaper(other, one);

/** Whether a score or cost is lower, and the other of both not higher. @param {{score: number, cost: number}} one */
export const beats = (one, other) => one.score <= other.score && !cheaper(other, one) && (one.score < other.score || cheaper(one, other));

const OVER_TASKS = { sum, mean, max };

/**
 * Score relative to the best (geometric mean) and cost over tasks, of the methods with a cost.
 * @param {(task: string, method: string) => number} cost NaN where unknown @param {"sum" | "mean" | "max"} over
 */
export function scoresAndCosts(table, cost, over) {
  const costs_TM = table.tasks.map((task) => table.methods.map((method) => cost(task, method)));
  const known = [...table.methods.keys()].filter((m) => costs_TM.some((costs_M) => Number.isFinite(costs_M[m])));
  const common = [...table.tasks.keys()].filter((t) => known.every((m) => Number.isFinite(costs_TM[t][m] + table.logs_TM[t][m])));
  const best = (t) => min(known, (m) => table.logs_TM[t][m]);
  return known.map((m) => ({
    method: table.methods[m], score: Math.exp(mean(common.map((t) => table.logs_TM[t][m] - best(t)))), cost: OVER_TASKS[over](common.map((t) => costs_TM[t][m])),
  }));
}

/**
 * All statistics of a table; pairs of methods are compared if there are few enough.
 * @param {{questions: object[], gains: {task: string, method: string, log: number}[]}} asked `gains`: best to first score of searches
 * @param {{methods: object, pairs: object[], answers: Estimate[]}} [stored] what Python computed, for the whole board
 */
export function analyse(table, asked, stored) {
  const [num, methods] = [table.common.length, table.methods.length];
  const meanRank = meanOverTasks(table, ranks, [1, methods]);
  const computed = { mean_rank: meanRank, wins: meanOverTasks(table, sharedWins, [0, num], num), improvement: improvement(table, meanRank) };
  const compared = methods <= MAX_COMPARED ? { verdict: verdicts(table, stored?.pairs), answers: answers(table, asked, stored?.answers) } : { verdict: {}, answers: [] };
  const whole = Object.entries(stored?.methods ?? {}).map(([name, values]) => [name, table.byMethod((m) => ({ ...computed[name]?.[table.methods[m]], ...values[table.methods[m]] }))]);
  return { ...computed, ...compared, ...Object.fromEntries(whole) };
}
