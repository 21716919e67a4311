/** Did aligning, pretraining and searching help? Ratios of paired scores, in words. */
import * as format from "./format.js";

/** What a ratio says. @param {{value: number, low: number, high: number}} ratio */
export function direction({ low, high }) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) return "unknown";
  return high < 1 ? "helped" : low > 1 ? "hurt" : "unclear";
}

/** A ratio as a change of the error, with its interval. @param {{value: number, low: number, high: number}} ratio */
export function change({ value, low, high }) {
  const size = value < 1 ? `${format.percent(1 - value)} lower` : value > 1 ? `${format.percent(value - 1)} higher` : "equal";
  return `score ${size}${Number.isFinite(low) ? ` (ratio ${format.short(value)}, 95 % interval ${format.short(low)} – ${format.short(high)})` : ` (ratio ${format.short(value)})`}`;
}

const VERBS = { helped: "helped", hurt: "did harm", unclear: "made no difference that the scores can show", unknown: "cannot be judged: too few seeds or tasks" };

/** The answer on one task, or over all. @param {import("./board.js").Board} board @param {import("./statistics/questions.js").Answer} answer @param {string} [task] */
export function sentence(board, answer, task) {
  const ratio = task ? answer.tasks[task] : answer.ratio;
  if (!ratio || !Number.isFinite(ratio.value)) return null;
  const where = task ? `on ${board.label(task)}` : `over ${format.plural(answer.pairs, "task")}`;
  const who = answer.subject ? `${answer.agent} (${answer.subject})` : answer.agent;
  return `${who} ${VERBS[direction(ratio)]} ${where}: ${answer.method} against ${answer.reference}, ${change(ratio)}.${answer.note && !task ? ` ${answer.note}` : ""}`;
}
