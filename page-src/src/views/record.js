/** One trial: its score, how to run it again, its configuration, versions, seeds, data, notes and pictures; or a list. */
import { axes, chart, chartWidth, mark, methodDots, methodLines, tips } from "../charts.js";
import { command, figure, h, heading, searchField, select, sorted, table } from "../dom.js";
import * as format from "../format.js";
import { change, link, place } from "../state.js";
import { pictures } from "../pictures.js";

const LISTED = 200;

/** Values that stand for something else. */
const AUTOMATIC = { "align.learning_rate": { 0: " (automatic: the distance's own)" }, "refine.memory_mib": { 0: " (automatic)" } };

/** @param {import("../board.js").Board} board @param {string} argument the key of a record, or "" */
export function recordView(board, argument) {
  const record = board.index.byKey.get(argument);
  if (!record) return recordList(board, argument);
  const { values, own } = board.hyperparameters(record);
  return [
    h("h2", { tabindex: -1 }, mark(record.method), ` ${record.method} on ${board.label(record.task)}, seed ${record.seed}`),
    siblings(board, record),
    oneOfSeveral(board, record),
    h("div.panel", {}, h("h3", {}, "Run it again"), command(board.data.reproduce.replace("KEY", () => quoted(record.key))), again(board, record)),
    record.error && h("div.panel", {}, h("h3", {}, "Error"), h("pre", { tabindex: 0 }, record.error)),
    h("div.charts", {},
      h("div.panel", {}, h("h3", {}, "Result"), factList(resultFacts(board, record))),
      h("div.panel", {}, h("h3", {}, "Where it comes from"), factList(originFacts(board, record))),
      h("div.panel", {}, h("h3", {}, "All trials of this method on this task"), factList(cellFacts(board, record)))),
    pictures((board.data.artefacts[record.key] ?? []).map((picture) => captioned(record, picture))),
    ownCurves(board, record),
    h("div.panel", {}, h("h3", {}, "Configuration"),
      h("p.note", {}, own.length ? "In bold: what is not the same in all trials of this board." : "The same in all trials of this board."),
      factList(Object.entries(values).sort(([a], [b]) => Number(own.includes(b)) - Number(own.includes(a)) || (a < b ? -1 : 1)).map(([name, value]) =>
        [name, [h(own.includes(name) ? "code.changed" : "code", {}, typeof value === "string" ? value || "“”" : JSON.stringify(value)), AUTOMATIC[name]?.[value]].filter(Boolean)]))),
  ];
}

/** A picture of features before and after aligning says where aligning was discarded. */
function captioned(record, picture) {
  if (record.align_chosen !== 0 || picture.panels?.[1]?.title !== "after") return picture;
  return { ...picture, caption: `${picture.caption} Aligning was tried and discarded: “after” shows the features before it, too.` };
}

/** What the command needs and does. */
function again(board, { version, torch_version: torch, wall_seconds: seconds, device }) {
  return h("p.note", {}, board.data.reproduce.includes(" DIR") && "DIR: the folder given as --results when this page was made. ",
    `Install orca-ray ${version} and torch ${torch}: other versions may change the score. The trial took ${format.duration(seconds)} on ${device}. `,
    "The command runs it from its own configuration, and reports whether the score agrees and which versions differ.");
}

