/** Did aligning, pretraining, the body or searching help, as orca_ray/leaderboard/statistics/verdict.py computes it. */
import { Logs, ratioOverTasks, ratioWithin, scoreFloor } from "./paired.js";
import { MIN_TASKS } from "./resampling.js";
import { byCodePoint, mean } from "./table.js";

const METHODS = [
  ["aligning", "Did aligning help?", "Aligning", "orca", "nft"],
  ["guarded", "Did guarded aligning help?", "Guarded aligning", "orca_guarded", "nft"],
  ["aligning_norms", "Did aligning help where only norms of the body are trained?", "Aligning where only norms of the body are trained", "orca_fpt", "fpt"],
  ["aligning_lora", "Did aligning help low-rank updates?", "Aligning before low-rank updates", "orca_lora", "lora"],
  ["joint", "Did joint losses help?", "Joint losses", "joint", "nft"],
  ["mixing", "Did mixing in source tokens help?", "Mixing in source tokens", "pare", "nft"],
  ["bilevel", "Did bilevel learning of the embedder help?", "Bilevel learning of the embedder", "mona", "nft"],
  ["distortion", "Did reducing the label distortion help?", "Reducing the label distortion", "recraft", "nft"],
  ["pretraining", "Did pretraining help?", "Pretraining", "nft", "scratch"],
  ["body", "Did the body help?", "The body", "nft", "no_body"],
  ["transformer", "Did the transformer help?", "The transformer", "nft", "cnn"],
];
const CAUTION = "The winner was chosen by these validation scores, so this is the most that searching can have gained.";

/**
 * @typedef {{name: string, question: string, agent: string, subject: string, method: string, reference: string,
 *   ratio: import("./paired.js").Ratio, tasks: Record<string, import("./paired.js").Ratio>, pairs: number, note: string}} Answer
 */

/**
 * The answers that the tables allow.
 * @param {import("./table.js").ScoreTable} table
 * @param {{task: string, method: string, number: number, score: number}[]} searches NaN for no score
 * @returns {Answer[]}
 */
export function answers(table, searches) {
  const logs = new Logs(table);
  const names = table.methods;
  const found = METHODS.flatMap(([name, question, agent, method, other]) => names
    .filter((each) => each === method || each.startsWith(`${method} (`))
    .map((each) => each.slice(method.length)).sort(byCodePoint)
    .filter((body) => names.includes(other + body))
    .map((body) => ({ name, question, agent, subject: body.replace(/^[ ()]+|[ ()]+$/g, ""), note: "", ...logs.compare(method + body, other + body) })));
  return [...found, ...searching(searches)];
}

/** The ratio of the best to the first validation score, of all methods and of each of several. */
function searching(searches) {
  const found = gains(searches);
  const methods = [...new Set(found.map(({ method }) => method))].sort(byCodePoint);
  return (methods.length > 1 ? ["", ...methods] : methods).map((subject) => {
    const some = found.filter(({ method }) => !subject || method === subject);
    const pairs = [...Map.groupBy(some, ({ task }) => task)].sort(([a], [b]) => byCodePoint(a, b)).map(([task, own]) => ({ task, log: mean(own.map(({ log }) => log)) }));
    return {
      name: "searching", question: "Did searching help?", agent: "Searching", subject, method: "winner", reference: "first configuration", note: CAUTION,
      ratio: ratioOverTasks(pairs.map(({ log }) => log), pairs.map(() => NaN), pairs.length >= MIN_TASKS), pairs: pairs.length,
      tasks: Object.fromEntries(pairs.map(({ task, log }) => [task, ratioWithin(log, NaN)])),
    };
  });
}

/** The logarithm of best to first score of each search of at least two trials whose first has a score. */
function gains(searches) {
  const found = [];
  for (const [task, onTask] of Map.groupBy(searches, (trial) => trial.task)) {
    const floor = scoreFloor([onTask.map((trial) => trial.score)]);
    for (const [method, trials] of Map.groupBy(onTask, (trial) => trial.method)) {
      const scores = trials.toSorted((a, b) => a.number - b.number).map((trial) => trial.score);
      if (scores.length > 1 && Number.isFinite(scores[0])) {
        const best = Math.max(Math.min(...scores.filter(Number.isFinite)), floor);
        found.push({ task, method, log: Math.log(best / Math.max(scores[0], floor)) });
      }
    }
  }
  return found;
}
