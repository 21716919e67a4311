/** Score against cost, with the methods that no other one beats in both. */
import * as Plot from "@observablehq/plot";
import { axes, chart, legend, methodDots, tips } from "../charts.js";
import { figure, h } from "../dom.js";
import * as format from "../format.js";
import { change, place } from "../state.js";

const COSTS = {
  device_seconds: { title: "device seconds a trial", show: format.duration },
  wall_seconds: { title: "wall seconds a trial", show: format.duration },
  peak_memory_mib: { title: "peak memory in MiB", show: format.memory },
  num_trainable: { title: "trained parameters", show: format.count },
};

/** @param {import("../board.js").Board} board */
export function paretoView(board) {
  const options = place().options;
  const cost = options.get("cost") in COSTS ? options.get("cost") : "device_seconds";
  const task = board.tasks.includes(options.get("on")) ? options.get("on") : "";
  const points = board.ranked.map((method) => point(board, method, cost, task)).filter(({ x, y }) => x > 0 && Number.isFinite(y));
  const front = paretoFront(points);
  const titles = { "": "mean rank over the chosen tasks" };
  const label = titles[task] ?? `${board.task(task).metric.replaceAll("_", " ")} on ${board.label(task)}`;
  const select = (name, value, entries) => h("select", { id: name, onchange: (event) => change({ [name]: event.target.value }) }, entries.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  return [
    h("h2", { tabindex: -1 }, "Score against cost"),
    h("div.bar", {},
      h("label", {}, "Cost ", select("cost", cost, Object.entries(COSTS).map(([key, { title }]) => [key, title]))),
      h("label", {}, "Score ", select("on", task, [["", "mean rank"], ...board.tasks.map((each) => [each, board.label(each)])]))),
    legend(board.ranked),
    points.length ? figure({
      title: `${label} against ${COSTS[cost].title}`,
      note: "Down and left is better. The line joins the methods that no other method beats in both. Costs are means over the trials that were scored, then over tasks.",
      chart: draw(points, front, COSTS[cost].title, label),
      head: ["Method", "Cost", "Score", "Best trade-off"],
      rows: points.map((each) => [each.method, COSTS[cost].show(each.x), format.short(each.y, 3), front.includes(each) ? "yes" : "no"]),
    }) : h("p", {}, "No method has both a score and this cost."),
  ];
}

function point(board, method, cost, task) {
  const tasks = task ? [task] : board.common;
  const costs = tasks.map((each) => board.cost(each, method, cost));
  const x = costs.length && costs.every(Number.isFinite) ? costs.reduce((sum, value) => sum + value, 0) / costs.length : NaN;
  const y = task ? board.cell(task, method).mean : board.results.mean_rank?.[method]?.value ?? NaN;
  return { method, x, y, title: `${method}\n${COSTS[cost].show(x)}\n${format.short(y, 3)}` };
}

/** Points that no other point beats in both coordinates, by cost. @param {{x: number, y: number}[]} points */
export function paretoFront(points) {
  return points.filter((one) => !points.some((other) => other.x <= one.x && other.y <= one.y && (other.x < one.x || other.y < one.y))).sort((a, b) => a.x - b.x);
}

function draw(points, front, costTitle, label) {
  const steps = front.flatMap((each, index) => (index ? [{ x: each.x, y: front[index - 1].y }, each] : [each]));
  const span = points.map((each) => each.x);
  const logarithmic = Math.max(...span) > 5 * Math.min(...span);
  return chart({
    height: 380, marginRight: 30, marginTop: 24, inset: 22,
    x: { type: logarithmic ? "log" : "linear", label: `${costTitle} →`, nice: !logarithmic }, y: { label: `${label} ↓ better`, nice: true },
    marks: [
      Plot.gridX({ stroke: "var(--line)", strokeOpacity: 1, ticks: 6 }),
      ...axes({ ticks: 6, tickFormat: "~s" }, { ticks: 6 }),
      Plot.line(steps, { x: "x", y: "y", stroke: "var(--muted)", strokeDasharray: "4 3" }),
      ...methodDots(points, { r: 7, fillOpacity: 1 }),
      Plot.text(points, { x: "x", y: "y", text: "method", dy: -14, fill: "var(--ink)", stroke: "var(--surface)", strokeWidth: 4 }),
      tips(points),
    ],
    ariaLabel: `${label} against ${costTitle}`,
  });
}
