/** The score table as arrays, as orca_ray/leaderboard/statistics/table.py has it. Axes: T tasks, M methods, S seeds. */

/** Order texts by code points, as Python does. @param {string} a @param {string} b */
export function byCodePoint(a, b) {
  const [one, two] = [Array.from(a, (each) => each.codePointAt(0)), Array.from(b, (each) => each.codePointAt(0))];
  const at = one.findIndex((each, index) => each !== two[index]);
  return at < 0 ? one.length - two.length : at >= two.length ? 1 : one[at] - two[at];
}

/** Mean in the order of the values; NaN of none. @param {number[]} values */
export function mean(values) {
  let total = 0;
  for (const value of values) total += value;
  return values.length ? total / values.length : NaN;
}

export class ScoreTable {
  /**
   * @param {string[]} tasks sorted
   * @param {string[]} methods sorted
   * @param {number[][][]} scores_TMS the scores of each (task, method), in the order of their seeds
   */
  constructor(tasks, methods, scores_TMS) {
    this.tasks = tasks;
    this.methods = methods;
    this.scores_TMS = scores_TMS;
    this.means_TM = scores_TMS.map((scores_MS) => scores_MS.map(mean));
  }

  /** @param {{task: string, method: string, seed: number, score: number}[]} rows finite scores */
  static of(rows) {
    const sorted = (name) => [...new Set(rows.map((row) => row[name]))].sort(byCodePoint);
    const [tasks, methods] = [sorted("task"), sorted("method")];
    const place = (names) => new Map(names.map((name, index) => [name, index]));
    const [taskPlace, methodPlace] = [place(tasks), place(methods)];
    const scores_TMS = tasks.map(() => methods.map(() => []));
    for (const row of [...rows].sort((a, b) => a.seed - b.seed)) {
      scores_TMS[taskPlace.get(row.task)][methodPlace.get(row.method)].push(row.score);
    }
    return new ScoreTable(tasks, methods, scores_TMS);
  }

  /** The part with the tasks on which every method has a score. */
  get common() {
    const complete = this.tasks.map((_, t) => t).filter((t) => this.scores_TMS[t].every((scores) => scores.length));
    this.commonTable ??= complete.length === this.tasks.length ? this : this.choose(complete);
    return this.commonTable;
  }

  /** The part with the tasks that have these indices. @param {number[]} tasks */
  choose(tasks) {
    return new ScoreTable(tasks.map((t) => this.tasks[t]), this.methods, tasks.map((t) => this.scores_TMS[t]));
  }

  /** {method: {column: value}}; a column is an array over methods, or one value. @param {Record<string, unknown>} columns */
  byMethod(columns) {
    const entry = (m) => Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, ArrayBuffer.isView(values) || Array.isArray(values) ? values[m] : values]));
    return Object.fromEntries(this.methods.map((method, m) => [method, entry(m)]));
  }

  /** {method: {other: {column: value}}} of different methods; a column is an array over M × M, or one value. */
  byPair(columns) {
    const num = this.methods.length;
    const entry = (index) => Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, ArrayBuffer.isView(values) || Array.isArray(values) ? values[index] : values]));
    return Object.fromEntries(this.methods.map((method, m) => [method,
      Object.fromEntries(this.methods.map((other, o) => [other, entry(m * num + o)]).filter(([other]) => other !== method))]));
  }
}
