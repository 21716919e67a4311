/** Pictures of what a trained model does, drawn from the numbers in artefacts (orca_ray/results/artefacts.py). */
import * as Plot from "@observablehq/plot";
import { extent } from "d3-array";
import { rgb } from "d3-color";
import { interpolateGreys, interpolateRdBu, interpolateViridis } from "d3-scale-chromatic";
import { axes, chart, chartWidth, icon } from "./charts.js";
import { h } from "./dom.js";
import * as format from "./format.js";

const SHADES = { sequential: interpolateViridis, diverging: (t) => interpolateRdBu(1 - t), grey: (t) => interpolateGreys(1 - t) };
const SYMBOLS = ["circle", "triangle", "square", "diamond"];
const shade = (index) => `var(--c${index % 8})`;

/** @param {object[]} artefacts payloads with a form */
export function pictures(artefacts) {
  // Single images stand beside each other, after the rest.
  const single = (picture) => picture.form === "images" && picture.panels?.length === 1;
  const images = artefacts.filter(single);
  return [draw(artefacts.filter((each) => !single(each))), images.length > 0 && h("div.small-charts", {}, draw(images))];
}

function draw(artefacts) {
  return artefacts.map((picture) => {
    let drawn;
    try {
      drawn = DRAW[picture.form](picture);
    } catch {
      drawn = h("p.note", {}, "This picture is damaged, or of a newer orca-ray.");
    }
    return h("figure", { "aria-label": picture.title }, h("figcaption", {}, h("h3", {}, picture.title), picture.caption && h("p.note", {}, picture.caption)), drawn);
  });
}

/** @type {Record<string, (picture: object) => Node | Node[]>} */
const DRAW = { images, lines, points, matrix, bars };

/** The numbers of a quantised array, row-major. @param {{low: number, high: number, data: string}} values */
const decode = ({ low, high, data }) =>
  Float64Array.from(atob(data), (character) => low + ((high - low) * character.charCodeAt(0)) / 255);

function images({ panels }) {
  return h("div.pictures", {}, panels.map((panel) => h("div", {}, h("p.note", {}, panel.title), image(panel), panel.scale !== "colour" && scale(panel))));
}

/** @returns {(value: number) => [number, number, number]} */
function shading({ scale: name, values: { low, high } }) {
  const reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const place = name === "diverging" ? (value) => 0.5 + value / (2 * reach) : (value) => (value - low) / (high - low || 1);
  const table = Array.from({ length: 256 }, (_, index) => rgb((SHADES[name] ?? SHADES.sequential)(index / 255))).map(({ r, g, b }) => [r, g, b]);
  return (value) => table[Math.round(255 * Math.min(Math.max(place(value), 0), 1))];
}

/** A canvas with the colour of each place, row-major. @param {(place: number) => number[]} colour red, green and blue */
function painted(spec, [height, width], attributes, colour) {
  const canvas = h(spec, { width, height, ...attributes });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let place = 0; place < width * height; place += 1) pixels.data.set([...colour(place), 255], 4 * place);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function image(panel) {
  const values = decode(panel.values);
  const { low, high, shape } = panel.values;
  const of = shading(panel);
  const parts = (place) => [0, 1, 2].map((part) => (255 * (values[3 * place + part] - low)) / (high - low || 1));
  return painted("canvas", shape, { role: "img", "aria-label": panel.title }, panel.scale === "colour" ? parts : (place) => of(values[place]));
}

/** The colours between the lowest and the highest value. */
function scale(panel) {
  const { low, high } = panel.values;
  const of = shading(panel);
  const strip = painted("canvas.strip", [1, 128], { "aria-hidden": "true" }, (place) => of(low + ((high - low) * place) / 127));
  return h("div.colours", {}, h("span", {}, format.score(low)), strip, h("span", {}, format.score(high)));
}

const key = (titles, marker) => h("div.legend", {}, titles.map((title, index) => h("span", {}, marker(index), title)));
const swatch = (index, symbol = "square") => icon(symbol, shade(index));

function lines({ x, series, title }) {
  const marks = series.map(({ values }, index) => Plot.lineY(Array.from(decode(values)), { stroke: shade(index), strokeWidth: 1.5 }));
  return [key(series.map((each) => each.title), swatch), chart({ height: 220, x: { label: x }, y: { label: null, nice: true }, marks: [...axes(), ...marks], ariaLabel: title })];
}

