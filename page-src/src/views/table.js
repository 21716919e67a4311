/** The scores of all methods on all tasks, with their ranks; and the published scores. */
import { column, h, heading, searchField, sorted, table } from "../dom.js";
import * as format from "../format.js";
import { mark } from "../charts.js";
import { link, place } from "../state.js";
import { brief } from "../brief.js";
import { mean } from "../statistics.js";

export function tableView(board) {
  const options = place().options;
  const query = (options.get("search") ?? "").toLowerCase();
  const visible = (name) => !query || name.toLowerCase().includes(query);
  // A search for a task shows its column; one for a method shows its row; rows and columns without a hit stay whole.
  const foundTasks = board.tasks.filter((task) => visible(board.label(task)));
  const tasks = query && foundTasks.length ? foundTasks : board.tasks;
  const rows = sorted([...ownRows(board), ...publishedRows(board)], options.get("sort") ?? "rank", (key) => COLUMNS[key] ?? ((row) => row.cell(key).mean));
  const foundRows = rows.filter((row) => visible(row.name));
  const shown = query && foundRows.length ? foundRows : rows;
  const none = query && !foundTasks.length && !foundRows.length && !publishedNames(board).some(visible);
  return [
    h("h2", { tabindex: -1 }, "Scores"),
    brief(board),
    h("div.bar", {},
      searchField("method or task"),
      query && h("span.muted", { role: "status" }, none ? "No method or task has this name." : "Ranks and times stay those of all chosen methods and tasks.")),
    board.tasks.length ? boardTable(board, shown, tasks) : null,
    board.tasks.length > 0 && h("p.note", {}, `Bold: best score of the task${board.beside.length ? " among the methods that ran here" : ""}. Shade: the closer to the best, the stronger. `,
      board.scored.length > 1 && "≈: not separable from the best of the task by noise over seeds, or from the first by mean rank, at the 5 % level over all pairs. ", board.spread && "± is the standard deviation over seeds. ", (board.common.length < board.tasks.length || board.scored.length < board.methods.length) && "A dash is a missing score: it is never averaged over. ", board.spread ? "Each mean leads to the trial of its first seed, which leads to those of the others." : "Each score leads to its trial."),
    methodList(board),
    statistics(board),
    publishedTables(board, visible),
    notices(board),
  ];
}

/** What each method is, and where a guard decided against aligning. */
function methodList(board) {
  const declined = (method) => board.tasks.filter((task) => board.cell(task, method).n && board.cell(task, method).rows.every(({ record }) => record?.align_chosen === 0));
  const title = new Map(board.data.methods.map((method) => [method.name, method.title]));
  const lines = board.methods.map((method) => {
    const tasks = declined(method).map((task) => board.label(task));
    return [method, [title.get(method), tasks.length && `in its scored configuration, its probe chose not to align on ${format.list(tasks)}, where it trains as nft does`].filter(Boolean).join("; ")];
  }).filter(([, text]) => text);
  return lines.length ? h("dl.facts", {}, lines.map(([method, text]) => [h("dt", {}, method), h("dd", {}, text)])) : null;
}

/** Rows of the methods that ran here; their cost is the mean over the chosen tasks of the seconds of a scored trial. */
function ownRows(board) {
  return board.methods.map((method) => {
    const seconds = board.tasks.map((task) => board.cost(task, method, "wall_seconds"));
    return { name: method, rank: board.results.mean_rank?.[method], method, cell: (task) => board.cell(task, method), cost: mean(seconds.filter(Number.isFinite)) };
  });
}

/** Published rows that are comparable with own scores. */
function publishedRows(board) {
  return board.beside.map(({ name, cells }) => ({
    name, published: Object.values(cells), cost: NaN,
    cell: (task) => (cells[task] ? { mean: cells[task].score, std: cells[task].std ?? NaN, n: 1, row: cells[task] } : { mean: NaN, n: 0 }),
  }));
}

/** Columns besides those of tasks, by what they are sorted. */
const COLUMNS = { rank: (row) => row.rank?.value ?? NaN, method: (row) => row.name.toLowerCase(), cost: (row) => row.cost };

