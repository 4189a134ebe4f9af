/**
 * Hostile payers with channels, against two workers on a real chain: who tries to be served for money that is not there, that
 * is already given back, or that has paid once; and who fills the ledger with what is worth nothing.
 *
 * The facilitator is the official one, behind a relay that delays its answers where a test says so.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { accounts } from "../../stage/accounts.mjs";
import { sendJson } from "../../stage/servers.mjs";
import { channelEntry, channelIdOf, channelOf, channelsOn, freshSalt, signChannelPayment } from "./channels-support.mjs";
import {
  ask, DEFAULTS, encoded, eventually, latch, openBackends, openGateway, pay, payerAccount, payTo, paying, send, since,
} from "./support.mjs";

const PRICE = 10_000n;
const SECRET = "a secret of the tests' own";
const accepts = [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }];
const backends = await openBackends({ balances: { [payerAccount.address]: 1_000_000_000n } });
const on = channelsOn(backends.chain);
const gateway = await openGateway(backends, {
  facilitator: "fake",
  plugin: {
    facilitator: { timeout: "5s" },
    defaults: DEFAULTS,
    channels: { claim_every: "1s", claim_above: "$100", flush: { path: "/internal/flush", secret: SECRET } },
    routes: [
      { name: "any", match: { path: "/any/{*rest}" }, price: "$0.01", accepts },
      { name: "dear", match: { path: "/dear/{*rest}" }, price: "$0.02", accepts },
      {
        name: "chat",
        match: { methods: ["POST"], path: "/v1/chat/completions" },
        price: { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } }, max_output_tokens: 1000 },
        accepts: [{ ...accepts[0], min_deposit: "$0.10" }],
      },
    ],
    unmatched: "free",
  },
  concurrency: 2,
  allowOnHeadersStopIteration: true,
});
const { fake } = gateway;

/** Asks the official facilitator. */
const official = async (path, body) => {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return (await fetch(backends.facilitator.url + path, body ? post : {})).json();
};
for (const path of ["/supported", "/verify", "/settle"]) fake.always(path, async (body) => ({ json: await official(path, body) }));
await eventually(
  async () => (await Promise.all([1, 2, 3, 4].map(() => ask(gateway, "/any/x")))).every(({ status }) => status === 402),
  "every worker knows who authorizes claims",
);

const entry = channelEntry(String(PRICE));
const sign = (salt, total, more = {}) => signChannelPayment(entry, { total, config: { salt, ...more.config }, ...more });

/** A channel that its payer has put money into by itself: the gateway has never heard of it. */
async function depositedAlone(amount) {
  const salt = freshSalt();
  await on.deposit((await sign(salt, PRICE, { type: "deposit", amount })).payload);
  return salt;
}

/** A channel that is opened by its first request. */
async function opened(amount = 200_000) {
  const salt = freshSalt();
  const answer = await pay(gateway, "/any/x", await sign(salt, PRICE, { type: "deposit", amount }));
  assert.equal(answer.status, 200, answer.text);
  return salt;
}

const idOf = (salt) => channelIdOf(channelOf(entry, { salt }));
const REASON = "invalid_batch_settlement_evm_";

/** A figure of Envoy's stats, once the keeper has been through the whole ledger. */
async function statOf(name) {
  const stats = await gateway.envoy.stats(`x402.${name}`);
  return Object.entries(stats).filter(([key]) => key.includes(`x402.${name}.`)).reduce((sum, [, value]) => sum + value, 0);
}

// ---- What is given back ---------------------------------------------------------------------------------------------

test("A request that was verified before a refund is not served out of what the refund has given back", async () => {
  const salt = await depositedAlone(1_000_000);
  const [refunding, answering] = [latch(), latch()];
  fake.script("/settle", async (body) => {
    await refunding.opened;
    return { json: await official("/settle", body) };
  });
  // The facilitator looks at the channel at once, and its answer takes its time.
  fake.script("/verify", async (body) => ({ json: await official("/verify", body), hold: answering.opened }));
  const mark = await since(gateway);
  const voucher = pay(gateway, "/any/x", await sign(salt, PRICE));
  await eventually(() => mark.calls("/verify").length === 1, "the voucher is verified");
  await sleep(100);
  const refund = pay(gateway, "/any/x", await sign(salt, 0, { type: "refund" }));
  await eventually(() => mark.calls("/settle").length === 1, "the refund is asked for");
  answering.open();
  await sleep(200);
  refunding.open();
  assert.equal((await refund).status, 200);
  assert.equal((await on.read(idOf(salt))).balance, 0n);
  const answer = await voucher;
  assert.equal(answer.status, 402, "it is served out of an empty channel");
  assert.equal(answer.terms.error, `${REASON}cumulative_exceeds_balance`);
  for (const total of [PRICE, 2n * PRICE]) assert.equal((await pay(gateway, "/any/x", await sign(salt, total))).status, 402);
  assert.deepEqual(mark.seen(), []);
});

// ---- What fills the ledger ------------------------------------------------------------------------------------------

test("A deposit does not vouch for what was charged before it: nothing that cannot be claimed stays in the ledger", async () => {
  const before = [await statOf("channels"), await statOf("unclaimed")];
  backends.inference.intercept = async (request, response) => (sendJson(response, 500, {}), true);
  const mark = await since(gateway);
  try {
    for (let call = 0; call < 3; call++) {
      const answer = await pay(gateway, "/any/x", await sign(freshSalt(), 900_000, { type: "deposit", amount: 1_000_000 }));
      assert.equal(answer.status, 402);
      assert.equal(answer.terms.error, `${REASON}cumulative_exceeds_balance`);
    }
    // An honest deposit whose request fails leaves nothing either.
    for (let call = 0; call < 3; call++) {
      assert.equal((await pay(gateway, "/any/x", await sign(freshSalt(), PRICE, { type: "deposit", amount: 100_000 }))).status, 500);
    }
  } finally {
    backends.inference.intercept = null;
  }
  await sleep(17_000);
  assert.deepEqual(mark.calls("/settle"), [], "something is claimed of channels without money");
  assert.deepEqual([await statOf("channels"), await statOf("unclaimed")], before);
});
