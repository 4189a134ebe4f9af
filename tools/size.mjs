/**
 * Prints the sizes of modules, and fails if one is too large: `node tools/size.mjs MODULE:BYTES…`.
 *
 * Functions are looked at, too: Envoy keeps the memory that V8 took for compiling the largest.
 */
import { statSync } from "node:fs";
import { sizes } from "./module.mjs";

const MOST_OF_A_FUNCTION = 16 * 1024;

let isTooLarge = false;
const complain = (text) => {
  console.error(text);
  isTooLarge = true;
};
for (const limit of process.argv.slice(2)) {
  const [path, most] = limit.split(":");
  const bytes = statSync(path).size;
  const largest = Math.max(...sizes(path).functions.map(([, size]) => size));
  console.log(`${path}: ${bytes} bytes of ${most}, the largest function has ${largest} of ${MOST_OF_A_FUNCTION}`);
  if (bytes > Number(most)) complain(`That is more than ${most}.`);
  if (largest > MOST_OF_A_FUNCTION) complain("That function is too large; `make profile` names the largest: keep what it calls from being inlined.");
}
process.exitCode = isTooLarge ? 1 : 0;