function boardTable(board, rows, tasks) {
  const best = new Map(tasks.map((task) => [task, board.cell(task, board.best(task)[0]).mean]));
  const tied = new Map(tasks.map((task) => [task, board.tied(task)]));
  const metric = (task) => h("a.metric", { href: link("task", task), title: board.task(task).definition_text || board.task(task).metric }, `${board.metric(task)} ↓`);
  const head = [heading("sort", "method", "Method"), heading("sort", "rank", "Mean rank", { below: h("span.metric", {}, "95 % interval"), first: "rank" }),
    tasks.map((task) => heading("sort", task, board.label(task), { below: metric(task) })),
    heading("sort", "cost", "Time", { below: h("span.metric", {}, "wall, a trial") })];
  const body = rows.map((row) => h(row.published ? "tr.published" : "tr", {},
    h(short(row.name), { scope: "row" }, row.method ? [mark(row.method), "\u00a0"] : "", row.name, row.published && [" ", sourceFlags(row.published)]),
    h("td", {}, format.short(row.rank?.value), board.tiedFirst(row.method) && TIED,
      Number.isFinite(row.rank?.low) && h("span.spread", {}, `${format.short(row.rank.low)} – ${format.short(row.rank.high)}`)),
    tasks.map((task) => scoreCell(board, row, task, best.get(task), tied.get(task))),
    h("td", {}, format.duration(row.cost))));
  return table("board", "scores", head, body);
}

/** Heading of a row; a short name is not broken. @param {string} name */
const short = (name) => (name.length <= 18 ? "th.short" : "th");

/** Mark of a method that is not separable from the best. */
const TIED = " ≈";

function scoreCell(board, row, task, best, tied) {
  const cell = row.cell(task);
  if (!cell.n) return missingCell(board, row, task);
  const spread = Number.isFinite(cell.std) ? `± ${format.score(cell.std)}` : "";
  const fewer = !row.published && cell.n < board.data.seeds.length ? ` n=${cell.n}` : "";
  const text = [format.score(cell.mean), !row.published && cell.mean !== best && tied.has(row.method) && TIED, (spread || fewer) && h("span.spread", {}, spread, fewer)];
  if (row.published) return h("td", { title: [cell.row.source, cell.row.note].filter(Boolean).join(": ") }, text);
  const near = best > 0 ? Math.max(0, 1 - Math.log2(cell.mean / best)) : Number(cell.mean === best);
  return h(cell.mean === best ? "td.best" : "td", { style: `--near:${near.toFixed(3)}` }, h("a", { href: link("record", cell.rows[0].record?.key ?? ""), title: opens(cell) }, text));
}

/** What a score leads to. */
const opens = ({ n, rows: [{ seed }] }) =>
  n > 1 ? `The mean over ${n} seeds. Opens the trial of seed ${seed}, one of them.` : `Opens the trial of seed ${seed}.`;

function missingCell(board, row, task) {
  const records = row.method ? board.records(task, row.method) : [];
  const failed = records.filter((record) => record.status.startsWith("failed") || record.status === "lost");
  if (!failed.length) return h("td", {}, format.MISSING);
  return h("td.failed", {}, h("a", { href: link("record", failed[0].key) }, format.MISSING, h("span.spread", {}, `${failed.length} failed`)));
}

/** Every statistic that has one value a method; those that the page cannot compute are of the whole board. */
function statistics(board) {
  const shown = board.data.statistics.filter((each) => each.values);
  if (!board.scored.length) return null;
  const titles = { wins: "wins (ties shared)" };
  const title = (each) => titles[each.name] ?? (board.results[each.name] ? each.title : `${each.title}, over all tasks and methods`);
  const value = (each, method) => {
    const { value, low, high } = (board.results[each.name] ?? each.values)[method] ?? {};
    return [format.short(value ?? NaN), Number.isFinite(low) && h("span.spread", {}, `${format.short(low)} – ${format.short(high)}`)];
  };
  return [
    h("h3", {}, "Statistics over the chosen tasks"),
    table("board", "statistics", [column("Method"), shown.map((each) => h("th", { scope: "col", title: board.definition(each.name) }, title(each), h("span.metric", {}, each.better === "lower" ? "↓ lower is better" : each.better === "higher" ? "↑ higher is better" : "")))],
      board.ranked.map((method) => h("tr", {}, h(short(method), { scope: "row" }, mark(method), "\u00a0", method), shown.map((each) => h("td", {}, value(each, method)))))),
    h("details", {}, h("summary", {}, "What the statistics are"), h("dl.facts", {}, shown.map((each) => [h("dt", {}, title(each)), h("dd", {}, board.definition(each.name))]))),
  ];
}

