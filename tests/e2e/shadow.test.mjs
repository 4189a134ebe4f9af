/**
 * Routes in shadow, in a real Envoy with the official facilitator: all is decided, logged and counted, the upstream gets what it
 * would get without the filter, and no money moves.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ANY,
  ask,
  DEFAULTS,
  encoded,
  eventually,
  headerSeen,
  openGateway,
  openBackends,
  pay,
  paymentFor,
  pluginOf,
  since,
  UPFRONT,
  WEATHER,
} from "./support.mjs";

const price = { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } } };
const CHAT = { name: "chat", match: { methods: ["POST"], path: "/v1/chat/completions" }, price };

const backends = await openBackends();
const enforced = await openGateway(backends);
const gateway = await openGateway(backends, {
  plugin: pluginOf({ mode: "shadow", routes: [WEATHER, ANY, UPFRONT, CHAT], unmatched: "deny" }),
  allowOnHeadersStopIteration: true,
});
const mixed = await openGateway(backends, {
  plugin: pluginOf({ defaults: DEFAULTS, routes: [{ ...WEATHER, mode: "shadow" }, ANY] }),
});

/** How often a route has ended so, by Envoy's stats. */
const count = async (route, outcome) =>
  Object.entries(await gateway.envoy.stats(`route=.=${route};.;outcome=.=${outcome};.;x402_requests`)).reduce((sum, [, one]) => sum + one, 0);

async function counted(route, outcome, act) {
  const before = await count(route, outcome);
  const answer = await act();
  await eventually(async () => (await count(route, outcome)) === before + 1, `${route} has ended with ${outcome}`);
  return answer;
}

test("Nobody is asked to pay, and what would have been asked for is in the access log", async () => {
  const mark = await since(gateway);
  const headers = { "x-x402-payer": "0x1", "x-original-url": "/any/x", "x-mine": "yes" };
  const answer = await counted("weather", "shadow_unpaid", () => ask(gateway, "/weather", { headers }));
  assert.equal(answer.status, 200);
  assert.equal(answer.get("payment-required"), undefined);
  assert.equal(answer.get("cache-control"), undefined);
  const [seen] = mark.seen();
  assert.deepEqual(headerSeen(seen, "x-mine"), ["yes"]);
  for (const name of ["x-x402-payer", "x-original-url", "x-x402-id"]) assert.deepEqual(headerSeen(seen, name), [], name);
  const find = () => gateway.envoy.accessLog().find((entry) => JSON.stringify(entry).includes("shadow_unpaid"));
  assert.match(JSON.stringify(await eventually(find, "the access log has it")), /1000/);
});

for (const [route, target, calls] of [["weather", "/weather", 1], ["upfront", "/upfront/x", 0]]) {
  test(`A payment for ${target} is checked, twice if it comes twice, and no money moves`, async () => {
    const payment = await paymentFor(enforced, target);
    const mark = await since(gateway);
    for (let round = 0; round < 2; round++) {
      const answer = await counted(route, "shadow_served", () => pay(gateway, target, payment));
      assert.equal(answer.status, 200);
      assert.equal(answer.get("payment-response"), undefined);
    }
    assert.equal(mark.calls("/verify").length, 2 * calls);
    assert.deepEqual(mark.calls("/settle"), []);
    assert.deepEqual(await mark.transfers(), []);
    assert.deepEqual(headerSeen(mark.seen()[0], "payment-signature"), [encoded(payment)], "the upstream sees what came");
  });
}

test("A payment that would be refused passes", async () => {
  const payment = await paymentFor(enforced, "/weather", { authorization: { value: "1" } });
  assert.equal((await counted("weather", "shadow_refused", () => pay(gateway, "/weather", payment))).status, 200);
  const headers = { "payment-signature": "!" };
  assert.equal((await counted("weather", "shadow_malformed", () => ask(gateway, "/weather", { headers }))).status, 200);
  assert.equal((await counted("any", "shadow_malformed", () => ask(gateway, "/any/%2fx"))).status, 200);
});

test("What is priced by its body is read, and reaches the upstream as it came", async () => {
  const body = JSON.stringify({ model: "fake-echo-1", max_tokens: 5, stream: true, messages: [{ role: "user", content: "Hi" }] });
  const headers = { "content-type": "application/json" };
  const mark = await since(gateway);
  const answer = await counted("chat", "shadow_unpaid", () => ask(gateway, CHAT.match.path, { method: "POST", headers, body }));
  assert.equal(answer.status, 200);
  assert.equal(mark.seen().length, 1);
  const broken = await counted("chat", "shadow_malformed", () => ask(gateway, CHAT.match.path, { method: "POST", headers, body: "{" }));
  assert.notEqual(broken.status, 402);
  // Longer than what is read to price it.
  const long = JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "x".repeat(1_100_000) }] });
  const tooLong = await counted("chat", "shadow_malformed", () => ask(gateway, CHAT.match.path, { method: "POST", headers, body: long }));
  assert.notEqual(tooLong.status, 402);
  assert.notEqual(tooLong.status, 413);
});

test("What no route takes passes as well, and the log says at load that nobody pays", async () => {
  assert.equal((await counted("-", "shadow_refused", () => ask(gateway, "/healthz"))).status, 200);
  assert.match(gateway.envoy.logs(), /\[warning\].*x402: mode: there are routes in shadow: nobody is asked to pay for them/);
});

test("Beside a route in shadow, others are paid for, also by paths that could be for either", async () => {
  assert.equal((await ask(mixed, "/weather")).status, 200);
  assert.equal((await ask(mixed, "/any/x")).status, 402);
  const mark = await since(mixed);
  for (const path of ["/weather/..%2fany/x", "/weather/../any/x", "/%61ny/x", "//any/x"]) {
    assert.ok([400, 402].includes((await ask(mixed, path)).status), path);
  }
  assert.deepEqual(mark.seen(), []);
});
