/** Which methods the scores separate. */
import { h } from "../dom.js";

/** @param {import("../board.js").Board} board */
export function differencesView(board) {
  return [h("h2", { tabindex: -1 }, "Differences"), String(board.methods.length)];
}