function notices(board) {
  const { notes, warnings, others } = board.data;
  const lines = [...warnings, ...notes, ...others.map((each) => `Also in the store: sweep ${each.sweep}, protocol ${each.protocol}, ${format.plural(each.confirmed, "completed confirm trial")}.`)];
  const failed = board.methods.map((method) => {
    const counts = Object.entries(board.statuses(method)).filter(([status, number]) => number && (status.startsWith("failed") || status === "lost"));
    return counts.length ? `Failed trials of ${method}: ${counts.map(([status, number]) => `${status} ${number}`).join(", ")}.` : "";
  }).filter(Boolean);
  return lines.length + failed.length ? h(warnings.length ? "div.brief.warnings" : "div.brief", {}, [...lines, ...failed].map((line) => h("p", {}, line))) : null;
}

const kinds = (cells) => [...new Set(cells.map((cell) => cell.kind))].filter((kind) => kind !== "primary").map((kind) => [" ", h("span.flag", {}, kind === "digitised" ? "read off a figure" : kind)]);

/** Where published scores come from, as small labels. @param {object[]} cells */
const sourceFlags = (cells) => [h("span.flag", {}, "published"), kinds(cells)];

/** Names of the methods and tasks of published tables. @param {import("../board.js").Board} board */
const publishedNames = ({ data: { published } }) => (published?.tables ?? []).flatMap(({ columns, methods }) => [...methods.map(({ name }) => name), ...columns.map(({ label }) => label)]);

/** Every published table; open if nothing was run here. @param {import("../board.js").Board} board @param {(name: string) => boolean} visible whether a search finds it */
function publishedTables(board, visible) {
  const { published } = board.data;
  const tables = published?.tables ?? [];
  if (!tables.length) return null;
  const reasons = Object.entries(published.reasons);
  const content = [
    reasons.length > 0 && h("p.note", {}, "Not beside own scores: ", reasons.map(([reason, number]) => `${reason} (${number})`).join("; "), "."),
    tables.map((table) => [h("h3", {}, table.title[0].toUpperCase() + table.title.slice(1)), publishedTable(found(table, visible))]),
    h("details", {}, h("summary", {}, "Sources and notes"),
      h("dl.facts", {}, Object.entries(published.sources).map(([key, text]) => [h("dt", {}, key), h("dd", {}, text)])),
      published.notes.map((note) => h("p.note", {}, note))),
  ];
  if (!board.scored.length) return h("section", { "aria-label": "published scores" }, content);
  return h("details.panel", {}, h("summary", {}, "Published scores, as published"), content);
}

/** The rows and columns of a table that a search finds; all of them if it finds none. */
function found(table, visible) {
  const columns = table.columns.filter(({ label }) => visible(label));
  const methods = table.methods.filter((each) => visible(each.name));
  return { ...table, columns: columns.length ? columns : table.columns, methods: methods.length ? methods : table.methods };
}

function publishedTable({ title, columns, methods }) {
  /** Arrow of the direction in which a column's values were published. */
  const arrow = (task) => (methods.find(({ cells }) => cells[task])?.cells[task].direction === "higher" ? "↑" : "↓");
  const content = (cell, best) => (cell ? h(best ? "td.best" : "td", { title: [cell.source, cell.note].filter(Boolean).join(": ") }, cell.text, cell.flag ? "?" : "") : h("td", {}, format.MISSING));
  const head = [column("Method"), column("Mean rank"), columns.map(({ task, label, unit }) => column(label, h("span.metric", {}, `${unit} ${arrow(task)}`)))];
  return table("board", title, head, methods.map((method) => h("tr", {},
    h("th", { scope: "row" }, method.name, kinds(Object.values(method.cells))),
    h("td", {}, format.short(method.rank).replace(/\.00$/, "")),
    columns.map(({ task, best }) => content(method.cells[task], best.includes(method.name))))));
}
