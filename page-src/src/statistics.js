/** The statistics of a board by the names that they have in Python; each is a function of a score table. */
import { ScoreTable } from "./statistics/table.js";
import { meanRank, winRate, wins } from "./statistics/ranks.js";

/** @type {Record<string, (table: ScoreTable) => object>} */
export const STATISTICS = {
  mean_rank: meanRank,
  win_rate: winRate,
  wins,
};

/** Every statistic of score rows, by name. @param {{task: string, method: string, seed: number, score: number}[]} rows */
export function analyse(rows) {
  const table = ScoreTable.of(rows);
  return Object.fromEntries(Object.entries(STATISTICS).map(([name, compute]) => [name, compute(table)]));
}
