/** Charts: thin layers over Observable Plot with this page's sizes, and a colour, symbol and dash for each method. */
import * as Plot from "@observablehq/plot";
import { ticks } from "d3-array";
import { figure, h } from "./dom.js";
import * as format from "./format.js";

const NUM_COLOURS = 8;
/** Methods that most boards have: each has a colour of its own. */
const COMMON = ["orca", "nft", "scratch", "orca_guarded", "fpt", "linear_probe", "cnn", "pare"];
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "hexagon"];
const DASHES = ["", "6 3", "2 2", "8 3 2 3"];

/** @type {Map<string, number>} */
const positions = new Map();

/** Give each method its place in the palette: that of a common method is the same on every board. @param {string[]} methods */
export const assign = (methods) => [...COMMON, ...methods.filter((method) => !COMMON.includes(method))].forEach((method, index) => positions.set(method, index));

const place = (method) => positions.get(method) ?? 6;

/** @param {string} method */
export const colour = (method) => `var(--c${place(method) % NUM_COLOURS})`;

/** @param {string} method */
export const symbol = (method) => SYMBOLS[(place(method) + Math.floor(place(method) / NUM_COLOURS)) % SYMBOLS.length];

/** Lines are solid until the palette begins again. @param {string} method */
export const dash = (method) => DASHES[Math.floor(place(method) / NUM_COLOURS) % DASHES.length];

/** @type {Map<string, Element>} */
const marks = new Map();

/** The method's symbol in its colour, to stand beside its name. @param {string} method */
export function mark(method) {
  if (!marks.has(method)) marks.set(method, icon(symbol(method), colour(method), { className: "mark" }));
  return marks.get(method).cloneNode(true);
}

const group = (method) => `of-${place(method)}`;

/** Fade the lines and points of all methods but one; of none without a method. @param {string} [method] */
function highlight(method) {
  for (const each of document.querySelectorAll("main [class^=of-]")) each.classList.toggle("faint", method !== undefined && !each.classList.contains(group(method)));
}

/** A small picture of a symbol, in front of other marks. @param {string} name @param {string} fill */
export function icon(name, fill, { width = 14, behind = [], className = "m" } = {}) {
  const dot = Plot.dot([0], { x: 0, y: 0, r: 4.6, symbol: name, fill });
  const svg = Plot.plot({ width, height: 14, margin: 0, axis: null, x: { domain: [-1, 1] }, y: { domain: [-1, 1] }, className, marks: [...behind, dot] });
  svg.setAttribute("aria-hidden", "true");
  svg.querySelector("style")?.remove();
  return svg;
}

/** Width that a chart may take. @param {number} [columns] charts beside each other on a wide screen */
export function chartWidth(columns = 1) {
  const page = Math.min(1180, document.documentElement.clientWidth) - (innerWidth <= 600 ? 42 : 76);
  const gap = 50;
  return columns > 1 && page > columns * 360 ? (page - gap * (columns - 1)) / columns : page;
}

/** @param {Plot.PlotOptions} options */
export function chart(options) {
  const node = Plot.plot({
    marginLeft: 52, marginBottom: 40, height: 280, width: chartWidth(),
    style: { background: "transparent", color: "var(--ink)", fontSize: "12px", fontFamily: "inherit" },
    color: { type: "identity" },
    symbol: { type: "identity" },
    ...options,
    marks: options.marks.filter(Boolean),
  });
  // Plot names the groups of a chart, which have no role.
  for (const each of node.querySelectorAll("g")) ["aria-label", "aria-description", "aria-hidden"].forEach((name) => each.removeAttribute(name));
  node.addEventListener("input", () => highlight(node.value?.method));
  node.setAttribute("role", "img");
  if (options.ariaLabel) node.setAttribute("aria-label", options.ariaLabel);
  return node;
}

export const grid = { stroke: "var(--line)", strokeOpacity: 1 };

