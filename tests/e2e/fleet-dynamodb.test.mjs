/** Two Envoys that share one ledger by DynamoDB's API. The store is a fake: moto's server behind one of our own (fake-dynamodb.mjs). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { appendPaymentIdentifierToExtensions, generatePaymentId } from "@x402/extensions/payment-identifier";
import { startStage } from "../../stage/stage.mjs";
import { makeChannelPayer } from "./channels-support.mjs";
import { startFakeDynamoDb } from "./fake-dynamodb.mjs";
import { assertSpent, payAtLast, servedOf, told } from "./fleet-support.mjs";
import { ask, assertNoTerms, assertServed, eventually, everyWorkerSells, openBackends, openGateway, pay, paymentFor, pluginOf, signPayment, since, UPFRONT, withUpstream } from "./support.mjs";

const AFTER = { name: "after", match: { path: "/after/{*rest}" }, price: "$0.002" };
const JOINT = { name: "joint", match: { path: "/joint/{*rest}" }, price: "$0.002", settle: "concurrent" };
const NAMED = { name: "named", match: { path: "/named/{*rest}" }, price: "$0.001", extensions: { payment_identifier: "optional" } };
const CHANNEL = { name: "channel", match: { path: "/channel/{*rest}" }, price: "$0.01", accepts: [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }] };
const FREE = { name: "free", match: { path: "/free" }, free: true };

const store = { dynamodb: { cluster: "dynamodb", table: "x402", fleet: "shop", timeout: "1s" } };
const plugin = pluginOf({ routes: [UPFRONT, AFTER, JOINT, NAMED, CHANNEL, FREE], channels: { claim_every: "3s" }, ledger: { store } });

const backends = await openBackends();
const dynamodb = await startFakeDynamoDb({ run: backends.run });
backends.atEnd(dynamodb.stop);
const options = { plugin, concurrency: 2, edit: dynamodb.edit };
const [a, b] = [await openGateway(backends, options), await openGateway(backends, options)];
await Promise.all([a, b].map((one) => everyWorkerSells(one, "/channel/x")));

const PATIENCE = { patience: 40_000 };

/** Writes on a payment's records since a moment. */
const writesSince = (start) => dynamodb.calls.slice(start).filter(({ operation, body }) => operation === "PutItem" && body.Item.k.S.startsWith("c:"));

for (const [route, writes] of [["upfront", 4], ["after", 3], ["joint", 4]]) {
  test(`a payment that settled at one proxy buys nothing at the other (${route})`, async () => {
    const payment = await paymentFor(a, `/${route}/x`);
    const [mark, start] = [await since(a), dynamodb.calls.length];
    assertServed(await pay(a, `/${route}/x`, payment));
    for (const gateway of [b, a, b]) await assertSpent(gateway, `/${route}/x`, payment);
    assert.equal(mark.seen().length, 1, "the upstream ran for one of them");
    assert.equal((await mark.transfers()).length, 1);
    assert.ok(writesSince(start).filter(({ status }) => status === 200).length <= writes);
  });

  test(`the same payment at both at once buys one response (${route})`, async () => {
    for (let round = 0; round < 8; round++) {
      const [payment, mark] = [await paymentFor(a, `/${route}/x`), await since(a)];
      const answers = await Promise.all([a, b, a, b].map((gateway) => pay(gateway, `/${route}/x`, payment)));
      assert.equal(servedOf(answers).length, 1, told(answers));
      assert.equal((await mark.transfers()).length, 1);
      assert.equal(mark.seen().length, 1, "the losers' upstream did not run");
    }
  });
}

test("what the upstream failed to give at one proxy is delivered at the other, once", async () => {
  const [payment, mark] = [await paymentFor(a, "/upfront/x"), await since(a)];
  const failed = await withUpstream(a, (_, response) => void response.writeHead(500).end("no"), () => pay(a, "/upfront/x", payment));
  assert.equal(failed.status, 500);
  assert.equal(failed.terms, null);
  const answers = await Promise.all([b, a].map((gateway) => payAtLast(gateway, "/upfront/x", payment, PATIENCE)));
  assert.equal(servedOf(answers).length, 1, told(answers));
  for (const gateway of [a, b]) await assertSpent(gateway, "/upfront/x", payment);
  assert.equal((await mark.transfers()).length, 1);
});

test("a payment's name counts at both", async () => {
  const named = async (gateway, id) => {
    const { accepts, resource, extensions } = (await ask(gateway, "/named/x")).terms;
    return { ...(await signPayment(accepts[0], { resource })), extensions: appendPaymentIdentifierToExtensions(structuredClone(extensions), id) };
  };
  const id = generatePaymentId();
  const payment = await named(a, id);
  assertServed(await pay(a, "/named/x", payment));
  await assertSpent(b, "/named/x", payment);
  for (const gateway of [b, a]) assert.equal((await pay(gateway, "/named/x", await named(gateway, id))).status, 409);
});

