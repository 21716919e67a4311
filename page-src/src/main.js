/** The leaderboard's page: reads the embedded board, draws the frame, and shows the view that the hash names. */
import { assign, mark } from "./charts.js";
import { Board } from "./board.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import { choose, link, place } from "./state.js";
import * as statistics from "./statistics.js";
import { tableView } from "./views/table.js";
import { taskView } from "./views/task.js";
import { differencesView, paretoView, profilesView } from "./views/comparison.js";
import { effectsView } from "./views/effects.js";
import { recordView } from "./views/record.js";

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

/** What words of this page mean. */
const WORDS = {
  "Held-out, paper": "Protocols. Held-out: configurations and epochs are chosen on validation data, and test data are read once. Paper: the choice is made on the test split, as in the reference implementation.",
  "Search and confirm": "Phases. Search trials try configurations and are scored on validation data. Confirm trials run the best one again, with other seeds, and give the test scores of this page.",
  "Stopped early": "A search trial that was ended because its validation score was behind those of others.",
  "Body": "The pretrained transformer, without the input and output networks of the task.",
  "Error": "Any score of this page: a metric of which lower values are better.",
  "95 % interval": "Of 100 experiments like this one, the ranges of about 95 would hold the true value. Intervals of means and ratios are Student's, those of wins Clopper and Pearson's; where all tasks are equal, the interval of a mean has no width.",
  "Adjusted p": "The probability of a difference as large as this between two equal methods, made larger for the number of pairs that are compared (Holm).",
  "Data fingerprint": "A hash of the prepared data: trials with the same one used the same data.",
  "Starts": "How often trials were started. More than the number of trials: some were started again after an interruption.",
  "Training seconds of a scored trial": "Aligning, refining and evaluating, without starting, loading and searching; a trial on half a GPU counts half. Aligning that was reused took no time.",
  "Device time of all trials": "Wall time of all trials of a cell, including search trials; a trial on half a GPU counts half.",
};

/** A fold with the words; empty boards have none of them. @param {object} data */
const glossary = (data) => data.sweep && h("details", {}, h("summary", {}, "Words used on this page"),
  h("dl.facts", {}, Object.entries(WORDS).map(([word, meaning]) => [h("dt", {}, word), h("dd", {}, meaning)])));

/** The choice of methods and tasks, on which every number of the page is computed. @param {Board} board @param {boolean} open */
function subset(board, open) {
  const count = (shown, all, noun) => (all === 1 ? `1 ${noun}` : shown === all ? `all ${all} ${noun}s` : `${shown} of ${all} ${noun}s`);
  const methods = count(board.methods.length, board.data.methods.length, "method");
  const tasks = count(board.tasks.length, board.data.tasks.length, "task");
  return h("details.subset", { open }, h("summary", { id: "subset" }, `Choose methods and tasks (${methods}, ${tasks})`),
    group("methods", "Methods", board.data.methods.map((each) => each.name), board.methods, (name) => [mark(name), name]),
    group("tasks", "Tasks", board.data.tasks.map((each) => each.name), board.tasks, (name) => board.label(name)));
}

function group(option, legend, all, chosen, show) {
  const toggle = (name, checked) => choose(option, all.filter((each) => (each === name ? checked : chosen.includes(each))), all);
  return h("fieldset", {}, h("legend", {}, legend, chosen.length === 1 && " – choose at least one"),
    all.map((name, index) => h("label.chip", {},
      h("input", { type: "checkbox", id: `${option}-${index}`, value: name, checked: chosen.includes(name), disabled: chosen.length === 1 && chosen.includes(name), onchange: (event) => toggle(name, event.target.checked) }),
      show(name))),
    h("button.small", { type: "button", id: `${option}-all`, onclick: () => choose(option, all, all), disabled: chosen.length === all.length }, "All"));
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
  const open = main.querySelector("details.subset")?.open ?? false;
  const chooser = data.methods.length ? [subset(board, open)] : [];
  main.replaceChildren(...chooser, h("section", { "aria-label": title }, build(board, argument)));
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
let width = innerWidth;
let timer = 0;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(timer);
  timer = setTimeout(show, 120);
});
const refresh = Number(document.documentElement.dataset.refresh ?? 0);
if (refresh) setTimeout(() => location.reload(), refresh * 1000);  // a running sweep: the hash keeps the view

/** For tests and for questions in the browser's console. */
globalThis.orca = { data, statistics, format, Board };
