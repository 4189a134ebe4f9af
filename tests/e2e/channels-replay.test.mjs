/**
 * The recorded exchanges of channels, `tests/vectors/wire/batch`, against the filter: each request of the official client
 * is signed anew, for a channel that nobody has used, and is to be answered as the official server answered it.
 *
 * Those of 1 to 14 are one story of one channel, as are those of 22 to 31, and are told in this order.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { accounts } from "../../stage/accounts.mjs";
import { readBody, sendJson } from "../../stage/servers.mjs";
import { channelsOn, freshSalt, signChannelPayment } from "./channels-support.mjs";
import {
  ask, assertOwnAnswer, DEFAULTS, eventually, handing, openBackends, openGateway, payerAccount, paying, recorded, since,
} from "./support.mjs";

const REASON = "invalid_batch_settlement_evm_";
const [stranger, poor, second] = [accounts[7], accounts[6], accounts[5]];
// The second payer of the recordings is their server's authorizer too.
process.env.E2E_CHANNEL_KEY = `0x${Buffer.from(second.getHdKey().privateKey).toString("hex")}`;

const entry = (more = {}) => [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC", ...more }];
const accepts = entry();
const plugin = (more = {}) => ({
  facilitator: { timeout: "5s" },
  defaults: DEFAULTS,
  // All of the first story's vouchers are claimed at once, and nothing before them.
  channels: { claim_every: "3600s", claim_above: "$0.06", ...more },
  routes: [
    { name: "weather", match: { path: "/weather" }, price: "$0.01", accepts },
    { name: "chat", match: { path: "/chat" }, price: "$0.10", accepts, settlement_overrides: true },
    { name: "fails", match: { path: "/fails" }, price: "$0.01", accepts },
    { name: "slow", match: { path: "/slow" }, price: "$0.01", accepts },
    { name: "permit2", match: { path: "/permit2" }, price: "$0.01", accepts: entry({ transfer_method: "permit2" }) },
    { name: "strict", match: { path: "/strict" }, price: "$0.01", accepts: entry({ enforce_min_deposit: true }) },
  ],
  unmatched: "free",
});

const balances = { [payerAccount.address]: 100_000_000n, [second.address]: 10_000_000n };
const backends = await openBackends({ balances });
const [gateway, restarted, own] = [
  await openGateway(backends, { plugin: plugin(), concurrency: 1 }),
  await openGateway(backends, { plugin: plugin(), concurrency: 1 }),
  await openGateway(backends, {
    plugin: plugin({ authorizer: { key: { env: "E2E_CHANNEL_KEY" } }, claim_above: "$0.02", refund_idle: "3s" }),
    edit: handing("E2E_CHANNEL_KEY"),
    concurrency: 1,
  }),
];
const on = channelsOn(backends.chain);
for (const one of [gateway, restarted, own]) {
  await eventually(async () => (await ask(one, "/weather")).status === 402, "the gateway knows who authorizes claims");
}

/** What `/slow` waits for. */
let turn = Promise.resolve();
backends.inference.intercept = async (request, response) => {
  if (!["/chat", "/fails", "/slow", "/strict", "/permit2"].includes(request.url)) return false;
  await readBody(request);
  if (request.url === "/slow") await turn;
  if (request.url === "/chat") response.setHeader("settlement-overrides", JSON.stringify({ amount: "2325" }));
  sendJson(response, request.url === "/fails" ? 500 : 200, { answer: 42 });
};

// ---- Signed anew -----------------------------------------------------------------------------------------------------

/** The channels that stand for the recorded ones, by their salts. */
const salts = new Map();
const saltFor = (story, salt) => {
  const key = `${story} ${salt}`;
  if (!salts.has(key)) salts.set(key, freshSalt());
  return salts.get(key);
};

const payers = new Map([
  [payerAccount.address, payerAccount],
  [second.address, second],
  [poor.address, poor],
]);

const isPaid = ({ request }) => request.decoded["PAYMENT-SIGNATURE"] !== undefined;
const paidOf = (name) => recorded(`batch/batch-${name}`).client_to_server.filter(isPaid);
const termsOf = ({ response }) => response.decoded["PAYMENT-REQUIRED"];
const receiptOf = ({ response }) => response.decoded["PAYMENT-RESPONSE"];

/**
 * Signs a recorded payment anew.
 *
 * @param {string} story whose channels it belongs to
 * @param {object} exchange
 * @param {object} [changes] what `signChannelPayment` is told besides
 */
