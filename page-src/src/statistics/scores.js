/** Scores, relative scores, profiles, strengths and the Pareto front. */
import { studentQuantile } from "./distributions.js";
import { Logs, ratioOverTasks } from "./paired.js";
import { beaten, ranks } from "./ranks.js";
import { interval, MIN_TASKS, resample } from "./resampling.js";
import { mean } from "./table.js";

/** Mean score of each cell with Student's interval, {task: {method: {…}}}. @param {import("./table.js").ScoreTable} table */
export function score(table) {
  const cell = (scores) => {
    const [num, centre] = [scores.length, mean(scores)];
    const std = num > 1 ? Math.sqrt(scores.reduce((sum, each) => sum + (each - centre) ** 2, 0) / (num - 1)) : NaN;
    const half = num > 1 ? (studentQuantile(0.05, num - 1) * std) / Math.sqrt(num) : NaN;
    return { value: centre, low: centre - half, high: centre + half, std, num_seeds: num };
  };
  return Object.fromEntries(table.tasks.map((task, t) => [task, Object.fromEntries(table.methods.map((method, m) => [method, cell(table.scores_TMS[t][m])]).filter(([, { num_seeds: num }]) => num))]));
}

/** Geometric mean of the scores relative to a baseline's; by default the method with the highest mean rank. */
export function improvement(table, baseline = null) {
  const { common } = table;
  const num = common.tasks.length;
  if (!num) return table.byMethod({ value: NaN, low: NaN, high: NaN, num_tasks: 0, baseline });
  const ranks_TM = common.means_TM.map(ranks);
  const meanRanks = table.methods.map((_, m) => mean(ranks_TM.map((ranks_M) => ranks_M[m])));
  const reference = baseline ?? table.methods[meanRanks.indexOf(Math.max(...meanRanks))];
  const logs = new Logs(common);
  const ratios = table.methods.map((method) => {
    const pairs = logs.paired(method, reference);
    return ratioOverTasks(pairs.map(({ log }) => log), pairs.map(({ error }) => error), num >= MIN_TASKS);
  });
  const column = (name) => ratios.map((ratio) => ratio[name]);
  return table.byMethod({ value: column("value"), low: column("low"), high: column("high"), num_tasks: num, baseline: reference });
}

const FACTORS = Array.from({ length: 181 }, (_, k) => 1 + k / 20);

/** Logarithms of scores relative to the best of the task, on the tasks on which every method has a score. */
const relativeLogs = (table) => new Logs(table.common).means_TM.map((logs_M) => logs_M.map((log) => log - Math.min(...logs_M)));

/** The factors at which a profile changes, and 1. @param {import("./table.js").ScoreTable} table */
export const profileFactors = (table) => [...new Set([1, ...relativeLogs(table).flat().map(Math.exp)])].sort((a, b) => a - b);

/** Share of tasks within a factor x of the best score, {method: [{x, value, num_tasks}]}. */
export function performanceProfile(table, factors = FACTORS) {
  const num = table.common.tasks.length;
  const ratios_TM = relativeLogs(table);
  const share = (m, factor) => (num ? ratios_TM.filter((ratios_M) => ratios_M[m] <= Math.log(factor) + 1e-12).length / num : NaN);
  return Object.fromEntries(table.methods.map((method, m) => [method, factors.map((x) => ({ x, value: share(m, x), num_tasks: num }))]));
}

const TOLERANCE = 1e-13;
const MAX_SWEEPS = 10_000;

