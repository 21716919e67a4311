/** Estimates with their intervals, one row each, on a logarithmic axis of ratios; the last row may be a summary. */
import * as Plot from "@observablehq/plot";
import { ticks } from "d3-array";
import { chart, chartWidth, narrow, places, tips } from "./charts.js";
import * as format from "./format.js";

/** Whether the interval excludes 1. */
const beyond = ({ low, high }) => Number.isFinite(low) && Number.isFinite(high) && (low > 1 || high < 1);

/**
 * @param {{label: string, value: number, low: number, high: number, whole?: boolean, title?: string}[]} rows
 * @param {{label: string, better: string, worse: string, colour?: string}} options
 */
export function forest(rows, { label, better, worse, colour = "var(--c0)" }) {
  const shown = rows.filter((row) => Number.isFinite(row.value));
  const ends = shown.flatMap((row) => [row.value, row.low, row.high]).filter((each) => Number.isFinite(each) && each > 0);
  // The axis reaches a little further than the widest interval, but not beyond a factor of 1000.
  const [least, most] = [Math.max(Math.min(1 / 1.1, ...ends), 1e-3), Math.min(Math.max(1.1, ...ends), 1e3)];
  const margin = (most / least) ** 0.06;
  const domain = [least / margin, most * margin];
  // Plot leaves out labels of a logarithmic axis unless they are given as texts.
  const shownTicks = domain[1] / domain[0] < 8 ? ticks(...domain, narrow() ? 3 : 8) : places(...domain, narrow());
  const name = Math.min(190, chartWidth() * 0.36);
  const clip = (text) => format.clip(text, name / 7);
  const long = 7 * (better.length + worse.length + 6) > chartWidth() - name - 24;
  const points = shown.map((row) => ({ ...row, x: row.value, y: row.label, title: row.title ?? `${row.label}\nratio ${format.short(row.value, 3)}\n95 % interval ${format.range(row.low, row.high, 3).replace(format.MISSING, "none")}` }));
  const within = (value) => Math.min(Math.max(value, domain[0]), domain[1]);
  return chart({
    height: 78 + 26 * points.length, marginLeft: name, marginRight: 24, marginTop: long ? 40 : 26,
    x: { type: "log", domain, label }, y: { domain: points.map((point) => point.y), type: "point", padding: 0.6, label: null },
    marks: [
      Plot.gridX(shownTicks, { stroke: "var(--line)", strokeOpacity: 1 }),
      Plot.axisX(shownTicks, { stroke: "var(--line)", fill: "var(--muted)", label, labelAnchor: "center", labelArrow: "none", text: (value) => String(Number(value.toPrecision(3))) }),
      Plot.axisY({ stroke: "none", fill: "var(--ink)", label: null, tickFormat: clip }),
      Plot.ruleX([1], { stroke: "var(--muted)", strokeWidth: 1.5 }),
      Plot.text([`← ${better}`], { frameAnchor: "top-left", dy: long ? -30 : -16, fill: "var(--muted)" }),
      Plot.text([`${worse} →`], { frameAnchor: "top-right", dy: -16, fill: "var(--muted)" }),
      Plot.link(points.filter((point) => Number.isFinite(point.low)), { x1: (d) => within(d.low), x2: (d) => within(d.high), y1: "y", y2: "y", stroke: colour, strokeWidth: (d) => (d.whole ? 4 : 2), strokeOpacity: (d) => (beyond(d) ? 1 : 0.45) }),
      Plot.dot(points, { x: (d) => within(d.x), y: "y", r: (d) => (d.whole ? 7 : 4.5), symbol: (d) => (d.whole ? "diamond" : "circle"), fill: (d) => (beyond(d) ? colour : "var(--surface)"), stroke: colour, strokeWidth: 2 }),
      tips(points),
    ],
    ariaLabel: label,
  });
}