async function signedAnew(story, exchange, { config, ...changes } = {}) {
  const { payload, accepted, resource } = exchange.request.decoded["PAYMENT-SIGNATURE"];
  const { payer, salt, withdrawDelay, receiverAuthorizer } = payload.channelConfig;
  return signChannelPayment(accepted, {
    type: payload.type,
    total: payload.voucher.maxClaimableAmount,
    config: { salt: saltFor(story, salt), withdrawDelay, receiverAuthorizer, ...config },
    account: payers.get(payer),
    amount: payload.deposit?.amount ?? payload.amount,
    resource,
    ...changes,
  });
}

const send = (gate, { request }, payment, path = new URL(request.url, "http://x").pathname) => {
  const options = request.method === "GET" ? {} : { method: request.method, body: JSON.stringify(request.body), headers: { "content-type": "application/json" } };
  return ask(gate, path, { ...options, headers: { ...options.headers, ...(payment && paying(payment)) } });
};

// ---- Compared ----------------------------------------------------------------------------------------------------------

/** What differs from run to run: names and signatures of channels, transactions, times. */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  const kinds = { channelId: /^0x[0-9a-f]{64}$/i, salt: /^0x[0-9a-f]{64}$/, transaction: /^(0x[0-9a-f]{64})?$/ };
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => {
      if (/signature$/i.test(key)) assert.match(one, /^0x[0-9a-f]{130}$/);
      if (/signature$/i.test(key)) return [key, key];
      if (key in kinds) {
        assert.match(one, kinds[key], key);
        return [key, one === "" ? "" : key];
      }
      // The filter keeps the highest voucher, the official server the last one.
      if (key === "signedMaxClaimable" || key === "maxClaimableAmount") return [key, BigInt(one) > 0n];
      if (key === "payer") return [key, one.toLowerCase()];
      if (key === "withdrawRequestedAt") return [key, one === 0 ? 0 : "a time"];
      return [key, plain(one)];
    }),
  );
}

/** The answer is the recorded one: status, error, entries with all that stands in them, receipt with all that stands in it. */
function assertAsRecorded(answer, exchange, changes = (recorded) => recorded) {
  const [terms, receipt] = [termsOf(exchange), receiptOf(exchange)];
  const expected = changes({
    status: exchange.response.status,
    error: terms?.error ?? null,
    accepts: terms?.accepts ?? null,
    receipt: receipt ?? null,
  });
  const got = { status: answer.status, error: answer.terms?.error ?? null, accepts: answer.terms?.accepts ?? null, receipt: answer.receipt };
  assert.deepEqual(plain(got), plain(expected));
  if (answer.status === 402) assertOwnAnswer(answer, 402);
}

/**
 * Sends the recorded requests one after the other, and compares.
 *
 * @param {string} story
 * @param {string} name
 * @param {object} [options]
 * @param {object} [options.gate]
 * @param {object} [options.signed] what `signChannelPayment` is told besides
 * @param {string} [options.path] in place of the recorded one
 * @param {string[]} [options.calls] of the facilitator
 * @param {(recorded: object) => object} [options.changes] what the filter does otherwise
 */
async function replay(story, name, { gate = gateway, signed, path, calls = [], changes } = {}) {
  const mark = await since(gate);
  const answers = [];
  for (const exchange of recorded(`batch/batch-${name}`).client_to_server) {
    const payment = isPaid(exchange) ? await signedAnew(story, exchange, signed) : null;
    const answer = await send(gate, exchange, payment, path);
    assertAsRecorded(answer, exchange, changes);
    answers.push(answer);
  }
  assertCalls(mark, calls);
  return answers;
}

/** What requests had the facilitator do. */
function assertCalls(mark, expected) {
  const asked = mark.calls().map(({ path, request }) => `${path} ${request.paymentPayload.payload.type}`);
  assert.deepEqual(asked.filter((call) => !/claim|settle settle/.test(call)), expected);
}

/** What the keeper has the facilitator do is what the official server's manager asked for. */
function assertDeedAsRecorded(call, name, place = 0) {
  const { request, response } = recorded(`batch/batch-${name}`).server_to_facilitator[place];
  assert.deepEqual(plain(call.request), plain(request.body));
  assert.equal(call.answer.success, response.body.success);
}

const deed = (mark, type) => mark.calls("/settle").find(({ request, answer }) => request.paymentPayload.payload.type === type && answer);

