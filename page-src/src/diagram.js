/** Demšar's critical-difference diagram: methods on an axis of mean ranks; bars join those that do not differ. */
import * as Plot from "@observablehq/plot";
import { chart, chartWidth, narrow } from "./charts.js";
import * as format from "./format.js";
import { colour, symbol } from "./marks.js";

/**
 * @param {{method: string, rank: number}[]} methods best first
 * @param {string[][]} groups methods that do not differ
 */
export function criticalDifferenceDiagram(methods, groups) {
  const width = chartWidth();
  const [row, gap] = narrow() ? [38, "\n"] : [24, "  "];  // a narrow diagram has the rank below the name
  const shown = methods.map((each, index) => ({ ...each, left: index < Math.ceil(methods.length / 2) }));
  const end = Math.max(methods.length, 2);
  const bars = groups.map((group, index) => {
    const ranks = shown.filter((each) => group.includes(each.method)).map((each) => each.rank);
    return { x1: Math.min(...ranks) - 0.03, x2: Math.max(...ranks) + 0.03, y: 0.75 + index * 0.55 };
  });
  const below = 0.75 + bars.length * 0.55 + 0.6;
  const half = Math.ceil(shown.length / 2);
  const labels = shown.map((each, index) => ({ ...each, y: below + (each.left ? index : shown.length - 1 - index) }));
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
