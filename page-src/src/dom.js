/**
 * Builds HTML elements. Text from records enters the page only as text nodes here, and in charts by Plot, which does
 * the same: nothing in this program parses HTML.
 */
import { range } from "d3-array";
import { change, place } from "./state.js";

/**
 * Create an element.
 * @param {string} spec tag name with optional classes, e.g. "td.number"
 * @param {Record<string, unknown>} [attributes] "on…" adds a listener; false and null leave an attribute out
 * @param {...unknown} children nodes, texts, arrays of these; null and false are left out
 * @returns {HTMLElement}
 */
export function h(spec, attributes = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A table that scrolls in its box, and a button that saves it. @param {string} label its name for screen readers @param {Node[]} head cells @param {Node[]} rows */
export function table(kind, label, head, rows) {
  const made = h(`table.${kind}`, {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
  const save = () => h("a", { href: `data:text/csv;charset=utf-8,${encodeURIComponent(csv(made))}`, download: `${label}.csv` }).click();
  return h("div.tabled", {}, h("div.scroll", { tabindex: 0, role: "region", "aria-label": label }, made),
    h("button.small", { type: "button", title: "Save this table as it is shown", onclick: save }, "CSV"));
}

/** The text of a table as CSV. What stands below a number, and the mark ≈, have columns of their own. @param {HTMLTableElement} table */
function csv(table) {
  const parts = ({ innerText: text }) => {
    const [first, ...below] = text.replaceAll("\u00a0", " ").replaceAll("−", "-").split("\n").map((line) => line.trim()).filter(Boolean);
    return [first?.replace(/( ≈| [▲▼]|^–)$/, "") ?? "", below.join(" "), first?.endsWith(" ≈") ? "≈" : ""];
  };
  const rows = [...table.rows].map((row) => [...row.cells].map(parts));
  rows[0].forEach((cell) => (cell[2] = "≈"));
  const used = rows[0].map((_, index) => [0, 1, 2].filter((part) => !part || rows.slice(1).some((row) => row[index][part])));
  // A spreadsheet would execute a text that begins like a formula.
  const field = (text) => `"${(/^[=+@-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text).replaceAll('"', '""')}"`;
  return rows.map((row) => row.flatMap((cell, index) => used[index].map((part) => field(cell[part]))).join(",")).join("\r\n");
}

/** Make of each table that is wider than a printed page several, which all have the first column. @param {HTMLElement} within @param {number} room in pixels */
export function splitTables(within, room) {
  for (const whole of within.querySelectorAll(".scroll > table")) {
    whole.style.width = "min-content";
    const width = whole.offsetWidth;
    const [first, ...others] = [...whole.rows[0].cells].map((cell) => cell.offsetWidth);
    whole.style.width = "";
    if (width <= room) continue;
    const most = Math.max(1, Math.floor((room - first) / Math.max(...others)));
    whole.replaceWith(...range(0, others.length, most).map((start) => {
      const copy = whole.cloneNode(true);
      for (const row of copy.rows) [...row.cells].forEach((cell, index) => index && (index <= start || index > start + most) && cell.remove());
      return copy;
    }));
  }
}

/** Heading of a column. @param {...unknown} content */
export const column = (...content) => h("th", { scope: "col" }, content);

/** A table with a header row; cells are texts or nodes. @param {unknown[]} head @param {unknown[][]} rows */
export const plainTable = (head, rows) => table("plain", "table", head.map((cell) => column(cell)),
  rows.map((row) => h("tr", {}, row.map((cell, index) => (index ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))));

/**
 * A figure with its title, one sentence on how to read it, and its numbers as a table.
 * @param {{title: string, note?: unknown, chart: Node | Node[], head?: unknown[], rows?: unknown[][]}} options
 */
export function figure({ title, note, chart, head, rows }) {
  return h("figure", { "aria-label": title },
    h("figcaption", {}, h("h3", {}, title), note && h("p.note", {}, note)),
    chart,
    rows?.length ? h("details.numbers", {}, h("summary", {}, "Numbers"), plainTable(head, rows)) : null);
}

/** Heading of a column by which a table is sorted. @param {"sort" | "order"} option of the link; its text is the column's key, or "-" and the key */
export function heading(option, key, title, { below = null, first = "" } = {}) {
  const order = place().options.get(option) ?? first;
  const state = order === key ? "ascending" : order === `-${key}` ? "descending" : null;
  const arrow = { ascending: " ▲", descending: " ▼" }[state] ?? "";
  return h("th", { scope: "col", "aria-sort": state }, h("button", { type: "button", id: `${option}-${key}`, title: "Sort", onclick: () => change({ [option]: order === key ? `-${key}` : key }) }, title, arrow), below);
}

/** Rows in the order of a column's key, or of "-" and the key; those without a value come last. @param {(key: string) => (row: object) => unknown} values */
export function sorted(rows, order, values) {
  const [key, sign] = order.startsWith("-") ? [order.slice(1), -1] : [order, 1];
  const value = values(key) ?? (() => 0);
  return rows.toSorted((a, b) => {
    const [one, two] = [value(a), value(b)];
    return Number.isNaN(one) - Number.isNaN(two) || sign * (one < two ? -1 : one > two ? 1 : 0);
  });
}

/** A field whose text is an option of the link. @param {string} placeholder what is looked for */
export const searchField = (placeholder) => h("label", {}, "Search ",
  h("input", { type: "search", id: "search", value: place().options.get("search") ?? "", placeholder, oninput: (event) => change({ search: event.target.value }) }));

/** A choice whose key is an option of the link. @param {string} name @param {string} value @param {[string, string][]} entries keys and titles */
export const select = (name, value, entries, choose = (key) => change({ [name]: key })) => h("select", { id: name, onchange: (event) => choose(event.target.value) },
  entries.map(([key, title]) => h("option", { value: key, selected: key === value }, title)));

/** A copy button beside a command. @param {string} text */
export function command(text) {
  const code = h("code", {}, text);
  // Where copying is not allowed, as from disk in some browsers, the text is selected instead.
  const copy = ({ target }) => Promise.resolve().then(() => navigator.clipboard.writeText(text)).then(() => (target.textContent = "Copied"), () => getSelection().selectAllChildren(code));
  return h("div.command", {}, code, h("button.copy", { type: "button", onclick: copy }, "Copy"));
}
