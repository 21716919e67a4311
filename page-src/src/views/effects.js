/** Whether aligning, pretraining and searching helped; effects of the factors of a grid. */
import { h } from "../dom.js";

/** @param {import("../board.js").Board} board */
export function effectsView(board) {
  return [h("h2", { tabindex: -1 }, "Effects"), String(board.methods.length)];
}
