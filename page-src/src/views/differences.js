/** Which methods the scores separate: critical differences, and the verdict for each pair. */
import { criticalDifferenceDiagram } from "../diagram.js";
import { MAX_COMPARED } from "../board.js";
import { verdictSentence } from "../brief.js";
import { figure, h } from "../dom.js";
import * as format from "../format.js";
import { mark } from "../marks.js";
import { change, place } from "../state.js";

/** @param {import("../board.js").Board} board */
export function differencesView(board) {
  const methods = board.ranked.filter((method) => board.results.mean_rank?.[method]);
  const heading = h("h2", { tabindex: -1 }, "Differences");
  if (!board.comparable) return [heading, h("p", {}, `Choose at most ${MAX_COMPARED} methods.`)];
  if (methods.length < 2) return [heading, h("p", {}, "Choose at least two methods with scores.")];
  return [heading, diagram(board), matrix(board, methods)];
}

function diagram(board) {
  const found = board.results.critical_differences;
  if (!found.num_tasks) return h("p", {}, "No task has a score of every method, so the methods have no ranks.");
  const test = place().options.get("test") === "nemenyi" ? "nemenyi" : "wilcoxon";
  const choice = h("label", {}, "Bars by ", h("select", { id: "test", onchange: (event) => change({ test: event.target.value }) },
    [["wilcoxon", "Wilcoxon and Holm"], ["nemenyi", "Nemenyi"]].map(([key, title]) => h("option", { value: key, selected: key === test }, title))));
  const friedman = Number.isNaN(found.friedman_p) ? "" : `Friedman's test: p ${format.pValue(found.friedman_p).replace(/^(?=\d)/, "= ")}. `;
  const nemenyi = test === "nemenyi" ? `Critical difference: ${format.short(found.nemenyi)} ranks. ` : "";
  const pairs = (found.order.length * (found.order.length - 1)) / 2;
  const powerless = test === "wilcoxon" && !found.wilcoxon_possible && `With ${format.plural(found.num_tasks, "task")} and ${format.plural(pairs, "pair")}, no pair can be separable by this test at this level, however large the differences are. `;
  return figure({
    title: "Critical differences of mean ranks",
    note: [`A bar joins methods that this test of ranks does not separate at the 5 % level, over ${format.plural(found.num_tasks, "task")}. `, powerless && h("b", {}, powerless), `${friedman}${nemenyi}`, choice],
    chart: criticalDifferenceDiagram(found.order.map((method) => ({ method, rank: found.mean_ranks[method] })), found[`${test}_groups`]),
    head: ["Method", "Mean rank"],
    rows: found.order.map((method) => [method, format.short(found.mean_ranks[method], 3)]),
  });
}

/** The verdicts of all pairs: the score of the row's method relative to that of the column's. */
function matrix(board, methods) {
  const { verdict } = board.results;
  const cell = (one, other) => {
    if (one === other) return h("td.self", {}, "");
    const found = verdict[one][other];
    const kind = found.separable ? (found.value < 1 ? "td.better" : "td.worse") : "td";
    return h(kind, { title: verdictSentence(board, one, other) },
      h("b", {}, found.separable ? (found.value < 1 ? "better" : "worse") : Number.isNaN(found.adjusted_p) ? "unknown" : "not separable"),
      h("div", {}, `ratio ${format.short(found.value)}`, Number.isFinite(found.low) && h("span.spread", {}, format.ratios(found.low, found.high))),
      !found.separable && h("div.muted", {}, more(found)));
  };
  return [
    h("h3", {}, "Verdict for each pair"),
    h("p.note", {}, "The diagram tests ranks, this table tests log ratios; they can disagree. ",
      "Row against column: the geometric mean over tasks of the ratio of scores; below 1 the row is better. ",
      "Separable: Student's paired test of log ratios over tasks, adjusted by Holm for all pairs, at the 5 % level. ",
      "The 95 % interval below a ratio is not adjusted, so it may exclude 1 for a pair that is not separable. ",
      "More tasks or seeds: what would separate the pair with a probability of 80 %, if the difference is as large as it looks."),
    h("div.scroll", { tabindex: 0, role: "region", "aria-label": "verdicts" }, h("table.matrix", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), methods.map((method) => h("th.short", { scope: "col" }, mark(method), "\u00a0", method)))),
      h("tbody", {}, methods.map((one) => h("tr", {}, h("th.short", { scope: "row" }, mark(one), "\u00a0", one), methods.map((other) => cell(one, other))))))),
    h("details.panel", {}, h("summary", {}, "In sentences"), methods.flatMap((one, index) => methods.slice(index + 1).map((other) => h("p", {},
      verdictSentence(board, one, other), counts(one, board.compared(one, other)))))),
  ];
}

/** On how many tasks a method is better than another. */
function counts(method, { better, worse, tied }) {
  const parts = [["better", better], ["worse", worse], ["tied", tied]].filter(([, number]) => number).map(([word, number]) => `${word} on ${number}`);
  return parts.length > 1 || better || worse ? ` ${method} is ${parts.join(", ")}.` : "";
}

function more({ more_tasks: tasks, more_seeds: seeds }) {
  const parts = [Number.isFinite(tasks) && `+${tasks} tasks`, Number.isFinite(seeds) && `+${seeds} seeds`].filter(Boolean);
  return parts.length ? parts.join(" or ") : "";
}
