/**
 * Statistics of the chosen tasks and methods, as orca_ray/leaderboard/statistics defines them, in the same closed forms
 * (docs/decisions/0023-page.md). Noise over seeds is always that of the whole board. Axes: T tasks, M methods, S seeds.
 */

import { deviation, max, min, sum } from "d3-array";

const MIN_TASKS = 5;  // from which on an interval is one over tasks
/** Number of methods up to which pairs are compared: their number grows with its square. */
export const MAX_COMPARED = 40;
export const LEVEL = 0.05;

/** @typedef {{value: number, low: number, high: number}} Estimate a value with its 95 % interval, NaN where undefined */

/** Mean; NaN of none. @param {number[]} values */
export const mean = (values) => sum(values) / values.length;

/** Logarithm of the gamma function of x > 0, by Stirling's series. @param {number} x */
function logGamma(x) {
  if (x < 12) return logGamma(x + 1) - Math.log(x);
  return (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + 1 / (12 * x) - 1 / (360 * x ** 3) + 1 / (1260 * x ** 5) - 1 / (1680 * x ** 7);
}

/** Incomplete beta function I_x(a, b), y = 1 - x, by its continued fraction (Press et al., Numerical Recipes, 6.4). */
function betaShare(x, y, a, b) {
  if (x <= 0 || y <= 0) return x > 0 ? 1 : 0;
  if (x > (a + 1) / (a + b + 2)) return 1 - betaShare(y, x, b, a);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(y)) / a;
  let [c, d] = [1, 1 / (1 - ((a + b) * x) / (a + 1))];
  let share = d;
  for (let m = 1, change = 0; m < 1000 && Math.abs(change - 1) > 1e-15; m += 1) {
    for (const each of [(m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)), (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))]) {
      [c, d] = [1 + each / c, 1 / (1 + each * d)];
      change = c * d;
      share *= change;
    }
  }
  return front * share;
}

/** P(|T| > t) of Student's distribution, t >= 0. */
const studentTail = (t, freedom) => (t === Infinity ? 0 : betaShare(freedom / (freedom + t * t), (t * t) / (freedom + t * t), freedom / 2, 0.5));

/** Where a falling function from low to high reaches a level, by bisection. @param {(x: number) => number} falling */
function where(falling, level, [low, high]) {
  for (let step = 0; step < 64; step += 1) {
    const middle = (low + high) / 2;
    if (falling(middle) > level) low = middle;
    else high = middle;
  }
  return high;
}

const quantiles = new Map();

/** t with P(|T| > t) = 5 %. @param {number} freedom */
function studentQuantile(freedom) {
  if (!quantiles.has(freedom)) quantiles.set(freedom, Math.exp(where((log) => studentTail(Math.exp(log), freedom), LEVEL, [-5, 60])));
  return freedom > 0 ? quantiles.get(freedom) : NaN;
}

/** Ends of Clopper and Pearson's interval of the share of tasks won. @param {number} wins @param {number} num */
function binomial(wins, num) {
  const end = (ours) => (ours > 1e-12 ? 1 - where((y) => betaShare(1 - y, y, ours, num - ours + 1), LEVEL / 2, [0, 1]) : 0);
  return num ? [end(wins), 1 - end(num - wins)] : [NaN, NaN];
}

/** Tests with p-values adjusted by Holm's step-down method for all of them; NaN stays, and does not count as a test. @param {{p: number}[]} tests */
function adjusted(tests) {
  const order = [...tests.keys()].filter((index) => !Number.isNaN(tests[index].p)).sort((a, b) => tests[a].p - tests[b].p);
  const values = tests.map(() => NaN);
  let highest = 0;
  order.forEach((index, place) => {
    highest = Math.max(highest, tests[index].p * (order.length - place));
    values[index] = Math.min(highest, 1);
  });
  return tests.map((test, index) => ({ ...test, adjusted_p: values[index] }));
}

/** Scores of tasks and methods as arrays. */
export class ScoreTable {
  /** @param {number[][][]} scores_TMS by task, method and seed @param {{prior: number, most: number[], variances: number[][]}} noise of the whole board @param {number[]} floors_T of the whole board: lower scores are raised to them, because a mean of zero has no ratio */
  constructor(tasks, methods, scores_TMS, noise, floors_T) {
    Object.assign(this, { tasks, methods, scores_TMS, noise, floors_T });
    this.means_TM = scores_TMS.map((scores_MS) => scores_MS.map(mean));
    /** Places of the tasks on which every method has a score. */
    this.common = [...tasks.keys()].filter((t) => methods.length && this.means_TM[t].every(Number.isFinite));
    /** Logarithms of means. */
    this.logs_TM = this.means_TM.map((means_M, t) => means_M.map((each) => Math.log(Math.max(each, floors_T[t]))));
  }

