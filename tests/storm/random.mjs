/** Randomness that a seed repeats, in whatever order things happen: each purpose draws from a source of its own. */
import { createHash } from "node:crypto";

/**
 * A source of randomness for one purpose.
 *
 * @param {...(string | number)} purpose the storm's seed, and what sets this source apart from all others
 * @returns {Random}
 *
 * @typedef {object} Random
 * @property {() => number} next at least 0, below 1
 * @property {(probability: number) => boolean} chance
 * @property {(from: number, to: number) => number} between a whole number; both ends may come
 * @property {<T>(list: T[]) => T} pick
 * @property {<T extends {weight: number}>(list: T[]) => T} draw picks one, each as often as its weight says
 * @property {(bytes: number) => string} hex 0x…, of 32 bytes at most
 */
export function randomOf(...purpose) {
  const digest = (...more) => createHash("sha256").update([...purpose, ...more].join("/")).digest();
  let state = digest().readUInt32BE(0);
  let serial = 0;
  // Mulberry32: small, and good enough to choose mischief by.
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const between = (from, to) => from + Math.floor(next() * (to - from + 1));
  return {
    next,
    between,
    chance: (probability) => next() < probability,
    pick: (list) => list[between(0, list.length - 1)],
    draw: (list) => {
      let at = next() * list.reduce((sum, { weight }) => sum + weight, 0);
      return list.find(({ weight }) => (at -= weight) < 0) ?? list.at(-1);
    },
    hex: (bytes) => `0x${digest("hex", ++serial).subarray(0, bytes).toString("hex")}`,
  };
}