/** Axes at the left and the bottom with a light grid. @param {object} x @param {object} y options of the axes; `x.places` are its ticks */
export function axes({ places, ...x } = {}, y = {}) {
  return [
    Plot.gridY({ ...grid, ticks: y.ticks }),
    Plot.axisX(places ?? null, { stroke: "var(--line)", fill: "var(--muted)", labelAnchor: "center", labelArrow: "none", ...x }),
    Plot.axisY({ stroke: "var(--line)", fill: "var(--muted)", labelArrow: "none", ...y }),
  ];
}

/** Whether a chart has room for few ticks and short labels only. */
export const narrow = () => chartWidth() < 500;

/** Round values of a logarithmic axis, of which Plot would label some only. @param {number} least @param {number} most */
export function places(least, most, few = false) {
  const wide = most / least > (few ? 100 : 1e4);
  const decades = Array.from({ length: Math.floor(Math.log10(most)) - Math.floor(Math.log10(least)) + 1 }, (_, index) => 10 ** (Math.floor(Math.log10(least)) + index));
  return decades.flatMap((each) => (wide ? [each] : [each, 2 * each, 5 * each])).filter((each) => each >= least && each <= most);
}

/** One line for each method. @param {object[]} points {x, y, method, group} @param {object} [options] */
export function methodLines(points, options = {}) {
  const same = coinciding(points);
  return [...Map.groupBy(points, (point) => point.method)].map(([method, own]) =>
    Plot.line(own, { x: "x", y: "y", z: (point) => point.group ?? method, stroke: colour(method), strokeDasharray: same.has(method) ? "7 7" : dash(method) || undefined, strokeWidth: 2, className: group(method), ...options }));
}

/** Methods whose points are those of an earlier one, which they would hide: {method: the earlier one}. */
export function coinciding(points) {
  const shapes = [...Map.groupBy(points, (point) => point.method)].map(([method, own]) => [method, JSON.stringify(own.map(({ x, y }) => [x, y]))]);
  const earliest = (shape) => shapes.find(([, other]) => other === shape)[0];
  return new Map(shapes.map(([method, shape]) => [method, earliest(shape)]).filter(([method, other]) => method !== other));
}

/** Says which lines coincide. @param {object[]} points {x, y, method} */
export const coincidence = (points) => [...coinciding(points)].map(([method, other]) => ` ${method} coincides with ${other}.`).join("");

/** One symbol for each point. @param {object[]} points {x, y, method} @param {object} [options] */
export const methodDots = (points, options = {}) => [...Map.groupBy(points, (point) => point.method)].map(([method, own]) =>
  Plot.dot(own, { x: "x", y: "y", r: 5, symbol: symbol(method), fill: colour(method), stroke: "var(--surface)", strokeWidth: 1, className: group(method), ...options }));

/** A tip at the point under the pointer. @param {object[]} points {x, y, title} */
export const tips = (points, options = {}) =>
  Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "title", stroke: "var(--line)", fill: "var(--surface)", textPadding: 8, fontSize: 12, ...options }));

/** Names of methods, each with a short piece of its line and its symbol. @param {string[]} methods @param {(method: string) => string} label */
export function legend(methods, label = (method) => method) {
  const rule = (method) => Plot.ruleY([0], { x1: -1, x2: 1, stroke: colour(method), strokeWidth: 2, strokeDasharray: dash(method) || undefined });
  return h("div.legend", {}, methods.map((method) => h("span", { onpointerenter: () => highlight(method), onpointerleave: () => highlight() }, icon(symbol(method), colour(method), { width: 30, behind: [rule(method)] }), label(method))));
}

/** Whether the interval excludes 1. */
const beyond = ({ low, high }) => Number.isFinite(low) && Number.isFinite(high) && (low > 1 || high < 1);

/** The axis of ratios reaches a little further than the widest interval, but not beyond a factor of 1000. */
function ratioAxis(rows) {
  const ends = rows.flatMap((row) => [row.value, row.low, row.high]).filter((each) => Number.isFinite(each) && each > 0);
  const [least, most] = [Math.max(Math.min(1 / 1.1, ...ends), 1e-3), Math.min(Math.max(1.1, ...ends), 1e3)];
  const margin = (most / least) ** 0.06;
  const domain = [least / margin, most * margin];
  // Plot leaves out labels of a logarithmic axis unless they are given as texts.
  return { type: "log", domain, places: domain[1] / domain[0] < 8 ? ticks(...domain, narrow() ? 3 : 8) : places(...domain, narrow()) };
}

