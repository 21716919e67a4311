/** Score against cost, with the methods that no other one beats in both. */
import * as Plot from "@observablehq/plot";
import { axes, chart, legend, narrow, methodDots, places, tips } from "../charts.js";
import { figure, h } from "../dom.js";
import * as format from "../format.js";
import { change, place } from "../state.js";
import { beats, sameCost } from "../statistics/scores.js";

/** A number of an axis. @param {number} value */
const plain = (value) => value.toLocaleString("en", { maximumSignificantDigits: 6 });

/** Costs, and how those of several tasks are put together. */
const COSTS = {
  device_seconds: { title: "training seconds of a scored trial", show: format.duration, over: "sum", words: "summed over tasks" },
  wall_seconds: { title: "wall seconds of a scored trial", show: format.duration, over: "sum", words: "summed over tasks" },
  peak_memory_mib: { title: "peak memory in MiB", show: format.memory, over: "max", words: "largest of the tasks" },
  num_trainable: { title: "trained parameters", show: format.count, tick: (value) => format.count(value).replace(/\.0+(?= )/, ""), over: "mean", words: "mean over tasks" },
};

/** @param {import("../board.js").Board} board */
export function paretoView(board) {
  const options = place().options;
  const cost = options.get("cost") in COSTS ? options.get("cost") : "device_seconds";
  const task = board.tasks.includes(options.get("on")) ? options.get("on") : "";
  const points = (task ? onTask(board, cost, task) : overTasks(board, cost)).filter((each) => Number.isFinite(each.cost) && Number.isFinite(each.score))
    .map((each) => ({ ...each, x: each.cost, y: each.score, title: `${each.method}\n${COSTS[cost].show(each.cost)}\n${format.short(each.score, 3)}` }));
  const label = task ? `${board.metric(task)} on ${board.label(task)}` : "score relative to the best";
  const title = `${COSTS[cost].title}${task ? "" : `, ${COSTS[cost].words}`}`;
  const select = (name, value, entries) => h("select", { id: name, onchange: (event) => change({ [name]: event.target.value }) }, entries.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
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

function overTasks(board, cost) {
  const found = board.results.pareto((task, method) => board.cost(task, method, cost), COSTS[cost].over);
  return board.ranked.filter((method) => found[method]).map((method) => ({ method, ...found[method], front: found[method].value === 1 }));
}

function onTask(board, cost, task) {
  const points = board.ranked.map((method) => ({ method, cost: board.cost(task, method, cost), score: board.cell(task, method).mean })).filter((each) => Number.isFinite(each.cost));
  return points.map((each) => ({ ...each, front: !points.some((other) => beats(other, each)) }));
}

function draw(points, front, costTitle, label, tickFormat) {
  const steps = front.flatMap((each, index) => (index ? [{ x: each.x, y: front[index - 1].y }, each] : [each]));
  const span = points.map((each) => each.x);
  const [least, most] = [Math.min(...span), Math.max(...span)];
  const logarithmic = least > 0 && most > 5 * least;
  const ticks = logarithmic ? places(least, most, narrow()) : narrow() ? 3 : 6;
  const options = {
    height: 380, marginRight: 30, marginTop: 24, inset: 22,
    x: { type: logarithmic ? "log" : "linear", label: `${costTitle} →`, nice: !logarithmic }, y: { label: `${label} ↓ better`, nice: true },
    marks: [
      Plot.gridX({ stroke: "var(--line)", strokeOpacity: 1, ticks }),
      ...axes(logarithmic ? { places: ticks, text: tickFormat } : { ticks, tickFormat }, { ticks: 6 }),
      Plot.line(steps, { x: "x", y: "y", stroke: "var(--muted)", strokeDasharray: "4 3" }),
      ...methodDots(points, { r: 7, fillOpacity: 1 }),
      tips(points),
    ],
    ariaLabel: `${label} against ${costTitle}`,
  };
  return chart({ ...options, marks: [...options.marks, ...labels(points, chart(options))] });
}

/** Names beside their points, where they cover neither a point nor another name. @param {object[]} points @param {object} drawn the chart */
function labels(points, drawn) {
  const [x, y] = ["x", "y"].map((name) => drawn.scale(name).apply);
  const taken = points.map((each) => [x(each.x) - 8, y(each.y) - 8, x(each.x) + 8, y(each.y) + 8]);
  const width = Number(drawn.getAttribute("width"));
  return points.map((each) => {
    const [left, top, half] = [x(each.x), y(each.y), 3.6 * each.method.length];
    const places = [[0, -16], [0, 16], [half + 12, 0], [-half - 12, 0], [half + 8, -16], [half + 8, 16], [-half - 8, -16], [-half - 8, 16], [0, -32], [0, 32]];
    const box = ([dx, dy]) => [left + dx - half, top + dy - 7, left + dx + half, top + dy + 7];
    const free = (a) => a[0] > 0 && a[2] < width && !taken.some((b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]);
    const [dx, dy] = places.find((place) => free(box(place))) ?? places[0];
    taken.push(box([dx, dy]));
    return Plot.text([each], { x: "x", y: "y", text: "method", dx, dy, fill: "var(--ink)", stroke: "var(--surface)", strokeWidth: 4 });
  });
}
