/** One trial: its score, how to run it again, its configuration, versions, seeds, data, notes and pictures; or a list. */
import { axes, chart, chartWidth, methodDots, methodLines, tips } from "../charts.js";
import { command, figure, h, plainTable } from "../dom.js";
import * as format from "../format.js";
import { mark } from "../marks.js";
import { change, link, place } from "../state.js";
import { pictures } from "../pictures.js";

const LISTED = 200;

/** @param {import("../board.js").Board} board @param {string} argument the key of a record, or "" */
export function recordView(board, argument) {
  const record = board.record(argument);
  if (!record) return recordList(board, argument);
  const { values, own } = board.hyperparameters(record);
  return [
    h("h2", { tabindex: -1 }, mark(record.method), ` ${record.method} on ${board.label(record.task)}, seed ${record.seed}`),
    siblings(board, record),
    h("div.panel", {}, h("h3", {}, "Run it again"), command(board.data.reproduce.replace("KEY", record.key)),
      h("p.note", {}, "Runs the trial from its own configuration, and reports whether the score agrees and which versions differ.")),
    record.error && h("div.panel", {}, h("h3", {}, "Error"), h("pre", { tabindex: 0 }, record.error)),
    h("div.charts", {},
      h("div.panel", {}, h("h3", {}, "Result"), factList(resultFacts(board, record))),
      h("div.panel", {}, h("h3", {}, "Where it comes from"), factList(originFacts(record))),
      h("div.panel", {}, h("h3", {}, "All trials of this method on this task"), factList(cellFacts(board, record)))),
    pictures(board.data.artefacts[record.key] ?? []),
    ownCurves(board, record),
    h("div.panel", {}, h("h3", {}, "Configuration"),
      h("p.note", {}, own.length ? "In bold: what is not the same in all trials of this board." : "The same in all trials of this board."),
      factList(Object.entries(values).sort(([a], [b]) => Number(own.includes(b)) - Number(own.includes(a)) || (a < b ? -1 : 1)).map(([name, value]) =>
        [name, h(own.includes(name) ? "code.changed" : "code", {}, typeof value === "string" ? value || "“”" : JSON.stringify(value))]))),
  ];
}

