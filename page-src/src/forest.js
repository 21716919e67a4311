/** Estimates with their intervals, one row each, on a logarithmic axis of ratios; the last row may be a summary. */
import * as Plot from "@observablehq/plot";
import { chart, chartWidth, tips } from "./charts.js";
import * as format from "./format.js";

/**
 * @param {{label: string, value: number, low: number, high: number, whole?: boolean, title?: string}[]} rows
 * @param {{label: string, better: string, worse: string, reference?: number, log?: boolean, colour?: string}} options
 */
export function forest(rows, { label, better, worse, reference = 1, log = true, colour = "var(--c0)" }) {
  const shown = rows.filter((row) => Number.isFinite(row.value));
  const ends = shown.flatMap((row) => [row.value, row.low, row.high]).filter((each) => Number.isFinite(each) && (!log || each > 0));
  const reach = Math.max(log ? 1.05 : 1e-6, ...ends.map((each) => (log ? Math.max(each, 1 / each) : Math.abs(each - reference))));
  const domain = log ? [1 / Math.min(reach, 1e3), Math.min(reach, 1e3)] : [reference - reach, reference + reach];
  const name = Math.min(190, chartWidth() * 0.36);
  const clip = (text) => (text.length > name / 7 ? `${text.slice(0, Math.floor(name / 7) - 1)}…` : text);
  const points = shown.map((row) => ({ ...row, x: row.value, y: row.label, title: row.title ?? `${row.label}\n${format.short(row.value, 3)} [${format.short(row.low, 3)}, ${format.short(row.high, 3)}]` }));
  const within = (value) => Math.min(Math.max(value, domain[0]), domain[1]);
  return chart({
    height: 78 + 26 * points.length, marginLeft: name, marginRight: 24, marginTop: 26,
    x: { type: log ? "log" : "linear", domain, label }, y: { domain: points.map((point) => point.y), type: "point", padding: 0.6, label: null },
    marks: [
      Plot.gridX({ stroke: "var(--line)", strokeOpacity: 1, ticks: 6 }),
      Plot.axisX({ stroke: "var(--line)", fill: "var(--muted)", labelAnchor: "center", labelArrow: "none", ticks: 6, tickFormat: log ? ".3~g" : undefined }),
      Plot.axisY({ stroke: "none", fill: "var(--ink)", label: null, tickFormat: clip }),
      Plot.ruleX([reference], { stroke: "var(--muted)", strokeWidth: 1.5 }),
      Plot.text([`← ${better}`], { frameAnchor: "top-left", dy: -16, fill: "var(--muted)" }),
      Plot.text([`${worse} →`], { frameAnchor: "top-right", dy: -16, fill: "var(--muted)" }),
      Plot.link(points.filter((point) => Number.isFinite(point.low)), { x1: (d) => within(d.low), x2: (d) => within(d.high), y1: "y", y2: "y", stroke: colour, strokeWidth: (d) => (d.whole ? 4 : 2), strokeOpacity: (d) => (d.low > reference || d.high < reference ? 1 : 0.45) }),
      Plot.dot(points, { x: (d) => within(d.x), y: "y", r: (d) => (d.whole ? 7 : 4.5), symbol: (d) => (d.whole ? "diamond" : "circle"), fill: (d) => (d.low > reference || d.high < reference ? colour : "var(--surface)"), stroke: colour, strokeWidth: 2 }),
      tips(points),
    ],
    ariaLabel: label,
  });
}
