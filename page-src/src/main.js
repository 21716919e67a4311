/** The leaderboard's page: reads the embedded board, draws the frame, and shows the view that the hash names. */
import { assign, mark } from "./charts.js";
import { Board, PROPERTIES } from "./board.js";
import { h, select, splitTables } from "./dom.js";
import * as format from "./format.js";
import { choose, link, place } from "./state.js";
import * as statistics from "./statistics.js";
import { tableView } from "./views/table.js";
import { taskView } from "./views/task.js";
import { differencesView, paretoView, profilesView } from "./views/comparison.js";
import { effectsView } from "./views/effects.js";
import { recordView } from "./views/record.js";
import words from "./words.json";

/** @type {Record<string, {title: string, show: (board: Board, argument: string) => unknown}>} */
const VIEWS = {
  table: { title: "Table", show: tableView },
  task: { title: "Tasks", show: taskView },
  profiles: { title: "Profiles", show: profilesView },
  differences: { title: "Differences", show: differencesView },
  pareto: { title: "Cost", show: paretoView },
  effects: { title: "Effects", show: effectsView },
  record: { title: "Records", show: recordView },
};

const data = JSON.parse(document.getElementById("data").textContent);
const main = h("main.wide", { id: "main" });
const nav = h("nav", { "aria-label": "views" });

/** A fold with the words; empty boards have none of them. @param {object} data */
const glossary = (data) => data.sweep && h("details", {}, h("summary", {}, "Words used on this page"),
  h("dl.facts", {}, Object.entries(words).map(([word, meaning]) => [h("dt", {}, word), h("dd", {}, meaning)])));

/** The choice of methods and tasks, on which every number of the page is computed. @param {Board} board @param {boolean} open */
function subset(board, open) {
  const count = (shown, all, noun) => (all === 1 ? `1 ${noun}` : shown === all ? `all ${all} ${noun}s` : `${shown} of ${all} ${noun}s`);
  const methods = count(board.methods.length, board.data.methods.length, "method");
  const tasks = count(board.tasks.length, board.data.tasks.length, "task");
  return h("details.subset", { open }, h("summary", { id: "subset" }, `Choose methods and tasks (${methods}, ${tasks})`),
    group("methods", "Methods", board.data.methods.map((each) => each.name), board.methods, (name) => [mark(name), name]),
    group("tasks", "Tasks", board.offered, board.tasks, (name) => board.label(name), Object.entries(PROPERTIES).map((each) => property(board, ...each))));
}

/** The choice of the tasks with a property; none if all tasks are alike in it. */
function property(board, name, title) {
  const values = [...Map.groupBy(board.data.tasks.filter((each) => each[`${name}_text`]), (each) => each[`${name}_text`])];
  const entries = values.sort(([one], [other]) => one.localeCompare(other, "en", { numeric: true })).map(([value, tasks]) => [value, `${value} (${tasks.length})`]);
  return values.length > 1 && h("label", {}, `${title} `, select(name, place().options.get(name) ?? "", [["", "all"], ...entries]));
}

function group(option, legend, all, chosen, show, properties = []) {
  const pick = (names) => choose(option, all.filter((each) => names.includes(each)), all);
  const toggle = (name, checked) => pick(checked ? [...chosen, name] : chosen.filter((each) => each !== name));
  const button = (spec, id, text, names) => h(`button.${spec}`, { type: "button", id: `${option}-${id}`, onclick: () => pick(names), disabled: chosen.length === names.length && spec === "small" }, text);
  return h("fieldset", {}, h("legend", {}, legend), properties, button("small", "all", "All", all), button("small", "none", "None", []),
    all.map((name, index) => h("span.chip", {}, h("label", {},
      h("input", { type: "checkbox", id: `${option}-${index}`, value: name, checked: chosen.includes(name), onchange: (event) => toggle(name, event.target.checked) }),
      show(name)), button("only", `${index}-only`, "only", [name]))));
}

