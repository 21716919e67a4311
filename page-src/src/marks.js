/** Colour, symbol and dash of each method: the same in every chart and subset, and distinct without colour. */
import * as Plot from "@observablehq/plot";

const NUM_COLOURS = 8;
const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye", "hexagon"];
const DASHES = ["", "6 3", "2 2", "8 3 2 3"];

/** @type {Map<string, number>} */
const places = new Map();

/** Give each method its place in the palette. @param {string[]} methods */
export function assign(methods) {
  methods.forEach((method, index) => places.set(method, index));
}

const place = (method) => places.get(method) ?? 6;

/** @param {string} method */
export const colour = (method) => `var(--c${place(method) % NUM_COLOURS})`;

/** @param {string} method */
export const symbol = (method) => SYMBOLS[(place(method) + Math.floor(place(method) / NUM_COLOURS)) % SYMBOLS.length];

/** Lines are solid until the palette begins again. @param {string} method */
export const dash = (method) => DASHES[Math.floor(place(method) / NUM_COLOURS) % DASHES.length];

/** The method's symbol in its colour, to stand beside its name. @param {string} method */
export function mark(method) {
  const svg = icon(symbol(method), colour(method));
  svg.setAttribute("class", "mark");
  return svg;
}

/** A small picture of a symbol, in front of other marks. @param {string} name @param {string} fill */
export function icon(name, fill, width = 14, behind = []) {
  const dot = Plot.dot([0], { x: 0, y: 0, r: 4.6, symbol: name, fill });
  const svg = Plot.plot({ width, height: 14, margin: 0, axis: null, x: { domain: [-1, 1] }, y: { domain: [-1, 1] }, className: "m", marks: [...behind, dot] });
  svg.setAttribute("aria-hidden", "true");
  svg.querySelector("style")?.remove();
  return svg;
}
