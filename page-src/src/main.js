/** The leaderboard's page: reads the embedded board, draws the frame, and shows the view that the hash names. */
import { assign } from "./marks.js";
import { Board } from "./board.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import { link, place } from "./state.js";
import { glossary } from "./glossary.js";
import { subset } from "./subset.js";
import * as statistics from "./statistics.js";
import { tableView } from "./views/table.js";
import { taskView } from "./views/task.js";
import { profilesView } from "./views/profiles.js";
import { differencesView } from "./views/differences.js";
import { paretoView } from "./views/pareto.js";
import { effectsView } from "./views/effects.js";
import { recordView } from "./views/record.js";

/** @type {Record<string, {title: string, show: (board: Board, argument: string) => unknown, whole?: boolean}>} */
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
let shown = "";

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
  if (shown && shown !== here) {
    main.querySelector("h2")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  } else if (focused) {
    const again = document.getElementById(focused);
    again?.focus({ preventScroll: true });
    if (again?.type === "search") again.setSelectionRange(caret, caret);
  }
  shown = here;
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
