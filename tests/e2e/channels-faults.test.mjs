/**
 * Channels when something goes wrong: facilitators that are down or whose answers get lost, upstreams that break off, clients
 * that leave, many clients of one channel at once. Nothing is lost, nothing is charged twice, and the chain agrees.
 *
 * The facilitator is the official one, behind a relay that loses its answers where a test says so.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { accounts } from "../../stage/accounts.mjs";
import { PERMIT2 } from "../../stage/contracts.mjs";
import { sendJson } from "../../stage/servers.mjs";
import { channelEntry, channelIdOf, channelOf, channelsOn, freshSalt, signChannelPayment } from "./channels-support.mjs";
import {
  ask, assertUnknown, CHAIN_ID, DEFAULTS, eventually, everyWorkerSells, latch, openBackends, openGateway, pay, payerAccount, paying, send,
  since, USDC,
} from "./support.mjs";

const REASON = "invalid_batch_settlement_evm_";
const PRICE = 10_000n;
const [poor, second] = [accounts[6], accounts[5]];
const entry = (more = {}) => [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC", ...more }];
const PER_TOKEN = { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } }, max_output_tokens: 1000 };
const plugin = (more = {}, channels = {}) => ({
  facilitator: { timeout: "2s" },
  defaults: DEFAULTS,
  channels: { claim_every: "3600s", claim_above: "$100", ...channels },
  routes: [
    { name: "any", match: { path: "/any/{*rest}" }, price: "$0.01", accepts: entry() },
    { name: "chat", match: { methods: ["POST"], path: "/v1/chat/completions" }, price: PER_TOKEN, accepts: entry({ min_deposit: "$0.10" }) },
    { name: "permit2", match: { path: "/permit2/{*rest}" }, price: "$0.01", accepts: entry({ transfer_method: "permit2" }) },
  ],
  unmatched: "free",
  ...more,
});

const balances = { [payerAccount.address]: 100_000_000n, [second.address]: 10_000_000n };
const backends = await openBackends({ balances });
const { chain } = backends;
const on = channelsOn(chain);
const node = { rpc: { "base-sepolia": { cluster: "chain", url: chain.rpcUrl } } };
const clusters = { chain: Number(new URL(chain.rpcUrl).port) };
const options = { facilitator: "fake", allowOnHeadersStopIteration: true };
const gateways = {
  "without rpc": await openGateway(backends, { ...options, plugin: plugin(), concurrency: 1 }),
  "with rpc": await openGateway(backends, { ...options, plugin: plugin(node), clusters, concurrency: 1 }),
};
const gateway = gateways["without rpc"];
const later = await openGateway(backends, { ...options, plugin: plugin(), concurrency: 1 });
const busy = await openGateway(backends, { plugin: plugin({ facilitator: { timeout: "5s" } }, { claim_every: "2s" }), concurrency: 2 });

/** Asks the official facilitator. */
const official = async (path, body) => {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return (await fetch(backends.facilitator.url + path, body ? post : {})).json();
};
const relayed = (path) => async (body) => ({ json: await official(path, body) });
for (const { fake } of [...Object.values(gateways), later]) {
  for (const path of ["/supported", "/verify", "/settle"]) fake.always(path, relayed(path));
}
/** The official facilitator does what it is asked to, and its answer is lost. */
const lost = (path) => async (body) => {
  await official(path, body);
  return { instead: "close" };
};

for (const one of [...Object.values(gateways), later, busy]) await everyWorkerSells(one, "/any/x");

const terms = channelEntry(String(PRICE));
const sign = (salt, total, more = {}) => signChannelPayment(terms, { total, config: { salt }, ...more });
const deposit = (salt, total = PRICE, more = {}) => sign(salt, total, { type: "deposit", amount: 100_000, ...more });
const idFor = (salt, account) => channelIdOf(channelOf(terms, { salt }, account));
const balanceOf = async (salt) => (await on.read(idFor(salt))).balance;
const deposits = async (salt) => (await on.events({ id: idFor(salt) })).filter(({ eventName }) => eventName === "Deposited").length;
const countOf = ({ receipt }) => receipt.extra.channelState.chargedCumulativeAmount;

/** Opens a channel, and pays the first request with it. @returns {Promise<string>} its salt */
async function opened(gate = gateway) {
  const salt = freshSalt();
  const answer = await pay(gate, "/any/x", await deposit(salt));
  assert.equal(answer.status, 200, answer.text);
  return salt;
}

/** Has the facilitator refuse to settle deposits into one channel, whatever else it is asked for meanwhile, until it is called. */
function refuseDeposits(salt) {
  const refusal = { success: false, errorReason: `${REASON}insufficient_balance`, transaction: "", network: terms.network };
  const isOf = ({ paymentPayload: { payload } }) => payload.type === "deposit" && payload.channelConfig.salt === salt;
  gateway.fake.always("/settle", async (body) => ({ json: isOf(body) ? refusal : await official("/settle", body) }));
  return () => gateway.fake.always("/settle", relayed("/settle"));
}