  /** The part with the methods that are ranked: those with scores on at least half of the tasks. */
  get ranking() {
    const kept = [...this.methods.keys()].filter((m) => 2 * this.means_TM.filter((means_M) => Number.isFinite(means_M[m])).length >= this.tasks.length);
    const of = (rows) => rows.map((row) => kept.map((m) => row[m]));
    return new ScoreTable(this.tasks, kept.map((m) => this.methods[m]), of(this.scores_TMS), { ...this.noise, variances: of(this.noise.variances) }, this.floors_T);
  }

  /** Tasks on which two methods have a score, with the logarithm of the ratio, its error and the error's freedom. @param {number} m @param {number} o */
  paired(m, o) {
    return this.tasks.map((task, t) => ({ task, t, log: this.logs_TM[t][m] - this.logs_TM[t][o], ...this.error(t, [m, o]) }))
      .filter(({ log }) => Number.isFinite(log));
  }

  /** Standard error over seeds of the log ratio of two methods on a task. @param {number} t @param {number[]} both */
  error(t, both) {
    const parts = both.map((m) => ({ variance: (this.noise.variances[t][m] ?? NaN) / Math.max(this.scores_TMS[t][m].length, 1), freedom: Math.max(this.scores_TMS[t][m].length - 1, 0) }));
    const { variance, freedom } = combined(parts);
    return { error: Math.sqrt(variance), freedom: Math.min(freedom + this.noise.prior, this.noise.most[t]) };
  }

  /** Places of the methods that noise over seeds does not separate from the best one of a task; all pairs are tested (Bonferroni). @param {number} t */
  tied(t) {
    const known = [...this.methods.keys()].filter((m) => Number.isFinite(this.logs_TM[t][m]));
    const best = known.reduce((one, other) => (this.logs_TM[t][other] < this.logs_TM[t][one] ? other : one), known[0]);
    const p = (m) => { const { error, freedom } = this.error(t, [m, best]); return test(this.logs_TM[t][m] - this.logs_TM[t][best], error, freedom); };
    return new Set(known.filter((m) => (p(m) * known.length * (known.length - 1)) / 2 > LEVEL));
  }

  /** {method: what `compute` returns for its place}. @param {(m: number) => object} compute */
  byMethod(compute) {
    return Object.fromEntries(this.methods.map((method, m) => [method, compute(m)]));
  }
}

/** Sum of variances, with its degrees of freedom (Satterthwaite). @param {{variance: number, freedom: number}[]} parts */
function combined(parts) {
  const variance = sum(parts.map((each) => each.variance));
  const squares = sum(parts.map((each) => each.variance ** 2 / Math.max(each.freedom, 1e-9)));
  const known = parts.every((each) => !Number.isNaN(each.variance));
  return { variance: known ? variance : NaN, freedom: squares > 0 ? variance ** 2 / squares : min(parts.map((each) => each.freedom)) };
}

/** Ranks from 1; equal scores get the average of their ranks. @param {number[]} means_M */
const ranks = (means_M) => means_M.map((one) => 0.5 + sum(means_M.map((other) => (other < one ? 1 : other === one ? 0.5 : 0))));

/** 1 for the best method, 1/k for each of k that tie, 0 for the others. @param {number[]} means_M */
function sharedWins(means_M) {
  const lowest = min(means_M);
  const num = means_M.filter((each) => each === lowest).length;
  return means_M.map((each) => (each === lowest ? 1 / num : 0));
}

/** Mean rank over the common tasks, with Student's interval. @returns {Record<string, Estimate>} */
function meanRanks(table) {
  const ranks_TM = table.common.map((t) => ranks(table.means_TM[t]));
  return table.byMethod((m) => {
    const { value, low, high } = student(ranks_TM.map((ranks_M) => ranks_M[m]));
    return { value, low: Math.max(low, 1), high: Math.min(high, table.methods.length) };
  });
}

/** Number of common tasks won, with the interval of Clopper and Pearson. @returns {Record<string, Estimate>} */
function wins(table) {
  const [wins_TM, num] = [table.common.map((t) => sharedWins(table.means_TM[t])), table.common.length];
  return table.byMethod((m) => {
    const value = num ? sum(wins_TM, (wins_M) => wins_M[m]) : NaN;
    const [low, high] = binomial(value, num);
    return { value, low: num * low, high: num * high };
  });
}

/** p-value of Student's test of the logarithm of a ratio. */
function test(log, error, freedom) {
  if (Number.isNaN(log + error)) return NaN;
  const size = Math.abs(log);  // below 1e-12 are rounding errors
  return size < 1e-12 ? 1 : studentTail(error < 1e-12 ? Infinity : size / error, freedom);
}

