/** The embedded board, restricted to the chosen methods and tasks; statistics are computed once for each subset. */
import { analyse } from "./statistics.js";
import { chosen, place } from "./state.js";

/** @type {Map<string, object>} */
const analyses = new Map();
let index = null;

/** Number of methods up to which pairs are compared: their number and that of the resamples grow with its square. */
export const MAX_COMPARED = 40;

export class Board {
  /** @param {object} data what `page_data` wrote; see orca_ray/leaderboard/page/data.py */
  constructor(data) {
    this.data = data;
    index ??= indexed(data);
    this.index = index;
    this.methods = chosen("methods", data.methods.map((each) => each.name));
    this.tasks = chosen("tasks", data.tasks.map((each) => each.name));
    this.hideDigitised = place().options.get("digitised") === "hide";
  }

  /** Rows {task, method, seed, score} of the subset, sorted as Python sorts them. */
  get scores() {
    const methods = new Set(this.methods);
    const tasks = new Set(this.tasks);
    return this.index.scores.filter((row) => methods.has(row.method) && tasks.has(row.task));
  }

  /** Search trials of the subset: {task, method, number, score}. */
  get searches() {
    return this.index.searches.filter(({ task, method }) => this.tasks.includes(task) && this.methods.includes(method));
  }

  /** Every statistic of the subset. */
  get results() {
    const key = JSON.stringify([this.methods, this.tasks]);
    if (!analyses.has(key)) analyses.set(key, analyse(this.scores, this.searches));
    return analyses.get(key);
  }

  /** What a statistic is, without the marks of code in its docstring. @param {string} name */
  definition(name) {
    return this.data.statistics.find((each) => each.name === name)?.definition.replaceAll("`", "") ?? "";
  }

  /** Whether there are few enough methods to compare all pairs. */
  get comparable() {
    return this.methods.length <= MAX_COMPARED;
  }

  /** Methods of the subset, best first. */
  get ranked() {
    const rank = (method) => this.results.mean_rank?.[method]?.value ?? Infinity;
    return [...this.methods].sort((a, b) => rank(a) - rank(b) || 0);
  }

  task(name) {
    return this.index.tasks.get(name);
  }

  label(name) {
    return this.task(name)?.label ?? name;
  }

  /** @returns {{mean: number, std: number, n: number, rows: object[]}} */
  cell(task, method) {
    return this.index.cells.get(pair(task, method)) ?? { mean: NaN, std: NaN, n: 0, rows: [] };
  }

  /** Records of a task and method, confirm trials first. */
  records(task, method) {
    return this.index.records.get(pair(task, method)) ?? [];
  }

  /** Chosen methods with the lowest mean score on a task: several on a tie. @param {string} task */
  best(task) {
    const means = this.methods.map((method) => this.cell(task, method).mean);
    const lowest = Math.min(...means.filter(Number.isFinite));
    return this.methods.filter((_, m) => means[m] === lowest);
  }

  /** Methods with the lowest mean rank. */
  get first() {
    const ranked = this.ranked.map((method) => [method, this.results.mean_rank?.[method]?.value]);
    return ranked.filter(([, rank]) => rank - ranked[0][1] < 1e-9).map(([method]) => method);
  }

  /** On how many chosen tasks a method is better than another, worse, or tied. @param {string} one @param {string} other */
  compared(one, other) {
    const signs = this.tasks.map((task) => Math.sign(this.cell(task, one).mean - this.cell(task, other).mean));
    const count = (sign) => signs.filter((each) => each === sign).length;
    return { better: count(-1), worse: count(1), tied: count(0) };
  }

  /** Whether a chosen cell has more than one seed. */
  get spread() {
    return this.tasks.some((task) => this.methods.some((method) => this.cell(task, method).n > 1));
  }

  /** Name of a task's metric for people. @param {string} task @param {string} metric its name, if the board lacks the task */
  metric(task, metric = "") {
    const info = this.task(task);
    return info?.metric_text ?? (info?.metric ?? metric).replaceAll("_", " ");
  }