// ---- One channel, from the first deposit to the last refund, and again ----------------------------------------------------

const first = (name, title, options) => test(`${name}: ${title}`, async () => void (await replay("first", name, options)));

first("1-deposit", "a deposit is one transaction", { calls: ["/verify deposit", "/settle deposit"] });
first("2-voucher", "a voucher needs no callout");
first("3-dynamic", "a top-up; the upstream names the charge", { calls: ["/verify deposit", "/settle deposit"] });
first("4-upstream-500", "nothing is charged");
first("5-stale-corrective", "a client that has lost its count is told; the voucher of the failed request buys the next one");
// With the same request its voucher would be the last one once more, see 22.
first("6-stale-voucher", "a client that is one behind is told", { path: "/weather?another" });

let beforeClaim;
test("7-concurrent: of three at once with the same total one is served, and two are told the count", async () => {
  const mark = (beforeClaim = await since(gateway));
  const by = (total) => {
    const of = paidOf("7-concurrent").filter(({ request }) => request.decoded["PAYMENT-SIGNATURE"].payload.voucher.maxClaimableAmount === total);
    return of.sort((a, b) => a.response.status - b.response.status);
  };
  for (const total of ["52325", "62325"]) {
    const exchanges = by(total);
    const payments = await Promise.all(exchanges.map((exchange) => signedAnew("first", exchange)));
    const answers = await Promise.all(exchanges.map((exchange, i) => send(gateway, exchange, payments[i])));
    answers.sort((a, b) => a.status - b.status);
    for (const [i, exchange] of exchanges.entries()) assertAsRecorded(answers[i], exchange);
  }
  assertCalls(mark, []);
});

test("8-claim, 9-settle: the keeper claims what is due, and has it paid out", async () => {
  const claim = await eventually(() => deed(beforeClaim, "claim"), "it is claimed", 30_000);
  assertDeedAsRecorded(claim, "8-claim");
  const payout = await eventually(() => deed(beforeClaim, "settle"), "it is paid out", 30_000);
  assertDeedAsRecorded(payout, "9-settle");
  assert.equal(payout.answer.amount, "62325");
});

first("10-voucher-after-claim", "what is claimed stands in the receipt");
first("11-refund-partial", "a part is given back", { calls: ["/verify refund", "/settle refund"] });
first("12-refund-full", "all that is left is given back", { calls: ["/verify refund", "/settle refund"] });
first("13-deposit-again", "the channel is filled again: its totals go on", { calls: ["/verify deposit", "/settle deposit"] });
first("14-server-state-lost", "a gateway that has never heard of the channel goes by the client's count", {
  gate: restarted,
  calls: ["/verify voucher"],
});

// ---- A key of the gateway's own --------------------------------------------------------------------------------------------

test("15-own-authorizer, 16-own-authorizer-claim, 17-server-refund: the gateway's own key signs claims and refunds", async () => {
  const mark = await since(own);
  await replay("own", "15-own-authorizer", { gate: own, calls: ["/verify deposit", "/settle deposit"] });
  const [claim, payout, refund] = [
    await eventually(() => deed(mark, "claim"), "it is claimed", 30_000),
    await eventually(() => deed(mark, "settle"), "it is paid out", 30_000),
    await eventually(() => deed(mark, "refund"), "the rest is given back", 30_000),
  ];
  assertDeedAsRecorded(claim, "16-own-authorizer-claim", 0);
  assertDeedAsRecorded(payout, "16-own-authorizer-claim", 1);
  assertDeedAsRecorded(refund, "17-server-refund");
});

// ---- Other ways to pay in ------------------------------------------------------------------------------------------------

first("18-permit2-deposit", "a deposit by Permit2", { calls: ["/verify deposit", "/settle deposit"] });
first("19-deposit-below-minimum", "a deposit that is too small is refused where that is enforced", { path: "/strict" });
first("20-insufficient-balance", "a payer that is too poor", { calls: ["/verify deposit"] });

test("19-deposit-below-minimum: where it is not enforced, any deposit will do", async () => {
  const [exchange] = paidOf("19-deposit-below-minimum");
  const answer = await send(gateway, exchange, await signedAnew("small", exchange));
  assert.equal(answer.status, 200);
  assert.deepEqual([answer.receipt.amount, answer.receipt.extra.channelState.balance], ["10000", "10000"]);
});