/**
 * Estimates with their intervals, one row each; rows of the whole stand out, and those of the methods `tied` with the first.
 * @param {{label: string, value: number, low: number, high: number, whole?: boolean, method?: string, tied?: boolean}[]} rows
 * @param {{label: string, better: string, worse: string, axis?: {type: string, domain: number[], places: number[]}}} options by default an axis of ratios
 */
export function forest(rows, { label, better, worse, axis }) {
  const shown = rows.filter((row) => Number.isFinite(row.value));
  const { type, domain, places: shownTicks } = axis ?? ratioAxis(shown);
  const name = Math.min(190, chartWidth() * 0.36);
  const long = 7 * (better.length + worse.length + 6) > chartWidth() - name - 24;
  const points = shown.map((row) => ({ ...row, x: row.value, y: row.label, title: `${row.label}\n${format.short(row.value, 3)}\n95 % interval ${format.range(row.low, row.high, 3).replace(format.MISSING, "none")}` }));
  const within = (value) => Math.min(Math.max(value, domain[0]), domain[1]);
  const ink = (d) => (d.method ? colour(d.method) : "var(--ink)");
  return chart({
    height: 78 + 26 * points.length, marginLeft: name, marginRight: 24, marginTop: long ? 40 : 26,
    x: { type, domain, label }, y: { domain: points.map((point) => point.y), type: "point", padding: 0.6, label: null },
    marks: [
      Plot.ruleY(points.filter((point) => point.tied), { y: "y", stroke: "var(--tint)", strokeOpacity: 0.14, strokeWidth: 26 }),
      Plot.gridX(shownTicks, grid),
      Plot.axisX(shownTicks, { stroke: "var(--line)", fill: "var(--muted)", label, labelAnchor: "center", labelArrow: "none", text: (value) => String(Number(value.toPrecision(3))) }),
      Plot.axisY({ stroke: "none", fill: "var(--ink)", label: null, tickFormat: (text) => format.clip(text, name / 7) }),
      type === "log" && Plot.ruleX([1], { stroke: "var(--muted)", strokeWidth: 1.5 }),
      Plot.text([`← ${better}`], { frameAnchor: "top-left", dy: long ? -30 : -16, fill: "var(--muted)" }),
      Plot.text([`${worse} →`], { frameAnchor: "top-right", dy: -16, fill: "var(--muted)" }),
      Plot.link(points.filter((point) => Number.isFinite(point.low)), { x1: (d) => within(d.low), x2: (d) => within(d.high), y1: "y", y2: "y", stroke: ink, strokeWidth: (d) => (d.whole ? 4 : 2), strokeOpacity: (d) => (d.method || beyond(d) ? 1 : 0.45) }),
      Plot.dot(points, { x: (d) => within(d.x), y: "y", r: (d) => (d.whole ? 7 : d.method ? 6 : 4.5), symbol: (d) => (d.whole ? "diamond" : d.method ? symbol(d.method) : "circle"), fill: (d) => (d.method || beyond(d) ? ink(d) : "var(--surface)"), stroke: ink, strokeWidth: 2 }),
      tips(points),
    ],
    ariaLabel: label,
  });
}

/** A figure of ratios with their numbers. @param {object[]} rows as of `forest`, as are the texts @param {(row: object) => string} [interval] its text */
export const ratioFigure = (rows, { title, note, first = "Task", ...texts }, interval = ({ low, high }) => format.range(low, high, 3)) => figure({
  title, note, chart: forest(rows, texts),
  head: [first, "Ratio", "95 % interval"], rows: rows.map((row) => [row.label, format.short(row.value, 3), interval(row)]),
});

/** Texts of a forest that compares two methods. @param {string} method @param {string} reference */
export const versus = (method, reference) => ({ label: `score of ${method} relative to ${reference}`, better: `${method} better`, worse: `${reference} better` });
