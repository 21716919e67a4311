/** Performance profiles. */
import * as Plot from "@observablehq/plot";
import { axes, chart, coincidence, grid, legend, methodDots, methodLines, narrow, tips } from "../charts.js";
import { figure, h } from "../dom.js";
import * as format from "../format.js";
import { profiles } from "../statistics.js";

export function profilesView(board) {
  const found = profiles(board.table);
  const methods = board.ranked.filter((method) => board.common.length && found[method]);
  // The axis ends where no line changes any more.
  const end = 1.1 * Math.max(1.2, ...methods.flatMap((method) => found[method].map((point) => point.x)));
  const places = (narrow() ? [1, 2, 5, 10, 20, 50, 100] : [1, 1.1, 1.2, 1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100]).filter((each) => each <= end);
  const points = methods.flatMap((method) => {
    const own = found[method].map(({ x, value }) => ({ x, y: value, method, title: `${method}\nwithin a factor of ${format.short(x, 3)} of the best on ${format.percent(value)} of tasks` }));
    return [...own, { ...own.at(-1), x: end, end: true }];
  });
  return [
    h("h2", { tabindex: -1 }, "Performance profiles"),
    legend(methods),
    points.length ? figure({
      title: "Share of tasks on which a method is within a factor of the best",
      note: ["Dolan and Moré. At the left end: the share of tasks on which the method is the best. The higher, the better. Tasks count on which every method has a score.", coincidence(points)],
      chart: chart({
        height: 400, marginRight: 20, x: { type: "log", label: "factor relative to the best score of the task", domain: [1, end] }, y: { domain: [0, 1], label: "share of tasks", percent: false },
        marks: [Plot.gridX(places, grid), ...axes({ ticks: places, tickFormat: String }, { ticks: 5, tickFormat: ".0%" }), ...methodLines(points, { curve: "step-after", strokeWidth: 2.5 }), methodDots(points.filter((point) => !point.end), { r: 4 }), tips(points, { pointer: Plot.pointer })],
        ariaLabel: "Performance profiles",
      }),
      head: ["Method", "Factor", "Share of tasks"],
      rows: methods.flatMap((method) => found[method].map(({ x, value }) => [method, format.short(x, 3), format.percent(value)])),
    }) : h("p", {}, "No task has scores to compare."),
  ];
}
