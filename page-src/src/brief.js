/** The answers that a reader comes for, in sentences that follow the subset. */
import { h } from "./dom.js";
import * as format from "./format.js";
import { MAX_COMPARED } from "./board.js";
import { sentence } from "./questions.js";
import { link } from "./state.js";

/** @param {import("./board.js").Board} board */
export function brief(board) {
  if (!board.scores.length) {
    const nothing = board.data.sweep ? "No trial has a test score yet." : "Nothing was run here yet.";
    return h("div.brief", {}, h("p", {}, nothing, board.data.published ? " Below: what is published." : ""));
  }
  if (!board.comparable) return h("div.brief", {}, h("p", {}, leader(board)), h("p", {}, `Choose at most ${MAX_COMPARED} methods to see which of them the scores separate.`));
  const [main] = board.results.answers;
  return h("div.brief", {},
    h("p", {}, leader(board)),
    h("p", {}, separation(board)),
    main && sentence(board, main) && h("p", {}, sentence(board, main), " ", h("a", { href: link("effects") }, "On each task")));
}

/** Which method is best, on how many tasks. */
function leader(board) {
  const { wins, mean_rank: ranks } = board.results;
  const tasks = board.common.length;
  if (!tasks) return "No task has a score of every method, so the methods have no ranks: choose fewer methods.";
  const most = Math.max(...Object.values(wins).map(({ value }) => value));
  const winners = Object.keys(wins).filter((method) => wins[method].value === most);
  const first = board.ranked[0];
  const { value, low, high } = ranks[first];
  const interval = Number.isFinite(low) ? `, 95 % interval ${format.short(low)} – ${format.short(high)}` : "";
  const lowest = `the lowest mean rank (${format.short(value)}${interval})`;
  const won = `best on ${winners.length > 1 ? "most tasks each: " : ""}${format.short(most).replace(".00", "")} of ${tasks}`;
  if (winners.length === 1 && winners[0] === first) return [h("b", {}, first), ` is ${won} tasks, and has ${lowest}.`];
  return [h("b", {}, format.list(winners)), winners.length > 1 ? ` are ${won} tasks` : ` is ${won} tasks`, "; ", h("b", {}, first), ` has ${lowest}.`];
}

/** Whether the first is separable from the second. */
function separation(board) {
  const [first, second] = board.ranked.filter((method) => board.results.mean_rank[method]);
  if (!second) return "There is no second method to compare with.";
  const found = board.results.verdict[first]?.[second];
  return [verdictSentence(first, second, found), " ", h("a", { href: link("differences") }, "All pairs")];
}

/** A verdict in words. @param {string} one @param {string} other @param {object} found an entry of the statistic verdict */
export function verdictSentence(one, other, found) {
  if (!found || Number.isNaN(found.adjusted_p)) return `Whether ${one} and ${other} differ cannot be judged: too few seeds or tasks.`;
  const p = `adjusted p ${format.pValue(found.adjusted_p).replace(/^(?=\d)/, "= ")}`;
  if (found.separable) return `${one} and ${other} are separable at the 5 % level (${p}, ${format.plural(found.num_tasks, "task")}): ${found.value < 1 ? one : other} is better.`;
  return `${one} and ${other} are not separable at the 5 % level (${p}, ${format.plural(found.num_tasks, "task")}). ${needed(found)}`;
}

/** What would separate a pair. */
function needed({ more_tasks: tasks, more_seeds: seeds }) {
  const ways = [Number.isFinite(tasks) && `about ${format.plural(tasks, "more task")}`, Number.isFinite(seeds) && `about ${format.plural(seeds, "more seed")} of each cell`].filter(Boolean);
  return ways.length ? `It would take ${format.list(ways, "or")} to separate them, if the difference is as large as it looks.` : "No realistic number of tasks or seeds would separate a difference as small as this.";
}
