/** Methods over all tasks: which ones the scores separate, performance profiles, and scores against costs. */
import * as Plot from "@observablehq/plot";
import { verdictSentence } from "../brief.js";
import { column, figure, h, select, table } from "../dom.js";
import * as format from "../format.js";
import { axes, chart, chartWidth, coincidence, colour, grid, legend, mark, methodDots, methodLines, narrow, places, symbol, tips } from "../charts.js";
import { place } from "../state.js";
import { beats, MAX_COMPARED, profiles, sameCost, scoresAndCosts } from "../statistics.js";

export function differencesView(board) {
  const methods = board.ranked.filter((method) => board.results.mean_rank?.[method]);
  const heading = h("h2", { tabindex: -1 }, "Differences");
  if (!board.comparable) return [heading, h("p", {}, `Choose at most ${MAX_COMPARED} methods.`)];
  if (methods.length < 2) return [heading, h("p", {}, "Choose at least two methods with scores.")];
  return [heading, diagram(board, methods), matrix(board, methods)];
}

/** Mean ranks on an axis, as in Demšar's critical-difference diagrams; bars follow the verdicts. */
function diagram(board, methods) {
  if (!board.common.length) return h("p", {}, "No task has a score of every method, so the methods have no ranks.");
  const { mean_rank: ranks, verdict } = board.results;
  return figure({
    title: "Critical differences",
    note: `Mean ranks over ${format.plural(board.common.length, "task")}. A bar joins methods of which no two are separable, by the verdicts below.`,
    chart: criticalDifferenceDiagram(methods.map((method) => ({ method, rank: ranks[method].value })), inseparable(methods, verdict)),
    head: ["Method", "Mean rank"],
    rows: methods.map((method) => [method, format.short(ranks[method].value, 3)]),
  });
}

/** The longest runs of at least two methods, in the order of their ranks, without a separable pair. */
function inseparable(methods, verdict) {
  const end = (start) => {
    const stop = methods.findIndex((other, place) => place > start && methods.slice(start, place).some((one) => verdict[one][other].separable));
    return stop < 0 ? methods.length : stop;
  };
  return methods.map((_, start) => methods.slice(start, end(start))).filter((run, start) => run.length > 1 && (!start || end(start - 1) < end(start)));
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
    h("p.note", {}, "Row against column: the geometric mean over tasks of the ratio of scores; below 1 the row is better. ",
      "Separable: Student's paired test of log ratios over tasks, adjusted by Holm for all pairs, at the 5 % level. ",
      "The 95 % interval below a ratio is not adjusted, so it may exclude 1 for a pair that is not separable. ",
      board.whole && "More tasks or seeds: what would separate the pair with a probability of 80 %, if the difference is as large as it looks."),
    table("matrix", "verdicts", [column(""), methods.map((method) => h("th.short", { scope: "col" }, mark(method), "\u00a0", method))],
      methods.map((one) => h("tr", {}, h("th.short", { scope: "row" }, mark(one), "\u00a0", one), methods.map((other) => cell(one, other))))),
  ];
}

const more = ({ more_tasks: tasks, more_seeds: seeds }) =>
  [Number.isFinite(tasks) && `+${tasks} tasks`, Number.isFinite(seeds) && `+${seeds} seeds`].filter(Boolean).join(" or ");

/**
 * Demšar's critical-difference diagram: methods on an axis of mean ranks; bars join those that do not differ.
 * @param {{method: string, rank: number}[]} methods best first
 * @param {string[][]} groups methods that do not differ
 */
function criticalDifferenceDiagram(methods, groups) {
  const width = chartWidth();
  const [row, gap] = narrow() ? [38, "\n"] : [24, "  "];  // a narrow diagram has the rank below the name
  const half = Math.ceil(methods.length / 2);
  const end = Math.max(methods.length, 2);
  const bars = groups.map((group, index) => {
    const ranks = methods.filter((each) => group.includes(each.method)).map((each) => each.rank);
    return { x1: Math.min(...ranks) - 0.03, x2: Math.max(...ranks) + 0.03, y: 0.75 + index * 0.55 };
  });
  const below = 0.75 + bars.length * 0.55 + 0.6;
  const labels = methods.map((each, index) => ({ ...each, left: index < half, y: below + (index < half ? index : methods.length - 1 - index) }));
  const pad = Math.min(170, width * 0.3);
  const clip = (name) => format.clip(name, (pad - 8) / 7);
  const leaders = labels.map((each) => [{ x: each.rank, y: 0 }, { x: each.rank, y: each.y }, { x: each.left ? 1 : end, y: each.y }]);
  const text = (left) => Plot.text(labels.filter((each) => each.left === left), {
    x: left ? 1 : end, y: "y", text: (each) => `${clip(each.method)}${gap}${format.fixed(each.rank, 2)}`, title: "method", textAnchor: left ? "end" : "start", dx: left ? -8 : 8, fill: "var(--ink)", fontSize: 13,
  });
  return chart({
    width, height: 46 + row * (below + half), marginLeft: pad, marginRight: pad, marginTop: 40, marginBottom: 6,
    x: { domain: [1, end], axis: null }, y: { domain: [below + half, 0], axis: null },
    marks: [
      Plot.axisX(Array.from({ length: end }, (_, index) => index + 1), { anchor: "top", stroke: "var(--muted)", fill: "var(--muted)", label: "mean rank (left is better)", labelAnchor: "center", labelArrow: "none", tickFormat: "d" }),
      Plot.ruleY([0], { stroke: "var(--muted)" }),
      leaders.map((points, index) => Plot.line(points, { x: "x", y: "y", stroke: colour(labels[index].method), strokeWidth: 1.5 })),
      Plot.dot(labels, { x: "rank", y: 0, r: 5, symbol: (each) => symbol(each.method), fill: (each) => colour(each.method) }),
      Plot.link(bars, { x1: "x1", x2: "x2", y1: "y", y2: "y", stroke: "var(--ink)", strokeWidth: 5, strokeLinecap: "round" }),
      text(true), text(false),
    ],
    ariaLabel: "Critical-difference diagram",
  });
}

export function profilesView(board) {
  const found = profiles(board.table);
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
        marks: [Plot.gridX(factors, grid), ...axes({ ticks: factors, tickFormat: String }, { ticks: 5, tickFormat: ".0%" }), ...methodLines(points, { curve: "step-after", strokeWidth: 2.5 }), methodDots(points.filter((point) => !point.end), { r: 4 }), tips(points)],
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
  num_trainable: { title: "trained parameters", show: format.count, tick: (value) => format.count(value).replace(/\.0+(?= )/, ""), over: "mean", words: "mean over tasks" },
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
