/** What the page shows, kept in the location's hash: #/VIEW/ARGUMENT?methods=a&methods=b&tasks=x&… leads to the same view again. */

/** @returns {{view: string, argument: string, options: URLSearchParams}} */
export function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  // Unlike decodeURIComponent, a query takes a malformed text as it is.
  return { view, argument: new URLSearchParams(`of=${rest.join("/").replaceAll("+", "%2B")}`).get("of"), options: new URLSearchParams(query) };
}

/** The hash of a view with the present options, some of them changed: to a text, several texts, or null. @param {Record<string, string | string[] | null>} changes */
export function link(view, argument = "", changes = {}) {
  const { options } = place();
  for (const [name, value] of Object.entries(changes)) {
    options.delete(name);
    for (const each of [value || []].flat()) options.append(name, each);
  }
  const query = String(options);
  return `#/${view}${argument && `/${encodeURIComponent(argument)}`}${query && `?${query}`}`;
}

/** Change options of the present view without a new entry in the history. @param {Record<string, string | string[] | null>} changes */
export function change(changes) {
  const { view, argument } = place();
  history.replaceState(null, "", link(view, argument, changes));
  dispatchEvent(new Event("hashchange"));
}

/** The chosen names in the order of all; every name if the link names none of them, and no name if the option is empty. @param {"methods" | "tasks"} option @param {string[]} all */
export function chosen(option, all) {
  const wanted = place().options.getAll(option);
  const names = all.filter((name) => wanted.includes(name));
  return names.length || wanted.includes("") ? names : all;
}

/** Choose a subset; all of them need no option. @param {"methods" | "tasks"} option @param {string[]} names @param {string[]} all */
export const choose = (option, names, all) => change({ [option]: names.length === all.length ? null : names.length ? names : [""] });
