/** Plain, well-laid-out text for a terminal; colour only where someone can see it (and NO_COLOR is not set). */
const colourful = process.stdout.isTTY && !process.env.NO_COLOR && process.env.TERM !== "dumb";
const paint = (code) => (text) => (colourful ? `\x1b[${code}m${text}\x1b[0m` : text);

/** Each takes a text and gives it back painted, or as it was. */
export const bold = paint(1);
export const dim = paint(2);
export const green = paint(32);
export const red = paint(31);

const WIDTH = 78;
const LABEL = 12;

/** @param {string} [text] printed as a line */
export const line = (text = "") => console.log(text);

/**
 * Prints the heading of a step, with how long it took at the right margin.
 *
 * @param {number} number
 * @param {string} title
 * @param {number} [ms]
 */
export function step(number, title, ms) {
  const time = ms === undefined ? "" : `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  line();
  line(`${bold(`${number}  ${title}`)}${dim(time.padStart(WIDTH - 3 - title.length))}`);
}

/**
 * Prints a labelled value below a heading.
 *
 * @param {string} label
 * @param {string} value
 */
export const item = (label, value) => line(`   ${dim(label.padEnd(LABEL))} ${value}`);

/**
 * Shortens a long hexadecimal string: 0x1234abcd…9876fedc.
 *
 * @param {string} hex
 * @returns {string}
 */
export const short = (hex) => (hex.length <= 22 ? hex : `${hex.slice(0, 10)}…${hex.slice(-8)}`);
