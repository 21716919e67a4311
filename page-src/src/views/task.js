/** One task: scores of each seed, validation scores over epochs, and the distance while aligning; or all tasks, small. */
import * as Plot from "@observablehq/plot";
import { chart, chartWidth, coincidence, coinciding, colour, axes, grid, legend, methodDots, methodLines, narrow, symbol, tips } from "../charts.js";
import { figure, h, select } from "../dom.js";
import * as format from "../format.js";
import { link } from "../state.js";
import { sentence } from "../brief.js";
import { mean } from "../statistics.js";

/** @param {import("../board.js").Board} board @param {string} argument a task, or "" for all */
export function taskView(board, argument) {
  const task = board.task(argument) && argument;
  const entries = [["", "all tasks"], ...board.data.tasks.map(({ name }) => [name, board.label(name)])];
  const choice = select("task", task || null, entries, (name) => (location.hash = link("task", name)));
  const bar = h("div.bar", {}, h("label", {}, "Task ", choice));
  if (!task) return [h("h2", { tabindex: -1 }, "Tasks"), bar, legend(board.ranked), h("div.small-charts", {}, board.tasks.map((each) => small(board, each)))];
  const info = board.task(task);
  return [
    h("h2", { tabindex: -1 }, board.label(task)), bar,
    h("dl.facts.panel", {}, facts(board, info).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    legend(board.ranked),
    scores(board, task),
    h("div.charts", {}, validation(board, task, chartWidth(2)), distance(board, task, chartWidth(2))),
    help(board, task),
  ];
}

function facts(board, info) {
  const published = publishedOn(board, info.name);
  return [
    info.title_text && ["Data set", info.title_text],
    ["Metric", `${board.metric(info.name)}${info.definition_text ? `: ${info.definition_text}` : ""}. Lower is better ↓`],
    ["Data fingerprint", h("code", {}, info.data_fingerprint)],
    published.length && ["Published", published.map((row) => `${row.method} ${format.score(row.score)}${row.kind === "primary" ? "" : ` (${row.kind})`}`).join(" · ")],
  ].filter(Boolean);
}

/** Comparable published scores on a task. */
const publishedOn = (board, task) => board.beside.filter(({ cells }) => cells[task]).map(({ name, cells }) => ({ method: name, ...cells[task] }));

/** Logarithmic where values span more than a factor of 20. @param {number[]} values */
const scale = (values) => (Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values) ? "log" : "linear");

function scores(board, task) {
  const methods = board.ranked;
  const rows = methods.flatMap((method) => board.cell(task, method).rows.map((row) => ({ ...row, x: row.score, y: method, title: `${method}, seed ${row.seed}\n${format.score(row.score)}` })));
  const means = methods.map((method) => ({ method, y: method, x: board.cell(task, method).mean, ...board.cell(task, method) })).filter((each) => each.n);
  const published = publishedOn(board, task);
  if (!rows.length && !published.length) return null;
  const wide = Math.max(90, Math.min(220, 8 * Math.max(...methods.map((each) => each.length), 0) + 12));
  const node = chart({
    height: 70 + 30 * Math.max(1, methods.length), marginLeft: Math.min(wide, chartWidth() / 3), marginTop: published.length ? 44 : 16, marginRight: 24,
    x: { type: scale(rows.map((row) => row.x)), label: `${board.metric(task)} on test, lower is better`, nice: true },
    y: { domain: methods, label: null, type: "point", padding: 0.6 },
    marks: [
      Plot.gridX(grid),
      Plot.axisX({ stroke: "var(--line)", fill: "var(--muted)", labelAnchor: "center", labelArrow: "none", ticks: narrow() ? 3 : 6 }),
      Plot.axisY({ stroke: "none", fill: "var(--ink)", label: null, tickFormat: clip }),
      Plot.ruleX(published, { x: "score", stroke: "var(--muted)", strokeDasharray: "3 3" }),
      Plot.text(published, { x: "score", frameAnchor: "top", dy: -8, text: (row) => `${clip(row.method)} (published)`, fill: "var(--muted)", rotate: -18, textAnchor: "start" }),
      Plot.link(means.filter((each) => each.n > 1), { x1: (d) => d.mean - d.std, x2: (d) => d.mean + d.std, y1: "y", y2: "y", stroke: (d) => colour(d.method), strokeWidth: 3, strokeOpacity: 0.35 }),
      Plot.dot(rows.filter((row) => board.cell(task, row.method).n > 1), { x: "x", y: "y", r: 3, stroke: (d) => colour(d.method), fill: "var(--surface)", strokeWidth: 1.4, dy: 11 }),
      Plot.dot(means, { x: "x", y: "y", r: 6, symbol: (d) => symbol(d.method), fill: (d) => colour(d.method), stroke: "var(--surface)" }),
      tips(rows, { dy: 11 }),
    ],
    ariaLabel: `Scores on ${board.label(task)}`,
  });
  return figure({
    title: "Test scores", note: board.spread && "Filled: mean over seeds, with one standard deviation to either side. Open: each seed.", chart: node,
    head: ["Method", "Mean", "Std", "Seeds", "Scores by seed"],
    rows: means.map((each) => [each.method, format.score(each.mean), each.n > 1 ? format.score(each.std) : "none (1 seed)", each.n,
      each.rows.map((row, index) => [index ? ", " : "", h("a", { href: link("record", row.record?.key ?? "") }, format.score(row.score))])]),
  });
}

