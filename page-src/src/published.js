/** Tables of published scores; Python ranks them. */
import { h } from "./dom.js";
import * as format from "./format.js";

const kinds = (cells) => [...new Set(cells.map((cell) => cell.kind))].filter((kind) => kind !== "primary").map((kind) => [" ", h("span.flag", {}, kind === "digitised" ? "read off a figure" : kind)]);

/** Where published scores come from, as small labels. @param {object[]} cells */
export const sourceFlags = (cells) => [h("span.flag", {}, "published"), kinds(cells)];

/** Names of the methods and tasks of published tables. @param {import("./board.js").Board} board */
export function publishedNames({ data: { benchmark, published } }) {
  return (published?.tables ?? []).flatMap(({ columns, methods }) => [...methods.map((each) => each.name), ...columns.map(({ task }) => short(task, benchmark))]);
}

const short = (task, benchmark) => (task.startsWith(`${benchmark}/`) ? task.slice(benchmark.length + 1) : task);

/** Every published table; open if nothing was run here. @param {import("./board.js").Board} board @param {(name: string) => boolean} visible whether a search finds it */
export function publishedTables(board, visible) {
  const { published } = board.data;
  const tables = published?.tables ?? [];
  if (!tables.length) return null;
  const reasons = Object.entries(published.reasons);
  const content = [
    reasons.length > 0 && h("p.note", {}, "Not beside own scores: ", reasons.map(([reason, number]) => `${reason} (${number})`).join("; "), "."),
    tables.map((table) => [h("h3", {}, table.title[0].toUpperCase() + table.title.slice(1)), publishedTable(board, found(board, table, visible))]),
    h("details", {}, h("summary", {}, "Sources and notes"),
      h("dl.facts", {}, Object.entries(published.sources).map(([key, text]) => [h("dt", {}, key), h("dd", {}, text)])),
      published.notes.map((note) => h("p.note", {}, note))),
  ];
  if (!board.scored.length) return h("section", { "aria-label": "published scores" }, content);
  return h("details.panel", {}, h("summary", {}, "Published scores, as published"), content);
}

/** The rows and columns of a table that a search finds; all of them if it finds none. */
function found({ data: { benchmark } }, table, visible) {
  const columns = table.columns.filter(({ task }) => visible(short(task, benchmark)));
  const methods = table.methods.filter((each) => visible(each.name));
  return { ...table, columns: columns.length ? columns : table.columns, methods: methods.length ? methods : table.methods };
}

function publishedTable({ data: { benchmark } }, { title, columns, methods }) {
  const name = (task) => short(task, benchmark);
  /** Arrow of the direction in which a column's values were published. */
  const arrow = (task) => (methods.find(({ cells }) => cells[task])?.cells[task].direction === "higher" ? "↑" : "↓");
  const content = (cell, best) => (cell ? h(best ? "td.best" : "td", { title: [cell.source, cell.note].filter(Boolean).join(": ") }, cell.text, cell.flag ? "?" : "") : h("td", {}, format.MISSING));
  return h("div.scroll", { tabindex: 0, role: "region", "aria-label": title }, h("table.board", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), h("th", { scope: "col" }, "Mean rank"), columns.map(({ task, unit }) => h("th", { scope: "col" }, name(task), h("span.metric", {}, `${unit} ${arrow(task)}`))))),
    h("tbody", {}, methods.map((method) => h("tr", {},
      h("th", { scope: "row" }, method.name, kinds(Object.values(method.cells))),
      h("td", {}, format.short(method.rank).replace(/\.00$/, "")),
      columns.map(({ task, best }) => content(method.cells[task], best.includes(method.name))))))));
}
