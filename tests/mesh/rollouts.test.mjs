/**
 * What is rolled out while clients pay: every payment that was promised buys, none is settled twice, and what was paid before is
 * remembered after.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { documents } from "./cluster.mjs";
import { openEdge, openIstio } from "./istio.mjs";
import { loadOn } from "./load.mjs";
import { assertOutlivesPanic, PROVOKE, untilForSale } from "./selling.mjs";
import { openWorld, PANICKING } from "./world.mjs";

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

test("A proxy that is replaced while it drains", () =>
  underLoad(async () => {
    const [old] = edge.proxies;
    await edge.start();
    // Nobody is sent to it any more: as when its endpoint is taken away.
    edge.proxies.splice(edge.proxies.indexOf(old), 1);
    await old.admin("/drain_listeners?graceful", "-X", "POST");
    await sleep(2000);
    await old.pod.stop();
  }));
