/** Payments out of channels through the filter: the official client, the official facilitator, and our contracts on a real chain. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, eventually, everyWorkerSells, openBackends, openGateway, since } from "./support.mjs";
import { channelOf, channelsOn, channelIdOf, freshSalt, makeChannelPayer, signChannelPayment } from "./channels-support.mjs";

const entry = (more = {}) => [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC", ...more }];
const plugin = {
  facilitator: { timeout: "5s" },
  defaults: DEFAULTS,
  channels: { claim_every: "5s" },
  routes: [
    { name: "fixed", match: { path: "/any/{*rest}" }, price: "$0.01", accepts: entry() },
    { name: "flat", match: { path: "/flat/{*rest}" }, price: "$0.10", accepts: entry({ min_deposit: "$1" }), settlement_overrides: true },
  ],
  unmatched: "free",
};

const backends = await openBackends({ chunkDelay: 2 });
const gateway = await openGateway(backends, { plugin, concurrency: 2, allowOnHeadersStopIteration: true });
const chain = channelsOn(backends.chain);
await everyWorkerSells(gateway, "/any/x");

/** Waits until what is charged is claimed: the keeper looks through the ledger every eight seconds. */
const settled = (mark, count) =>
  eventually(async () => mark.calls("/settle").filter(({ answer }) => answer).length >= count, "it is claimed and paid out", 40_000);

test("A deposit and four vouchers are one transaction, and are claimed in the background", async () => {
  const payer = makeChannelPayer({ chain: backends.chain });
  const mark = await since(gateway);
  for (let call = 1; call <= 5; call++) {
    const response = await payer.fetch(`${gateway.url}/any/x`);
    assert.equal(response.status, 200);
    const { receipt } = payer.exchanges.at(-1);
    assert.equal(receipt.success, true);
    assert.equal(receipt.extra.channelState.chargedCumulativeAmount, String(10_000 * call));
    assert.equal(receipt.extra.chargedAmount, "10000");
    assert.equal(receipt.amount, call === 1 ? "100000" : "");
  }
  assert.deepEqual([mark.calls("/verify").length, mark.calls("/settle").length], [1, 1]);
  await settled(mark, 3);
  const [, claim, payout] = mark.calls("/settle");
  assert.equal(claim.request.paymentPayload.payload.type, "claim");
  assert.equal(payout.answer.amount, "50000");
});
