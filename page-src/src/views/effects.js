/** Whether aligning, pretraining and searching helped; effects of the factors of a grid. */
import { plainTable, figure, h } from "../dom.js";
import * as Plot from "@observablehq/plot";
import { ticks } from "d3-array";
import { chart, chartWidth, grid, narrow, places, tips } from "../charts.js";
import * as format from "../format.js";
import { intervalText, sentence } from "../brief.js";
import { LEVEL } from "../statistics.js";

export function effectsView(board) {
  const answers = board.results.answers;
  const { effects } = board.data;
  return [
    h("h2", { tabindex: -1 }, "What helped"),
    h("p.note", {}, "Scores of two methods are paired by task; a ratio below 1 means that the first has the lower, better score. ",
      "Filled: the 95 % interval excludes 1. Helped or did harm in words: at the 5 % level over all questions, and on single tasks over all tasks of the question (Holm). The verdicts under Differences are adjusted for the number of pairs, so they may call the same two methods not separable. ",
      "Intervals are Student's, of the logarithms of the ratios", board.spread && ": over all tasks from their deviation over tasks, on one task from the noise over seeds, for this test set", "."),
    answers.some(({ name }) => name !== "searching") && h("p.note", {}, "Each method has its own scored configuration, so learning rates may differ, too: these answers compare methods, not the stage alone. For the stage alone, see the effects of a grid sweep."),
    answers.length || effects ? null : h("p", {}, "This board has no pair of methods that differ in just aligning, pretraining, the body or searching."),
    [...Map.groupBy(answers, (answer) => (answer.name === "searching" ? answer.name : `${answer.name} ${answer.subject}`)).values()].map((group) => question(board, ...group)),
    importance(board),
    effects && factors(board, effects),
  ];
}

/** The answer on each task and over all; further answers, for single methods, are rows of their own. */
function question(board, answer, ...further) {
  const rows = Object.entries(answer.tasks).map(([task, ratio]) => ({ label: board.label(task), ...ratio })).sort((a, b) => a.value - b.value);
  rows.push({ label: format.all(answer.pairs, "task"), ...answer.ratio, whole: true }, ...further.map((each) => ({ label: `${each.subject}, all`, ...each.ratio, whole: true })));
  return figure({
    title: `${answer.question}${answer.subject ? ` (${answer.subject})` : ""}`, note: [sentence(board, answer), caution(answer), answer.name === "searching" && covered(board, answer)],
    chart: forest(rows, { label: `score of ${answer.method} relative to ${answer.reference}`, better: `${answer.method} better`, worse: `${answer.reference} better` }),
    head: ["Task", "Ratio", "95 % interval"],
    rows: rows.map((row) => [row.label, format.short(row.value, 3), intervalText(row, answer.name)]),
  });
}

/** That an interval that excludes 1 is no clear answer, because it is not adjusted. */
const caution = ({ ratio: { low, high, adjusted_p: p } }) => (p > LEVEL && (low > 1 || high < 1) ? " The interval is for this one question; with correction for all questions the effect is not clear." : "");

/** Which of the chosen tasks the question about searching covers. */
function covered(board, { tasks }) {
  const found = board.tasks.filter((task) => task in tasks);
  if (found.length === board.tasks.length) return "";
  return ` It covers only the tasks with a search of two or more trials, ${found.length} of ${board.tasks.length}: ${format.list(found.map((task) => board.label(task)))}.`;
}

/** Which hyper-parameters the validation scores of the searches depend on; of all tasks of the board. */
function importance(board) {
  const rows = board.data.importance.filter((row) => board.methods.includes(row.method) && row.value !== null);
  if (!rows.length) return null;
  return h("div.panel", {}, h("h3", {}, "Which hyper-parameters mattered"),
    h("p.note", {}, board.definition("importance"), " Computed on all tasks of the board."),
    plainTable(["Hyper-parameter", "Method", "Share of variance", "p", "Trials", "Tasks"],
      rows.map((row) => [h("code", {}, row.hyperparameter), row.method, format.percent(Math.max(row.value, 0)), format.pValue(row.p ?? NaN), row.num_trials, row.num_tasks])));
}