/** Strengths [M][R] in Elo points from wins [M × M][R], by Newman's iteration; one drawn game of each two is added. */
export function strengths(wins, num, resamples) {
  const strength = Array.from({ length: num }, () => new Float64Array(resamples).fill(1));
  const before = new Float64Array(num);
  for (let sweep = 0; sweep < (num > 1 ? MAX_SWEEPS : 0); sweep += 1) {
    let change = 0;
    for (let r = 0; r < resamples; r += 1) {
      let logs = 0;
      for (let i = 0; i < num; i += 1) {
        before[i] = strength[i][r];
        let [above, below] = [0, 0];
        for (let j = 0; j < num; j += 1) {
          if (j === i) continue;
          const total = strength[i][r] + strength[j][r];
          above += ((wins[i * num + j][r] + 0.5) * strength[j][r]) / total;
          below += (wins[j * num + i][r] + 0.5) / total;
        }
        strength[i][r] = above / below;
      }
      for (let i = 0; i < num; i += 1) logs += Math.log(strength[i][r]);
      const scale = Math.exp(logs / num);
      for (let i = 0; i < num; i += 1) {
        strength[i][r] /= scale;
        change = Math.max(change, Math.abs(Math.log(strength[i][r] / before[i])));
      }
    }
    if (change < TOLERANCE) break;
  }
  return strength.map((values_R) => values_R.map((value) => 1000 + 400 * Math.log10(value)));
}

/** Strength of each method in the model of Bradley and Terry. @param {import("./table.js").ScoreTable} table */
export function bradleyTerry(table) {
  const [num, numTasks] = [table.methods.length, table.tasks.length];
  const played = table.methods.map((_, m) => table.means_TM.filter((means_M) => Number.isFinite(means_M[m]) && means_M.filter(Number.isFinite).length > 1).length);
  const games = (means_M) => beaten(means_M).map((won, index) => (Number.isFinite(means_M[Math.floor(index / num)] + means_M[index % num]) ? won : 0));
  const games_TX = table.means_TM.map(games);
  const wins = Array.from({ length: num * num }, (_, x) => [games_TX.reduce((sum, games_X) => sum + games_X[x], 0)]);
  const value = strengths(wins, num, 1).map(([strength]) => strength);
  const resampled = resample(table, games)?.map((wins_R) => wins_R.map((each) => each * numTasks)) ?? null;
  const ends = interval(table, resampled && strengths(resampled, num, resampled[0].length), num);
  const known = (values) => Array.from(values, (each, m) => (played[m] ? each : NaN));
  return table.byMethod({ value: known(value), low: known(ends.low), high: known(ends.high), num_tasks: played });
}

const SAME_COST = 0.05;
const cheaper = (one, other) => one.cost < (1 - SAME_COST) * other.cost;

/** Whether costs are called equal. @param {{cost: number}} one @param {{cost: number}} other */
export const sameCost = (one, other) => !cheaper(one, other) && !cheaper(other, one);

/** Whether a score or cost is lower, and the other of both not higher. @param {{score: number, cost: number}} one */
export const beats = (one, other) => one.score <= other.score && !cheaper(other, one) && (one.score < other.score || cheaper(one, other));

const OVER_TASKS = { sum: (costs) => costs.reduce((sum, each) => sum + each, 0), mean, max: (costs) => Math.max(...costs) };

/**
 * Score relative to the best (geometric mean), cost over tasks, and whether no other method beats both.
 * @param {import("./table.js").ScoreTable} table
 * @param {(task: string, method: string) => number} cost NaN where unknown
 * @param {"sum" | "mean" | "max"} over how the costs of tasks are put together
 */
export function pareto(table, cost, over = "sum") {
  const costs_TM = table.tasks.map((task) => table.methods.map((method) => cost(task, method)));
  const known = table.methods.map((_, m) => m).filter((m) => costs_TM.some((costs_M) => Number.isFinite(costs_M[m])));
  const logs_TM = new Logs(table).means_TM;
  const common = table.tasks.map((_, t) => t).filter((t) => known.length && known.every((m) => Number.isFinite(costs_TM[t][m] + logs_TM[t][m])));
  const points = known.map((m) => ({
    m,
    score: Math.exp(mean(common.map((t) => logs_TM[t][m] - Math.min(...known.map((k) => logs_TM[t][k]))))),
    cost: OVER_TASKS[over](common.map((t) => costs_TM[t][m])),
  }));
  return Object.fromEntries(table.methods.map((method, m) => {
    const own = common.length ? points.find((point) => point.m === m) : null;
    const value = own ? Number(!points.some((other) => beats(other, own))) : NaN;
    return [method, { value, score: own?.score ?? NaN, cost: own?.cost ?? NaN, num_tasks: common.length }];
  }));
}
