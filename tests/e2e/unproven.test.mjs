/**
 * What nobody has proven costs nothing, moves nothing and names nobody: signatures that the filter cannot check, before the
 * official facilitator and in a ledger of the least size.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  ANY,
  ask,
  assertServed,
  eventually,
  openGateway,
  openBackends,
  pay,
  payerAccount,
  paying,
  paymentFor,
  pluginOf,
  quote,
  send,
  signPayment,
  since,
  UPFRONT,
} from "./support.mjs";

const JOINT = { name: "joint", match: { path: "/joint/{*rest}" }, price: "$0.002", settle: "concurrent" };
const NAMED = { ...ANY, name: "named", match: { path: "/named/{*rest}" }, extensions: { payment_identifier: "optional" } };
const routes = [UPFRONT, JOINT, ANY, NAMED];

const backends = await openBackends();
const rpc = { "base-sepolia": { cluster: "chain", url: backends.chain.rpcUrl } };
const clusters = { chain: Number(new URL(backends.chain.rpcUrl).port) };
// One claim a page: what is left behind there is in somebody's way.
const gateway = await openGateway(backends, { plugin: pluginOf({ routes, rpc, ledger: { max_claims: 4096 } }), clusters });
const faked = await openGateway(backends, { facilitator: "fake", plugin: pluginOf({ routes }) });

/** A payment of anybody's, with a signature that nobody made. */
async function junk(entry, from = `0x${randomBytes(20).toString("hex")}`, bytes = 66 + (randomBytes(1)[0] % 200)) {
  const payment = await signPayment(entry, { authorization: { from } });
  payment.payload.signature = `0x${randomBytes(bytes).toString("hex")}`;
  return payment;
}

const claims = async (gateway) => Object.values(await gateway.envoy.stats("ledger_claims")).reduce((sum, one) => sum + one, 0);

test("Junk leaves nothing behind, is in nobody's way, and nothing is asked on its behalf but whether it is a payment", async () => {
  const [entries, mark] = [[], await since(gateway)];
  for (const path of ["/upfront/x", "/joint/x", "/any/x"]) entries.push([path, (await quote(gateway, path)).accepts[0]]);
  const send = async (number) => {
    const [path, entry] = entries[number % entries.length];
    const answer = await pay(gateway, path, await junk(entry));
    assert.ok([402, 502, 503].includes(answer.status), answer.text);
    assert.equal(answer.status !== 402 && answer.terms, answer.status !== 402 && null);
  };
  for (let round = 0; round < 20; round++) {
    await Promise.all(Array.from({ length: 20 }, (_, number) => send(number)));
    const path = ["/upfront/h", "/joint/h", "/any/h"][round % 3];
    assertServed(await pay(gateway, path, await paymentFor(gateway, path)));
  }
  assert.deepEqual(mark.calls("/settle").length, 20, "the honest ones alone are settled");
  assert.deepEqual(mark.seen().map(({ path }) => path.at(-1)).join(""), "h".repeat(20), "the upstream hears of them alone");
  assert.equal(await claims(gateway), 20, "what is remembered is theirs");
  const asked = () => gateway.facilitator.calls.filter(({ path }) => path !== "/supported").length;
  const before = asked();
  await sleep(2500);
  assert.equal(asked(), before, "nobody goes on asking");
  assert.equal((await mark.transfers()).length, 20);
});

test("Nobody is called the payer of what nobody has proven", async () => {
  const [{ accepts }, victim] = [await quote(gateway, "/joint/x"), `0x${"5a".repeat(20)}`];
  await pay(gateway, "/joint/x", await junk(accepts[0], victim));
  const forged = await signPayment(accepts[0], { authorization: { from: victim } });
  await pay(gateway, "/joint/x", forged);
  const lines = gateway.envoy.logs().split("\n").filter((line) => line.toLowerCase().includes(victim));
  assert.ok(lines.length >= 2);
  for (const line of lines) {
    assert.match(line, /unproven_from="0x5a/i);
    assert.doesNotMatch(line, /(^|[^_])payer=/);
  }
  assert.doesNotMatch(JSON.stringify(gateway.envoy.accessLog()).toLowerCase(), new RegExp(`payer\\W*${victim}`));
});

test("A name is its payer's own, and strangers cannot take it", async () => {
  const identifier = "order-12345678901234567890";
  const named = (payment) => ({ ...payment, extensions: { "payment-identifier": { info: { required: false, id: identifier } } } });
  const { accepts } = await quote(gateway, "/named/x");
  for (let tries = 0; tries < 3; tries++) await pay(gateway, "/named/x", named(await junk(accepts[0], payerAccount.address)));
  assertServed(await pay(gateway, "/named/x", named(await signPayment(accepts[0]))));
});

test("A junk claim gives way to the payment that it was made for", async () => {
  const [{ accepts }, mark] = [await quote(faked, "/upfront/x"), await since(faked)];
  const honest = await signPayment(accepts[0]);
  const copy = structuredClone(honest);
  copy.payload.signature = `0x${"ab".repeat(70)}`;
  faked.fake.script("/verify", { instead: "never" });
  const { socket } = send(faked, "/upfront/x", { headers: paying(copy) });
  await eventually(() => mark.calls("/verify").length === 1, "the facilitator is asked about the junk");
  assertServed(await pay(faked, "/upfront/x", honest));
  socket.destroy();
  assert.equal(mark.calls("/settle").length, 1);
});

test("A facilitator with too much to do is not asked by itself at once", async () => {
  const [payment, mark] = [await paymentFor(faked, "/upfront/x"), await since(faked)];
  faked.fake.script("/settle", { status: 429, json: { errorType: "rate_limit_exceeded", errorMessage: "Rate limit exceeded" } });
  assert.equal((await pay(faked, "/upfront/x", payment)).status, 502);
  await sleep(3500);
  assert.equal(mark.calls("/settle").length, 1);
  assertServed(await pay(faked, "/upfront/x", payment));
});

test("One client whose body does not come closes no route for others", async () => {
  const chat = {
    name: "chat",
    match: { path: "/chat" },
    price: { usage: "openai", models: { "*": { input: "$1", output: "$1" } }, minimum: "$0.001" },
  };
  // A filter in front passes heads on, and keeps bodies until they are whole.
  const buffering = await openGateway(backends, {
    facilitator: "fake",
    plugin: pluginOf({ routes: [chat] }),
    allowOnHeadersStopIteration: true,
    edit({ static_resources: { listeners } }) {
      const { http_filters: filters } = listeners[0].filter_chains[0].filters[0].typed_config;
      const lua = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code: { inline_string: "function envoy_on_request(handle) handle:body() end" },
      };
      filters.unshift({ name: "keeps-bodies", typed_config: lua });
    },
  });
  const text = JSON.stringify({ model: "gpt", messages: [{ role: "user", content: "Hi" }] });
  const headers = { "content-type": "application/json" };
  const slow = send(buffering, "/chat", { method: "POST", headers: { ...headers, "content-length": String(text.length) }, rest: text.slice(0, 5) });
  await sleep(2500);
  const answer = await ask(buffering, "/chat", { method: "POST", headers, body: text });
  assert.equal(answer.status, 402, answer.text);
  slow.socket.destroy();
  const another = await ask(buffering, "/chat", { method: "POST", headers, body: text });
  assert.equal(another.status, 402, another.text);
});
