/** Did aligning, pretraining and searching help? Ratios of paired scores, in words. */
import * as format from "./format.js";

/** What a ratio says. @param {{value: number, low: number, high: number}} ratio */
export function direction({ low, high }) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) return "unknown";
  return high < 1 ? "helped" : low > 1 ? "hurt" : "unclear";
}

/** A ratio as a change of the score, with its interval. @param {import("./statistics/questions.js").Answer} answer */
function change({ method, reference }, { value, low, high }) {
  const size = value < 1 ? `${format.percent(1 - value)} lower than` : value > 1 ? `${format.percent(value - 1)} higher than` : "equal to";
  const interval = Number.isFinite(low) ? `, 95 % interval ${format.short(low)} – ${format.short(high)}` : "";
  return `the score of ${method} is ${size} that of ${reference} (ratio ${format.short(value)}${interval})`;
}

/** The answer on one task, or over all. @param {import("./board.js").Board} board @param {import("./statistics/questions.js").Answer} answer @param {string} [task] */
export function sentence(board, answer, task) {
  const ratio = task ? answer.tasks[task] : answer.ratio;
  if (!ratio || !Number.isFinite(ratio.value)) return null;
  const where = task ? `on ${board.label(task)}` : `over ${format.plural(answer.pairs, "task")}`;
  const who = answer.subject ? `${answer.agent} (${answer.subject})` : answer.agent;
  const verdict = {
    helped: `${who} helped ${where}`,
    hurt: `${who} did harm ${where}`,
    unclear: `${who} made no difference ${where} that these scores can show`,
    unknown: `Whether ${who[0].toLowerCase()}${who.slice(1)} helped ${where} cannot be judged, for too few seeds or tasks`,
  }[direction(ratio)];
  return `${verdict}: ${change(answer, ratio)}.${answer.note && !task ? ` ${answer.note}` : ""}`;
}
