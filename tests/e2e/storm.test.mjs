/**
 * A short storm (see tests/storm/storm.mjs): everything fails at once, and the books balance. The environment variable
 * STORM_SEED repeats the plan of another one.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { printOutcome, runStorm } from "../storm/storm.mjs";

const SEED = Number(process.env.STORM_SEED ?? 402);

test("Whatever fails at once, nobody is served unpaid, and nobody pays for nothing", async () => {
  const outcome = await runStorm({ seconds: 10, seed: SEED });
  const { violations, tame, sums } = outcome;
  if (violations.length || tame.length) printOutcome(outcome);
  assert.deepEqual(violations.map(({ what }) => what), []);
  assert.deepEqual(tame, [], "too little happened to prove anything");
  assert.equal(sums.owed, 0);
});
