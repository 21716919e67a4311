/** Charts: thin layers over Observable Plot with this page's sizes, and a colour, symbol and dash for each method. */
import * as Plot from "@observablehq/plot";
import { h } from "./dom.js";

const NUM_COLOURS = 8;
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "hexagon"];
const DASHES = ["", "6 3", "2 2", "8 3 2 3"];

/** @type {Map<string, number>} */
const positions = new Map();

/** Give each method its place in the palette. @param {string[]} methods */
export const assign = (methods) => methods.forEach((method, index) => positions.set(method, index));

const place = (method) => positions.get(method) ?? 6;

/** @param {string} method */
export const colour = (method) => `var(--c${place(method) % NUM_COLOURS})`;

/** @param {string} method */
export const symbol = (method) => SYMBOLS[(place(method) + Math.floor(place(method) / NUM_COLOURS)) % SYMBOLS.length];

/** Lines are solid until the palette begins again. @param {string} method */
export const dash = (method) => DASHES[Math.floor(place(method) / NUM_COLOURS) % DASHES.length];

/** The method's symbol in its colour, to stand beside its name. @param {string} method */
export const mark = (method) => icon(symbol(method), colour(method), { className: "mark" });

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
    Plot.line(own, { x: "x", y: "y", z: (point) => point.group ?? method, stroke: colour(method), strokeDasharray: same.has(method) ? "7 7" : dash(method) || undefined, strokeWidth: 2, ...options }));
}

/** Methods whose points are those of an earlier one, which they would hide: {method: the earlier one}. */
export function coinciding(points) {
  const shapes = [...Map.groupBy(points, (point) => point.method)].map(([method, own]) => [method, JSON.stringify(own.map(({ x, y }) => [x, y]))]);
  const earliest = (shape) => shapes.find(([, other]) => other === shape)[0];
  return new Map(shapes.map(([method, shape]) => [method, earliest(shape)]).filter(([method, other]) => method !== other));
}

/** Says which lines coincide. @param {object[]} points {x, y, method} */
export const coincidence = (points) => [...coinciding(points)].map(([method, other]) => ` ${method} coincides with ${other}.`).join("");

/** One symbol for each point, with a tip. @param {object[]} points {x, y, method, title} @param {object} [options] */
export function methodDots(points, options = {}) {
  return Plot.dot(points, { x: "x", y: "y", r: 5, symbol: (point) => symbol(point.method), fill: (point) => colour(point.method), stroke: "var(--surface)", strokeWidth: 1, ...options });
}

/** A tip at the point under the pointer. @param {object[]} points {x, y, title} */
export const tips = (points, options = {}) =>
  Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "title", stroke: "var(--line)", fill: "var(--surface)", textPadding: 8, fontSize: 12, ...options }));

/** Names of methods, each with a short piece of its line and its symbol. @param {string[]} methods @param {(method: string) => string} label */
export function legend(methods, label = (method) => method) {
  const rule = (method) => Plot.ruleY([0], { x1: -1, x2: 1, stroke: colour(method), strokeWidth: 2, strokeDasharray: dash(method) || undefined });
  return h("div.legend", {}, methods.map((method) => h("span", {}, icon(symbol(method), colour(method), { width: 30, behind: [rule(method)] }), label(method))));
}
