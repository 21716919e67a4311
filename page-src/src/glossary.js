/** What words of this page mean. */
import { h } from "./dom.js";

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
export const glossary = (data) => data.sweep && h("details", {}, h("summary", {}, "Words used on this page"),
  h("dl.facts", {}, Object.entries(WORDS).map(([word, meaning]) => [h("dt", {}, word), h("dd", {}, meaning)])));
