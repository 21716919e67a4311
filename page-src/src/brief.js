/** The answers that a reader comes for, in sentences: who leads, what is separable, did aligning, pretraining and searching help. */
import { h } from "./dom.js";
import * as format from "./format.js";
import { LEVEL, MAX_COMPARED } from "./statistics.js";
import { link } from "./state.js";

/** @param {import("./board.js").Board} board */
export function brief(board) {
  if (!board.scored.length) {
    const nothing = board.data.sweep ? "No trial has a test score yet." : "Nothing was run here yet.";
    return h("div.brief", {}, h("p", {}, nothing, board.data.published ? " Below: what is published." : ""));
  }
  if (!board.comparable) return h("div.brief", {}, h("p", {}, leader(board)), h("p", {}, `Choose at most ${MAX_COMPARED} methods to see which of them the scores separate.`));
  const [main, ...others] = board.results.answers;
  const helped = [main, others.find((each) => each.name === "guarded")].filter((each) => each && sentence(board, each));
  return h("div.brief", {},
    h("p", {}, leader(board)),
    h("p", {}, separation(board)),
    helped.map((answer) => h("p", {}, sentence(board, answer), " ", h("a", { href: link("effects") }, "On each task"))),
    seeds(board));
}

/** Which methods are best on most tasks, and which have the lowest mean rank. */
function leader(board) {
  const tasks = board.common;
  if (!tasks.length) return "No task has a score of every method, so the methods have no ranks: choose fewer methods.";
  if (board.scored.length === 1) return [h("b", {}, board.scored[0]), ` is the only method with scores here, on ${format.plural(tasks.length, "task")}.`];
  const bests = new Map(tasks.map((task) => [task, board.best(task)]));
  const best = new Map(board.scored.map((method) => [method, tasks.filter((task) => bests.get(task).includes(method))]));
  const most = Math.max(...[...best.values()].map((won) => won.length));
  const winners = [...best.keys()].filter((method) => best.get(method).length === most);
  const standing = (method) => {
    const tied = best.get(method).filter((task) => bests.get(task).length > 1).length;
    return [most > tied && `alone on ${most - tied}`, tied && `tied on ${tied}`].filter(Boolean).join(", ");
  };
  const of = most < tasks.length ? `${most} of ${tasks.length} tasks` : format.all(most, "task");
  const standings = new Set(winners.map(standing));
  const details = standings.size === 1 ? [...standings][0] : winners.map((method) => `${method} ${standing(method)}`).join("; ");
  const firsts = board.first;
  const { value, low, high } = board.results.mean_rank[firsts[0]];
  const interval = firsts.length === 1 && Number.isFinite(low) ? `, 95 % interval ${format.range(low, high)}` : "";
  const lowest = `the lowest mean rank (${format.short(value)}${interval})`;
  const won = [h("b", {}, format.list(winners)), winners.length > 1 ? " are each" : " is", ` best on ${of} (${details})`];
  const [is, has] = [String(winners) === String(firsts), firsts.length > 1 ? "have" : "has"];
  return [won, is ? ` and ${has} ${lowest}.` : ["; ", h("b", {}, format.list(firsts)), ` ${has} ${lowest}.`]];
}

/** Whether the first is separable from the second. */
function separation(board) {
  const [first, second] = board.ranked.filter((method) => board.results.mean_rank[method]);
  if (!second) return "There is no second method to compare with.";
  return [verdictSentence(board, first, second), " ", h("a", { href: link("differences") }, "All pairs")];
}

/** That scores have no spread, where no cell has two seeds. */
function seeds(board) {
  if (board.spread) return null;
  const searched = [...new Set(board.index.all.filter((record) => record.phase === "search").map((record) => record.seed))];
  const names = (numbers) => `seed${numbers.length > 1 ? "s" : ""} ${format.list(numbers.map(String))}`;
  return h("p", {}, `One seed per score (${names(board.data.seeds)}${searched.length ? `; search trials have ${names(searched)}` : ""}): no spread is known.`);
}

/** The verdict of a pair in words: one test for all pairs. @param {import("./board.js").Board} board @param {string} one @param {string} other */
export function verdictSentence(board, one, other) {
  const found = board.results.verdict[one]?.[other];
  const both = board.tasks.filter((task) => board.cell(task, one).n && board.cell(task, other).n);
  const equal = both.length && both.every((task) => board.cell(task, one).mean === board.cell(task, other).mean);
  if (equal) return `${one} and ${other} have equal scores on ${both.length === 1 ? "the only task" : `each of ${both.length} tasks`}.`;
  if (!found || Number.isNaN(found.adjusted_p)) return `Whether ${one} and ${other} differ cannot be judged: too few seeds or tasks.`;
  const p = `adjusted p ${format.pValue(found.adjusted_p).replace(/^(?=\d)/, "= ")}`;
  if (found.separable) return `${one} and ${other} are separable at the 5 % level (${p}, ${format.plural(found.num_tasks, "task")}): ${found.value < 1 ? one : other} is better.`;
  return `${one} and ${other} are not separable at the 5 % level (${p}, ${format.plural(found.num_tasks, "task")}). ${needed(found)}`;
}

/** What would separate a pair; only Python computes it, for the whole board. */
function needed({ more_tasks: tasks, more_seeds: seeds }) {
  if (tasks === undefined) return "";
  const ways = [Number.isFinite(tasks) && `about ${format.plural(tasks, "more task")}`, Number.isFinite(seeds) && `about ${format.plural(seeds, "more seed")} of each cell`].filter(Boolean);
  return ways.length ? `It would take ${format.list(ways, "or")} to separate them, if the difference is as large as it looks.` : "No realistic number of tasks or seeds would separate a difference as small as this.";
}

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