const clip = (name) => format.clip(name, 26);

/** Points of a curve of each scored trial of the task, and their means over seeds. */
function curves(board, task, stage, column) {
  const methods = board.ranked.map((method) => {
    const points = ({ seed, record }) => board.curve(record?.key, stage, column).map((point) => ({ ...point, method, group: `${method} ${seed}` }));
    return { method, series: board.cell(task, method).rows.map(points).filter((each) => each.length) };
  });
  const means = methods.flatMap(({ method, series }) => {
    const epochs = [...Map.groupBy(series.flat(), ({ x }) => x)].filter(([, own]) => own.length === series.length);
    const points = epochs.map(([x, own]) => ({ x, y: mean(own.map(({ y }) => y)), method })).sort((a, b) => a.x - b.x);
    return points.map((point) => ({ ...point, title: `${method}, epoch ${point.x}\n${format.score(point.y)}` }));
  });
  return { single: methods.flatMap(({ series }) => series.flat()), means };
}

function curveChart(board, task, stage, column, { label, width, height = 280 }) {
  const { single, means } = curves(board, task, stage, column);
  if (!means.length) return null;
  const several = single.length > means.length;
  const same = coinciding(means);
  const type = scale(single.map((point) => point.y));
  return {
    means, same: coincidence(means),
    node: chart({
      width, height, marginRight: 16,
      x: { label: stage === "align" ? "epoch of aligning" : "epoch", nice: true }, y: { label, type, nice: true },
      marks: [
        ...axes({ ticks: Math.min(8, Math.max(...single.map((point) => point.x))), tickFormat: "d" }, { ticks: 5, tickFormat: type === "log" ? "~g" : undefined }),
        ...(several ? methodLines(single, { strokeWidth: 1, strokeOpacity: 0.3, strokeDasharray: undefined }) : []),
        ...methodLines(means),
        methodDots(means.filter((point) => !same.has(point.method)), { r: means.length > 120 ? 1.5 : 3 }),
        tips(means),
      ],
      ariaLabel: `${label} on ${board.label(task)}`,
    }),
  };
}

function validation(board, task, width) {
  const found = curveChart(board, task, "refine", "validation", { label: `validation ${board.metric(task)}`, width });
  return found && figure({
    title: "Validation score while refining", note: `${board.spread ? "Mean over seeds; thin lines: each seed. " : ""}Lower is better.${found.same}`, chart: found.node,
    head: ["Method", "Epoch", "Score"], rows: found.means.map((point) => [point.method, point.x, format.score(point.y)]),
  });
}

function distance(board, task, width) {
  const found = curveChart(board, task, "align", "distance", { label: "distance to the source features", width });
  if (!found) return null;
  const label = (method) => {
    const records = board.cell(task, method).rows.map(({ record }) => record).filter(Boolean);
    return `${method}: ${board.distance(records[0])}${records.every((record) => record.align_chosen === 0) ? ", tried and discarded" : ""}`;
  };
  return figure({
    title: "Distance while aligning", note: `What aligning minimises, in its own unit: compare shapes, not heights, across distances. Each point is measured before the step of its epoch, on that epoch's samples.${found.same}`,
    chart: [legend([...new Set(found.means.map((point) => point.method))], label), found.node],
    head: ["Method", "Epoch", "Distance"], rows: found.means.map((point) => [label(point.method), point.x, format.score(point.y)]),
  });
}

function small(board, task) {
  const width = Math.min(340, chartWidth(3));
  const curve = curveChart(board, task, "refine", "validation", { label: `validation ${board.metric(task)}`, width, height: 190 });
  const best = board.best(task);
  const [only] = board.methods.filter((method) => board.cell(task, method).n);
  const score = (method) => `${format.score(board.cell(task, method).mean)} ${board.metric(task)}`;
  const without = only ? `Only score: ${only}, ${score(only)}` : "No score yet";
  return h("figure", {}, h("figcaption", {}, h("h3", {}, h("a", { href: link("task", task) }, board.label(task))),
    h("p.note", {}, best.length ? `Best: ${format.list(best)}, ${score(best[0])}` : without, curve?.same && `.${curve.same}`)), curve?.node);
}

function help(board, task) {
  const answers = board.results.answers.filter(({ name, subject }) => name !== "searching" || !subject).map((answer) => sentence(board, answer, task)).filter(Boolean);
  return answers.length ? h("div.panel", {}, h("h3", {}, "What helped here"), answers.map((text) => h("p", {}, text))) : null;
}
