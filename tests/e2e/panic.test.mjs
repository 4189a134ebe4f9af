/**
 * A filter that panics in the middle of a request: a build of its own does it where a request asks for it. The host
 * loads it anew (`failure_policy: FAIL_RELOAD`), and nothing is served unpaid, before, meanwhile or after.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { checkout } from "../../stage/processes.mjs";
import { startStage } from "../../stage/stage.mjs";
import { startFakeFacilitator } from "./fake-facilitator.mjs";
import { ask, assertServed, assertTerms, DEFAULTS, eventually, openBackends, paying, pay, paymentFor, pluginOf, since } from "./support.mjs";

const USED = "invalid_exact_evm_nonce_already_used";
const WASM = join(checkout, "target", "provoke-panic", "wasm32-unknown-unknown", "release", "x402_proxy_wasm.wasm");
assert.ok(existsSync(WASM), `${WASM} is not there: run \`make build-provoke-panic\``);

const backends = await openBackends();
const gateway = await startStage({
  backends,
  wasm: WASM,
  clusters: { chain: backends.chain.port },
  // Short, so that the holds of requests that are no more lapse soon.
  plugin: pluginOf({
    facilitator: { cluster: "facilitator", url: backends.facilitator.url, timeout: "0.9s" },
    rpc: { "base-sepolia": { cluster: "chain", url: backends.chain.rpcUrl, timeout: "0.9s" } },
    defaults: { ...DEFAULTS, max_timeout_seconds: 60 },
  }),
});
backends.atEnd(gateway.stop);
gateway.port = gateway.envoy.port;

/** Sends the payment and lets the filter panic at `place`; nothing of the upstream's comes of it. */
async function panicAt(place, target, payment) {
  const reloads = async () => Object.values(await gateway.envoy.stats("vm_reload_success")).reduce((sum, n) => sum + n, 0);
  const before = await reloads();
  const begun = performance.now();
  const answer = await pay(gateway, target, payment, { headers: { "x-provoke-panic": place } }).catch(() => null);
  assert.ok(answer === null || answer.status >= 500, `${answer?.status}: ${answer?.text}`);
  assert.equal(answer?.get("x-request-number"), undefined, "something of the upstream's answer came through");
  assert.ok(performance.now() - begun < 5000, "its client waits");
  // Until the filter is there again, priced routes are closed, and so are free ones.
  await eventually(async () => {
    const unpaid = await ask(gateway, target).catch(() => ({ status: 503 }));
    assert.ok([402, 500, 503].includes(unpaid.status), `${unpaid.status}: ${unpaid.text}`);
    return unpaid.status === 402;
  }, "the filter is loaded anew");
  assert.ok((await reloads()) > before, "it did not panic");
}

/** Sends the payment again until it is no longer held for the request that the panic ended. */
async function payAgain(target, payment) {
  for (let tries = 0; tries < 300; tries++) {
    const answer = await pay(gateway, target, payment);
    if (answer.status !== 409) return answer;
    await sleep(200);
  }
  throw new Error("the hold does not lapse");
}

for (const [target, when] of [["/any/x", "after"], ["/upfront/x", "before"]]) {
  test(`A panic at the head of a request loses nothing (settle: ${when})`, async () => {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    await panicAt("request", target, payment);
    assert.deepEqual([mark.seen(), await mark.transfers()], [[], []]);
    assertServed(await pay(gateway, target, payment));
    assertTerms(await pay(gateway, target, payment), USED);
    assert.equal((await mark.transfers()).length, 1);
  });
}

test("A payment that settled in a request that a panic ended buys its response once", async () => {
  const targets = ["/any/x", "/upfront/x"];
  const paid = [];
  for (const target of targets) {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    await panicAt("settled", target, payment);
    paid.push({ target, payment, transfer: (await mark.transfers())[0] });
  }
  const mark = await since(gateway);
  for (const { target, payment, transfer } of paid) {
    assertServed(await payAgain(target, payment), { transaction: transfer.transaction });
    assertTerms(await pay(gateway, target, payment), USED);
  }
  assert.deepEqual(await mark.transfers(), []);
});

for (const place of ["verified", "response"]) {
  test(`A payment that was ${place === "verified" ? "verified" : "served"} and not settled when the filter panicked is not lost, and serves nobody yet`, async () => {
    const [payment, mark] = [await paymentFor(gateway, "/any/x"), await since(gateway)];
    await panicAt(place, "/any/x", payment);
    assert.deepEqual(await mark.transfers(), []);
    // It is held for the request that is no more, until that would surely have ended.
    const answer = await pay(gateway, "/any/x", payment);
    assert.equal(answer.status, 409, answer.text);
    assert.match(answer.get("retry-after"), /^\d+$/);
    assert.equal(answer.get("payment-required"), undefined);
    // Other payments are taken as ever.
    assertServed(await pay(gateway, "/any/x", await paymentFor(gateway, "/any/x")));
  });
}

test("A payment that was settled before its request panicked is served from the ledger, which outlives the filter", async () => {
  const [payment, mark] = [await paymentFor(gateway, "/upfront/x"), await since(gateway)];
  await panicAt("response", "/upfront/x", payment);
  const [transfer] = await mark.transfers();
  const answer = await pay(gateway, "/upfront/x", payment);
  assert.equal(answer.status, 409, "the request that panicked holds it, until it would surely have ended");
  assert.equal(answer.get("payment-required"), undefined);
  assert.equal((await mark.transfers()).length, 1, transfer.transaction);
});

for (const [held, target] of [["/verify", "/any"], ["/settle", "/any"], ["/settle", "/upfront"]]) {
  for (const place of ["request", "verified"]) {
    test(`Whoever waits for ${held} on ${target} when the filter panics (${place}) is answered at once`, async () => {
      const fake = await startFakeFacilitator();
      backends.atEnd(fake.stop);
      const facilitator = { cluster: "facilitator", url: fake.url, timeout: "60s" };
      const plugin = pluginOf({ facilitator, defaults: { ...DEFAULTS, max_timeout_seconds: 60 } });
      const stage = await startStage({ backends, wasm: WASM, concurrency: 1, facilitator: fake.url, plugin });
      const gate = { ...stage, port: stage.envoy.port };
      try {
        const last = await paymentFor(gate, "/any/3");
        const payments = [await paymentFor(gate, `${target}/1`), await paymentFor(gate, `${target}/2`)];
        fake.always(held, { hold: new Promise(() => {}) });
        const waiting = payments.map((payment, index) => pay(gate, `${target}/${index + 1}`, payment));
        await eventually(() => fake.count(held) === 2, "both ask the facilitator");
        fake.reset();
        const begun = performance.now();
        const panicking = pay(gate, "/any/3", last, { headers: { "x-provoke-panic": place } });
        for (const answer of await Promise.all([panicking, ...waiting])) {
          assert.equal(answer.status, 503, answer.text);
          assert.equal(answer.get("x-request-number"), undefined);
          assert.equal(answer.terms, null);
        }
        assert.ok(performance.now() - begun < 5000, "long before callouts and streams time out");
        await eventually(async () => (await ask(gate, "/any/x").catch(() => ({ status: 0 }))).status === 402, "the filter is loaded anew");
        assert.doesNotMatch(stage.envoy.logs(), /Segmentation fault|backtrace\.h/);
      } finally {
        await stage.stop();
      }
    });
  }
}