function frame() {
  const board = new Board(data);
  const totals = Object.entries(board.statuses()).map(([status, number]) => `${number} ${status.replaceAll("_", " ")}`).join(", ");
  document.title = `${data.benchmark}: leaderboard`;
  document.body.append(
    h("a.skip", { href: "#main", onclick: (event) => { event.preventDefault(); main.querySelector("h2")?.focus(); } }, "Skip to the content"),
    h("header.page", {}, h("div.wide", {},
      h("h1", {}, `${data.benchmark} leaderboard`),
      h("p.note", {}, data.sweep ? `Sweep ${data.sweep} · protocol ${data.protocol} · ` : "",
        size(),
        data.seeds.length ? `, ${format.plural(data.seeds.length, "seed")}` : "",
        totals ? ` · trials: ${totals}` : ""),
      nav)),
    main,
    h("footer.page.wide", {},
      glossary(data),
      data.updated ? `Last trial finished ${data.updated.replace("T", " ").slice(0, 16)} UTC. ` : "",
      "All scores are test scores in the metric's own unit, lower is better. ",
      "Choosing methods or tasks computes ranks, ratios and verdicts again, in the browser, from the scores in this file."));
}

/** Number of tasks and methods; of published tables if nothing was run here. */
function size() {
  const tables = data.published?.tables ?? [];
  const own = data.methods.length || data.effects || !tables.length;
  const number = (names) => new Set(names).size;
  const tasks = own ? data.tasks.length : number(tables.flatMap(({ columns }) => columns.map(({ task }) => task)));
  const methods = own ? data.methods.length : number(tables.flatMap((each) => each.methods.map(({ name }) => name)));
  return `${own ? "" : "published scores of "}${format.plural(tasks, "task")}, ${format.plural(methods, "method")}`;
}

function show() {
  main.dataset.width = innerWidth;
  const { view, argument } = place();
  // A page about a grid has no methods to rank.
  const first = data.effects && !data.methods.length ? "effects" : "table";
  const name = view in VIEWS ? view : first;
  const { title, show: build } = VIEWS[name];
  const board = new Board(data);
  const focused = document.activeElement?.id;
  const caret = document.activeElement?.selectionStart ?? 0;
  nav.replaceChildren(...Object.entries(VIEWS).map(([each, entry]) =>
    h("a", { href: link(each), id: `view-${each}`, "aria-current": each === name && "page" }, entry.title)));
  const current = nav.querySelector("[aria-current]");
  nav.scrollLeft = current.offsetLeft - nav.offsetLeft - (nav.clientWidth - current.offsetWidth) / 2;
  const none = data.methods.length > 0 && !(board.methods.length && board.tasks.length);
  const open = none || (main.querySelector("details.subset")?.open ?? false);
  const chooser = data.methods.length ? [subset(board, open)] : [];
  main.replaceChildren(...chooser, h("section", { "aria-label": title }, none ? h("p", { role: "status" }, "Choose at least one method and one task.") : build(board, argument)));
  const here = `${name}/${argument}`;
  if (main.dataset.shown && main.dataset.shown !== here) {
    main.querySelector("h2")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  } else if (focused) {
    const again = document.getElementById(focused);
    again?.focus({ preventScroll: true });
    if (again?.type === "search") again.setSelectionRange(caret, caret);
  }
  main.dataset.shown = here;
}

assign(data.methods.map((method) => method.name));
frame();
show();
addEventListener("hashchange", show);
addEventListener("beforeprint", () => splitTables(main, 1100));
addEventListener("afterprint", show);
let timer = 0;
addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(() => main.dataset.width !== String(innerWidth) && show(), 120);
});
const refresh = Number(document.documentElement.dataset.refresh ?? 0);
if (refresh) setTimeout(() => location.reload(), refresh * 1000);  // a running sweep: the hash keeps the view

/** For tests and for questions in the browser's console. */
globalThis.orca = { data, statistics, format, Board };
