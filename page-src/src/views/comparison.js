/** Methods over all tasks: which ones the scores separate, performance profiles, and scores against costs. */
import * as Plot from "@observablehq/plot";
import { ticks } from "d3-array";
import { verdictSentence } from "../brief.js";
import { column, figure, h, select, table } from "../dom.js";
import * as format from "../format.js";
import { axes, chart, coincidence, forest, grid, legend, mark, methodDots, methodLines, narrow, places, ratioFigure, tips, versus } from "../charts.js";
import { link, place } from "../state.js";
import { beats, MAX_COMPARED, profiles, ratio, sameCost, scoresAndCosts } from "../statistics.js";

/** @param {import("../board.js").Board} board @param {string} argument a pair, or "" for all */
export function differencesView(board, argument) {
  const methods = board.ranked.filter((method) => board.results.mean_rank?.[method]);
  const heading = h("h2", { tabindex: -1 }, "Differences");
  if (!board.comparable) return [heading, h("p", {}, `Choose at most ${MAX_COMPARED} methods.`)];
  if (methods.length < 2) return [heading, h("p", {}, "Choose at least two methods with scores.")];
  const [one, other] = argument.split(AGAINST);
  if (one !== other && [one, other].every((each) => methods.includes(each))) return [heading, h("p", {}, h("a", { href: link("differences") }, "All pairs")), pair(board, one, other)];
  return [heading, meanRanks(board, methods), matrix(board, methods)];
}

const AGAINST = " against ";

/** Mean ranks with their intervals; what is tied with the first follows the verdicts. */
function meanRanks(board, methods) {
  if (!board.common.length) return h("p", {}, "No task has a score of every method, so the methods have no ranks.");
  const [first] = methods;
  const tied = new Set(methods.filter((method) => board.tiedFirst(method)));
  const rows = methods.map((method) => ({ method, label: tied.has(method) ? `${method} ≈` : method, tied: tied.size > 0 && (method === first || tied.has(method)), ...board.results.mean_rank[method] }));
  const domain = [1, methods.length];
  const all = methods.every((method) => method === first || board.results.verdict[first][method].separable);
  const groups = tied.size ? ` Shaded, with ≈: not separable from the first, ${first}, by the verdicts below.` : all ? ` Every other method is separable from the first, ${first}.` : "";
  return figure({
    title: "Mean ranks", note: `Over ${format.plural(board.common.length, "task")}${Number.isFinite(rows[0].low) ? ", with 95 % intervals" : ""}.${groups}`,
    chart: forest(rows, { label: "mean rank", better: "better", worse: "worse", axis: { type: "linear", domain, places: ticks(...domain, narrow() ? 5 : 10).filter(Number.isInteger) } }),
    head: ["Method", "Mean rank", "95 % interval", "Not separable from the first"],
    rows: rows.map(({ method, value, low, high }) => [method, format.short(value, 3), format.range(low, high, 3), tied.has(method) ? "yes" : ""]),
  });
}

/** The verdicts of all pairs: the score of the row's method relative to that of the column's. */
function matrix(board, methods) {
  const cell = (row, other) => {
    const { value, separable } = board.results.verdict[row][other];
    const kind = !separable ? "a" : value < 1 ? "a.better" : "a.worse";
    return h("td", {}, h(kind, { href: link("differences", `${row}${AGAINST}${other}`), style: `--far:${Math.min(1, Math.abs(Math.log2(value)))}`, title: verdictSentence(board, row, other) }, format.short(value)));
  };
  const name = (method) => [mark(method), "\u00a0", method];
  return [
    h("h3", {}, "Verdict for each pair"),
    h("p.note", {}, "Row against column: the geometric mean over tasks of the ratio of scores; below 1 the row is better. ",
      "Blue: the row is better; orange: it is worse; grey: not separable. Separable: Student's paired test of log ratios over tasks, adjusted by Holm for all pairs, at the 5 % level. A number leads to its pair."),
    table("pairs", "verdicts", [column("Method"), methods.slice(1).map((method) => h("th", { scope: "col", title: method }, h("span", {}, name(method))))],
      methods.slice(0, -1).map((row, above) => h("tr", {}, h("th.short", { scope: "row" }, name(row)), methods.slice(1).map((other, index) => (index < above ? h("td") : cell(row, other)))))),
  ];
}

