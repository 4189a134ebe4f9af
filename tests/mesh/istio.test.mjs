/** Every form in which the filter comes into Istio sells, by the manifests as they are shipped. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { shipped } from "./cluster.mjs";
import { openAmbient, openEdge, openIstio, PORTS } from "./istio.mjs";
import { assertSells, assertSellsByTheToken, untilForSale } from "./selling.mjs";
import { openWorld } from "./world.mjs";

const world = await openWorld();
const istio = await openIstio(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "istio/base", components: ["sidecar", "gateway", "envoyfilter"].map((form) => `istio/components/${form}`) });

test("A sidecar sells", async () => {
  const weather = await istio.sidecar("weather", { labels: { app: "weather" } });
  await cluster.service("weather", { selector: { app: "weather" }, ports: PORTS, pods: [weather.pod] });
  await weather.ready();
  await assertSells(world, `http://${weather.pod.ip}:8080/weather`);
});

const edge = {};

test("A gateway of the Gateway API sells", async () => {
  const { proxies: [proxy] } = await openEdge(world, istio);
  edge.url = `${proxy.url}/weather`;
  await untilForSale(edge.url);
  Object.assign(edge, await assertSells(world, edge.url));
});

test("A TrafficExtension sells in place of a WasmPlugin, and remembers what was paid", async () => {
  await cluster.apply(shipped("istio/traffic-extension.yaml"));
  await cluster.remove("/apis/extensions.istio.io/v1alpha1/namespaces/default/wasmplugins/x402-gateway");
  // On the way there is at least one of them at any time.
  for (let asked = 0; asked < 20; asked++) assert.equal((await fetch(edge.url)).status, 402);
  await assertSells(world, edge.url);
  const again = await fetch(edge.url, { headers: { "payment-signature": edge.payment } });
  assert.equal(again.status, 402, "what bought once bought again");
});

test("An EnvoyFilter sells by the token", async () => {
  const chat = await istio.sidecar("chat", { labels: { app: "chat" } });
  await cluster.service("chat", { selector: { app: "chat" }, ports: PORTS, pods: [chat.pod] });
  await chat.ready();
  await assertSellsByTheToken(world, `http://${chat.pod.ip}:8080/v1/chat/completions`);
});

test("A waypoint sells", async () => {
  const { send } = await openAmbient(world, istio);
  await untilForSale("http://weather.ambient/weather", { send });
  await assertSells(world, "http://weather.ambient/weather", { send });
});
