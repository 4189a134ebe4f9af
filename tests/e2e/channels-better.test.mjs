/**
 * Where the filter does better by channels than the official server: each time the official server is shown first, before
 * the same facilitator, contracts and clients.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { accounts } from "../../stage/accounts.mjs";
import { sendJson } from "../../stage/servers.mjs";
import {
  channelEntry, channelsOn, claimArgs, claimRow, freshSalt, makeChannelPayer, signChannelPayment, startOfficialServer,
} from "./channels-support.mjs";
import {
  assertNoTerms, assertOwnAnswer, DEFAULTS, encoded, eventually, everyWorkerSells, headerSeen, latch, openBackends, openGateway, pay,
  payerAccount, since,
} from "./support.mjs";

const REASON = "invalid_batch_settlement_evm_";
const PRICE = 10_000n;
const accepts = [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }];
const plugin = (seconds) => ({
  facilitator: { timeout: "5s" },
  defaults: DEFAULTS,
  // Nothing is claimed here but what has to be at once.
  channels: { claim_every: "3600s", claim_above: "$100" },
  routes: [{ name: "any", match: { path: "/any/{*rest}" }, price: "$0.01", accepts, ...(seconds && { max_timeout_seconds: seconds }) }],
  unmatched: "free",
});

const backends = await openBackends({ balances: { [payerAccount.address]: 100_000_000n } });
const gateway = await openGateway(backends, { plugin: plugin(), concurrency: 2, allowOnHeadersStopIteration: true });
const replica = await openGateway(backends, { plugin: plugin(), concurrency: 1, allowOnHeadersStopIteration: true });
const on = channelsOn(backends.chain);
const official = [];
for (const _ of [1, 2]) {
  official.push(await startOfficialServer({ facilitatorUrl: backends.facilitator.url, amount: String(PRICE) }));
  backends.atEnd(official.at(-1).stop);
}
for (const one of [gateway, replica]) await everyWorkerSells(one, "/any/x");

/** What `/any/slow` waits for. */
let turn = Promise.resolve();
backends.inference.intercept = async (request, response) => {
  if (!request.url.startsWith("/any/slow")) return false;
  await turn;
  sendJson(response, 200, { slow: true });
};

const entry = channelEntry(String(PRICE));
const sign = (salt, total, more = {}) => signChannelPayment(entry, { total, config: { salt, ...more.config }, ...more });

/** Sends a payment to the official server. */
async function payOfficial(server, payment) {
  const response = await fetch(server.url, { headers: { "payment-signature": encoded(payment) } });
  const header = response.headers.get("payment-required");
  await response.arrayBuffer();
  return { status: response.status, error: header && JSON.parse(Buffer.from(header, "base64")).error };
}

const payHere = async (gate, path, payment) => pay(gate, path, payment);

/** Opens a channel, and pays the first request with it. @returns {Promise<string>} its salt */
async function opened(payTo, amount = 100_000) {
  const salt = freshSalt();
  const answer = await payTo(await sign(salt, PRICE, { type: "deposit", amount }));
  assert.equal(answer.status, 200, answer.text ?? answer.error);
  return salt;
}

// ---- The response that was lost ------------------------------------------------------------------------------------

test("A response that was lost: the official server has its client pay again", async () => {
  const [server] = official;
  const salt = await opened((payment) => payOfficial(server, payment));
  const payment = await sign(salt, 20_000);
  assert.equal((await payOfficial(server, payment)).status, 200);
  assert.deepEqual(await payOfficial(server, payment), { status: 402, error: `${REASON}cumulative_amount_mismatch` });
});

test("A response that was lost: here it comes once more, under the same name, and is paid for once", async () => {
  const salt = await opened((payment) => pay(gateway, "/any/x", payment));
  const [mark, payment] = [await since(gateway), await sign(salt, 20_000)];
  const answers = [];
  for (const _ of [1, 2, 3, 4]) answers.push(await pay(gateway, "/any/x", payment));
  assert.deepEqual(answers.map(({ status }) => status), [200, 200, 409, 402]);
  // The receipt is the one that was lost: so the client's count is right again.
  assert.deepEqual(answers[1].receipt, answers[0].receipt);
  assert.equal(answers[0].receipt.extra.chargedAmount, String(PRICE));
  const names = mark.seen().map((seen) => headerSeen(seen, "x-x402-id"));
  assert.equal(names.length, 2);
  assert.match(names[0][0], /./);
  assert.deepEqual(names[1], names[0]);
  // A client that does not understand the 409 is told the count next, and goes on.
  assertNoTerms(answers[2], 409);
  assert.match(answers[2].json().error, /has bought its response/);
  assert.equal(answers[3].terms.error, `${REASON}cumulative_amount_mismatch`);
  assert.equal(answers[3].terms.accepts[0].extra.channelState.chargedCumulativeAmount, "20000");
  const next = await pay(gateway, "/any/x", await sign(salt, 30_000));
  assert.equal(next.receipt.extra.channelState.chargedCumulativeAmount, "30000");
  assert.deepEqual(mark.calls(), []);
});