/** Starts a third proxy for as long as `action` takes. */
async function withThird(action) {
  const stage = await startStage({ backends, ...options });
  try {
    const gateway = { ...stage, port: stage.envoy.port };
    await everyWorkerSells(gateway, "/channel/x");
    return await action(gateway);
  } finally {
    await stage.stop();
  }
}

test("a proxy that starts anew sells nothing of before, and delivers what is owed", async () => {
  const [sold, owed] = await withThird(async (gateway) => {
    const payments = [await paymentFor(gateway, "/upfront/x"), await paymentFor(gateway, "/upfront/x")];
    assertServed(await pay(gateway, "/upfront/x", payments[0]));
    const failed = await withUpstream(a, (_, response) => void response.writeHead(500).end("no"), () => pay(gateway, "/upfront/x", payments[1]));
    assert.equal(failed.status, 500);
    return payments;
  });
  await withThird(async (gateway) => {
    await assertSpent(gateway, "/upfront/x", sold);
    assertServed(await payAtLast(gateway, "/upfront/x", owed, PATIENCE));
    await assertSpent(gateway, "/upfront/x", owed);
  });
});

/** Payments that came while the store was out of order. */
const interrupted = [];

for (const mode of ["silent", "refuse", "throttle", "lose"]) {
  test(`while the store is out of order (${mode}), nothing is sold`, async () => {
    const [payment, mark] = [await paymentFor(a, "/after/x"), await since(a)];
    dynamodb.mode = mode;
    try {
      const answers = await Promise.all([a, b].map((gateway) => pay(gateway, "/after/x", payment)));
      for (const answer of answers) {
        assertNoTerms(answer, 503);
        assert.match(answer.get("retry-after"), /^\d+$/);
      }
      assert.equal((await ask(a, "/free")).status, 200);
      assert.equal(mark.calls("/settle").length, 0);
    } finally {
      dynamodb.mode = "pass";
    }
    interrupted.push(payment);
  });
}

test("when the store is back, each of those payments buys one response", async () => {
  const mark = await since(a);
  const comeToAnEnd = async (payment) => {
    const answers = await Promise.all([b, a].map((gateway) => payAtLast(gateway, "/after/x", payment, PATIENCE)));
    assert.equal(servedOf(answers).length, 1, told(answers));
  };
  await Promise.all(interrupted.map(comeToAnEnd));
  assert.equal((await mark.transfers()).length, 4);
  assert.equal(mark.seen().filter(({ path }) => path === "/after/x").length, 4);
});

test("the log says why the store's answers do not count", () => {
  const logs = a.envoy.logs() + b.envoy.logs();
  assert.match(logs, /store \(cluster "dynamodb"\) gave no answer that counts \(status 400: ThrottlingException: Throughput exceeds/);
});

test("a write whose answer was lost knows itself again", async () => {
  const [payment, mark] = [await paymentFor(a, "/after/x"), await since(a)];
  const start = dynamodb.calls.length;
  dynamodb.mode = "lose";
  const answer = pay(a, "/after/x", payment);
  await eventually(() => writesSince(start).length > 0, "the claim is written");
  await sleep(100);
  dynamodb.mode = "pass";
  assertServed(await answer);
  assert.equal((await mark.transfers()).length, 1);
});

test("vouchers of a channel are taken at both by turns, and one proxy claims them", async () => {
  const payer = makeChannelPayer({ chain: backends.chain });
  for (let call = 1; call <= 4; call++) {
    const response = await payer.fetch(`${(call % 2 ? a : b).url}/channel/x`);
    assert.equal(response.status, 200, await response.text());
    assert.equal(payer.exchanges.at(-1).receipt.extra.channelState.chargedCumulativeAmount, String(10_000 * call));
  }
  const claims = () => [a, b].filter(({ envoy }) => /channel 0x[0-9a-f]{64} is claimed up to 40000/.test(envoy.logs()));
  await eventually(() => claims().length > 0, "the channel is claimed", 30_000);
  assert.equal(claims().length, 1);
});

test("what is written may be swept in time, the fleet's secret and money in channels may not", async () => {
  const { Items } = await dynamodb.ask("Scan", { TableName: "x402" });
  assert.ok(Items.length > 20);
  for (const { p, k, t } of Items) {
    assert.equal(p.S, k.S.startsWith("h:") ? "x402:shop:h" : `x402:shop:${k.S}`);
    if (t === undefined) assert.match(k.S, /^[fh]:/);
    else assert.ok(Number(t.N) > Date.now() / 1000 - 60, k.S);
  }
  // Beside it stands what the facilitators support, for an hour.
  assert.equal(Items.filter(({ k, t }) => k.S.startsWith("f:") && t === undefined).length, 1);
});

test("every question was signed for AWS, with its body", () => {
  const unsigned = dynamodb.calls.filter(({ isSigned }) => !isSigned);
  assert.deepEqual(unsigned.slice(0, 3), []);
  assert.ok(dynamodb.calls.length > 100);
  assert.deepEqual([...new Set(dynamodb.calls.map(({ operation }) => operation))].sort(), ["GetItem", "PutItem", "Query"]);
});
