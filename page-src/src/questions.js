/** Did aligning, pretraining and searching help? Ratios of paired scores, in words. */
import * as format from "./format.js";
import { LEVEL } from "./statistics.js";

/** What a ratio says, at the 5 % level over all questions, or over all tasks of one. */
function direction({ name }, { value, adjusted_p: p }) {
  if (name === "searching") return "most";
  return Number.isNaN(p) ? "unknown" : p > LEVEL ? "unclear" : value < 1 ? "helped" : "hurt";
}

/** Why a ratio has no interval. @param {string} name of the question */
const reason = (name) => (name === "searching" ? "chosen by these scores" : "1 seed");

/** The interval of a ratio, or why there is none. @param {object} ratio @param {string} name of the question */
export const intervalText = ({ low, high }, name) => (Number.isFinite(low) ? format.ratios(low, high) : `none (${reason(name)})`);

/** A ratio as a change of the error. @param {object} answer */
function change({ name, method, reference }, { value, low, high, adjusted_p: p }) {
  const [error, one, other] = name === "searching" ? ["validation error", `the ${method}`, `the ${reference}`] : ["error", method, reference];
  const size = value === 1 ? "equal to" : value < 1 ? `${format.percent(1 - value, value > 0.99 ? 1 : 0)} lower than` : `${format.percent(value - 1, value < 1.01 ? 1 : 0)} higher than`;
  const interval = Number.isFinite(low) ? `95 % interval ${format.ratios(low, high)}, adjusted p ${format.pValue(p).replace(/^(?=\d)/, "= ")}` : `no interval: ${reason(name)}`;
  return `the ${error} of ${one} is ${size} that of ${other} (ratio ${format.short(value)}, ${interval})`;
}

/** The answer on one task, or over all. @param {import("./board.js").Board} board @param {object} answer @param {string} [task] */
export function sentence(board, answer, task) {
  const ratio = task ? answer.tasks[task] : answer.ratio;
  if (!ratio || !Number.isFinite(ratio.value)) return null;
  const where = task ? `on ${board.label(task)}` : `over ${format.plural(answer.pairs, "task")}`;
  const who = answer.subject ? `${answer.agent} (${answer.subject})` : answer.agent;
  const lower = `${who[0].toLowerCase()}${who.slice(1)}`;
  const verdict = {
    helped: `${who} helped ${where}`,
    hurt: `${who} did harm ${where}`,
    unclear: `No clear effect of ${lower} ${where}`,
    most: `${who} gained at most this ${where}`,
    unknown: `Whether ${lower} helped ${where} cannot be judged`,
  }[direction(answer, ratio)];
  return `${verdict}: ${change(answer, ratio)}.${answer.note && !task ? ` ${answer.note}` : ""}`;
}