/** What the gateway has charged in all: it tells whoever asks with a total that is too low. */
async function countAt(gate, salt) {
  const answer = await pay(gate, "/any/look", await sign(salt, 1n));
  return answer.terms?.accepts[0].extra.channelState?.chargedCumulativeAmount ?? answer.terms?.error ?? answer.text;
}

/** The channel stands at so much: the next total buys the next request, without a word to the facilitator. */
async function assertStands(gate, salt, count) {
  const mark = await since(gate);
  const answer = await pay(gate, "/any/next", await sign(salt, BigInt(count) + PRICE));
  assert.equal(answer.status, 200, answer.terms?.error ?? answer.text);
  assert.equal(countOf(answer), String(BigInt(count) + PRICE));
  return mark;
}

// ---- The facilitator ------------------------------------------------------------------------------------------------------

test("A facilitator that is down is not missed by a channel that is known", async () => {
  const salt = await opened();
  for (const path of ["/verify", "/settle"]) gateway.fake.always(path, { instead: "close" });
  const mark = await assertStands(gateway, salt, 10_000);
  assert.deepEqual(mark.calls(), []);
  for (const path of ["/verify", "/settle"]) gateway.fake.always(path, relayed(path));
});

for (const [how, script] of [["is down", { instead: "close" }], ["hangs", { instead: "never" }], ["fails", { status: 500, json: {} }]]) {
  test(`A facilitator that ${how} when it is asked for an old channel: nothing is served, and nothing is spent`, async () => {
    const salt = await opened();
    const [mark, voucher] = [await since(later), await sign(salt, 20_000)];
    later.fake.always("/verify", script);
    const answer = await pay(later, "/any/x", voucher);
    later.fake.always("/verify", relayed("/verify"));
    assert.ok([502, 504].includes(answer.status), `${answer.status} ${answer.text}`);
    assertUnknown(answer, answer.status);
    assert.deepEqual(mark.seen(), []);
    const again = await eventually(async () => {
      const answer = await pay(later, "/any/x", voucher);
      return [502, 503, 504].includes(answer.status) ? null : answer;
    }, "the facilitator is believed to be back", 30_000);
    assert.deepEqual([again.status, countOf(again)], [200, "20000"]);
  });
}

for (const [how, gate] of Object.entries(gateways)) {
  test(`The answer to a deposit's settlement is lost, ${how}: it buys once, and is made once`, async () => {
    const [salt, mark] = [freshSalt(), await since(gate)];
    const payment = await deposit(salt);
    gate.fake.script("/settle", lost("/settle"));
    const first = await pay(gate, "/any/x", payment);
    assert.equal(await balanceOf(salt), 100_000n);
    let answer = first;
    if (first.status !== 200) {
      assertUnknown(first, first.status);
      assert.ok([502, 504].includes(first.status));
      answer = await eventually(async () => {
        const answer = await pay(gate, "/any/x", payment);
        return answer.status === 200 ? answer : null;
      }, "the same deposit is taken", 20_000);
    }
    assert.equal(countOf(answer), "10000");
    assert.deepEqual([await balanceOf(salt), await deposits(salt)], [100_000n, 1]);
    // Sent again, it is the voucher that was paid.
    const statuses = [];
    for (const _ of [1, 2, 3]) statuses.push((await pay(gate, "/any/x", payment)).status);
    assert.deepEqual(statuses, [200, 409, 402]);
    await assertStands(gate, salt, 10_000);
    assert.deepEqual([await balanceOf(salt), await deposits(salt)], [100_000n, 1]);
  });
}

