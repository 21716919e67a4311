/** Whether aligning, pretraining and searching helped; effects of the factors of a grid. */
import { plainTable, h } from "../dom.js";
import { ratioFigure, versus } from "../charts.js";
import * as format from "../format.js";
import { intervalText, sentence } from "../brief.js";
import { LEVEL } from "../statistics.js";

export function effectsView(board) {
  const answers = board.results.answers;
  const { effects } = board.data;
  return [
    h("h2", { tabindex: -1 }, "What helped"),
    h("p.note", {}, "Scores of two methods are paired by task; a ratio below 1 means that the first has the lower, better score. ",
      "Filled: the 95 % interval excludes 1. Helped or did harm in words: at the 5 % level over all questions, and on single tasks over all tasks of the question (Holm). The verdicts under Differences are adjusted for the number of pairs, so they may call the same two methods not separable. ",
      "Intervals are Student's, of the logarithms of the ratios", board.spread && ": over all tasks from their deviation over tasks, on one task from the noise over seeds, for this test set", "."),
    answers.some(({ name }) => name !== "searching") && h("p.note", {}, "Each method has its own scored configuration, so learning rates may differ, too: these answers compare methods, not the stage alone. For the stage alone, see the effects of a grid sweep."),
    answers.length || effects ? null : h("p", {}, "This board has no pair of methods that differ in just aligning, pretraining, the body or searching."),
    [...Map.groupBy(answers, (answer) => (answer.name === "searching" ? answer.name : `${answer.name} ${answer.subject}`)).values()].map((group) => question(board, ...group)),
    importance(board),
    effects && factors(board, effects),
  ];
}

/** The answer on each task and over all; further answers, for single methods, are rows of their own. */
function question(board, answer, ...further) {
  const rows = Object.entries(answer.tasks).map(([task, ratio]) => ({ label: board.label(task), ...ratio })).sort((a, b) => a.value - b.value);
  rows.push({ label: format.all(answer.pairs, "task"), ...answer.ratio, whole: true }, ...further.map((each) => ({ label: `${each.subject}, all`, ...each.ratio, whole: true })));
  const note = [sentence(board, answer), caution(answer), answer.name === "searching" && covered(board, answer)];
  const title = `${answer.question}${answer.subject ? ` (${answer.subject})` : ""}`;
  return ratioFigure(rows, { title, note, ...versus(answer.method, answer.reference) }, (row) => intervalText(row, answer.name));
}

/** That an interval that excludes 1 is no clear answer, because it is not adjusted. */
const caution = ({ ratio: { low, high, adjusted_p: p } }) => (p > LEVEL && (low > 1 || high < 1) ? " The interval is for this one question; with correction for all questions the effect is not clear." : "");

/** Which of the chosen tasks the question about searching covers. */
function covered(board, { tasks }) {
  const found = board.tasks.filter((task) => task in tasks);
  if (found.length === board.tasks.length) return "";
  return ` It covers only the tasks with a search of two or more trials, ${found.length} of ${board.tasks.length}: ${format.list(found.map((task) => board.label(task)))}.`;
}

/** Which hyper-parameters the validation scores of the searches depend on; of all tasks of the board. */
function importance(board) {
  const rows = board.data.importance.filter((row) => board.methods.includes(row.method) && row.value !== null);
  if (!rows.length) return null;
  return h("div.panel", {}, h("h3", {}, "Which hyper-parameters mattered"),
    h("p.note", {}, board.definition("importance"), " Computed on all tasks of the board."),
    plainTable(["Hyper-parameter", "Method", "Share of variance", "p", "Trials", "Tasks"],
      rows.map((row) => [h("code", {}, row.hyperparameter), row.method, format.percent(Math.max(row.value, 0)), format.pValue(row.p ?? NaN), row.num_trials, row.num_tasks])));
}

/** The main effect of each factor of a grid on each task, and tables of all its comparisons and scores. */
function factors(board, { main, tables }) {
  const figures = Object.entries(main).map(([factor, { baseline, comparisons }]) => {
    const rows = comparisons.flatMap(({ level, ratio, tasks }) => [
      ...Object.entries(tasks).map(([task, each]) => ({ label: `${level}: ${board.label(task)}`, ...each })),
      { label: `${level}: all tasks`, ...ratio, whole: true },
    ]);
    return ratioFigure(rows, { title: `Effect of ${factor}, relative to ${baseline}`, first: "Level and task", label: `score relative to ${factor} ${baseline}`, better: "better", worse: `${baseline} better` });
  });
  // Python marks what differs beyond noise with asterisks.
  const marked = (text) => (text.startsWith("*") ? h("b", {}, text.replaceAll("*", "")) : text);
  return [figures, tables.map(({ title, rows: [head, ...rows] }) => h("details.panel", {}, h("summary", {}, title), plainTable(head, rows.map((row) => row.map(marked)))))];
}