test("21-withdraw-initiated: refused from the first that is heard of it; the official server goes on serving", async () => {
  const [exchange] = paidOf("21-withdraw-initiated");
  const payment = await signedAnew("first", exchange);
  const { channelConfig } = payment.payload;
  await on.initiateWithdraw(channelConfig, 90_000n);
  const [mark, answer] = [await since(restarted), await send(restarted, exchange, payment)];
  const { receipt } = { receipt: receiptOf(exchange) };
  assert.equal(receipt.success, true, "the official server served it");
  assertOwnAnswer(answer, 402);
  assert.equal(answer.terms.error, "channel_withdrawing");
  assert.deepEqual(mark.seen(), []);
  assertCalls(mark, ["/verify voucher"]);
});

// ---- Another channel: what is wrong with it --------------------------------------------------------------------------------

const then = (name, title, options) => test(`${name}: ${title}`, async () => void (await replay("second", name, options)));

test("22-replay: the last voucher again gets its response once more; the official server has its client pay again", async () => {
  for (const name of ["1-deposit", "2-voucher"]) for (const exchange of paidOf(name)) assertAsRecorded(await send(gateway, exchange, await signedAnew("second", exchange)), exchange);
  const [mark, [exchange]] = [await since(gateway), paidOf("22-replay")];
  const answer = await send(gateway, exchange, await signedAnew("second", exchange));
  assert.equal(termsOf(exchange).error, `${REASON}cumulative_amount_mismatch`);
  assert.equal(answer.status, 200);
  const { chargedAmount, channelState } = answer.receipt.extra;
  assert.deepEqual([chargedAmount, channelState.chargedCumulativeAmount], ["10000", "20000"]);
  assert.equal(mark.seen().length, 1);
  assertCalls(mark, []);
});

test("23-bad-signature: the former voucher's signature does not do for the next", async () => {
  const [before] = paidOf("2-voucher");
  const { payload } = await signedAnew("second", before);
  await replay("second", "23-bad-signature", { signed: { voucher: { signature: payload.voucher.signature } } });
});

then("24-other-signer", "a stranger's voucher", { signed: { signer: stranger } });
then("25-channel-id", "a name that is not the digest of the channel", { signed: { voucher: { channelId: freshSalt() } } });

test("26-channel-id-case: a name in capitals is the same name", async () => {
  const [exchange] = paidOf("26-channel-id-case");
  const payment = await signedAnew("second", exchange);
  const { voucher } = payment.payload;
  voucher.channelId = `0x${voucher.channelId.slice(2).toUpperCase()}`;
  assertAsRecorded(await send(gateway, exchange, payment), exchange);
});

then("27-over-signed", "a total that is no sum of calls");

test("28-busy: a second request while the first is at work; it waits for two seconds before it is refused", async () => {
  const mark = await since(gateway);
  let open;
  turn = new Promise((resolve) => (open = resolve));
  const [second, slow] = paidOf("28-busy");
  assert.equal(new URL(slow.request.url, "http://x").pathname, "/slow");
  const served = send(gateway, slow, await signedAnew("second", slow));
  await eventually(() => mark.seen().length === 1, "the first is at work");
  const started = performance.now();
  assertAsRecorded(await send(gateway, second, await signedAnew("second", second)), second);
  const waited = performance.now() - started;
  open();
  assert.ok(waited > 1_500 && waited < 4_500, `${waited} ms`);
  assertAsRecorded(await served, slow);
  assertCalls(mark, []);
});

then("29-cheap-voucher-on-dear-route", "a cheap entry does not buy what is dear");

test("30-above-balance: up to the balance, and no further; a count beyond it is refused by the balance, not corrected", async () => {
  const mark = await since(gateway);
  for (const exchange of paidOf("30-above-balance")) {
    const isAhead = Number(exchange.request.decoded["PAYMENT-SIGNATURE"].payload.voucher.maxClaimableAmount) > 110_000;
    const accepts = (entries) => entries.map(({ extra: { channelState, voucherState, ...extra }, ...one }) => ({ ...one, extra }));
    const otherwise = (told) => ({ ...told, error: `${REASON}cumulative_exceeds_balance`, accepts: accepts(told.accepts) });
    assertAsRecorded(await send(gateway, exchange, await signedAnew("second", exchange)), exchange, isAhead ? otherwise : undefined);
  }
  // The balance may have grown since: the facilitator is asked before a voucher beyond it is refused.
  assertCalls(mark, Array(3).fill("/verify voucher"));
});

then("31-other-withdraw-delay", "a channel of another delay, without a callout");
