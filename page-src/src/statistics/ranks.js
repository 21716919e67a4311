/** Mean rank, win rate and wins. */
import { meanOverTasks } from "./resampling.js";

/** Which methods beat which, M × M: 1 where the first is better, 0.5 on a tie, else 0. @param {number[]} means_M */
export const beaten = (means_M) => means_M.flatMap((one) => means_M.map((other) => 0.5 * (Number(one < other) + 1 - Number(one > other))));

/** Ranks from 1; equal scores get the average of their ranks. @param {number[]} means_M */
export const ranks = (means_M) => means_M.map((one) => means_M.reduce((sum, other) => sum + 1 - 0.5 * (Number(one < other) + 1 - Number(one > other)), 0.5));

/** 1 for the best method, 1/k for each of k that tie, 0 for the others. @param {number[]} means_M */
export function sharedWins(means_M) {
  const lowest = Math.min(...means_M);
  const num = means_M.filter((each) => each === lowest).length;
  return means_M.map((each) => (each === lowest ? 1 / num : 0));
}

/** @param {import("./table.js").ScoreTable} table */
export function meanRank(table) {
  const { common } = table;
  return table.byMethod({ ...meanOverTasks(common, ranks, table.methods.length), num_tasks: common.tasks.length });
}

/** @param {import("./table.js").ScoreTable} table */
export function winRate(table) {
  const { common } = table;
  return table.byPair({ ...meanOverTasks(common, beaten, table.methods.length ** 2), num_tasks: common.tasks.length });
}

/** @param {import("./table.js").ScoreTable} table */
export function wins(table) {
  const { common } = table;
  const num = common.tasks.length;
  const { value, low, high } = meanOverTasks(common, sharedWins, table.methods.length);
  const scaled = (values) => values.map((each) => num * each);
  const shares_TM = common.means_TM.map(sharedWins);
  const ties = table.methods.map((_, m) => shares_TM.filter((shares_M) => shares_M[m] > 0 && shares_M[m] < 1).length);
  return table.byMethod({ value: scaled(value), low: scaled(low), high: scaled(high), num_tasks: num, ties });
}
