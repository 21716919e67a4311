/** The answers that a reader comes for, in sentences. */
import { h } from "./dom.js";

/** @param {import("./board.js").Board} board */
export function brief(board) {
  return h("div.brief", {}, h("p", {}, board.ranked[0] ?? "Nothing was run here yet."));
}