const factList = (facts) => h("dl.facts", {}, facts.filter((fact) => fact && fact[1] !== null && fact[1] !== undefined && fact[1] !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

function resultFacts(board, record) {
  const metric = record.metric.replaceAll("_", " ");
  return [
    ["Status", record.status.replaceAll("_", " ")],
    ["Test score", record.test === null ? null : `${format.score(record.test)} ${metric} (lower is better)`],
    ["Validation score", record.validation === null ? null : `${format.score(record.validation)} ${metric}`],
    ["Best epoch", record.best_epoch === null ? null : `${record.best_epoch} of ${record.epochs}`],
    ["Distance", record.distance_before === null ? null : `${format.score(record.distance_before)} before aligning, ${format.score(record.distance_after)} after`],
    ["Time", `${format.duration(record.wall_seconds)} in all: ${format.duration(record.align_seconds)} aligning, ${format.duration(record.refine_seconds)} refining, ${format.duration(record.evaluate_seconds)} evaluating`],
    ["Peak memory", record.peak_memory_mib === null ? null : format.memory(record.peak_memory_mib)],
    ["Parameters", record.num_parameters === null ? null : `${format.count(record.num_parameters)}, ${format.count(record.num_trainable)} of them trained`],
    ["Notes", record.notes],
  ];
}

function originFacts(record) {
  return [
    ["Key", h("code", {}, record.key)],
    ["Body", h("code", {}, record.body)],
    ["Phase", record.phase],
    ["Seed", String(record.seed)],
    ["Data", h("code", {}, record.data_fingerprint)],
    ["Metric", `${record.metric}${record.metric_version ? `, version ${record.metric_version}` : ""}`],
    ["Hardware", [record.device, record.processor].filter(Boolean).join(", ")],
    ["Precision", record.precision],
    ["Deterministic", record.deterministic === null ? null : record.deterministic ? "yes" : "no"],
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
    ["Device time", Object.entries(hours).map(([device, number]) => `${format.duration(3600 * number)} on ${device}`).join(", ")],
    ["Time of a scored trial", format.duration(board.cost(task, method, "wall_seconds"))],
    ["Peak memory", format.memory(board.cost(task, method, "peak_memory_mib"))],
  ];
}

/** Links to the trials of the same task and method. */
function siblings(board, record) {
  const others = board.records(record.task, record.method).filter((each) => each.phase === record.phase);
  return h("p", {}, h("a", { href: link("task", record.task) }, board.label(record.task)), " · ", h("a", { href: link("record") }, "all trials"),
    others.length > 1 && [" · seeds: ", others.map((each, index) => [index ? ", " : "", each === record ? h("b", {}, String(each.seed)) : h("a", { href: link("record", each.key) }, String(each.seed))])]);
}

function ownCurves(board, record) {
  const curves = board.data.curves[record.key];
  if (!curves) return null;
  const draw = (stage, column, title, label) => {
    const points = (curves[stage]?.epoch ?? []).map((x, index) => ({ x, y: curves[stage][column]?.[index] ?? null, method: record.method })).filter((point) => point.y !== null)
      .map((point) => ({ ...point, title: `epoch ${point.x}\n${format.score(point.y)}` }));
    if (!points.length) return null;
    const node = chart({ width: chartWidth(3) - 10, height: 200, marginRight: 14, x: { label: "epoch", nice: true }, y: { label, nice: true },
      marks: [...axes({ tickFormat: "d", ticks: Math.min(6, points.length) }, { ticks: 4 }), ...methodLines(points), ...methodDots(points, { r: 3 }), tips(points)], ariaLabel: title });
    return figure({ title, chart: node, head: ["Epoch", label], rows: points.map((point) => [point.x, format.score(point.y)]) });
  };
  return h("div.small-charts", {}, draw("refine", "validation", "Validation score", record.metric.replaceAll("_", " ")), draw("refine", "loss", "Training loss", "loss"), draw("align", "distance", "Distance while aligning", "distance"));
}

function recordList(board, argument) {
  const options = place().options;
  const status = options.get("status") ?? "";
  const query = (options.get("search") ?? "").toLowerCase();
  const all = board.index.all.filter((record) => board.methods.includes(record.method) && board.tasks.includes(record.task));
  const statuses = [...new Set(all.map((record) => record.status))].sort();
  const found = all.filter((record) => (!status || record.status === status) && (!query || `${record.method} ${board.label(record.task)} ${record.key} ${record.error ?? ""}`.toLowerCase().includes(query)));
  return [
    h("h2", { tabindex: -1 }, "Trials"),
    argument && h("p", { role: "status" }, `This file has no trial ${argument}.`),
    h("p.note", {}, board.data.records_note),
    h("div.bar", {},
      h("label", {}, "Search ", h("input", { type: "search", id: "search", value: options.get("search") ?? "", placeholder: "method, task, key or error", oninput: (event) => change({ search: event.target.value }) })),
      h("label", {}, "Status ", h("select", { id: "status", onchange: (event) => change({ status: event.target.value }) }, h("option", { value: "" }, "all"), statuses.map((each) => h("option", { value: each, selected: each === status }, each.replaceAll("_", " ")))))),
    plainTable(["Task", "Method", "Seed", "Phase", "Status", "Test score", "Time", "Key"],
      found.slice(0, LISTED).map((record) => [h("a", { href: link("record", record.key) }, board.label(record.task)), [mark(record.method), "\u00a0", record.method], String(record.seed), record.phase, record.status.replaceAll("_", " "), format.score(record.test), format.duration(record.wall_seconds), h("code", {}, record.key)])),
    found.length > LISTED && h("p.note", {}, `The first ${LISTED} of ${found.length}; search for more.`),
  ];
}