/** The main effect of each factor of a grid on each task, and tables of all its comparisons and scores. */
function factors(board, { main, tables }) {
  const figures = Object.entries(main).map(([factor, { baseline, comparisons }]) => {
    const rows = comparisons.flatMap(({ level, ratio, tasks }) => [
      ...Object.entries(tasks).map(([task, each]) => ({ label: `${level}: ${board.label(task)}`, ...each })),
      { label: `${level}: all tasks`, ...ratio, whole: true },
    ]);
    return figure({
      title: `Effect of ${factor}, relative to ${baseline}`, chart: forest(rows, { label: `score relative to ${factor} ${baseline}`, better: "better", worse: `${baseline} better` }),
      head: ["Level and task", "Ratio", "95 % interval"], rows: rows.map((row) => [row.label, format.short(row.value, 3), format.range(row.low, row.high, 3)]),
    });
  });
  // Python marks what differs beyond noise with asterisks.
  const marked = (text) => (text.startsWith("*") ? h("b", {}, text.replaceAll("*", "")) : text);
  return [figures, tables.map(({ title, rows: [head, ...rows] }) => h("details.panel", {}, h("summary", {}, title), plainTable(head, rows.map((row) => row.map(marked)))))];
}

/** Whether the interval excludes 1. */
const beyond = ({ low, high }) => Number.isFinite(low) && Number.isFinite(high) && (low > 1 || high < 1);

/**
 * Estimates with their intervals, one row each, on a logarithmic axis of ratios; rows of the whole stand out.
 * @param {{label: string, value: number, low: number, high: number, whole?: boolean}[]} rows
 * @param {{label: string, better: string, worse: string}} options
 */
function forest(rows, { label, better, worse }) {
  const shown = rows.filter((row) => Number.isFinite(row.value));
  const ends = shown.flatMap((row) => [row.value, row.low, row.high]).filter((each) => Number.isFinite(each) && each > 0);
  // The axis reaches a little further than the widest interval, but not beyond a factor of 1000.
  const [least, most] = [Math.max(Math.min(1 / 1.1, ...ends), 1e-3), Math.min(Math.max(1.1, ...ends), 1e3)];
  const margin = (most / least) ** 0.06;
  const domain = [least / margin, most * margin];
  // Plot leaves out labels of a logarithmic axis unless they are given as texts.
  const shownTicks = domain[1] / domain[0] < 8 ? ticks(...domain, narrow() ? 3 : 8) : places(...domain, narrow());
  const name = Math.min(190, chartWidth() * 0.36);
  const long = 7 * (better.length + worse.length + 6) > chartWidth() - name - 24;
  const points = shown.map((row) => ({ ...row, x: row.value, y: row.label, title: `${row.label}\nratio ${format.short(row.value, 3)}\n95 % interval ${format.range(row.low, row.high, 3).replace(format.MISSING, "none")}` }));
  const within = (value) => Math.min(Math.max(value, domain[0]), domain[1]);
  return chart({
    height: 78 + 26 * points.length, marginLeft: name, marginRight: 24, marginTop: long ? 40 : 26,
    x: { type: "log", domain, label }, y: { domain: points.map((point) => point.y), type: "point", padding: 0.6, label: null },
    marks: [
      Plot.gridX(shownTicks, grid),
      Plot.axisX(shownTicks, { stroke: "var(--line)", fill: "var(--muted)", label, labelAnchor: "center", labelArrow: "none", text: (value) => String(Number(value.toPrecision(3))) }),
      Plot.axisY({ stroke: "none", fill: "var(--ink)", label: null, tickFormat: (text) => format.clip(text, name / 7) }),
      Plot.ruleX([1], { stroke: "var(--muted)", strokeWidth: 1.5 }),
      Plot.text([`← ${better}`], { frameAnchor: "top-left", dy: long ? -30 : -16, fill: "var(--muted)" }),
      Plot.text([`${worse} →`], { frameAnchor: "top-right", dy: -16, fill: "var(--muted)" }),
      Plot.link(points.filter((point) => Number.isFinite(point.low)), { x1: (d) => within(d.low), x2: (d) => within(d.high), y1: "y", y2: "y", stroke: "var(--c0)", strokeWidth: (d) => (d.whole ? 4 : 2), strokeOpacity: (d) => (beyond(d) ? 1 : 0.45) }),
      Plot.dot(points, { x: (d) => within(d.x), y: "y", r: (d) => (d.whole ? 7 : 4.5), symbol: (d) => (d.whole ? "diamond" : "circle"), fill: (d) => (beyond(d) ? "var(--c0)" : "var(--surface)"), stroke: "var(--c0)", strokeWidth: 2 }),
      tips(points),
    ],
    ariaLabel: label,
  });
}
