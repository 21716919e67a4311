/** Which methods differ: the tests of statistics/critical_difference.py and verdict.py, and of tests/…/diagram.py. */
import { chiSquareTail, normalCdf, normalUpper, studentisedRange, studentTail } from "./distributions.js";
import { Logs, ratioOverTasks } from "./paired.js";
import { ranks } from "./ranks.js";
import { MIN_TASKS } from "./resampling.js";
import { mean } from "./table.js";

const LEVEL = 0.05;
const POWER = 0.8;
const MAX_MORE = 1000;
const MAX_EXACT = 25;

/** p-values adjusted by Holm's step-down method; NaN stays. @param {number[]} p */
export function holm(p) {
  const order = p.map((_, index) => index).filter((index) => Number.isFinite(p[index])).sort((a, b) => p[a] - p[b] || a - b);
  const adjusted = p.map(() => NaN);
  let highest = 0;
  order.forEach((index, place) => {
    highest = Math.max(highest, p[index] * (order.length - place));
    adjusted[index] = Math.min(highest, 1);
  });
  return adjusted;
}

/** Friedman's statistic, corrected for ties, and its p-value. @param {number[][]} ranks_TM */
export function friedman(ranks_TM) {
  const num = ranks_TM[0]?.length ?? 0;
  const centred = ranks_TM.map((ranks_M) => ranks_M.map((rank) => rank - (num + 1) / 2));
  const spread = centred.flat().reduce((sum, each) => sum + each ** 2, 0);
  if (!spread) return { statistic: NaN, p: NaN };
  const totals = Array.from({ length: num }, (_, m) => centred.reduce((sum, row) => sum + row[m], 0));
  const statistic = ((num - 1) * totals.reduce((sum, each) => sum + each ** 2, 0)) / spread;
  return { statistic, p: chiSquareTail(statistic, num - 1) };
}

/** Two-sided p-value of Wilcoxon's signed-rank test; exact for up to 25 differences. @param {number[]} differences */
export function signedRank(differences) {
  const kept = differences.map((each) => Math.round(each * 1e12) / 1e12).filter((each) => each !== 0);
  const num = kept.length;
  if (!num) return 1;
  const sizes = kept.map(Math.abs);
  const doubled = sizes.map((size) => 2 * sizes.filter((each) => each < size).length + sizes.filter((each) => each === size).length + 1);
  const positive = doubled.reduce((sum, rank, index) => sum + (kept[index] > 0 ? rank : 0), 0);
  const smaller = Math.min(positive, num * (num + 1) - positive);
  if (num > MAX_EXACT) {
    const ties = [...Map.groupBy(sizes, (size) => size).values()].reduce((sum, { length }) => sum + length ** 3 - length, 0);
    const deviation = Math.sqrt((num * (num + 1) * (2 * num + 1) - ties / 2) / 24);
    return Math.min(1, 2 * normalCdf((smaller / 2 - (num * (num + 1)) / 4) / deviation));
  }
  let chances = new Float64Array(num * (num + 1) + 1);
  chances[0] = 1;
  for (const rank of doubled) chances = chances.map((chance, s) => (chance + (s >= rank ? chances[s - rank] : 0)) / 2);
  let total = 0;
  for (let s = 0; s <= smaller; s += 1) total += chances[s];
  return Math.min(1, 2 * total);
}

/** The smallest p-value, adjusted by Holm, that Wilcoxon's test can give to a pair. @param {number} tasks @param {number} methods */
export function smallestP(tasks, methods) {
  const pairs = (methods * (methods - 1)) / 2;
  return pairs && tasks ? Math.min(1, pairs * signedRank(Array.from({ length: tasks }, (_, index) => index + 1))) : NaN;
}

/** Indices of the pairs of `num` methods. @returns {[number, number][]} */
const pairs = (num) => Array.from({ length: num }, (_, i) => Array.from({ length: num - i - 1 }, (__, k) => [i, i + 1 + k])).flat();

/** Wilcoxon's p-values of pairs, adjusted by Holm. @param {import("./table.js").ScoreTable} table */
export function criticalDifference(table) {
  const { common } = table;
  const { means_TM: logs_TM } = new Logs(common);
  const num = table.methods.length;
  const all = pairs(num);
  const p = all.map(([i, j]) => (common.tasks.length ? signedRank(logs_TM.map((logs_M) => logs_M[i] - logs_M[j])) : NaN));
  const adjusted = holm(p);
  const columns = { value: new Array(num * num).fill(NaN), p: new Array(num * num).fill(NaN) };
  all.forEach(([i, j], index) => {
    columns.value[i * num + j] = columns.value[j * num + i] = adjusted[index];
    columns.p[i * num + j] = columns.p[j * num + i] = p[index];
  });
  return table.byPair({ ...columns, num_tasks: common.tasks.length });
}

