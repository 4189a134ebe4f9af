/**
 * What becomes of channels while nobody asks, in a real Envoy with two workers on a real chain: an operator has everything claimed,
 * a change of configuration that abandons channels is told of, and they are claimed all the same.
 */
import assert from "node:assert/strict";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { channelsOn, makeChannelPayer } from "./channels-support.mjs";
import { ask, DEFAULTS, eventually, everyWorkerSells, openBackends, openGateway, payTo, since, USDC } from "./support.mjs";

const SECRET = "a secret of the tests' own";
const FLUSH = "/internal/flush";

const backends = await openBackends({ interval: 1 });
const plugin = ({ delay = "900s", ...channels } = {}) => ({
  facilitator: { cluster: "facilitator", url: backends.facilitator.url, timeout: "5s" },
  rpc: { "base-sepolia": { cluster: "chain", url: backends.chain.rpcUrl, confirmations: 2 } },
  defaults: DEFAULTS,
  channels: { claim_every: "3600s", flush: { path: FLUSH, secret: SECRET }, ...channels },
  routes: [{
    name: "any",
    match: { path: "/any/{*rest}" },
    price: "$0.01",
    accepts: [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC", withdraw_delay: delay }],
  }],
  unmatched: "free",
});

const directory = mkdtempSync(join(tmpdir(), "x402-keeper-"));
backends.atEnd(async () => rmSync(directory, { recursive: true, force: true }));
const file = join(directory, "listeners.json");
let listener;
let version = 0;
/** Gives Envoy the filter's configuration. */
function publish(value) {
  const { http_filters } = listener.filter_chains[0].filters[0].typed_config;
  const { config } = http_filters.find(({ name }) => name === "x402").typed_config;
  config.configuration = { "@type": "type.googleapis.com/google.protobuf.Struct", value };
  const resource = { "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", ...listener, name: "dynamic" };
  writeFileSync(`${file}.new`, JSON.stringify({ version_info: String(++version), resources: [resource] }));
  renameSync(`${file}.new`, file);
}

const gateway = await openGateway(backends, {
  plugin: plugin(),
  concurrency: 2,
  clusters: { chain: backends.chain.port },
  allowOnHeadersStopIteration: true,
  edit: (bootstrap) => {
    bootstrap.node = { id: "e2e", cluster: "e2e" };
    bootstrap.dynamic_resources = { lds_config: { path_config_source: { path: file }, resource_api_version: "V3" } };
    [listener] = structuredClone(bootstrap.static_resources.listeners);
    bootstrap.static_resources.listeners = [];
    publish(plugin());
  },
});
const on = channelsOn(backends.chain);
await everyWorkerSells(gateway, "/any/x");

const flush = (authorization) =>
  ask(gateway, FLUSH, { method: "POST", ...(authorization && { headers: { authorization } }) });
const logged = (text) => gateway.envoy.logs().includes(text);

test("An operator has everything claimed and paid out, whichever worker is asked", async () => {
  const payer = makeChannelPayer({ chain: backends.chain });
  const before = await on.receiver();
  for (let call = 1; call <= 3; call++) assert.equal((await payer.fetch(`${gateway.url}/any/x`)).status, 200);
  for (const authorization of [undefined, "Bearer wrong", `Basic ${SECRET}`]) assert.equal((await flush(authorization)).status, 404);
  const mark = await since(gateway);
  const answers = await Promise.all([1, 2].map(() => flush(`Bearer ${SECRET}`)));
  for (const answer of answers) {
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.json().unclaimed, "0");
  }
  assert.ok(answers.some((answer) => answer.json().claimed === "30000"), answers.map(({ text }) => text).join());
  assert.deepEqual(mark.calls("/settle").map(({ request }) => request.paymentPayload.payload.type), ["claim", "settle"]);
  const after = await on.receiver();
  assert.equal(after.totalClaimed - before.totalClaimed, 30_000n);
  assert.equal(after.totalSettled, after.totalClaimed);
  assert.ok(logged("all channels are claimed: 30000 atomic units"));
});

test("Channels that a change of configuration abandons are told of, and claimed as before", async () => {
  const payer = makeChannelPayer({ chain: backends.chain });
  for (let call = 1; call <= 2; call++) assert.equal((await payer.fetch(`${gateway.url}/any/x`)).status, 200);
  publish(plugin({ delay: "1800s" }));
  const isChanged = async () => (await ask(gateway, "/any/x")).terms?.accepts[0].extra.withdrawDelay === 1800;
  await eventually(isChanged, "the new terms are asked");
  await eventually(() => logged("that no route has any more"), "the log tells of them", 40_000);
  const [, channels, held] = /x402: (\d+) open channels, which hold (\d+) atomic units/.exec(gateway.envoy.logs());
  assert.equal(channels, "2");
  assert.equal(held, String(2 * 100_000 - 30_000));
  const answer = await flush(`Bearer ${SECRET}`);
  assert.deepEqual([answer.status, answer.json()], [200, { unclaimed: "0", claimed: "20000" }]);
});

test("Of a gate's own key that is replaced the log names the address", async () => {
  const key = `0x${"5a".repeat(32)}`;
  publish(plugin({ authorizer: { key } }));
  const authorizer = async () => (await ask(gateway, "/any/x")).terms?.accepts[0].extra.receiverAuthorizer;
  const facilitators = await authorizer();
  const own = await eventually(async () => {
    const now = await authorizer();
    return now !== facilitators && now;
  }, "the gate authorizes claims itself");
  const payer = makeChannelPayer({ chain: backends.chain });
  assert.equal((await payer.fetch(`${gateway.url}/any/x`)).status, 200);
  // Not what was there before to the letter: Envoy would take up the contexts of that, which are still there, and not the newest.
  publish(plugin({ claim_every: "3601s" }));
  await eventually(async () => (await authorizer()) === facilitators, "the facilitator authorizes them again");
  await eventually(() => logged(`are of the authorizer ${own}, whose key neither`), "the log names it", 40_000);
  // With the key they can be claimed.
  publish(plugin({ authorizer: { key }, claim_every: "3602s" }));
  await eventually(async () => (await authorizer()) === own, "the key is back");
  // The keeper without it would try first, and what has failed is tried again a minute later.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const answer = await flush(`Bearer ${SECRET}`);
  assert.deepEqual([answer.status, answer.json().unclaimed], [200, "0"]);
});

test("Envoy's stats tell of channels", async () => {
  const stats = await gateway.envoy.stats("x402_(unclaimed|channels|deposited)");
  const of = (name) => Object.entries(stats).filter(([key]) => key === `wasmcustom.network=.=eip155:84532;.;asset=.=${USDC};.;x402_${name}`);
  for (const name of ["channels", "deposited", "unclaimed", "channels_stuck", "channels_withdrawing"]) {
    assert.equal(of(name).length, 1, `${name}: ${Object.keys(stats).join()}`);
  }
  assert.ok(of("channels")[0][1] >= 3);
  assert.ok(payTo);
});
