/** The statistics of a board by the names that they have in Python; each is a function of a score table. */
import { meanRank, winRate, wins } from "./statistics/ranks.js";
import { bradleyTerry, improvement, pareto, performanceProfile, profileFactors, score } from "./statistics/scores.js";
import { criticalDifference, criticalDifferences, verdict } from "./statistics/separate.js";
import { ScoreTable } from "./statistics/table.js";
import { answers } from "./statistics/questions.js";

export { erfc } from "./statistics/distributions.js";

/** @type {Record<string, (table: ScoreTable) => object>} */
export const STATISTICS = {
  score,
  mean_rank: meanRank,
  win_rate: winRate,
  wins,
  improvement,
  bradley_terry: bradleyTerry,
  performance_profile: performanceProfile,
  critical_difference: criticalDifference,
  verdict,
  critical_differences: criticalDifferences,
};

/**
 * Every statistic of score rows, by name; each is computed when it is first read, and kept.
 * @param {{task: string, method: string, seed: number, score: number}[]} rows
 * @param {{task: string, method: string, number: number, score: number}[]} [searches]
 */
export function analyse(rows, searches = []) {
  const table = ScoreTable.of(rows);
  const results = { table, profile: () => performanceProfile(table, profileFactors(table)), pareto: (cost, over) => pareto(table, cost, over) };
  const all = { ...STATISTICS, answers: () => answers(table, searches) };
  for (const [name, compute] of Object.entries(all)) {
    let kept;
    Object.defineProperty(results, name, { enumerable: true, get: () => (kept ??= compute(table)) });
  }
  return results;
}