/** What a critical-difference diagram shows. @param {import("./table.js").ScoreTable} table */
export function criticalDifferences(table) {
  const { common } = table;
  const [num, methods] = [common.tasks.length, common.methods.length];
  const ranks_TM = common.means_TM.map(ranks);
  const meanRanks = Object.fromEntries(common.methods.map((method, m) => [method, mean(ranks_TM.map((ranks_M) => ranks_M[m]))]));
  const order = [...common.methods].sort((a, b) => meanRanks[a] - meanRanks[b] || 0);
  const { statistic, p } = friedman(ranks_TM);
  const nemenyi = num > 0 && methods > 1 ? studentisedRange(LEVEL, methods) * Math.sqrt((methods * (methods + 1)) / (12 * num)) : NaN;
  const adjusted = criticalDifference(table);
  return {
    mean_ranks: meanRanks, order, num_tasks: num, friedman_statistic: statistic, friedman_p: p, nemenyi,
    nemenyi_groups: groups(order, (a, b) => meanRanks[b] - meanRanks[a] > nemenyi),
    wilcoxon_groups: groups(order, (a, b) => adjusted[a][b].value <= LEVEL),
    wilcoxon_possible: smallestP(num, methods) <= LEVEL,
  };
}

/** The longest runs of at least two methods without a separable pair. */
function groups(order, separable) {
  const found = [];
  let end = 0;
  for (let start = 0; start < order.length; start += 1) {
    let stop = start + 1;
    while (stop < order.length && !order.slice(start, stop).some((one) => separable(one, order[stop]))) stop += 1;
    if (stop > Math.max(end, start + 1)) found.push(order.slice(start, stop));
    end = Math.max(end, stop);
  }
  return found;
}

/** Student's test of the log ratios of one pair. */
class Test {
  constructor(logs, method, other) {
    const { table } = logs;
    const paired = logs.paired(method, other);
    const both = [table.methods.indexOf(method), table.methods.indexOf(other)];
    const num = paired.length;
    const [values, errors] = [paired.map(({ log }) => log), paired.map(({ error }) => error)];
    this.num = num;
    this.numSeeds = mean(paired.flatMap(({ t }) => both.map((m) => table.scores_TMS[t][m].length)));
    this.overTasks = num >= MIN_TASKS;
    this.mean = mean(values);
    this.deviation = num > 1 ? Math.sqrt(values.reduce((sum, each) => sum + (each - this.mean) ** 2, 0) / (num - 1)) : NaN;
    this.ratio = ratioOverTasks(values, errors, this.overTasks);
    this.error = this.overTasks ? this.deviation / Math.sqrt(num) : num ? Math.sqrt(errors.reduce((sum, each) => sum + each ** 2, 0)) / num : NaN;
    // Over tasks the test does not use the noise of other methods, so what would separate the pair does not either.
    this.noise = mean(paired.map(({ error, ownError }) => (this.overTasks ? ownError : error) ** 2));
    this.p = this.tail(paired.reduce((sum, { t }) => sum + logs.freedom_T[t], 0));
  }

  /** The p-value. @param {number} freedom degrees of freedom of the noise over seeds */
  tail(freedom) {
    if (Number.isNaN(this.error) || !Number.isFinite(this.mean)) return NaN;
    if (Math.abs(this.mean) < 1e-12) return 1;
    const t = this.error > 1e-12 ? Math.abs(this.mean) / this.error : Infinity;
    return studentTail(t, this.overTasks ? this.num - 1 : freedom);
  }

  /** How many more tasks, or seeds of each cell, a test at this level needs. */
  more(level, separable) {
    if (separable) return [0, 0];
    if (Number.isNaN(this.p)) return [NaN, NaN];
    if (Math.abs(this.mean) < 1e-12) return [Infinity, Infinity];
    const critical = normalUpper(level / 2);
    const allowed = (this.mean / (critical + normalUpper(1 - POWER))) ** 2;
    const tasks = this.deviation ** 2 / allowed + critical ** 2 / 2;
    const between = this.overTasks ? Math.max(this.deviation ** 2 - this.noise, 0) : 0;
    const left = this.num * allowed - between;
    const seeds = Number.isNaN(this.noise) ? NaN : left > 0 ? this.numSeeds * (this.noise / left) : Infinity;
    return [more(Math.max(tasks, MIN_TASKS), this.num), more(seeds, this.numSeeds)];
  }
}

function more(needed, present) {
  if (Number.isNaN(needed)) return NaN;
  const missing = Math.max(needed - present, 1);
  return missing <= MAX_MORE ? Math.ceil(missing) : Infinity;
}

/** Whether two methods are separable, and what would separate them. @param {import("./table.js").ScoreTable} table */
export function verdict(table) {
  const logs = new Logs(table);
  const num = table.methods.length;
  const all = pairs(num);
  const tests = all.map(([i, j]) => new Test(logs, table.methods[i], table.methods[j]));
  const p = tests.map((test) => test.p);
  const adjusted = holm(p);
  const finite = p.filter(Number.isFinite).length;
  const cells = new Array(num * num).fill(null);
  all.forEach(([i, j], index) => {
    const test = tests[index];
    const left = finite - p.filter((each) => each < test.p).length;
    const separable = adjusted[index] <= LEVEL;
    const [moreTasks, moreSeeds] = test.more(LEVEL / Math.max(left, 1), separable);
    const shared = { p: test.p, adjusted_p: adjusted[index], separable, more_tasks: moreTasks, more_seeds: moreSeeds, num_tasks: test.num };
    const { value, low, high } = test.ratio;
    cells[i * num + j] = { value, low, high, ...shared };
    cells[j * num + i] = { value: 1 / value, low: 1 / high, high: 1 / low, ...shared };
  });
  const names = ["value", "low", "high", "p", "adjusted_p", "separable", "more_tasks", "more_seeds", "num_tasks"];
  return table.byPair(Object.fromEntries(names.map((name) => [name, cells.map((cell) => cell?.[name])])));
}