/** Streams a completion. @returns {Promise<{answer: object, cost: bigint}>} what it was worth */
async function streamed(gate, payment) {
  const body = JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "one two three" }], max_tokens: 100, stream: true, stream_options: { include_usage: true } });
  const headers = { "content-type": "application/json", ...(payment && paying(payment)) };
  const answer = await ask(gate, "/v1/chat/completions", { method: "POST", body, headers });
  const usage = /"usage":(\{"prompt.*?\}\s*\})/.exec(answer.text);
  const { prompt_tokens: input, completion_tokens: output } = usage ? JSON.parse(usage[1]) : { prompt_tokens: 0, completion_tokens: 0 };
  return { answer, cost: BigInt(Math.ceil(input * 2.5 + output * 10)) };
}

for (const [how, gate] of Object.entries(gateways)) {
  test(`The answer to a deposit's settlement is lost at the end of a stream, ${how}: the stream is charged`, async () => {
    const salt = freshSalt();
    const [dear] = (await streamed(gate)).answer.terms.accepts;
    const payment = await signChannelPayment(dear, { type: "deposit", total: dear.amount, amount: 100_000, config: { salt } });
    gate.fake.script("/settle", lost("/settle"));
    const { answer, cost } = await streamed(gate, payment);
    assert.equal(answer.status, 200);
    assert.ok(cost > 0n);
    assert.deepEqual([await balanceOf(salt), await deposits(salt)], [100_000n, 1]);
    assert.equal(await countAt(gate, salt), String(cost));
    const next = await pay(gate, "/any/next", await sign(salt, cost + PRICE));
    assert.deepEqual([next.status, countOf(next)], [200, String(cost + PRICE)]);
    assert.equal(next.receipt.extra.channelState.balance, "100000");
  });
}

test("A deposit that is refused at the end of a stream: the voucher is charged to what the channel holds already", async () => {
  const salt = await opened();
  const [dear] = (await streamed(gateway)).answer.terms.accepts;
  const payment = await signChannelPayment(dear, { type: "deposit", total: PRICE + BigInt(dear.amount), amount: 100_000, config: { salt } });
  const restore = refuseDeposits(salt);
  const { answer, cost } = await streamed(gateway, payment);
  restore();
  assert.equal(answer.status, 200);
  assert.equal(await countAt(gateway, salt), String(PRICE + cost));
  assert.equal(await balanceOf(salt), 100_000n);
});

test("A deposit that is refused in the end: nothing is served, and the next one is taken", async () => {
  const [salt, mark] = [freshSalt(), await since(gateway)];
  const restore = refuseDeposits(salt);
  const answer = await pay(gateway, "/any/x", await deposit(salt));
  restore();
  assert.equal(answer.status, 402);
  assert.equal(answer.receipt?.errorReason ?? answer.terms?.error, `${REASON}insufficient_balance`);
  assert.equal(await balanceOf(salt), 0n);
  // The voucher alone buys nothing: the channel is empty.
  const voucher = await pay(gateway, "/any/x", await sign(salt, PRICE));
  assert.equal(voucher.status, 402);
  assert.equal(mark.seen().length, 1);
  const again = await pay(gateway, "/any/x", await deposit(salt));
  assert.deepEqual([again.status, countOf(again)], [200, "10000"]);
});

// ---- The upstream ---------------------------------------------------------------------------------------------------------

const breaking = (request, response) => {
  if (!request.url.endsWith("/break")) return false;
  response.destroy();
  return true;
};

test("The upstream breaks off: no deposit, no charge, and both can be used again", async () => {
  const [salt, mark] = [freshSalt(), await since(gateway)];
  backends.inference.intercept = breaking;
  const payment = await deposit(salt);
  assert.ok((await pay(gateway, "/any/break", payment)).status >= 500);
  assert.deepEqual([mark.calls("/settle"), await balanceOf(salt)], [[], 0n]);
  assert.equal((await pay(gateway, "/any/x", payment)).status, 200);
  const voucher = await sign(salt, 20_000);
  assert.ok((await pay(gateway, "/any/break", voucher)).status >= 500);
  backends.inference.intercept = null;
  const again = await pay(gateway, "/any/x", voucher);
  assert.deepEqual([again.status, countOf(again)], [200, "20000"]);
  assert.equal(await deposits(salt), 1);
});

// ---- Clients that leave -----------------------------------------------------------------------------------------------------

test("A client that leaves while its deposit is made: the money is in the channel, and still buys a response", async () => {
  const [salt, mark, held] = [freshSalt(), await since(gateway), latch()];
  const payment = await deposit(salt);
  gateway.fake.script("/settle", async (body) => ({ json: await official("/settle", body), hold: held.opened }));
  const { socket } = send(gateway, "/any/x", { headers: paying(payment) });
  await eventually(() => mark.calls("/settle").length === 1, "it is settled");
  socket.destroy();
  await sleep(100);
  held.open();
  const again = await eventually(async () => {
    const answer = await pay(gateway, "/any/x", payment);
    return answer.status === 409 ? null : answer;
  }, "the deposit is no longer at work");
  assert.deepEqual([again.status, countOf(again)], [200, "10000"]);
  await assertStands(gateway, salt, 10_000);
  assert.deepEqual([await balanceOf(salt), await deposits(salt)], [100_000n, 1]);
});

test("A client that leaves while the upstream is at work is not charged, and its voucher is good", async () => {
  const salt = await opened();
  const [mark, held, voucher] = [await since(gateway), latch(), await sign(salt, 20_000)];
  backends.inference.intercept = async (request, response) => {
    if (!request.url.endsWith("/slow")) return false;
    await held.opened;
    sendJson(response, 200, {});
  };
  const { socket } = send(gateway, "/any/slow", { headers: paying(voucher) });
  await eventually(() => mark.seen().length === 1, "the upstream is at work");
  socket.destroy();
  const again = await eventually(async () => {
    const answer = await pay(gateway, "/any/x", voucher);
    return answer.status === 200 ? answer : null;
  }, "the channel is free again");
  held.open();
  backends.inference.intercept = null;
  assert.equal(countOf(again), "20000");
  await assertStands(gateway, salt, 20_000);
});

// ---- Payers ---------------------------------------------------------------------------------------------------------------------

test("A payer without a token to its name, and one whose deposit was already made by somebody else", async () => {
  const answer = await pay(gateway, "/any/x", await deposit(freshSalt(), PRICE, { account: poor }));
  assert.equal(answer.terms.error, `${REASON}insufficient_balance`);
  // Anyone may send a deposit that was signed to the contract.
  const salt = freshSalt();
  const payment = await deposit(salt);
  await on.deposit(payment.payload);
  const refused = await pay(gateway, "/any/x", payment);
  console.log(`a deposit that somebody else has made: ${refused.status} ${refused.terms?.error ?? refused.text}`);
  const voucher = await pay(gateway, "/any/x", await sign(salt, PRICE));
  assert.deepEqual([voucher.status, countOf(voucher)], [200, "10000"]);
});

test("A signed allowance (EIP-2612) stands in for an approval of Permit2", async () => {
  const permit2 = (await ask(gateway, "/permit2/x")).terms.accepts[0];
  const salt = freshSalt();
  const payment = await signChannelPayment(permit2, { type: "deposit", total: PRICE, amount: 100_000, account: second, config: { salt } });
  const refused = await pay(gateway, "/permit2/x", payment);
  assert.equal(refused.status, 402);
  assert.equal(refused.terms.error, `${REASON}permit2_allowance_required`);
  const { deadline } = payment.payload.deposit.authorization.permit2Authorization;
  const fields = ["address owner", "address spender", "uint256 value", "uint256 nonce", "uint256 deadline"];
  const types = { Permit: fields.map((field) => ({ type: field.split(" ")[0], name: field.split(" ")[1] })) };
  const domain = { name: "USDC", version: "2", chainId: CHAIN_ID, verifyingContract: USDC };
  const message = { owner: second.address, spender: PERMIT2, value: "100000", nonce: 0, deadline };
  const signature = await second.signTypedData({ domain, types, primaryType: "Permit", message });
  const info = { from: second.address, asset: USDC, spender: PERMIT2, amount: "100000", nonce: "0", deadline, signature, version: "1" };
  const answer = await pay(gateway, "/permit2/x", { ...payment, extensions: { eip2612GasSponsoring: { info } } });
  assert.equal(answer.status, 200, answer.terms?.error ?? answer.text);
  assert.equal(answer.receipt.extra.channelState.balance, "100000");
});

// ---- Many at once ------------------------------------------------------------------------------------------------------------------

test("Twenty clients of one channel, two workers: what is charged is what was served, and what is claimed in the end", async () => {
  const [salt, id, mark] = [freshSalt(), null, await since(busy)];
  assert.equal((await pay(busy, "/any/x", await deposit(salt, PRICE, { amount: 5_000_000 }))).status, 200);
  void id;
  let [known, served] = [10_000n, 1];
  const seen = {};
  const client = async (number) => {
    for (let call = 0; call < 10; call++) {
      const answer = await pay(busy, `/any/${number}/${call}`, await sign(salt, known + PRICE));
      const told = answer.receipt ?? answer.terms?.accepts[0];
      const count = told?.extra.channelState?.chargedCumulativeAmount;
      if (count && BigInt(count) > known) known = BigInt(count);
      if (answer.status === 200) served += 1;
      const what = answer.status === 200 ? "served" : (answer.terms?.error ?? answer.text).replace(REASON, "");
      seen[what] = (seen[what] ?? 0) + 1;
    }
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: 20 }, (_, number) => client(number)));
  console.log(`twenty clients: ${JSON.stringify(seen)} in ${Math.round(performance.now() - started)} ms`);
  assert.ok(served >= 10);
  assert.deepEqual(Object.keys(seen).filter((what) => !["served", "cumulative_amount_mismatch", "channel_busy"].includes(what)), []);
  assert.equal(mark.seen().length, served);
  const last = await pay(busy, "/any/last", await sign(salt, 1n));
  assert.equal(last.terms.accepts[0].extra.channelState.chargedCumulativeAmount, String(BigInt(served) * PRICE));
  await eventually(async () => (await on.read(idFor(salt))).totalClaimed === BigInt(served) * PRICE, "all is claimed", 40_000);
  assert.equal(await on.claimed({ id: idFor(salt) }), BigInt(served) * PRICE);
});
