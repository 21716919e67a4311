/** Score against cost, with the methods that no other one beats in both. */
import * as Plot from "@observablehq/plot";
import { axes, chart, grid, legend, narrow, methodDots, places, tips } from "../charts.js";
import { figure, h, select } from "../dom.js";
import * as format from "../format.js";
import { place } from "../state.js";
import { beats, sameCost, scoresAndCosts } from "../statistics.js";

/** A number of an axis. @param {number} value */
const plain = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });

/** Costs, and how those of several tasks are put together. */
const COSTS = {
  device_seconds: { title: "training seconds of a scored trial", show: format.duration, over: "sum", words: "summed over tasks" },
  wall_seconds: { title: "wall seconds of a scored trial", show: format.duration, over: "sum", words: "summed over tasks" },
  peak_memory_mib: { title: "peak memory in MiB", show: format.memory, over: "max", words: "largest of the tasks" },
  num_trainable: { title: "trained parameters", show: format.count, tick: (value) => format.count(value).replace(/\.0+(?= )/, ""), over: "mean", words: "mean over tasks" },
};

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