test("A response that was lost on its way: the official client sends the same again, and its count is right", async () => {
  const client = makeChannelPayer();
  const url = `${gateway.url}/any/lost`;
  assert.equal((await client.fetch(url)).status, 200);
  const [terms] = client.exchanges[0].terms.accepts;
  const before = await client.known(terms);
  assert.equal((await client.fetch(url)).status, 200);
  // As if the last response had never come.
  await client.know(terms, before);
  assert.equal((await client.fetch(url)).status, 200);
  assert.equal((await client.known(terms)).chargedCumulativeAmount, "20000");
  assert.equal((await client.fetch(url)).status, 200);
  assert.equal((await client.known(terms)).chargedCumulativeAmount, "30000");
});

test("The last voucher does not buy another request: another path, or a body that nobody has read", async () => {
  const salt = await opened((payment) => pay(gateway, "/any/x", payment));
  const [mark, payment] = [await since(gateway), await sign(salt, 20_000)];
  const post = (body) => pay(gateway, "/any/x", payment, { method: "POST", body });
  assert.equal((await post("one")).status, 200);
  for (const answer of [await post("two"), await post("one"), await pay(gateway, "/any/y", payment), await pay(gateway, "/any/x", payment)]) {
    assert.equal(answer.status, 402);
    assert.equal(answer.terms.error, `${REASON}cumulative_amount_mismatch`);
  }
  assert.equal(mark.seen().length, 1);
});

// ---- Two at once -----------------------------------------------------------------------------------------------------

test("Two at once: the official server refuses the second, whatever it pays", async () => {
  const [server] = official;
  const salt = await opened((payment) => payOfficial(server, payment));
  const { opened: holds, open } = latch();
  server.next.holds = holds;
  const served = server.served;
  const first = payOfficial(server, await sign(salt, 20_000));
  await eventually(() => server.served > served, "the first is at work");
  const started = performance.now();
  assert.deepEqual(await payOfficial(server, await sign(salt, 30_000)), { status: 402, error: `${REASON}cumulative_amount_mismatch` });
  assert.deepEqual(await payOfficial(server, await sign(salt, 20_000)), { status: 402, error: `${REASON}channel_busy` });
  assert.ok(performance.now() - started < 1_000);
  open();
  assert.equal((await first).status, 200);
  server.next.holds = null;
});

for (const busy of [300, 1_500]) {
  test(`Two at once: here the second waits for the first, which takes ${busy} ms`, async () => {
    const salt = await opened((payment) => pay(gateway, "/any/x", payment));
    const mark = await since(gateway);
    const { opened: holds, open } = latch();
    turn = holds;
    const [one, two] = [await sign(salt, 20_000), await sign(salt, 30_000)];
    const first = pay(gateway, "/any/slow", one);
    await eventually(() => mark.seen().length === 1, "the first is at work");
    const started = performance.now();
    const second = pay(gateway, "/any/x", two);
    await sleep(busy);
    open();
    assert.equal((await first).status, 200);
    const answer = await second;
    const waited = Math.round(performance.now() - started);
    console.log(`the second waited for ${waited} ms, ${waited - busy} ms longer than the first was at work`);
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.receipt.extra.channelState.chargedCumulativeAmount, "30000");
    assert.ok(waited < busy + 1_500, `${waited} ms`);
    assert.deepEqual(mark.calls(), []);
  });
}

// ---- Another replica ---------------------------------------------------------------------------------------------------

/** An official client that alternates between two servers: what it got, and the most that it has signed. */
async function alternating(urls, calls = 12) {
  const client = makeChannelPayer({ chain: backends.chain });
  let [served, terms] = [0, null];
  for (let call = 0; call < calls; call++) {
    const { status } = await client.fetch(urls[call % 2]);
    served += status === 200;
    terms ??= client.exchanges[0].terms.accepts[0];
  }
  const sums = client.signatures.filter(({ primaryType }) => primaryType === "Voucher").map(({ message }) => BigInt(message.maxClaimableAmount));
  return { client, served, signed: sums.reduce((a, b) => (a > b ? a : b)), id: client.idFor(terms) };
}

test("Two replicas: official servers correct an honest client downwards, and serve more than it has signed for", async () => {
  const { served, signed } = await alternating(official.map(({ url }) => url));
  console.log(`official replicas: ${served} of 12 served, ${signed} of ${BigInt(served) * PRICE} signed`);
  assert.ok(signed < BigInt(served) * PRICE, `${signed} for ${served}`);
});

