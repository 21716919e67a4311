/** Formats numbers for people. */

export const MISSING = "–";

/** Shows a dash for a value that is missing. @param {(value: number, ...rest: unknown[]) => string} show */
const known = (show) => (value, ...rest) => (Number.isNaN(value ?? NaN) ? MISSING : show(value, ...rest));

/** A number with decimals; of two that are equally near, the even one, as Python rounds. @param {number} value @param {number} digits */
export function fixed(value, digits) {
  const exact = value.toFixed(digits + 30);
  const [kept, rest] = [exact.slice(0, -30).replace(/\.$/, ""), exact.slice(-30)];
  return /^50*$/.test(rest) && Number(kept.at(-1)) % 2 === 0 ? kept : value.toFixed(digits);
}

/** A score: four significant digits, or an exponent if very small or large. @param {number | null} value */
export const score = known((value) => {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
  return fixed(value, size >= 1000 ? 1 : size >= 100 ? 2 : size >= 10 ? 3 : 4);
});

/** A short number such as a rank or ratio. @param {number | null} value */
export const short = known((value, digits = 2) => {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Math.abs(value) >= 100 && Math.abs(value) < 1e5) return String(Math.round(value)).replace("-", "−");
  const text = Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 10 ** -digits) ? value.toPrecision(2) : fixed(value, digits);
  return text.replace("-", "−");
});

/** An interval. @param {number | null} low @param {number | null} high */
export const range = (low, high, digits = 2) => (Number.isFinite(low) && Number.isFinite(high) ? `${short(low, digits)} – ${short(high, digits)}` : MISSING);

/** An interval of ratios, with a digit more where an end would look like 1. @param {number} low @param {number} high */
export function ratios(low, high, digits = 2) {
  const hidden = [low, high].some((end) => end !== 1 && fixed(end, digits) === fixed(1, digits));
  return range(low, high, hidden && digits < 6 ? digits + 1 : digits);
}

/** A p-value. @param {number} value */
export const pValue = known((value) => (value < 0.001 ? "<0.001" : fixed(value, 3)));

/** A share as per cent. @param {number} value */
export const percent = known((value, digits = 0) => `${fixed(100 * value, digits).replace("-", "−")} %`);

/** Seconds as a duration, as the command line writes it: "8.4 s", "3 min 05 s", "2 h 07 min". @param {number | null} seconds */
export const duration = known((seconds) => {
  if (seconds < 0.1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 59.95) return `${fixed(seconds, 1)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  return whole < 3600 ? `${Math.floor(whole / 60)} min ${two(whole % 60)} s` : `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
});

/** A count such as 7.14M. @param {number | null} value */
export const count = known((value) => value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 3 }));

/** Memory in MiB. @param {number | null} value */
export const memory = known((value) => (value >= 2048 ? `${(value / 1024).toFixed(1)} GiB` : `${Math.round(value)} MiB`));

/** A text of at most `room` characters. @param {string} text @param {number} room */
export const clip = (text, room) => (text.length > room ? `${text.slice(0, Math.max(4, Math.floor(room) - 1))}…` : text);

/** A list as English text. @param {string[]} items */
export const list = (items, last = "and") =>
  items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} ${last} ${items.at(-1)}`;

/** "the only task", "all 2 tasks". @param {number} number @param {string} noun */
export const all = (number, noun) => (number === 1 ? `the only ${noun}` : `all ${number} ${noun}s`);

/** "1 task", "2 tasks". @param {number} number @param {string} noun */
export const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
