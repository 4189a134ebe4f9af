/** `benches/RESULTS.md`, of which each script writes its own part, and charts. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "../stage/processes.mjs";

const FILE = join(checkout, "benches", "RESULTS.md");
const PARTS = ["bench", "carry", "channels", "fleet", "sdk", "growth", "worst", "profile"];
const HEADING = `# Results

Written by \`make bench\`, \`make growth\` and \`make profile\`: each writes its own part anew. Figures of one part
come from one run on one machine. The facilitator is a stub that says yes at once and moves no money, so that what is
measured is the gateway and not a chain; a real facilitator takes longer than everything here together.
`;

/** Puts a part of RESULTS.md in the place of its last version. */
export function writePart(name, text) {
  const now = existsSync(FILE) ? readFileSync(FILE, "utf8") : "";
  const part = (one) => (one === name ? `<!-- ${one} -->\n\n${text.trim()}\n\n<!-- end of ${one} -->` : new RegExp(`<!-- ${one} -->[^]*?<!-- end of ${one} -->`).exec(now)?.[0]);
  writeFileSync(FILE, `${[HEADING, ...PARTS.map(part).filter(Boolean)].join("\n")}\n`);
}

/** A table in Markdown. Columns whose heading ends with a colon are numbers. */
export function table(headings, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const names = headings.map((heading) => heading.replace(/:$/, ""));
  return [line(names), line(headings.map((heading) => (heading.endsWith(":") ? "--:" : "---"))), ...rows.map(line)].join("\n");
}

/** Thousands are set apart. */
export const grouped = (number, digits = 0) => number.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const FONT = 'font-family="ui-sans-serif, system-ui, sans-serif"';
const INKS = ["#2563eb", "#d97706", "#059669", "#9333ea"];

function svg(name, width, height, title, shapes) {
  const text = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" ${FONT} font-size="12">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    `<text x="16" y="26" font-size="15" font-weight="600" fill="#111827">${escaped(title)}</text>`,
    ...shapes,
    "</svg>",
  ];
  writeFileSync(join(checkout, "benches", name), `${text.join("\n")}\n`);
}

/**
 * Horizontal bars, group by group, each group to a scale of its own.
 *
 * @param {string} name of the file
 * @param {string} title
 * @param {{title: string, bars: {label: string, value: number, low: number, high: number, ours: boolean}[]}[]} groups
 */
export function writeBars(name, title, groups) {
  const [left, right, row] = [330, 820, 22];
  const shapes = [];
  let y = 44;
  for (const { title: heading, bars } of groups) {
    y += 20;
    shapes.push(`<text x="16" y="${y}" font-weight="600" fill="#374151">${escaped(heading)}</text>`);
    const most = Math.max(...bars.map(({ high }) => high));
    const at = (value) => (left + ((right - left) * value) / most).toFixed(1);
    for (const { label, value, low, high, ours } of bars) {
      y += row;
      shapes.push(
        `<text x="${left - 10}" y="${y}" text-anchor="end" fill="#374151">${escaped(label)}</text>`,
        `<rect x="${left}" y="${y - 12}" width="${(at(value) - left).toFixed(1)}" height="16" rx="2" fill="${ours ? INKS[0] : "#9ca3af"}"/>`,
        `<path d="M${at(low)} ${y - 4}H${at(high)}" stroke="#111827" stroke-width="1.5"/>`,
        `<text x="${right + 12}" y="${y}" fill="#111827">${grouped(value)}</text>`,
      );
    }
    y += 10;
  }
  svg(name, 900, y + 20, title, shapes);
}

/**
 * Lines over a numeric axis.
 *
 * @param {string} name of the file
 * @param {string} title
 * @param {{x: string, y: string, logarithmic?: boolean}} axes
 * @param {{label: string, points: [number, number][]}[]} lines
 */
export function writeLines(name, title, axes, lines) {
  const [width, height, left, right, top, bottom] = [720, 340, 80, 560, 50, 290];
  const points = lines.flatMap((line) => line.points);
  const scale = axes.logarithmic ? (x) => Math.log10(Math.max(x, 1)) : (x) => x;
  const xs = points.map(([x]) => scale(x));
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const most = Math.max(...points.map(([, y]) => y)) * 1.1;
  const atX = (x) => (left + ((right - left) * (scale(x) - first)) / (last - first || 1)).toFixed(1);
  const atY = (y) => (bottom - ((bottom - top) * y) / most).toFixed(1);
  const shapes = [`<path d="M${left} ${top}V${bottom}H${right}" fill="none" stroke="#9ca3af"/>`];
  for (let step = 0; step <= 4; step++) {
    const value = (most * step) / 4;
    shapes.push(
      `<path d="M${left} ${atY(value)}H${right}" stroke="#e5e7eb"/>`,
      `<text x="${left - 8}" y="${Number(atY(value)) + 4}" text-anchor="end" fill="#6b7280">${grouped(value, most < 20 ? 1 : 0)}</text>`,
    );
  }
  const marks = [...new Set(points.map(([x]) => x))].sort((a, b) => a - b);
  const some = marks.length <= 8 ? marks : marks.filter((_, index) => index % Math.ceil(marks.length / 6) === 0);
  for (const x of some) shapes.push(`<text x="${atX(x)}" y="${bottom + 18}" text-anchor="middle" fill="#6b7280">${grouped(x)}</text>`);
  shapes.push(
    `<text x="${(left + right) / 2}" y="${bottom + 38}" text-anchor="middle" fill="#374151">${escaped(axes.x)}</text>`,
    `<text x="${left - 64}" y="${top - 8}" fill="#374151">${escaped(axes.y)}</text>`,
  );
  for (const [index, { label, points: list }] of lines.entries()) {
    const ink = INKS[index % INKS.length];
    shapes.push(
      `<path d="M${list.map(([x, y]) => `${atX(x)} ${atY(y)}`).join("L")}" fill="none" stroke="${ink}" stroke-width="2"/>`,
      ...(list.length <= 12 ? list.map(([x, y]) => `<circle cx="${atX(x)}" cy="${atY(y)}" r="3" fill="${ink}"/>`) : []),
      `<rect x="${right + 16}" y="${top + index * 20}" width="10" height="10" fill="${ink}"/>`,
      `<text x="${right + 32}" y="${top + 9 + index * 20}" fill="#374151">${escaped(label)}</text>`,
    );
  }
  svg(name, width, height, title, shapes);
}