test("Two replicas: here a client's higher count is believed, and all that was served is signed for", async () => {
  const { served, signed, client } = await alternating([gateway, replica].map(({ url }) => `${url}/any/x`));
  console.log(`replicas of the filter: ${served} of 12 served, ${signed} of ${BigInt(served) * PRICE} signed`);
  assert.deepEqual([served, signed], [12, 12n * PRICE]);
  // Nobody was corrected: every call took its two round trips.
  assert.equal(client.exchanges.length, 24);
});

test("A higher count is believed within the balance only", async () => {
  const salt = await opened((payment) => pay(gateway, "/any/x", payment));
  const ahead = await pay(gateway, "/any/x", await sign(salt, 60_000));
  assert.equal(ahead.receipt.extra.channelState.chargedCumulativeAmount, "60000");
  const beyond = await pay(gateway, "/any/x", await sign(salt, 110_000));
  assert.equal(beyond.terms.error, `${REASON}cumulative_exceeds_balance`);
  const next = await pay(gateway, "/any/x", await sign(salt, 70_000));
  assert.equal(next.receipt.extra.channelState.chargedCumulativeAmount, "70000");
});

// ---- Signatures that the contract refuses ------------------------------------------------------------------------------

test("A high s: the official server serves what can never be claimed", async () => {
  const [server] = official;
  const salt = await opened((payment) => payOfficial(server, payment));
  const payment = await sign(salt, 20_000, { high: true });
  assert.equal((await payOfficial(server, payment)).status, 200);
  const { channelConfig, voucher } = payment.payload;
  const rows = claimArgs([claimRow(channelConfig, voucher)]);
  assert.equal(await on.dryRun(channelConfig.receiverAuthorizer, "claim", [rows]), "ECDSAInvalidSignatureS");
});

test("A high s: here it is refused, with a voucher and with a deposit", async () => {
  const salt = await opened((payment) => pay(gateway, "/any/x", payment));
  const mark = await since(gateway);
  for (const more of [{}, { type: "deposit", amount: 100_000 }]) {
    const answer = await pay(gateway, "/any/x", await sign(salt, 20_000, { high: true, ...more }));
    assert.equal(answer.terms.error, `${REASON}voucher_signature`);
  }
  assert.deepEqual([mark.seen(), mark.calls()], [[], []]);
  assert.equal((await pay(gateway, "/any/x", await sign(salt, 20_000))).status, 200);
});

// ---- A withdrawal. The chain's clock is moved on: nothing comes after it. ------------------------------------------------

test("A withdrawal: the official server goes on serving, and the payer takes all of it", async () => {
  const [server] = official;
  const salt = await opened((payment) => payOfficial(server, payment));
  const terms = { type: "deposit", amount: 10_000 };
  const { payload } = await sign(salt, 20_000);
  await on.initiateWithdraw(payload.channelConfig, 100_000n);
  // A deposit has the server hear of the withdrawal.
  const deposit = await sign(salt, 20_000, terms);
  assert.equal((await payOfficial(server, deposit)).status, 200);
  const record = await server.scheme.getStorage().get(payload.voucher.channelId.toLowerCase());
  assert.ok(record.withdrawRequestedAt > 0, "it was told");
  assert.equal((await payOfficial(server, await sign(salt, 30_000))).status, 200);
  withdrawn = payload;
});
let withdrawn;

test("A withdrawal: here the channel is refused from then on, and claimed at once", async () => {
  const salt = await opened((payment) => pay(gateway, "/any/x", payment));
  assert.equal((await pay(gateway, "/any/x", await sign(salt, 20_000))).status, 200);
  const { channelConfig, voucher } = (await sign(salt, 20_000)).payload;
  await on.initiateWithdraw(channelConfig, 100_000n);
  const mark = await since(gateway);
  const started = performance.now();
  for (const payment of [await sign(salt, 30_000, { type: "deposit", amount: 50_000 }), await sign(salt, 30_000)]) {
    const answer = await pay(gateway, "/any/x", payment);
    assertOwnAnswer(answer, 402);
    assert.equal(answer.terms.error, "channel_withdrawing");
  }
  assert.deepEqual([mark.seen(), mark.calls("/verify").length], [[], 1]);
  await eventually(async () => (await on.read(voucher.channelId)).totalClaimed === 20_000n, "it is claimed", 30_000);
  console.log(`claimed ${Math.round(performance.now() - started)} ms after it was heard of`);

  await on.pass(901);
  await on.finalizeWithdraw(channelConfig);
  await on.finalizeWithdraw(withdrawn.channelConfig);
  assert.equal((await on.read(voucher.channelId)).totalClaimed, 20_000n, "what was served for is the receiver's");
  const { balance, totalClaimed } = await on.read(withdrawn.voucher.channelId);
  assert.ok(balance < 30_000n && totalClaimed === 0n, `the official server has served for 30000, and ${balance} are left to claim`);
});
