/** The embedded board, restricted to the chosen methods and tasks. */
import { deviation } from "d3-array";
import { analyse, LEVEL, MAX_COMPARED, mean, ScoreTable } from "./statistics.js";
import { chosen, place } from "./state.js";

/** Properties by which tasks are chosen, each an option of the link, with their titles. */
export const PROPERTIES = { kind: "Kind", modality: "Modality", size: "Training samples" };

let index = null;

export class Board {
  /** @param {object} data what `page_data` wrote; see orca_ray/leaderboard/page/data.py */
  constructor(data) {
    this.data = data;
    index ??= indexed(data);
    this.index = index;
    this.methods = chosen("methods", data.methods.map((each) => each.name));
    const { options } = place();
    /** Tasks with the chosen properties, among which tasks are chosen by name. */
    this.offered = data.tasks.filter((task) => Object.keys(PROPERTIES).every((each) => ["", task[`${each}_text`]].includes(options.get(each) ?? ""))).map((each) => each.name);
    this.tasks = chosen("tasks", this.offered);
    /** Whether nothing is left out: then intervals are those that Python computed. */
    this.whole = this.methods.length === data.methods.length && this.tasks.length === data.tasks.length;
    /** Chosen methods with a score on any chosen task. */
    this.scored = this.methods.filter((method) => this.tasks.some((task) => this.cell(task, method).n));
    this.table = new ScoreTable(this.tasks, this.scored, this.tasks.map((task) => this.scored.map((method) => this.cell(task, method).rows.map(({ score }) => score))), this.noise, this.tasks.map((task) => this.task(task).floor));
    /** Chosen tasks on which each ranked method has a score: what statistics over tasks use. */
    this.common = this.scored.length ? this.table.ranking.common.map((t) => this.tasks[t]) : [];
  }

  /** Noise over seeds of the table's cells; it is estimated from all methods of the board. */
  get noise() {
    const { prior, most, variances } = this.data.noise;
    const place = (all, name) => all.findIndex((each) => each.name === name);
    const [tasks, methods] = [this.tasks.map((task) => place(this.data.tasks, task)), this.scored.map((method) => place(this.data.methods, method))];
    return { prior, most: tasks.map((t) => most[t]), variances: tasks.map((t) => methods.map((m) => variances[t][m])) };
  }

  /** Every statistic of the subset. */
  get results() {
    const { questions, pairs, statistics } = this.data;
    const methods = Object.fromEntries(statistics.filter(({ values }) => values).map(({ name, values }) => [name, values]));
    const gains = this.index.gains.filter(({ task, method }) => this.tasks.includes(task) && this.methods.includes(method));
    return (this.analysed ??= analyse(this.table, { questions, gains }, this.whole ? { methods, pairs } : null));
  }

  /** What a statistic is, without the marks of code in its docstring. @param {string} name */
  definition(name) {
    return this.data.statistics.find((each) => each.name === name)?.definition.replaceAll("`", "") ?? "";
  }

  /** Whether there are few enough methods to compare all pairs. */
  get comparable() {
    return this.scored.length <= MAX_COMPARED;
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
    return this.index.cells.get(pair(task, method)) ?? NOTHING;
  }

  /** Records of a task and method, confirm trials first. */
  records(task, method) {
    return this.index.records.get(pair(task, method)) ?? [];
  }

  /** Chosen methods with the lowest mean score on a task: several on a tie, none if fewer than two have a score. @param {string} task */
  best(task) {
    const means = this.methods.map((method) => this.cell(task, method).mean);
    const scores = means.filter(Number.isFinite);
    if (scores.length < 2) return [];
    const lowest = Math.min(...scores);
    return this.methods.filter((_, m) => means[m] === lowest);
  }

  /** Methods that are not separable from the best one of a task. @param {string} task */
  tied(task) {
    return new Set([...this.table.tied(this.tasks.indexOf(task))].map((m) => this.scored[m]));
  }

  /** Whether a method is not separable from the first by mean rank. @param {string} [method] */
  tiedFirst(method) {
    const [first] = this.ranked;
    return method !== first && this.results.verdict[first]?.[method]?.adjusted_p > LEVEL && Number.isFinite(this.results.mean_rank[method]?.value);
  }

  /** Methods with the lowest mean rank. */
  get first() {
    const ranked = this.ranked.map((method) => [method, this.results.mean_rank?.[method]?.value]);
    return ranked.filter(([, rank]) => rank - ranked[0][1] < 1e-9).map(([method]) => method);
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

  /** Points of a record's curve. @param {string} [key] of the record @param {"refine" | "align"} stage @param {string} column */
  curve(key, stage, column) {
    const { epoch = [], [column]: values } = this.data.curves[key]?.[stage] ?? {};
    return epoch.map((x, index) => ({ x, y: values?.[index] ?? null })).filter(({ y }) => y !== null);
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
    const chosen = (cells) => Object.fromEntries(Object.entries(cells).filter(([task]) => this.tasks.includes(task)));
    const rows = (this.data.published?.beside?.methods ?? []).map(({ name, cells }) => ({ name, cells: chosen(cells) }));
    return rows.filter(({ cells }) => Object.keys(cells).length);
  }
}

const NOTHING = { mean: NaN, std: NaN, n: 0, rows: [] };
const pair = (task, method) => `${task.length} ${task}${method}`;

/** Make the maps that views look things up in. */
function indexed(data) {
  const { key: keys, ...columns } = data.records;
  const records = keys.map((key, index) => ({ key, hyperparameters: data.hyperparameters.of[index], ...Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[index]])) }));
  const scores = data.scores.map(([task, method, seed, score, record]) => ({
    task: data.tasks[task].name, method: data.methods[method].name, seed, score, record: records[record] ?? null,
  }));
  const cells = new Map();
  for (const [key, rows] of Map.groupBy(scores, (row) => pair(row.task, row.method))) cells.set(key, { rows, n: rows.length, mean: mean(rows.map((row) => row.score)), std: deviation(rows.map((row) => row.score)) });
  const provenance = data.cells.map(([task, method, cost, rest]) => ({ task: data.tasks[task].name, method: data.methods[method].name, cost, ...rest }));
  const gains = data.gains.map(([task, method, log]) => ({ task: data.tasks[task].name, method: data.methods[method].name, log }));
  return {
    cells, gains, all: records,
    records: Map.groupBy(records, (record) => pair(record.task, record.method)),
    provenance: new Map(provenance.map((each) => [pair(each.task, each.method), each])),
    tasks: new Map(data.tasks.map((task) => [task.name, task])),
    byKey: new Map(records.map((record) => [record.key, record])),
  };
}
