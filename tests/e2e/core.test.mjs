/**
 * The build that fits into a ConfigMap (`make build-core`): it sells on a chain of Ethereum's family, gives browsers what programs
 * get, and refuses a configuration that wants what it lacks.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { CORE_WASM } from "../../stage/envoy.mjs";
import { DEFAULTS, ask, assertServed, openBackends, openGateway, pay, paymentFor, pluginOf } from "./support.mjs";

assert.ok(existsSync(CORE_WASM), `${CORE_WASM} is not there: run \`make build-core\``);
const SOLANA = "4grnnLTN5ehuHguSUwtNYnYTwTGHn1rtfTsQrDB7PoLP";

const backends = await openBackends();
const gateway = await openGateway(backends, { wasm: CORE_WASM });

test("The core alone sells on a chain of Ethereum's family", async () => {
  for (const target of ["/weather", "/upfront/x"]) assertServed(await pay(gateway, target, await paymentFor(gateway, target)));
  const answer = await ask(gateway, "/weather", { headers: { accept: "text/html", "user-agent": "Mozilla/5.0" } });
  assert.equal(answer.status, 402);
  assert.ok(!answer.text.includes("<html"), "there is no page");
});

for (const [feature, path, more] of [
  ["cdp", "facilitator.auth", { facilitator: { auth: { cdp: { key_id: "a", key_secret: "b" } } } }],
  ["channels", "channels", { channels: { claim_every: "60s" } }],
  ["channels", "defaults.accepts[0].scheme", { defaults: { ...DEFAULTS, accepts: [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }] } }],
  ["etcd", "ledger.store", { ledger: { store: { etcd: { cluster: "etcd", fleet: "shop" } } } }],
  ["dynamodb", "ledger.store", { ledger: { store: { dynamodb: { cluster: "dynamodb", table: "x402", fleet: "shop" } } } }],
  ["signing", "offer_receipt", { offer_receipt: { key: `0x${"11".repeat(32)}` } }],
  ["page", "page", { page: { enabled: true } }],
  ["page", "page", { page: { html: "<p>{{price}}</p>" } }],
  ["solana", "payers.deny[0]", { payers: { deny: [SOLANA] } }],
  ["solana", "defaults.accepts[0].network", { defaults: { accepts: [{ scheme: "exact", network: "solana", asset: "USDC", pay_to: SOLANA }] } }],
]) {
  test(`A configuration that wants ${path} is refused for want of the feature ${feature}: ${JSON.stringify(more)}`, async () => {
    const opening = openGateway(backends, { wasm: CORE_WASM, plugin: pluginOf(more) });
    const failure = await opening.then(() => assert.fail("it is taken"), (error) => error);
    const said = `${path}: needs the feature ${feature}, which this build of the filter lacks`;
    assert.ok(failure.logs?.includes(said), failure.logs ?? String(failure));
  });
}
