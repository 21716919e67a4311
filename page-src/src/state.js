/**
 * What the page shows, kept in the location's hash, so that a link leads to the same view of the same subset:
 * #/VIEW/ARGUMENT?methods=a,b&tasks=x,y&…
 */

/** @typedef {{view: string, argument: string, options: URLSearchParams}} Place */

/** @returns {Place} */
export function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view, argument: decode(rest.join("/")), options: new URLSearchParams(query) };
}

/** Decode a part of the hash; a malformed one is taken as it is. @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The hash of a view that keeps the present subset and options. @param {string} view @param {string} [argument] */
export function link(view, argument = "", changes = {}) {
  const { options } = place();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") options.delete(name);
    else options.set(name, value);
  }
  const query = options.toString();
  const path = argument ? `${view}/${encodeURIComponent(argument)}` : view;
  return `#/${path}${query ? `?${query}` : ""}`;
}

/** Change options of the present view without a new entry in the history. @param {Record<string, string | null>} changes */
export function change(changes) {
  const { view, argument } = place();
  history.replaceState(null, "", link(view, argument, changes));
  dispatchEvent(new Event("hashchange"));
}

/**
 * The chosen names among all, in the order of all; every name if the option is absent or names none of them.
 * @param {"methods" | "tasks"} option
 * @param {string[]} all
 */
export function chosen(option, all) {
  const wanted = new Set(place().options.getAll(option));
  const names = all.filter((name) => wanted.has(name));
  return names.length ? names : all;
}

/** Choose a subset; all of them removes the option. @param {"methods" | "tasks"} option @param {string[]} names */
export function choose(option, names, all) {
  const { view, argument, options } = place();
  options.delete(option);
  if (names.length && names.length < all.length) for (const name of names) options.append(option, name);
  const query = options.toString();
  const path = argument ? `${view}/${encodeURIComponent(argument)}` : view;
  history.replaceState(null, "", `#/${path}${query ? `?${query}` : ""}`);
  dispatchEvent(new Event("hashchange"));
}

const THEME = "orca-ray-theme";

/** @returns {string} light, dark, or "" for the system's */
export function theme() {
  try {
    return localStorage.getItem(THEME) ?? "";
  } catch {
    return "";  // a browser may forbid storage to pages opened from disk
  }
}

/** @param {string} name */
export function setTheme(name) {
  try {
    localStorage.setItem(THEME, name);
  } catch {
    // the choice lasts until the page is closed
  }
  document.documentElement.dataset.theme = name;
}
