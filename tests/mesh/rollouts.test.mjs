/**
 * What is rolled out while clients pay: every payment that was promised buys, none is settled twice, and what was paid before is
 * remembered after.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { makePayer } from "../../stage/client.mjs";
import { documents } from "./cluster.mjs";
import { openEdge, openIstio } from "./istio.mjs";
import { loadOn, replaceFirst } from "./load.mjs";
import { assertOutlivesPanic, PROVOKE, untilForSale } from "./selling.mjs";
import { eventually, NODE, openWorld, PANICKING, PREVIOUS } from "./world.mjs";

const world = await openWorld();
const istio = await openIstio(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "istio/base", components: ["istio/components/gateway"] });
const edge = await openEdge(world, istio);
const urls = () => edge.proxies.map(({ url }) => `${url}/weather`);
for (const url of urls()) await untilForSale(url);
const underLoad = loadOn(world, urls);

const PLUGIN = "/apis/extensions.istio.io/v1alpha1/namespaces/default/wasmplugins/x402-gateway";
/** The plugin as it is shipped, but for a change. */
const plugin = (change) => {
  const [document] = documents("istio/gateway.yaml");
  change(document.spec, document);
  return document;
};

/** Waits until what is sold is described so. */
const untilDescribed = (description) => Promise.all(urls().map((url) => untilForSale(url, { description })));

test("A new configuration", () =>
  underLoad(async () => {
    await cluster.apply(plugin(({ pluginConfig }) => (pluginConfig.routes[0].description = "configured anew")));
    await untilDescribed("configured anew");
  }));

test("A route taken away: payments promised by it buy or stay the payer's, and the other route sells on", async () => {
  const selling = (...names) =>
    plugin(({ pluginConfig }) => {
      const [route] = pluginConfig.routes;
      const description = names.join(" and ");
      Object.assign(pluginConfig, { unmatched: "deny", routes: names.map((name) => ({ ...route, name, match: { path: `/${name}` }, description })) });
    });
  const both = ["weather", "forecast"].map((name) => `${edge.proxies[0].url}/${name}`);
  await cluster.apply(selling("weather", "forecast"));
  for (const url of both) await untilForSale(url, { description: "weather and forecast" });
  await loadOn(world, () => both)(async () => {
    await cluster.apply(selling("weather"));
    await untilDescribed("weather");
  }, { mayRefuse: (url) => url === both[1] });
  assert.equal((await fetch(both[1])).status, 403);
});

test("A new price", () =>
  underLoad(async () => {
    await cluster.apply(plugin(({ pluginConfig }) => Object.assign(pluginConfig.routes[0], { price: "$0.002", description: "dearer" })));
    await untilDescribed("dearer");
  }, { mayRefuse: () => true }));

test("A new build of the module: its code runs", async () => {
  await world.registry.push(PANICKING, "x402-proxy-wasm:0.1.1");
  assert.equal((await fetch(urls()[0], PROVOKE)).status, 402, "the build of before does not panic");
  await underLoad(async () => {
    await cluster.apply(plugin((spec) => {
      spec.url = "oci://registry.example.com/x402-proxy-wasm:0.1.1";
      Object.assign(spec.pluginConfig.routes[0], { price: "$0.002", description: "another build" });
    }));
    await untilDescribed("another build");
  });
  await assertOutlivesPanic(world, urls()[0], edge.proxies[0].log);
});

/** Fails if one of these payments buys, or anybody asks the facilitator about it: the ledger knows them. */
async function assertRemembered(payments) {
  assert.ok(payments.length > 0);
  const asked = () => ["/verify", "/settle"].map((path) => world.facilitator.count(path));
  const before = asked();
  for (const payment of payments) assert.equal((await fetch(urls()[0], { headers: { "payment-signature": payment } })).status, 402);
  assert.deepEqual(asked(), before, "the facilitator was asked about a payment that the ledger should know");
}

/** Pays while neither the facilitator's answer to the settlement is heard, nor the node. @returns {Promise<string>} the payment */
async function payUnheard() {
  const payer = makePayer();
  world.front.loses = ["/settle", NODE];
  const answer = await payer.fetch(urls()[0]).finally(() => (world.front.loses = []));
  assert.ok(answer.status >= 500, `${answer.status}: nobody knows whether it was paid for`);
  return payer.exchanges.at(-1).sent.get("payment-signature");
}

/** Sends such a payment until it buys. */
const redeem = (payment) =>
  eventually(async () => (await fetch(urls()[0], { headers: { "payment-signature": payment } })).status === 200, "what was paid for is served");

const hasPrevious = existsSync(PREVIOUS) ? {} : { skip: "the history does not reach back to the release before this one" };
test("The release before this one, and back: both keep one ledger", hasPrevious, async () => {
  await world.registry.push(PREVIOUS, "x402-proxy-wasm:previous");
  const block = (await world.chain.client.getBlockNumber()) + 1n;
  const rollOut = (tag) =>
    underLoad(async () => {
      await cluster.apply(plugin((spec) => {
        const { facilitator, routes } = spec.pluginConfig;
        spec.url = `oci://registry.example.com/x402-proxy-wasm:${tag}`;
        spec.pluginConfig.rpc = { base: { cluster: facilitator.cluster, url: `${facilitator.url}${NODE}`, confirmations: 1 } };
        Object.assign(routes[0], { price: "$0.002", description: tag });
      }));
      await untilDescribed(tag);
    });
  const { log } = edge.proxies[0];
  const from = log().length;
  const there = await rollOut("previous");
  const said = log().slice(from);
  assert.ok(/x402: configured/.test(said) && !/x402: routes\[0\]\.pay_to/.test(said), "that release runs: it did not warn of the example's account");
  await assertRemembered(there.bought);
  const unheardThere = await payUnheard();
  const back = await rollOut("0.1.0");
  await redeem(unheardThere);
  await assertRemembered([...there.bought, ...back.bought, unheardThere]);
  const unheardHere = await payUnheard();
  const again = await rollOut("previous");
  await redeem(unheardHere);
  const all = [...there.bought, ...back.bought, ...again.bought, unheardThere, unheardHere];
  await assertRemembered(all);
  assert.equal((await world.chain.transfers(block)).length, all.length, "settled twice, or for nothing");
});

test("A new facilitator", async () => {
  await underLoad(async () => {
    const entries = documents("istio/facilitator.yaml");
    const text = JSON.stringify(entries).replaceAll("facilitator.example.com", "other-facilitator.example.com").replaceAll("x402-facilitator", "x402-other");
    await cluster.apply(...JSON.parse(text));
    await cluster.apply(plugin(({ pluginConfig }) => {
      pluginConfig.facilitator = { cluster: "outbound|443||other-facilitator.example.com", url: "https://other-facilitator.example.com" };
      Object.assign(pluginConfig.routes[0], { price: "$0.002", description: "another facilitator" });
    }));
    await untilDescribed("another facilitator");
  });
});

test("From WasmPlugin to TrafficExtension", () =>
  underLoad(async () => {
    const [extension] = documents("istio/traffic-extension.yaml");
    Object.assign(extension.spec.wasm.pluginConfig.routes[0], { price: "$0.002", description: "by TrafficExtension" });
    await cluster.apply(extension);
    await sleep(1000);
    await cluster.remove(PLUGIN);
    await untilDescribed("by TrafficExtension");
  }));

test("A proxy that is replaced while it drains", () => underLoad(() => replaceFirst(edge.proxies, edge.start)));