/** What is known of a pair, on each task and over all. */
function pair(board, one, other) {
  const { table, results } = board;
  const whole = results.verdict[one][other];
  const paired = table.paired(...[one, other].map((method) => table.methods.indexOf(method)));
  const rows = paired.map(({ task, log, error, freedom }) => ({ label: board.label(task), ...ratio(log, error, freedom) })).sort((a, b) => a.value - b.value);
  const lower = rows.filter(({ value }) => value < 1).length;
  return ratioFigure([...rows, { label: format.all(rows.length, "task"), ...whole, whole: true }], {
    title: `${one}${AGAINST}${other}`, ...versus(one, other),
    note: [verdictSentence(board, one, other), ` The ratio is ${format.short(whole.value)}, 95 % interval ${format.ratios(whole.low, whole.high)}; ${one} has the lower score on ${lower} of ${format.plural(rows.length, "task")}. Intervals are not adjusted for the number of pairs; on one task they are of the noise over seeds, for this test set.`],
  });
}

export function profilesView(board) {
  const found = profiles(board.table.ranking);
  const methods = board.ranked.filter((method) => board.common.length && found[method]);
  // The axis ends where no line changes any more.
  const end = 1.1 * Math.max(1.2, ...methods.flatMap((method) => found[method].map((point) => point.x)));
  const factors = (narrow() ? [1, 2, 5, 10, 20, 50, 100] : [1, 1.1, 1.2, 1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100]).filter((each) => each <= end);
  const points = methods.flatMap((method) => {
    const own = found[method].map(({ x, value }) => ({ x, y: value, method, title: `${method}\nwithin a factor of ${format.short(x, 3)} of the best on ${format.percent(value)} of tasks` }));
    return [...own, { ...own.at(-1), x: end, end: true }];
  });
  return [
    h("h2", { tabindex: -1 }, "Performance profiles"),
    legend(methods),
    points.length ? figure({
      title: "Share of tasks on which a method is within a factor of the best",
      note: ["Dolan and Moré. At the left end: the share of tasks on which the method is the best. The higher, the better. Tasks count on which every method has a score.", coincidence(points)],
      chart: chart({
        height: 400, marginRight: 20, x: { type: "log", label: "factor relative to the best score of the task", domain: [1, end] }, y: { domain: [0, 1], label: "share of tasks", percent: false },
        marks: [Plot.gridX(factors, grid), ...axes({ ticks: factors, tickFormat: String }, { ticks: 5, tickFormat: ".0%" }), ...methodLines(points, { curve: "step-after", strokeWidth: 2.5 }), methodDots(points.filter((point) => !point.end), { r: points.length > 200 ? 1.5 : 4 }), tips(points)],
        ariaLabel: "Performance profiles",
      }),
      head: ["Method", "Factor", "Share of tasks"],
      rows: methods.flatMap((method) => found[method].map(({ x, value }) => [method, format.short(x, 3), format.percent(value)])),
    }) : h("p", {}, "No task has scores to compare."),
  ];
}

/** A number of an axis. @param {number} value */
const plain = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });

/** Costs, and how those of several tasks are put together. */
const COSTS = {
  device_seconds: { title: "training seconds of a scored trial", show: format.duration, over: "sum", words: "summed over tasks" },
  wall_seconds: { title: "wall seconds of a scored trial", show: format.duration, over: "sum", words: "summed over tasks" },
  peak_memory_mib: { title: "peak memory in MiB", show: format.memory, over: "max", words: "largest of the tasks" },
  num_trainable: { title: "trained parameters", show: format.count, tick: format.count, over: "mean", words: "mean over tasks" },
};