/** The ratio with the logarithm `log`, with Student's interval and test. */
export function ratio(log, error, freedom) {
  const half = studentQuantile(freedom) * error;
  return { value: Math.exp(log), low: Math.exp(log - half), high: Math.exp(log + half), p: test(log, error, freedom) };
}

/** Geometric mean over tasks of ratios, with Student's interval and test. Of fewer than five tasks, they come from the noise over seeds, for these tasks only. */
function ratioOverTasks(pairs, overTasks = pairs.length >= MIN_TASKS) {
  const num = pairs.length;
  const centre = mean(pairs.map(({ log }) => log));
  if (overTasks) return { ...ratio(centre, deviation(pairs.map(({ log }) => log)) / Math.sqrt(num), num - 1), num_tasks: num };
  const { variance, freedom } = combined(pairs.map((each) => ({ variance: each.error ** 2, freedom: each.freedom })));
  return { ...ratio(centre, Math.sqrt(variance) / num, freedom), num_tasks: num };
}

/** Mean over tasks, with Student's interval. @param {number[]} values @returns {Estimate} */
function student(values) {
  const half = values.length >= MIN_TASKS ? (studentQuantile(values.length - 1) * deviation(values)) / Math.sqrt(values.length) : NaN;
  return { value: mean(values), low: mean(values) - half, high: mean(values) + half };
}

/** Score relative to the geometric mean of all methods. @returns {Record<string, Estimate>} */
function improvement(table) {
  return table.byMethod((m) => {
    const { value, low, high } = student(table.common.map((t) => table.logs_TM[t][m] - mean(table.logs_TM[t])));
    return { value: Math.exp(value), low: Math.exp(low), high: Math.exp(high) };
  });
}

/** Whether the scores separate two methods: {method: {other: {…}}}. @param {object[]} stored what only Python has of each pair */
function verdicts(table, stored) {
  const pairs = table.methods.flatMap((_, i) => table.methods.slice(i + 1).map((__, k) => [i, i + 1 + k]));
  const tests = adjusted(pairs.map(([i, j]) => ratioOverTasks(table.paired(i, j))));
  const found = table.byMethod(() => ({}));
  pairs.forEach(([i, j], index) => {
    const [one, other] = [table.methods[i], table.methods[j]];
    const test = { ...tests[index], separable: tests[index].adjusted_p <= LEVEL, ...stored?.[index] };
    found[one][other] = test;
    found[other][one] = { ...test, value: 1 / test.value, low: 1 / test.high, high: 1 / test.low };
  });
  return found;
}

/** Answers to the questions that the subset allows, with the ratio on each task; p-values are adjusted over questions and over tasks. */
function answers(table, { questions, gains }) {
  const onTasks = (subject) => [...Map.groupBy(gains.filter(({ method }) => !subject || method === subject), ({ task }) => task)]
    .map(([task, own]) => ({ task, log: mean(own.map(({ log }) => log)), error: NaN, freedom: NaN }));
  const found = questions.map((question) => {
    const [m, o] = [question.method, question.reference].map((each) => table.methods.indexOf(each));
    const pairs = question.name === "searching" ? onTasks(question.subject) : m < 0 || o < 0 ? [] : table.paired(m, o);
    const ratios = adjusted(pairs.map(({ log, error, freedom }) => ratio(log, error, freedom)));
    const tasks = Object.fromEntries(pairs.map(({ task }, index) => [task, ratios[index]]));
    return { ...question, tasks, pairs: pairs.length, ratio: ratioOverTasks(pairs, question.name !== "searching" && pairs.length >= MIN_TASKS) };
  }).filter(({ pairs }) => pairs);
  const ratios = adjusted(found.map((each) => each.ratio));
  return found.map((each, index) => ({ ...each, ratio: ratios[index] }));
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
 * @param {{methods: object, pairs: object[]}} [stored] what Python computed, for the whole board
 */
export function analyse(table, asked, stored) {
  const ranking = table.ranking;
  const computed = { mean_rank: meanRanks(ranking), wins: wins(ranking), improvement: improvement(ranking) };
  const compared = table.methods.length <= MAX_COMPARED ? { verdict: verdicts(table, stored?.pairs), answers: answers(table, asked) } : { verdict: {}, answers: [] };
  const whole = Object.entries(stored?.methods ?? {}).map(([name, values]) => [name, ranking.byMethod((m) => ({ ...computed[name]?.[ranking.methods[m]], ...values[ranking.methods[m]] }))]);
  return { ...computed, ...compared, ...Object.fromEntries(whole) };
}
