/**
 * A short storm over a fleet (see tests/storm/fleet.mjs): each fault of etcd and of the proxies once, among some hundred payments,
 * and the books balance. The environment variable STORM_SEED repeats the plan of another one.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { printFleetOutcome, runFleetStorm } from "../storm/fleet.mjs";

const SEED = Number(process.env.STORM_SEED ?? 402);

test("Whatever fails of a fleet and its store, nobody is served twice, and nobody pays for nothing", async () => {
  const outcome = await runFleetStorm({ payments: 300, seed: SEED, brief: true });
  const { violations, sums, rows } = outcome;
  if (violations.length) printFleetOutcome(outcome);
  assert.deepEqual(violations.map(({ what }) => what), []);
  assert.ok(sums.delivered >= 250, `${sums.delivered} payments are too few to prove anything`);
  assert.ok(rows.every(({ recovery, left }) => left || recovery), "each proxy sold again behind each fault");
});
