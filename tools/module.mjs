/** What a module consists of. */
import { readFileSync } from "node:fs";

/**
 * Sizes, in bytes, of the functions of a module and of its other sections.
 *
 * @param {string} path of the module
 * @returns {{functions: [string, number][], sections: Map<string, number>}} the functions by their symbols, where the module has them
 */
export function sizes(path) {
  const bytes = readFileSync(path);
  let at = 8;
  const unsigned = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  const text = () => {
    const length = unsigned();
    return bytes.subarray(at, (at += length)).toString("utf8");
  };
  const bodies = [];
  const names = new Map();
  const sections = new Map();
  let imported = 0;
  const LABELS = { 2: "imports", 3: "function types", 7: "exports", 10: "code", 11: "data (texts, tables)" };
  while (at < bytes.length) {
    const id = bytes[at++];
    const end = unsigned() + at;
    const began = at;
    if (id === 2) {
      for (let count = unsigned(); count > 0; count--) {
        text();
        text();
        const kind = bytes[at++];
        if (kind !== 0) throw new Error("something else than a function is imported");
        unsigned();
        imported++;
      }
    } else if (id === 10) {
      for (let count = unsigned(); count > 0; count--) {
        const size = unsigned();
        bodies.push(size);
        at += size;
      }
    } else if (id === 0 && text() === "name") {
      while (at < end) {
        const kind = bytes[at++];
        const next = unsigned() + at;
        if (kind === 1) for (let count = unsigned(); count > 0; count--) names.set(unsigned(), text());
        at = next;
      }
    }
    at = end;
    if (id !== 0) sections.set(LABELS[id] ?? "other sections", (sections.get(LABELS[id] ?? "other sections") ?? 0) + end - began);
  }
  const functions = bodies.map((size, index) => [names.get(imported + index) ?? "other", size]);
  return { functions, sections };
}
