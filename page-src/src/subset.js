/** The choice of methods and tasks, on which every number of the page is computed. */
import { h } from "./dom.js";
import { mark } from "./marks.js";
import { choose } from "./state.js";

/** @param {import("./board.js").Board} board @param {boolean} open */
export function subset(board, open) {
  const count = (shown, all, noun) => (all === 1 ? `1 ${noun}` : shown === all ? `all ${all} ${noun}s` : `${shown} of ${all} ${noun}s`);
  const methods = count(board.methods.length, board.data.methods.length, "method");
  const tasks = count(board.tasks.length, board.data.tasks.length, "task");
  return h("details.subset", { open }, h("summary", { id: "subset" }, `Choose methods and tasks (${methods}, ${tasks})`),
    group("methods", "Methods", board.data.methods.map((each) => each.name), board.methods, (name) => [mark(name), name]),
    group("tasks", "Tasks", board.data.tasks.map((each) => each.name), board.tasks, (name) => board.label(name)));
}

function group(option, legend, all, chosen, show) {
  const toggle = (name, checked) => choose(option, all.filter((each) => (each === name ? checked : chosen.includes(each))), all);
  return h("fieldset", {}, h("legend", {}, legend, chosen.length === 1 && " – choose at least one"),
    all.map((name, index) => h("label.chip", {},
      h("input", { type: "checkbox", id: `${option}-${index}`, value: name, checked: chosen.includes(name), disabled: chosen.length === 1 && chosen.includes(name), onchange: (event) => toggle(name, event.target.checked) }),
      show(name))),
    h("button.small", { type: "button", id: `${option}-all`, onclick: () => choose(option, all, all), disabled: chosen.length === all.length }, "All"));
}
