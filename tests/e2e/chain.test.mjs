/**
 * Settlements whose answer nobody heard, with a node to ask: the chain is real, the official facilitator settles on it,
 * and a facilitator that does as it is told stands between it and the filter.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  assertServed,
  assertTerms,
  assertUnknown,
  DEFAULTS,
  eventually,
  openGateway,
  openBackends,
  pay,
  paying,
  paymentFor,
  pluginOf,
  send,
  since,
} from "./support.mjs";

const USED = "invalid_exact_evm_nonce_already_used";

const backends = await openBackends();
const clusters = { chain: backends.chain.port, nowhere: null };
const node = { cluster: "chain", url: backends.chain.rpcUrl, timeout: "2s" };
const facilitator = { timeout: "2s" };
const confirming = { ...DEFAULTS, accepts: [{ ...DEFAULTS.accepts[0], confirm: true }] };
const concurrency = 2;

const gateway = await openGateway(backends, {
  facilitator: "fake",
  plugin: pluginOf({ facilitator, rpc: { "eip155:84532": node } }),
  clusters,
  concurrency,
});
const short = await openGateway(backends, {
  facilitator: "fake",
  plugin: pluginOf({ facilitator, rpc: { "eip155:84532": { ...node, log_range: 20 } } }),
  clusters,
  concurrency,
});
const blind = await openGateway(backends, { facilitator: "fake", plugin: pluginOf({ facilitator }), clusters, concurrency });
const strict = await openGateway(backends, {
  facilitator: "fake",
  plugin: pluginOf({ facilitator, rpc: { "base-sepolia": { ...node, confirmations: 2 } }, defaults: confirming }),
  clusters,
  concurrency,
});

/** Asks the official facilitator in the fake one's name. */
async function officially(path, body) {
  const response = await fetch(`${backends.facilitator.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return { status: response.status, json: await response.json() };
}

/** Settles for good, and says nothing. */
const settlesAndIsNotHeard = async (body) => {
  const { json } = await officially("/settle", body);
  assert.equal(json.success, true, JSON.stringify(json));
  return { instead: "close" };
};

const settles = (body) => officially("/settle", body);

const mine = () => backends.chain.rpc("anvil_mine", "0x1");

/** What the filter has logged of the outcomes of payments by now. */
const outcomes = ({ envoy }, outcome) => envoy.logs().split("\n").filter((line) => line.includes(`outcome=${outcome} `)).length;

for (const [when, target] of [["after the response", "/any/x"], ["upfront", "/upfront/x"]]) {
  test(`An answer that got lost ${when} is found on the chain, and the client notices nothing`, async () => {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    gateway.fake.script("/settle", settlesAndIsNotHeard);
    const answer = await pay(gateway, target, payment);
    const [transfer, ...more] = await mark.transfers();
    assertServed(answer, { transaction: transfer.transaction });
    assert.deepEqual(more, []);
    assert.equal(mark.calls("/settle").length, 1);
    assertTerms(await pay(gateway, target, payment), USED);
  });

  test(`A settlement that was never made ${when} is made in the background, and buys its response once`, async () => {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    gateway.fake.script("/settle", { instead: "close" }, settles);
    const before = outcomes(gateway, "abandoned");
    assertUnknown(await pay(gateway, target, payment), 502);
    await eventually(() => outcomes(gateway, "abandoned") > before, "the background has settled it");
    const [transfer, ...more] = await mark.transfers();
    assert.deepEqual(more, []);
    assertServed(await pay(gateway, target, payment), { transaction: transfer.transaction });
    assertTerms(await pay(gateway, target, payment), USED);
    assert.equal(mark.calls("/settle").length, 2);
  });
}

test("Without a node the facilitator is asked again in the background", async () => {
  const [payment, mark] = [await paymentFor(blind, "/upfront/x"), await since(blind)];
  blind.fake.script("/settle", { instead: "close" }, { instead: "close" }, settles);
  assertUnknown(await pay(blind, "/upfront/x", payment), 502);
  await eventually(() => outcomes(blind, "abandoned") === 1, "the background has settled it");
  const [transfer] = await mark.transfers();
  assertServed(await pay(blind, "/upfront/x", payment), { transaction: transfer.transaction });
  assert.equal(mark.calls("/settle").length, 3);
});

test("A client that has gone is owed its response although nobody heard of the settlement", async () => {
  const [payment, mark] = [await paymentFor(gateway, "/upfront/x"), await since(gateway)];
  let answer;
  const held = new Promise((resolve) => (answer = resolve));
  gateway.fake.script("/settle", async (body) => {
    await held;
    return settlesAndIsNotHeard(body);
  });
  const before = outcomes(gateway, "abandoned");
  const { socket } = send(gateway, "/upfront/x", { headers: paying(payment) });
  await eventually(() => mark.calls("/settle").length === 1, "/settle is asked");
  socket.destroy();
  await sleep(50);
  answer();
  await eventually(() => outcomes(gateway, "abandoned") > before, "it is found on the chain");
  assertServed(await pay(gateway, "/upfront/x", payment));
  assert.equal(mark.seen().length, 1);
  assert.equal((await mark.transfers()).length, 1);
});

test("settlement_pending is asked again after a pause, until it has settled", async () => {
  const [payment, mark] = [await paymentFor(gateway, "/upfront/x"), await since(gateway)];
  const pending = ({ paymentRequirements: { network } }) => ({
    json: { success: false, errorReason: "settlement_pending", transaction: `0x${"ab".repeat(32)}`, network },
  });
  gateway.fake.script("/settle", pending, settles);
  assertServed(await pay(gateway, "/upfront/x", payment));
  const [first, second, ...more] = mark.calls("/settle");
  assert.deepEqual(second.request, first.request, "not the identical settlement");
  assert.deepEqual(more, []);
});

test("A new payment is asked for once the first has expired on the chain, and not before", async () => {
  const target = "/upfront/x";
  const [mark, soon] = [await since(gateway), Math.floor(Date.now() / 1000) + 8];
  const payment = await paymentFor(gateway, target, { authorization: { validBefore: String(soon) } });
  gateway.fake.always("/settle", { instead: "close" });
  try {
    assertUnknown(await pay(gateway, target, payment), 502);
    await eventually(async () => {
      await mine();
      const answer = await pay(gateway, target, payment);
      if (Date.now() / 1000 < soon) assert.notEqual(answer.status, 402);
      return answer.status === 402 ? answer : (await sleep(300), null);
    }, "the payment is void");
    // Its claim has gone with it, so the answer is now that of any late payment.
    assertTerms(await pay(gateway, target, payment), "invalid_exact_evm_payload_authorization_valid_before");
  } finally {
    gateway.fake.reset();
  }
  assert.deepEqual(await mark.transfers(), []);
  assert.deepEqual(mark.seen(), []);
});

test("Where the chain must confirm, a response waits for as many blocks as are asked for", async () => {
  const [payment, mark] = [await paymentFor(strict, "/any/x"), await since(strict)];
  strict.fake.script("/settle", settles);
  let answered = false;
  const paid = pay(strict, "/any/x", payment).finally(() => (answered = true));
  await eventually(() => mark.calls("/settle").some((call) => call.answer), "it is settled");
  await sleep(300);
  assert.equal(answered, false, "one block is not two");
  await mine();
  const [transfer] = await mark.transfers();
  assertServed(await paid, { transaction: transfer.transaction });
});

test("Where the chain must confirm, a facilitator that lies gets nobody served", async () => {
  const [payment, mark] = [await paymentFor(strict, "/any/x"), await since(strict)];
  const answer = await pay(strict, "/any/x", payment); // The fake says that it has settled.
  assertUnknown(answer, 502);
  assert.match(answer.json().error, /not confirmed on the chain yet/);
  assert.deepEqual(await mark.transfers(), []);
  assert.equal(mark.seen().length, 1, "the upstream has worked, and nobody saw its answer");
});

test("A settlement in an older block than one question searches is found all the same", async () => {
  const [payment, mark] = [await paymentFor(short, "/any/x"), await since(short)];
  short.fake.script("/settle", async (body) => {
    const told = await settlesAndIsNotHeard(body);
    // 100 blocks, one second apart, as if it had taken as long to ask.
    await backends.chain.rpc("anvil_mine", "0x64");
    return told;
  });
  const answer = await pay(short, "/any/x", payment);
  const [transfer, ...more] = await mark.transfers();
  assertServed(answer, { transaction: transfer.transaction });
  assert.deepEqual(more, []);
  assert.equal(mark.calls("/settle").length, 1);
});