/** A text as one word of a shell, whatever it holds. @param {string} text */
const quoted = (text) => (/^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

const factList = (facts) => h("dl.facts", {}, facts.filter((fact) => fact && fact[1] !== null && fact[1] !== undefined && fact[1] !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

function resultFacts(board, record) {
  const metric = board.metric(record.task, record.metric);
  return [
    ["Status", record.status.replaceAll("_", " ")],
    ["Test score", record.test === null ? null : `${format.score(record.test)} ${metric} (lower is better)`],
    ["Validation score", record.validation === null ? null : `${format.score(record.validation)} ${metric}`],
    ["Best epoch", record.best_epoch === null ? null : `${record.best_epoch} of ${record.epochs}`],
    ["Distance", record.distance_before === null ? null : `${format.score(record.distance_before)} before aligning, ${format.score(record.distance_after)} after its last step, both of one fixed sample${record.align_chosen === 0 ? "; tried and discarded" : ""}`],
    ["Guard", (record.align_chosen ?? null) === null ? null : record.align_chosen ? `chose the embedder after ${format.plural(record.align_chosen, "align epoch")}` : "chose not to align: refining is that of nft"],
    ["Wall time", times(record)],
    ["Peak memory", record.peak_memory_mib === null ? null : format.memory(record.peak_memory_mib)],
    ["Parameters", record.num_parameters === null ? null : `${format.count(record.num_parameters)}, ${format.count(record.num_trainable)} of them trained`],
    ["Notes", record.notes],
  ];
}

/** The parts of a trial's wall time; the rest is starting, loading and storing, and reading what is reused. */
function times(record) {
  const aligning = record.align_chosen === 0 ? "aligning (tried and discarded)" : "aligning";
  const stages = [[aligning, record.align_reused ? 0 : record.align_seconds], ["refining", record.refine_seconds], ["evaluating", record.evaluate_seconds]];
  const rest = record.wall_seconds - stages.reduce((sum, [, seconds]) => sum + seconds, 0);
  const parts = [...stages, ["other (starting, loading)", rest]].filter(([, seconds]) => seconds > 0.0005);
  return `${format.duration(record.wall_seconds)} in all${parts.length ? `: ${parts.map(([name, seconds]) => `${format.duration(seconds)} ${name}`).join(", ")}` : ""}${record.align_reused ? `; ${aligning} reused from an equal trial` : ""}`;
}

/** A processor as records name it, "vendor, family, model", in words. @param {string | null} name */
const processor = (name) => name?.replace(/^([^,]+), (\w+), (\w+)$/, "$1 family $2 model $3");

function originFacts(board, record) {
  return [
    ["Key", h("code", {}, record.key)],
    ["Body", h("code", {}, record.body)],
    ["Phase", record.phase],
    ["Seed", String(record.seed)],
    ["Data fingerprint", h("code", {}, record.data_fingerprint)],
    ["Metric", `${board.metric(record.task, record.metric)}${record.metric_version ? `, version ${record.metric_version}` : ""}`],
    ["Hardware", [record.device, processor(record.processor)].filter(Boolean).join(", ")],
    ["Precision", record.precision],
    ["Deterministic", record.deterministic === null ? null : record.deterministic ? "yes: a repetition gives the same bits" : "no: a repetition may differ a little. It agrees within the spread of seeds; with one seed, only if its score is equal, and the difference is reported"],
    ["Versions", `orca-ray ${record.version}, torch ${record.torch_version}`],
    ["Ran", `${record.started_at.replace("T", " ").slice(0, 16)} – ${record.finished_at.slice(11, 16)} UTC, attempt ${record.attempts}`],
  ];
}

/** What the whole cell took: search and confirm trials, failed ones too. */
function cellFacts(board, { task, method }) {
  const cell = board.cell(task, method);
  const { statuses, attempts, device_hours: hours } = board.provenance(task, method);
  return [
    ["Mean score", cell.n > 0 && `${format.score(cell.mean)}${cell.n > 1 ? ` ± ${format.score(cell.std)}` : ""} over ${format.plural(cell.n, "seed")}`],
    ["Trials", Object.entries(statuses).map(([status, number]) => `${number} ${status.replaceAll("_", " ")}`).join(", ")],
    ["Starts", String(attempts)],
    ["Device time of all trials", Object.entries(hours).map(([device, number]) => `${format.duration(3600 * number)} on ${device}`).join(", ")],
    ["Wall time of a scored trial", format.duration(board.cost(task, method, "wall_seconds"))],
    ["Peak memory", format.memory(board.cost(task, method, "peak_memory_mib"))],
  ];
}

/** Links to the trials of the same task and method. */
function siblings(board, record) {
  const others = board.records(record.task, record.method).filter((each) => each.phase === record.phase);
  const search = record.phase === "search";
  const about = (each) => Object.entries(board.hyperparameters(each).values).filter(([name, value]) => others.some((other) => board.hyperparameters(other).values[name] !== value)).map(([name, value]) => `${name} ${value}`).join(", ");
  const label = (each, index) => (search ? String(index + 1) : String(each.seed));
  return h("p", {}, h("a", { href: link("task", record.task) }, board.label(record.task)), " · ", h("a", { href: link("record") }, "all trials"),
    others.length > 1 && [search ? " · configurations: " : " · seeds: ", others.map((each, index) => [index ? ", " : "", each === record ? h("b", {}, label(each, index)) : h("a", { href: link("record", each.key), title: search && about(each) }, label(each, index))]), search && `: ${about(record)}`]);
}

/** How the trial's score relates to the mean that the table shows. */
function oneOfSeveral(board, { key, task, method, seed, test }) {
  const { mean, n, rows } = board.cell(task, method);
  if (n < 2 || !rows.some(({ record }) => record?.key === key)) return null;
  return h("p", { role: "note" }, `This is seed ${seed}, one of ${n}: its test score is ${format.score(test)}; the table shows their mean, ${format.score(mean)}.`);
}

function ownCurves(board, record) {
  if (!board.data.curves[record.key]) return null;
  const draw = (stage, column, title, label) => {
    const points = board.curve(record.key, stage, column).map(({ x, y }) => ({ x, y, method: record.method, title: `epoch ${x}\n${format.score(y)}` }));
    if (!points.length) return null;
    const node = chart({ width: chartWidth(3) - 10, height: 200, marginRight: 14, x: { label: "epoch", nice: true }, y: { label, nice: true },
      marks: [...axes({ tickFormat: "d", ticks: Math.min(6, points.length) }, { ticks: 4 }), ...methodLines(points), methodDots(points, { r: 3 }), tips(points)], ariaLabel: title });
    return figure({ title, chart: node, head: ["Epoch", label], rows: points.map((point) => [point.x, format.score(point.y)]) });
  };
  return h("div.small-charts", {}, draw("refine", "validation", "Validation score", board.metric(record.task, record.metric)), draw("refine", "loss", "Training loss", "loss"), draw("align", "distance", "Distance while aligning", board.distance(record)));
}

function recordList(board, argument) {
  const options = place().options;
  const status = options.get("status") ?? "";
  const query = (options.get("search") ?? "").toLowerCase();
  const all = board.index.all.filter((record) => board.methods.includes(record.method) && board.tasks.includes(record.task));
  const statuses = [...new Set(all.map((record) => record.status))].sort();
  const found = all.filter((record) => (!status || record.status === status) && (!query || `${record.method} ${board.label(record.task)} ${record.key} ${record.error ?? ""}`.toLowerCase().includes(query)));
  const whole = options.get("listed") === "all";
  const shown = whole ? found.length : Math.min(found.length, LISTED);
  return [
    h("h2", { tabindex: -1 }, "Trials"),
    argument && h("p", { role: "status" }, `This file has no trial ${argument}.`),
    h("p.note", {}, board.data.records_note),
    h("div.bar", {},
      searchField("method, task, key or error"),
      h("label", {}, "Status ", select("status", status, [["", "all"], ...statuses.map((each) => [each, each.replaceAll("_", " ")])]))),
    h("div.bar", {}, h("span.muted", { role: "status" }, shown < found.length ? `The first ${shown} of ${format.plural(found.length, "trial")}.` : `${format.plural(found.length, "trial")}.`),
      found.length > LISTED && h("button.small", { type: "button", id: "listed", onclick: () => change({ listed: whole ? null : "all" }) }, whole ? `Show the first ${LISTED}` : `Show all ${found.length}`)),
    recordTable(board, found, shown),
  ];
}

/** Columns of the list: title, value to sort by, content. @type {Record<string, [string, (record: object, board: object) => unknown, (record: object, board: object) => unknown]>} */
const COLUMNS = {
  task: ["Task", (record, board) => board.label(record.task), (record, board) => h("a", { href: link("record", record.key) }, board.label(record.task))],
  method: ["Method", (record) => record.method, (record) => [mark(record.method), "\u00a0", record.method]],
  phase: ["Phase", (record) => record.phase, (record) => record.phase],
  status: ["Status", (record) => record.status, (record) => record.status.replaceAll("_", " ")],
  seed: ["Seed", (record) => record.seed, (record) => String(record.seed)],
  validation: ["Validation score", (record) => record.validation ?? Infinity, (record) => format.score(record.validation)],
  test: ["Test score", (record) => record.test ?? Infinity, (record) => format.score(record.test)],
  time: ["Wall time", (record) => record.wall_seconds, (record) => format.duration(record.wall_seconds)],
  key: ["Key", (record) => record.key, (record) => h("a", { href: link("record", record.key), title: record.key }, h("code", {}, record.key.slice(0, 8)))],
};

/** The first trials in the chosen order. */
function recordTable(board, records, shown) {
  const order = place().options.get("order") ?? "";
  const rows = sorted(records, order, (key) => COLUMNS[key] && ((record) => COLUMNS[key][1](record, board)));
  return table("plain.records", "trials", Object.entries(COLUMNS).map(([key, [title]]) => heading("order", key, title)),
    rows.slice(0, shown).map((record) => h("tr", {}, Object.values(COLUMNS).map(([, , show], index) => h(index ? "td" : "th", index ? {} : { scope: "row" }, show(record, board))))));
}