/** Score against cost, with the methods that no other one beats in both. */
export function paretoView(board) {
  const options = place().options;
  const cost = options.get("cost") in COSTS ? options.get("cost") : "device_seconds";
  const task = board.tasks.includes(options.get("on")) ? options.get("on") : "";
  const known = scored(board, cost, task).filter((each) => Number.isFinite(each.cost) && Number.isFinite(each.score));
  const points = known.sort((a, b) => board.ranked.indexOf(a.method) - board.ranked.indexOf(b.method))
    .map((each) => ({ ...each, front: !known.some((other) => beats(other, each)), x: each.cost, y: each.score, title: `${each.method}\n${COSTS[cost].show(each.cost)}\n${format.short(each.score, 3)}` }));
  const label = task ? `${board.metric(task)} on ${board.label(task)}` : "score relative to the best";
  const title = `${COSTS[cost].title}${task ? "" : `, ${COSTS[cost].words}`}`;
  return [
    h("h2", { tabindex: -1 }, "Score against cost"),
    h("div.bar", {},
      h("label", {}, "Cost ", select("cost", cost, Object.entries(COSTS).map(([key, each]) => [key, each.title]))),
      h("label", {}, "Score ", select("on", task, [["", "over all chosen tasks"], ...board.tasks.map((each) => [each, board.label(each)])]))),
    legend(points.map((each) => each.method)),
    points.length ? figure({
      title: `${label[0].toUpperCase()}${label.slice(1)} against ${title}`,
      note: `Down and left is better. The line joins the methods that no other one beats in both. Costs that differ by less than 5 % are called equal. A cost is the mean of the trials with a score${task ? "" : "; a relative score is the geometric mean over tasks of the ratio to the best method"}.${new Set(points.map((each) => each.x)).size === 1 && points.length > 1 ? " All methods have the same cost." : ""}`,
      chart: draw(points, points.filter((each) => each.front).sort((a, b) => a.x - b.x), title, label, COSTS[cost].tick ?? plain),
      head: ["Method", "Cost", "Score", "Not beaten in both"],
      rows: points.map((each) => [each.method, COSTS[cost].show(each.x), format.short(each.y, 3), beaten(each, points)]),
    }) : h("p", {}, "No method has both a score and this cost on the same tasks."),
  ];
}

/** Whether no other method beats this one, and which ones have its score and cost. */
function beaten(point, points) {
  const equal = points.filter((each) => each !== point && each.score === point.score && sameCost(each, point)).map((each) => each.method);
  return `${point.front ? "yes" : "no"}${equal.length ? `, equal to ${format.list(equal)}` : ""}`;
}

/** Score and cost of each method, on one task or over all. */
function scored(board, cost, task) {
  if (!task) return scoresAndCosts(board.table, (each, method) => board.cost(each, method, cost), COSTS[cost].over);
  return board.scored.map((method) => ({ method, cost: board.cost(task, method, cost), score: board.cell(task, method).mean }));
}

function draw(points, front, costTitle, label, tickFormat) {
  const steps = front.flatMap((each, index) => (index ? [{ x: each.x, y: front[index - 1].y }, each] : [each]));
  const span = points.map((each) => each.x);
  const [least, most] = [Math.min(...span), Math.max(...span)];
  const logarithmic = least > 0 && most > 5 * least;
  const ticks = logarithmic ? places(least, most, narrow()) : narrow() ? 3 : 6;
  return chart({
    height: 380, marginRight: 30, marginTop: 24, inset: 22,
    x: { type: logarithmic ? "log" : "linear", label: `${costTitle} →`, nice: !logarithmic }, y: { label: `${label} ↓ better`, nice: true },
    marks: [
      Plot.gridX({ ...grid, ticks }),
      ...axes(logarithmic ? { places: ticks, text: tickFormat } : { ticks, tickFormat }, { ticks: 6 }),
      Plot.line(steps, { x: "x", y: "y", stroke: "var(--muted)", strokeDasharray: "4 3" }),
      methodDots(points, { r: 7, fillOpacity: 1 }),
      tips(points),
    ],
    ariaLabel: `${label} against ${costTitle}`,
  });
}