  /** Chosen methods with a score on any chosen task. */
  get scored() {
    return this.methods.filter((method) => this.tasks.some((task) => this.cell(task, method).n));
  }

  /** Chosen tasks on which each of these methods has a score: what statistics over tasks use. */
  get common() {
    const { scored } = this;
    return this.tasks.filter((task) => scored.every((method) => this.cell(task, method).n));
  }

  record(key) {
    return this.index.byKey.get(key);
  }

  /** Hyper-parameters of a record, and the names of those in which records of the board differ. */
  hyperparameters(record) {
    const { common, sets } = this.data.hyperparameters;
    const own = sets[record.hyperparameters];
    return { values: { ...common, ...own }, own: Object.keys(own) };
  }

  /** What a trial minimised while aligning. @param {object} record */
  distance(record) {
    return [this.hyperparameters(record).values["align.distance"], "distance"].filter(Boolean).join(" ");
  }

  /** Mean cost of a scored trial. @param {string} task @param {string} method @param {string} name e.g. wall_seconds */
  cost(task, method, name) {
    return this.index.provenance.get(pair(task, method))?.cost[name] ?? NaN;
  }

  /** Trials, starts and device hours of a cell. */
  provenance(task, method) {
    return this.index.provenance.get(pair(task, method)) ?? { statuses: {}, attempts: 0, device_hours: {} };
  }

  /** Number of trials by status, of the chosen tasks and one method, or of all. @param {string} [method] */
  statuses(method) {
    const totals = {};
    for (const each of this.index.provenance.values()) {
      if ((method && each.method !== method) || !this.tasks.includes(each.task)) continue;
      for (const [status, number] of Object.entries(each.statuses)) totals[status] = (totals[status] ?? 0) + number;
    }
    return totals;
  }

  /** Published cells of the chosen tasks beside own scores, in rows by method. */
  get beside() {
    const table = this.data.published?.beside;
    return table ? this.shown(table).methods : [];
  }

  /** A published table without what is hidden or not chosen. @param {object} table */
  shown(table) {
    const own = new Set(this.data.tasks.map((task) => task.name));
    const columns = table.columns.filter(({ task }) => !own.has(task) || this.tasks.includes(task));
    const methods = table.methods.map((method) => ({
      ...method,
      cells: Object.fromEntries(Object.entries(method.cells).filter(([task, cell]) => columns.some((column) => column.task === task) && !(this.hideDigitised && cell.kind === "digitised"))),
    })).filter((method) => Object.keys(method.cells).length);
    return { ...table, columns, methods };
  }
}

const pair = (task, method) => JSON.stringify([task, method]);

/** Make the maps that views look things up in. */
function indexed(data) {
  const { key: keys, ...columns } = data.records;
  const records = keys.map((key, index) => ({ key, hyperparameters: data.hyperparameters.of[index], ...Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[index]])) }));
  const scores = data.scores.map(([task, method, seed, score, record]) => ({
    task: data.tasks[task].name, method: data.methods[method].name, seed, score, record: records[record] ?? null,
  }));
  const cells = new Map();
  for (const [key, rows] of Map.groupBy(scores, (row) => pair(row.task, row.method))) cells.set(key, { rows, ...moments(rows.map((row) => row.score)) });
  const provenance = data.cells.map(([task, method, cost, rest]) => ({ task: data.tasks[task].name, method: data.methods[method].name, cost, ...rest }));
  const searches = data.searches.map(([task, method, number, score]) => ({ task: data.tasks[task].name, method: data.methods[method].name, number, score: score ?? NaN }));
  return {
    scores, cells, searches, all: records,
    records: Map.groupBy(records, (record) => pair(record.task, record.method)),
    provenance: new Map(provenance.map((each) => [pair(each.task, each.method), each])),
    tasks: new Map(data.tasks.map((task) => [task.name, task])),
    byKey: new Map(records.map((record) => [record.key, record])),
  };
}

/** Mean and sample deviation. @param {number[]} values */
export function moments(values) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const std = n > 1 ? Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1)) : NaN;
  return { mean, std, n };
}
