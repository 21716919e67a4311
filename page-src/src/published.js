/** Tables of published scores, with ranks over the rows that are shown. */
import { h } from "./dom.js";
import * as format from "./format.js";
import { byCodePoint } from "./statistics/table.js";

/** @param {object | null} published */
export function hasDigitised(published) {
  const tables = published ? [...published.tables, published.beside].filter(Boolean) : [];
  return tables.some((table) => table.methods.some((method) => Object.values(method.cells).some((cell) => cell.kind === "digitised")));
}

/** Where published scores come from, as small labels. @param {object[]} cells */
export function sourceFlags(cells) {
  const kinds = [...new Set(cells.map((cell) => cell.kind))].filter((kind) => kind !== "primary");
  return [h("span.flag", {}, "published"), kinds.map((kind) => [" ", h("span.flag", {}, kind === "digitised" ? "read off a figure" : kind)])];
}

/** Every published table; open if nothing was run here. @param {import("./board.js").Board} board */
export function publishedTables(board) {
  const { published } = board.data;
  const tables = (published?.tables ?? []).map((table) => board.shown(table)).filter((table) => table.methods.length);
  if (!tables.length) return null;
  const reasons = Object.entries(published.reasons);
  const content = [
    reasons.length > 0 && h("p.note", {}, "Not beside own scores: ", reasons.map(([reason, number]) => `${reason} (${number})`).join("; "), "."),
    tables.map((table) => [h("h3", {}, table.title[0].toUpperCase() + table.title.slice(1)), publishedTable(board, table)]),
    h("details", {}, h("summary", {}, "Sources and notes"),
      h("dl.facts", {}, Object.entries(published.sources).map(([key, text]) => [h("dt", {}, key), h("dd", {}, text)])),
      published.notes.map((note) => h("p.note", {}, note))),
  ];
  if (!board.scores.length) return h("section", { "aria-label": "published scores" }, content);
  return h("details.panel", {}, h("summary", {}, "Published scores, as published"), content);
}

function publishedTable(board, table) {
  const { columns } = table;
  const methods = ranked(table);
  const name = (task) => (board.data.benchmark && task.startsWith(`${board.data.benchmark}/`) ? task.slice(board.data.benchmark.length + 1) : task);
  const best = new Map(columns.map(({ task }) => [task, Math.min(...methods.map((method) => (method.cells[task]?.flag ? NaN : method.cells[task]?.score)).filter(Number.isFinite))]));
  return h("div.scroll", { tabindex: 0, role: "region", "aria-label": table.title }, h("table.board", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), h("th", { scope: "col" }, "Mean rank"), columns.map(({ task, unit }) => h("th", { scope: "col" }, name(task), h("span.metric", {}, `${unit} ${direction(methods, task)}`))))),
    h("tbody", {}, methods.map((method) => h("tr", {},
      h("th", { scope: "row" }, method.name, kinds(method)),
      h("td", {}, format.short(method.rank).replace(/\.00$/, "")),
      columns.map(({ task }) => {
        const cell = method.cells[task];
        if (!cell) return h("td", {}, format.MISSING);
        return h(cell.score === best.get(task) ? "td.best" : "td", { title: [cell.source, cell.note].filter(Boolean).join(": ") }, cell.text, cell.flag ? "?" : "");
      }))))));
}

const kinds = (method) => [...new Set(Object.values(method.cells).map((cell) => cell.kind))].filter((kind) => kind !== "primary").map((kind) => [" ", h("span.flag", {}, kind === "digitised" ? "read off a figure" : kind)]);

/** Arrow of the direction in which a column's values were published. */
const direction = (methods, task) => (methods.find((method) => method.cells[task])?.cells[task].direction === "higher" ? "↑" : "↓");

/** Methods with their mean rank among those that have a score in every column, best first. @param {object} table */
export function ranked({ methods, columns }) {
  const score = (method, task) => (method.cells[task] && !method.cells[task].flag ? method.cells[task].score : null);
  const complete = methods.filter((method) => columns.every(({ task }) => score(method, task) !== null));
  const rank = (method, task) => complete.reduce((sum, other) => sum + (score(other, task) < score(method, task) ? 1 : score(other, task) === score(method, task) ? 0.5 : 0), 0.5);
  const mean = (method) => (complete.length > 1 && complete.includes(method) ? columns.reduce((sum, { task }) => sum + rank(method, task), 0) / columns.length : NaN);
  return methods.map((method) => ({ ...method, rank: mean(method) })).sort((a, b) => (Number.isNaN(a.rank) ? Infinity : a.rank) - (Number.isNaN(b.rank) ? Infinity : b.rank) || byCodePoint(a.name, b.name));
}