function points({ x, y, panels, diagonal, title }) {
  const drawn = panels.map((panel) => ({ ...panel, groups: panel.groups.map((group) => ({ ...group, xs: decode(group.x), ys: decode(group.y) })) }));
  const titles = [...new Set(drawn.flatMap((panel) => panel.groups.map((group) => group.title)))];
  const all = (name) => drawn.flatMap((panel) => panel.groups.flatMap((group) => Array.from(group[name])));
  const [across, up] = diagonal ? [extent([...all("xs"), ...all("ys")]), extent([...all("xs"), ...all("ys")])] : [extent(all("xs")), extent(all("ys"))];
  const width = chartWidth(Math.min(panels.length, 2));
  return [key(titles, (index) => swatch(index, SYMBOLS[index % SYMBOLS.length])), h("div.charts", {}, drawn.map((panel) => h("div", {}, h("p.note", {}, panel.title), chart({
    width: Math.min(width, 520), height: 320, x: { label: x, domain: across, nice: true }, y: { label: y, domain: up, nice: true },
    marks: [
      ...axes({ ticks: 5 }, { ticks: 5 }),
      diagonal && Plot.line([[across[0], across[0]], [across[1], across[1]]], { stroke: "var(--muted)", strokeDasharray: "4 3" }),
      ...panel.groups.map((group) => {
        const place = titles.indexOf(group.title);
        return Plot.dot(group.xs, { x: group.xs, y: group.ys, r: 2.6, symbol: SYMBOLS[place % SYMBOLS.length], fill: shade(place), fillOpacity: 0.65, title: group.classes ? (_, index) => `${group.title}, class ${group.classes[index]}` : () => group.title });
      }),
    ],
    ariaLabel: `${title}: ${panel.title}`,
  }))))];
}

const LABELLED = 16;

function matrix({ rows, columns, counts, title }) {
  const cells = counts.flatMap((row, y) => {
    const total = row.reduce((sum, count) => sum + count, 0) || 1;
    return row.map((count, x) => ({ x, y, count, share: count / total, text: `${rows} ${y}, ${columns} ${x}: ${count}` }));
  });
  const size = Math.min(chartWidth(), Math.max(260, Math.min(560, 60 + 34 * counts.length)));
  const labelled = counts.length <= LABELLED;
  const strongest = labelled ? 0.5 : 1;  // numbers are readable on half of the tint, in both themes
  const ticks = labelled ? undefined : Array.from({ length: counts.length }, (_, index) => index).filter((index) => index % Math.ceil(counts.length / 10) === 0);
  return chart({
    width: size, height: size, marginTop: 10, x: { label: columns, type: "band", ticks, labelArrow: "none" }, y: { label: rows, type: "band", ticks, labelArrow: "none" },
    marks: [
      Plot.cell(cells, { x: "x", y: "y", fill: "var(--tint)", fillOpacity: ({ share }) => strongest * share, inset: labelled ? 1 : 0, title: "text" }),
      labelled && Plot.text(cells.filter(({ count }) => count), { x: "x", y: "y", text: "count", fill: "var(--ink)", pointerEvents: "none" }),
    ],
    ariaLabel: title,
  });
}

function bars({ x, series, title }) {
  const values = series.flatMap(({ values: own, title: name }, group) => own.map((value, item) => ({ item, value, group, text: `${name}, ${x} ${item}: ${format.score(value)}` }))).filter(({ value }) => value !== null);
  return [series.length > 1 ? key(series.map((each) => each.title), (index) => swatch(index, SYMBOLS[index % SYMBOLS.length])) : "", chart({
    height: 240, x: { label: x, type: "point" }, y: { label: series.length > 1 ? null : series[0].title, nice: true, zero: true },
    marks: [
      ...axes({ ticks: 10 }, {}),
      Plot.ruleX(values, { x: "item", y: "value", stroke: "var(--line)", strokeWidth: 2 }),
      Plot.dot(values, { x: "item", y: "value", symbol: ({ group }) => SYMBOLS[group % SYMBOLS.length], fill: ({ group }) => shade(group), r: 4, title: "text" }),
    ],
    ariaLabel: title,
  })];
}
