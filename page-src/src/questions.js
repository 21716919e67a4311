/** Did aligning, pretraining and searching help? Ratios of paired scores, in words. */
import * as format from "./format.js";
import { MIN_TASKS } from "./statistics.js";

/** What a ratio says: its interval alone decides, and is not adjusted for the number of questions. */
function direction({ low, high }) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) return "unknown";
  return high < 1 ? "helped" : low > 1 ? "hurt" : "unclear";
}

/** Why a ratio has no interval. @param {string} name of the question @param {boolean} whole over all tasks */
const reason = (name, whole) => (name !== "searching" ? "1 seed" : whole ? `fewer than ${MIN_TASKS} tasks` : "one search");

/** The interval of a ratio, or why there is none. @param {object} ratio @param {string} name of the question */
export const intervalText = ({ low, high }, name, whole = false) => (Number.isFinite(low) ? format.ratios(low, high) : `none (${reason(name, whole)})`);

/** A ratio as a change of the error. @param {object} answer */
function change({ name, method, reference }, { value, low, high }, whole) {
  const [error, one, other] = name === "searching" ? ["validation error", `the ${method}`, `the ${reference}`] : ["error", method, reference];
  const size = value === 1 ? "equal to" : value < 1 ? `${format.percent(1 - value, value > 0.99 ? 1 : 0)} lower than` : `${format.percent(value - 1, value < 1.01 ? 1 : 0)} higher than`;
  const interval = Number.isFinite(low) ? `95 % interval ${format.ratios(low, high)} ${low <= 1 && high >= 1 ? "includes" : "excludes"} 1` : `no interval: ${reason(name, whole)}`;
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
    unknown: `Whether ${lower} helped ${where} cannot be judged`,
  }[direction(ratio)];
  return `${verdict}: ${change(answer, ratio, !task)}.${answer.note && !task ? ` ${answer.note}` : ""}`;
}
